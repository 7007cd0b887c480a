"""Credentials of an OpenNebula: the files that are searched for them, and reasons to refuse a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from one_provider_mad.errors import SettingsError
from one_provider_mad.xmlrpc.session import read_session


def held(path: Path, content: bytes = b"burst:secret\n", mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_configured_file_precedes_one_auth_which_precedes_the_home_directory(tmp_path: Path) -> None:
    configured = held(tmp_path / "configured", b"a:1")
    environ = {"HOME": str(tmp_path), "ONE_AUTH": str(held(tmp_path / "named", b"b:2\n"))}
    held(tmp_path / ".one" / "one_auth", b"c:3\r\nsecond line\n")
    assert read_session(file=str(configured), environ=environ) == "a:1"
    assert read_session(file="", environ=environ) == "b:2"
    assert read_session(file="", environ={"HOME": str(tmp_path)}) == "c:3"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_a_file_that_other_users_cannot_open_is_accepted(tmp_path: Path, mode: int) -> None:
    assert read_session(file=str(held(tmp_path / "auth", mode=mode)), environ={}) == "burst:secret"


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o666])
def test_a_file_that_every_user_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = held(tmp_path / "auth", mode=mode)
    with pytest.raises(SettingsError, match=f"auth holds a password and is open to all users: run chmod 600 {path}"):
        read_session(file=str(path), environ={})


def test_the_error_about_a_missing_file_says_what_to_write_into_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing does not exist: write user:password into .*missing .*ONE_AUTH"):
        read_session(file="", environ={"ONE_AUTH": str(tmp_path / "missing")})


def test_a_directory_in_place_of_the_credentials_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        read_session(file=str(tmp_path), environ={})


def test_without_home_and_one_auth_the_error_names_one_auth() -> None:
    with pytest.raises(SettingsError, match="set ONE_AUTH"):
        read_session(file="", environ={})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"burst",
        b"burst:",
        b":secret",
        b"burst:\xff",
        b"bu\x07rst:secret",
        b"\nburst:secret",
        b"a:" + b"x" * 5000,
    ],
)
def test_a_malformed_credentials_file_is_refused_without_quoting_its_content(tmp_path: Path, content: bytes) -> None:
    path = held(tmp_path / "auth", content)
    with pytest.raises(SettingsError, match="auth") as caught:
        read_session(file=str(path), environ={})
    assert "secret" not in str(caught.value)

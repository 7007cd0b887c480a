"""Read the address of oned's API from the configuration that oned writes to its var directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.core_settings import encrypted_vm_attributes, listening_at

WRITTEN = """\
DB=BACKEND=sqlite,PORT=3306
LISTEN_ADDRESS={address}
LOG=DEBUG_LEVEL=3,SYSTEM=file
PORT={port}
SCRIPTS_REMOTE_DIR=/var/tmp/one
VNC_PORTS=RESERVED=32768:65536,START=5900

"""
"""The file as 7.4.0 writes it: sorted, one attribute a line, vectors without brackets."""


@pytest.mark.parametrize(
    ("address", "port", "expected"),
    [
        ("0.0.0.0", "2633", ("127.0.0.1", 2633)),
        ("", "2700", ("127.0.0.1", 2700)),
        ("127.0.0.1", "2700", ("127.0.0.1", 2700)),
        ("192.0.2.7", "65535", ("192.0.2.7", 65535)),
        ("::", "2633", ("::1", 2633)),
        ("0.0.0.0", "65536", None),
        ("0.0.0.0", "0", None),
        ("0.0.0.0", "", None),
        ("0.0.0.0", "http", None),
    ],
)
def test_address_and_port_of_the_api_are_read(
    tmp_path: Path, address: str, port: str, expected: tuple[str, int] | None
) -> None:
    (tmp_path / "config").write_text(WRITTEN.format(address=address, port=port))
    assert listening_at(str(tmp_path / "config")) == expected


def test_a_missing_or_unreadable_file_yields_no_address(tmp_path: Path) -> None:
    assert listening_at(str(tmp_path / "config")) is None
    assert listening_at(str(tmp_path)) is None


@given(st.binary(max_size=200))
def test_reading_the_address_of_oneds_api_never_raises_for_random_content(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("var") / "config"
    path.write_bytes(b"PORT=2633\n" + content)
    found = listening_at(str(path))
    assert found is None or 0 < found[1] < 65536


def test_encrypted_attributes_are_read_with_upper_case_names(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        WRITTEN.format(address="127.0.0.1", port="2633") + "HOST_ENCRYPTED_ATTR=EC2_SECRET\n"
        'VM_ENCRYPTED_ATTR=CONTEXT/PASSWORD\nVM_ENCRYPTED_ATTR="onekey"\n#VM_ENCRYPTED_ATTR=NOT_THIS\n'
    )
    assert encrypted_vm_attributes(str(config)) == frozenset({("CONTEXT", "PASSWORD"), ("ONEKEY", "")})
    config.write_text("PORT=2633\n")
    assert encrypted_vm_attributes(str(config)) == frozenset()
    assert encrypted_vm_attributes(str(tmp_path / "missing")) is None

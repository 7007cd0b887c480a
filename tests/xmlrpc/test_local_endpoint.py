"""The XML-RPC endpoint of the OpenNebula on this machine."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from one_provider_mad.errors import SettingsError
from one_provider_mad.xmlrpc.local import LocalCore
from one_provider_mad.xmlrpc.local_endpoint import local_endpoint
from one_provider_mad.xmlrpc.raft import RaftState
from tests.xmlrpc.partner import Partner


def write_down(root: Path, text: str) -> str:
    """Write this as the configuration that oned keeps in its var directory, and return the path of the file."""
    (root / "var").mkdir()
    path = root / "var" / "config"
    path.write_text(text)
    return str(path)


def test_one_xmlrpc_precedes_the_configuration_that_oned_has_written(tmp_path: Path) -> None:
    write_down(tmp_path, "LISTEN_ADDRESS=127.0.0.1\nPORT=2700\n")
    found = local_endpoint({"ONE_LOCATION": str(tmp_path), "ONE_XMLRPC": "http://one:2633/RPC2"})
    assert (found.url, found.source) == ("http://one:2633/RPC2", "ONE_XMLRPC")


@pytest.mark.parametrize("environ", [{}, {"ONE_XMLRPC": ""}], ids=["unset", "empty"])
@pytest.mark.parametrize(
    ("address", "url"), [("0.0.0.0", "http://127.0.0.1:2700/RPC2"), ("2001:db8::7", "http://[2001:db8::7]:2700/RPC2")]
)
def test_without_one_xmlrpc_the_endpoint_is_read_from_the_configuration_oned_has_written(
    tmp_path: Path, environ: dict[str, str], address: str, url: str
) -> None:
    path = write_down(tmp_path, f"LISTEN_ADDRESS={address}\nPORT=2700\n")
    found = local_endpoint({"ONE_LOCATION": str(tmp_path), **environ})
    assert (found.url, found.source) == (url, f"PORT and LISTEN_ADDRESS in {path}")


def test_without_both_the_endpoint_is_opennebulas_default(tmp_path: Path) -> None:
    found = local_endpoint({"ONE_LOCATION": str(tmp_path)})
    assert found.url == "http://localhost:2633/RPC2"
    assert found.source == (f"OpenNebula's default, since ONE_XMLRPC is not set and {tmp_path}/var/config has no PORT")


def test_a_value_that_is_no_url_is_refused_with_the_name_of_its_variable(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"^ONE_XMLRPC is not the URL of an OpenNebula: endpoints: 'one:2633' is no URL"
    ):
        local_endpoint({"ONE_XMLRPC": "one:2633"})


def test_a_driver_without_one_xmlrpc_asks_the_oned_that_started_it(tmp_path: Path) -> None:
    login = tmp_path / "one_auth"
    login.write_text("oneadmin:secret\n")
    login.chmod(0o600)
    with Partner() as oned:
        write_down(tmp_path, f"LISTEN_ADDRESS=0.0.0.0\nPORT={urlsplit(oned.urls[0]).port}\n")
        core = LocalCore({"ONE_LOCATION": str(tmp_path), "ONE_AUTH": str(login)})
        assert core.raft_state() is RaftState.SOLO

"""The API's URL on this machine: from ONE_XMLRPC, else from oned's written settings, else the default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from one_provider_mad.core_settings import listening_at
from one_provider_mad.domain import Value
from one_provider_mad.errors import SettingsError
from one_provider_mad.xmlrpc.client import USUAL_ENDPOINT, check_endpoints


class LocalEndpoint(Value, frozen=True, kw_only=True):
    """A URL and its origin.

    Attributes:
        url: the address of OpenNebula's API.
        source: the origin of the URL, for error messages.
        setting: the setting to change, for error messages.
    """

    url: str
    source: str
    setting: str = "ONE_XMLRPC"


def local_endpoint(environ: Mapping[str, str]) -> LocalEndpoint:
    """Return the URL of the OpenNebula on this machine. Reads a file.

    oned's environment seldom has ONE_XMLRPC, and PORT may differ from 2633.

    Args:
        environ: environment variables; ONE_XMLRPC and ONE_LOCATION are read.

    Raises:
        SettingsError: the setting is not a URL.
    """
    found = _found(environ)
    try:
        check_endpoints([found.url])
    except ValueError as error:
        raise SettingsError(f"{found.source} is not the URL of an OpenNebula: {error}") from error
    return found


def written_settings(environ: Mapping[str, str]) -> Path:
    """Return the path of the settings that oned on this machine writes when it starts (core_settings.py)."""
    location = environ.get("ONE_LOCATION")
    return (Path(location) / "var" if location else Path("/var/lib/one")) / "config"


def _found(environ: Mapping[str, str]) -> LocalEndpoint:
    if url := environ.get("ONE_XMLRPC"):
        return LocalEndpoint(url=url, source="ONE_XMLRPC")
    config = written_settings(environ)
    if (at := listening_at(str(config))) is None:
        source = f"OpenNebula's default, since ONE_XMLRPC is not set and {config} has no PORT"
        return LocalEndpoint(url=USUAL_ENDPOINT, source=source)
    address, port = at
    host = f"[{address}]" if ":" in address else address
    source = f"PORT and LISTEN_ADDRESS in {config}"
    return LocalEndpoint(url=f"http://{host}:{port}/RPC2", source=source, setting=source)

"""Where the OpenNebula on this machine is asked: ONE_XMLRPC, else what oned has written down, else the usual place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from one_provider_mad.core_settings import listening_at
from one_provider_mad.domain import Value
from one_provider_mad.errors import SettingsError
from one_provider_mad.xmlrpc.client import USUAL_ENDPOINT, check_endpoints


class LocalEndpoint(Value, frozen=True, kw_only=True):
    """A URL, and why it is this one.

    Attributes:
        url: where OpenNebula's API is asked.
        source: what says so.
        setting: where to change it, for sentences.
    """

    url: str
    source: str
    setting: str = "ONE_XMLRPC"


def local_endpoint(environ: Mapping[str, str]) -> LocalEndpoint:
    """The URL of the OpenNebula on this machine. Reads a file.

    oned's environment seldom has ONE_XMLRPC, and PORT may be another than 2633.

    Args:
        environ: ONE_XMLRPC and ONE_LOCATION count.

    Raises:
        SettingsError: it is no URL.
    """
    found = _found(environ)
    try:
        check_endpoints([found.url])
    except ValueError as error:
        raise SettingsError(f"{found.source} leads to no OpenNebula: {error}") from error
    return found


def _found(environ: Mapping[str, str]) -> LocalEndpoint:
    if url := environ.get("ONE_XMLRPC"):
        return LocalEndpoint(url=url, source="ONE_XMLRPC")
    location = environ.get("ONE_LOCATION")
    config = (Path(location) / "var" if location else Path("/var/lib/one")) / "config"
    if (at := listening_at(str(config))) is None:
        source = f"OpenNebula's usual place, since ONE_XMLRPC is not set and {config} does not tell"
        return LocalEndpoint(url=USUAL_ENDPOINT, source=source)
    address, port = at
    host = f"[{address}]" if ":" in address else address
    source = f"PORT and LISTEN_ADDRESS in {config}"
    return LocalEndpoint(url=f"http://{host}:{port}/RPC2", source=source, setting=source)

"""Blocking calls to the OpenNebula on this machine, for occasional questions.

The standard library sends them, in a thread: a daemon that does not need aiohttp need not load it.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from urllib.parse import urlsplit

from one_provider_mad.errors import NotSupported, ProviderUnavailable
from one_provider_mad.safe_xml import Element
from one_provider_mad.xmlrpc.envelope import (
    Argument,
    Failure,
    Result,
    decode_answer,
    encode_call,
    read_document,
    read_entries,
)
from one_provider_mad.xmlrpc.local_endpoint import local_endpoint
from one_provider_mad.xmlrpc.login_refusals import endpoint_name, login_refused
from one_provider_mad.xmlrpc.raft import RaftState, read_raft_status
from one_provider_mad.xmlrpc.refusals import AUTHENTICATION, error_of
from one_provider_mad.xmlrpc.session import read_session

_RAFT_STATUS = "one.zone.raftstatus"

_BODY_LIMIT = 32 * 1024 * 1024
"""Longest answer in bytes: a pool of 20,000 VMs."""

_CALL_SECONDS = 5.0


class LocalCore:
    """Calls OpenNebula with the rights of its own user. Every method blocks.

    Args:
        environ: environment variables; ONE_XMLRPC and ONE_AUTH as for OpenNebula's own tools, and ONE_LOCATION.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def call(self, method: str, *arguments: Argument) -> Result:
        """Call a method once, and return its result.

        Raises:
            SettingsError: the credentials, or the URL, cannot be used.
            ProviderError: the call was not answered, or refused.
        """
        endpoint = local_endpoint(self._environ).url
        session = read_session(file="", environ=self._environ)
        answer = decode_answer(method, _post(endpoint, encode_call(method, session, arguments)))
        if isinstance(answer, Failure):
            if answer.code == AUTHENTICATION:
                raise login_refused(endpoint_name(endpoint), session, setting="ONE_AUTH")
            raise error_of(method, answer)
        return answer.result

    def document(self, method: str, *arguments: Argument) -> Element:
        """Call a method that answers with a document (envelope.DOCUMENTS), and return its root. Raises as `call`."""
        return read_document(method, self.call(method, *arguments))

    def entries(self, method: str, name: str) -> Iterator[Element]:
        """Call a method that answers with a pool (envelope.DOCUMENTS), and yield its entries, each freed afterwards.

        Args:
            method: `one.hostpool.info`.
            name: name of an entry's element, `HOST`.

        Raises:
            SettingsError: as `call`.
            ProviderError: as `call`; or the answer is not that pool.
        """
        yield from read_entries(method, self.call(method), name=name)

    def raft_state(self) -> RaftState:
        """Return this front-end's state among its peers.

        Raises:
            SettingsError: as `call`.
            ProviderError: as `call`; or the state is unknown.
        """
        try:
            state = read_raft_status(self.document(_RAFT_STATUS)).state
        except NotSupported:
            return RaftState.SOLO  # up to 5.2 the method does not exist, and neither do peers
        if state is RaftState.UNKNOWN:
            raise ProviderUnavailable(f"the answer to {_RAFT_STATUS} has an unknown STATE")
        return state


def _post(endpoint: str, body: bytes) -> bytes:
    parts = urlsplit(endpoint)
    place = endpoint_name(endpoint)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        with closing(kind(parts.hostname or "", parts.port, timeout=_CALL_SECONDS)) as connection:
            connection.request("POST", parts.path or "/RPC2", body, {"Content-Type": "text/xml"})
            response = connection.getresponse()
            status, answer = response.status, response.read(_BODY_LIMIT + 1)
    except (OSError, http.client.HTTPException) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
        raise ProviderUnavailable(f"{place} cannot be asked: {reason}") from error
    if status != http.client.OK:
        raise ProviderUnavailable(f"{place} answers with HTTP {status}")
    if len(answer) > _BODY_LIMIT:
        raise ProviderUnavailable(f"{place} answers with more than {_BODY_LIMIT} bytes")
    return answer

"""Upstream's OneGate of a zone, and reports to it as the contextualization packages send them."""

from __future__ import annotations

import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from urllib.error import HTTPError, URLError

import pytest

from tests.real_oned.zone import Zone, tail
from tests.waiting import until

ONEGATE = """
ONEGATE_ENDPOINT = "{url}"
AUTH_MAD = [ EXECUTABLE = "one_auth_mad", AUTHN = "server_cipher" ]
"""
"""OneGate logs in to the core as serveradmin, by upstream's driver for servers."""

ENCRYPTED = 'VM_ENCRYPTED_ATTR = "CONTEXT/PASSWORD"\n'
"""Shipped from 5.12 on, and possible from 5.10 on."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def why_no_onegate(zone: Zone) -> str:
    """Return why this zone's OneGate cannot be started here, "" if it can."""
    needed = subprocess.run(
        ["ruby", "-e", "require 'sinatra/base'; require 'ipaddress'"], env=zone.environ, check=False
    )
    if needed.returncode != 0:
        return "OneGate needs Debian's packages ruby-sinatra and ruby-ipaddress"
    logins = (zone.folder / "lib" / "ruby" / "opennebula" / "server_cipher_auth.rb").read_text()
    if ".iv = " not in logins:
        return "this release's OneGate logs in to the core only once on OpenSSL 3, which keeps the cipher's IV"
    return ""


@contextmanager
def onegate(zone: Zone, port: int) -> Iterator[str]:
    """Upstream's OneGate of this zone; yields its URL."""
    if reason := why_no_onegate(zone):
        pytest.skip(reason)
    configuration = zone.folder / "etc" / "onegate-server.conf"
    text = re.sub(r"(?m)^(\s*):port: \d+", rf"\1:port: {port}", configuration.read_text())
    configuration.write_text(text.replace("http://localhost:2633/RPC2", zone.url))
    url = f"http://127.0.0.1:{port}"
    with (zone.folder / "var" / "onegate.out").open("wb") as out:
        process = subprocess.Popen(
            ["ruby", str(zone.folder / "lib" / "onegate" / "onegate-server.rb")],
            env=zone.environ,
            cwd=zone.folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )

    def is_up() -> bool:
        assert process.poll() is None, tail(zone.folder / "var" / "onegate.out")
        with suppress(URLError):
            try:
                urllib.request.urlopen(url, timeout=5).close()
            except HTTPError:
                return True
            return True
        return False

    try:
        until(is_up, seconds=30, pause=0.2)
        yield url
    finally:
        process.kill()
        process.wait()


def report_ready(context: Mapping[str, str], *, token: str | None = None) -> int:
    """Report READY=YES as the contextualization packages do; returns the HTTP status."""
    headers = {"X-ONEGATE-TOKEN": token or context["ONEGATE_TOKEN"], "X-ONEGATE-VMID": context["VMID"]}
    asked = urllib.request.Request(
        f"{context['ONEGATE_ENDPOINT']}/vm", data=b"READY=YES", headers=headers, method="PUT"
    )
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code

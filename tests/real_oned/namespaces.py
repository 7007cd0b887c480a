"""A way from a guest's network namespace, which has none out of it, to a server of this machine."""

from __future__ import annotations

import ctypes
import os
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError

from tests.real_guest.guest import Guest
from tests.waiting import HANG

_CLONE_NEWNET = 0x40000000


@contextmanager
def forwarded(guest: Guest, address: tuple[str, int], url: str) -> Iterator[None]:
    """Serve PUT at this address of the guest's namespace, with the answers of another server.

    Args:
        guest: runs, and has the address.
        address: where to listen.
        url: the server that answers.
    """

    class Forward(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = urllib.request.Request(f"{url}{self.path}", data=body, headers=dict(self.headers), method="PUT")
            try:
                with urllib.request.urlopen(asked, timeout=HANG) as answer:
                    status = answer.status
            except HTTPError as error:
                status = error.code
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Be silent."""

    def listen() -> ThreadingHTTPServer:
        # A namespace is a thread's, and a socket's for its life: this thread enters it, opens the socket and ends.
        space = os.open(f"/proc/{guest.first}/ns/net", os.O_RDONLY)
        try:
            assert ctypes.CDLL(None, use_errno=True).setns(space, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            return ThreadingHTTPServer(address, Forward)
        finally:
            os.close(space)

    with ThreadPoolExecutor(1) as pool:
        server = pool.submit(listen).result()
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield
    finally:
        server.shutdown()
        serving.join()
        server.server_close()

"""The OpenNebula on this machine, for tests: VMs whose attributes it encrypts as oned does, and users."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

ONE_KEY = "0123456789abcdef" * 4
SESSION = "oneadmin:c0rrect-horse"

_UNKNOWN_USER, _NOT_ALLOWED, _NO_OBJECT = 0x0100, 0x0200, 0x0400
"""Codes of errors (include/Request.h, ErrorCode)."""

Values = Mapping[str, str | Mapping[str, str]]


def encrypted(text: str, key: str = ONE_KEY) -> str:
    """As src/common/NebulaUtil.cc, aes256cbc_encrypt: no initialization vector, base64."""
    padder = PKCS7(128).padder()
    encryptor = Cipher(AES256(key[:32].encode()), CBC(bytes(16))).encryptor()
    data = encryptor.update(padder.update(text.encode()) + padder.finalize()) + encryptor.finalize()
    return base64.b64encode(data).decode()


def decrypted(text: str, key: str = ONE_KEY) -> str:
    """Its opposite. Raises ValueError for a text that is not encrypted with this key."""
    decryptor = Cipher(AES256(key[:32].encode()), CBC(bytes(16))).decryptor()
    unpadder = PKCS7(128).unpadder()
    data = decryptor.update(base64.b64decode(text)) + decryptor.finalize()
    return (unpadder.update(data) + unpadder.finalize()).decode()


@dataclass
class User:
    """A user, whose group 0 is oneadmin."""

    name: str
    groups: tuple[int, ...] = (1,)
    template: Values = field(default_factory=dict)


@dataclass
class LocalCore:
    """The core.

    Attributes:
        url: its API.
        vms: TEMPLATE and USER_TEMPLATE of each VM, encrypted; for another decrypted text than the values' own, see
            `plain`.
        users: by number; the first one's password is that of `SESSION`.
        calls: methods and arguments so far.
        unanswered: how many calls will get HTTP 500.
        answers: results of further methods.
        history: the history records of every VM, the latest last.
    """

    url: str = ""
    vms: dict[int, tuple[Values, Values]] = field(default_factory=dict)
    users: dict[int, User] = field(default_factory=lambda: {0: User("oneadmin", (0,))})
    session_user: int = 0
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    unanswered: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, str]] = field(default_factory=list)

    def answer(self, method: str, arguments: tuple[Any, ...]) -> list[Any]:
        session, *rest = arguments
        self.calls.append((method, *rest))
        if session != SESSION:
            return [False, f"[{method}] User couldn't be authenticated, aborting call.", _UNKNOWN_USER]
        if method == "one.zone.raftstatus":
            return [True, "<RAFT><SERVER_ID>-1</SERVER_ID><STATE>0</STATE></RAFT>", 0]
        if method in self.answers:
            return [True, self.answers[method], 0]
        handler = {"one.vm.info": self._vm, "one.user.info": self._user}.get(method)
        if handler is None:
            return [False, f"[{method}] Not authorized", _NOT_ALLOWED]
        return handler(method, *rest)

    def _vm(self, method: str, number: int, *more: bool) -> list[Any]:
        if number not in self.vms:
            return [False, f"[{method}] Error getting virtual machine [{number}].", _NO_OBJECT]
        is_shown = any(more) and 0 in self.users[self.session_user].groups
        names = zip(("TEMPLATE", "USER_TEMPLATE"), self.vms[number], strict=True)
        parts = "".join(f"<{name}>{template_xml(values, is_decrypted=is_shown)}</{name}>" for name, values in names)
        history = "".join(f"<HISTORY>{template_xml(record, is_decrypted=True)}</HISTORY>" for record in self.history)
        records = f"<HISTORY_RECORDS>{history}</HISTORY_RECORDS>"
        return [True, f"<VM><ID>{number}</ID>{parts}{records}</VM>", 0]

    def _user(self, method: str, number: int) -> list[Any]:
        number = self.session_user if number == -1 else number
        if number not in self.users:
            return [False, f"[{method}] Error getting user [{number}].", _NO_OBJECT]
        user = self.users[number]
        groups = "".join(f"<ID>{group}</ID>" for group in user.groups)
        document = (
            f"<USER><ID>{number}</ID><GID>{user.groups[0]}</GID><GROUPS>{groups}</GROUPS><NAME>{user.name}</NAME>"
            f"<TEMPLATE>{template_xml(user.template, is_decrypted=False)}</TEMPLATE></USER>"
        )
        return [True, document, 0]


def template_xml(values: Values, *, is_decrypted: bool) -> str:
    """The elements of a template; decrypted as far as the values are encrypted."""

    def text(value: str) -> str:
        if is_decrypted:
            with suppress(ValueError):
                value = decrypted(value)
        return escape(value)

    return "".join(
        f"<{name}>{text(value)}</{name}>"
        if isinstance(value, str)
        else f"<{name}>{''.join(f'<{key}>{text(each)}</{key}>' for key, each in value.items())}</{name}>"
        for name, value in values.items()
    )


@contextmanager
def local_core(given: LocalCore | None = None) -> Iterator[LocalCore]:
    """Serve on loopback, this core or a new one."""
    core = given or LocalCore()

    class Handler(SimpleXMLRPCRequestHandler):
        rpc_paths = ("/RPC2",)

        def do_POST(self) -> None:  # noqa: N802 - http.server's name
            if core.unanswered:
                core.unanswered -= 1
                self.send_error(500)
            else:
                super().do_POST()

        def log_message(self, *_: object) -> None:
            pass

    class Server(SimpleXMLRPCServer):
        def _dispatch(self, method: str, params: Any) -> Any:
            return core.answer(method, tuple(params))

    with Server(("127.0.0.1", 0), Handler) as server:
        core.url = f"http://127.0.0.1:{server.server_address[1]}/RPC2"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield core
        finally:
            server.shutdown()
            thread.join()


def environment(core: LocalCore, directory: Path, *settings: str) -> dict[str, str]:
    """The environment of a driver of this core, and the settings that oned writes, in a directory."""
    (directory / "var").mkdir(exist_ok=True)
    (directory / "var" / "config").write_text("".join(f"{each}\n" for each in settings))
    auth = directory / "one_auth"
    auth.write_text(f"{SESSION}\n")
    auth.chmod(0o600)
    return {"ONE_XMLRPC": core.url, "ONE_AUTH": str(auth), "ONE_LOCATION": str(directory)}

"""Known secrets, and their removal from replies and logs.

A cloud, a proxy or an OpenNebula may repeat a secret of the request in its answer: a session token, `user:password`.
Every secret that is read is recorded here, and masked in every line and log entry when it is written
(characters.py `clean`, logs.py).
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextvars import ContextVar

MASK = "***"

_SHORTEST = 8
"""Shortest secret that is masked everywhere; a shorter one would be masked inside other words."""

_LONGEST_WORD = 16
"""Letters up to which a secret of letters alone, such as `opennebula`, counts as a word and is not masked."""

_SHORTEST_LOGIN = 6
"""Shortest `user:password` that is masked; it hardly occurs by chance."""

_MOST = 64
"""Most secrets that are masked; beyond it the oldest is forgotten: session tokens are renewed again and again."""

_GUESSED = re.compile(
    r"""(?P<name>(?:secret|passw|token|credential|private|api_?key|access_?key)[\w-]*["']?\s*[:=]\s*["']?)[^\s"',;]+""",
    re.IGNORECASE,
)
"""A value after a name such as `password:` or `SecretAccessKey=`, which is taken for a secret."""


class _Known:
    """The secrets to mask, in all forms in which they may appear."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._secrets: dict[tuple[str, str], None] = {}
        self.forms: tuple[tuple[str, str], ...] = ()
        """Each form of a secret and its replacement, the longest form first."""

    def add(self, secret: str, shown: str = "") -> None:
        """Add a secret; `shown` is the part before it that stays visible."""
        with self._lock:
            key = (secret, shown)
            if self._secrets.pop(key, key) is None:
                self._secrets[key] = None  # known, and used again
                return
            self._secrets[key] = None
            while len(self._secrets) > _MOST:
                del self._secrets[next(iter(self._secrets))]
            found = {form: mask for secret, shown in self._secrets for form, mask in _forms(secret, shown)}
            self.forms = tuple(sorted(found.items(), key=lambda pair: -len(pair[0])))


_known = _Known()

_of_vm: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("the forms of one VM's secrets", default=())
"""End users choose these secrets: masked in the lines of other VMs, one could hide an id or an address there."""


def keep_secret(*secrets: str) -> None:
    """Mask these secrets from now on, except short ones and ordinary words."""
    for secret in secrets:
        if len(secret) >= _SHORTEST and not _is_word(secret):
            _known.add(secret)


def keep_vm_secret(secret: str) -> None:
    """Mask a VM's secret, such as its password, in what the running task writes from now on: its VM's lines."""
    if len(secret) >= _SHORTEST and not _is_word(secret):
        found = dict((*_of_vm.get(), *_forms(secret, "")))
        _of_vm.set(tuple(sorted(found.items(), key=lambda pair: -len(pair[0]))))


def forget_vm_secrets() -> None:
    """Mask no VM's secret in what the running task writes from now on: it turns to another VM."""
    _of_vm.set(())


def keep_login_secret(login: str) -> None:
    """Mask the password of `user:password` from now on; a simple one only together with the user."""
    user, _, password = login.partition(":")
    keep_secret(password)
    if user and password and len(login) >= _SHORTEST_LOGIN:
        _known.add(login, f"{user}:")


def keep_url_secret(url: str) -> None:
    """Mask the password in a URL, such as a proxy's, from now on."""
    from urllib.parse import unquote, urlsplit  # imported late: few configurations have a password in a URL

    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
    except ValueError:
        return
    if parts.password:
        keep_login_secret(f"{parts.username}:{parts.password}")
        keep_login_secret(f"{unquote(parts.username or '')}:{unquote(parts.password)}")


def masked(text: str) -> str:
    """Return the text with the known secrets masked."""
    for form, mask in (*_known.forms, *_of_vm.get()):
        if form in text:
            text = text.replace(form, mask)
    return text


def masked_by_name(text: str) -> str:
    """Return the text with known secrets, and values after names such as `SecretAccessKey:`, masked."""
    return _GUESSED.sub(rf"\g<name>{MASK}", masked(text))


def _is_word(text: str) -> bool:
    return text.isalpha() and len(text) <= _LONGEST_WORD and (text.islower() or text.isupper() or text.istitle())


def _forms(secret: str, shown: str) -> Iterator[tuple[str, str]]:
    """Yield each form in which a secret may come back: unchanged, in a URL, in quotes, in a template, in base64."""
    from urllib.parse import quote

    mask = f"{shown}{MASK}"
    for form in (
        secret,
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        secret.replace("\\", "").replace('"', "'"),
    ):
        yield form, mask
    yield base64.b64encode(secret.encode(errors="replace")).decode().rstrip("="), MASK

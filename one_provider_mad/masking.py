"""Known secrets, and how they are taken out of what is told.

A cloud, a proxy or an OpenNebula may repeat in its answer what it was sent: a session token, `user:password`. What is
read as a secret is noted here, and taken out of every line and log entry by those that write them
(protocol/vmm.py `clean`, logs.py), whoever has said it.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator

MASK = "***"

_SHORTEST = 8
"""Characters from which on a secret is taken out wherever it stands; a shorter one would be cut out of other words."""

_LONGEST_WORD = 16
"""Letters of one case alone are a word up to this length, as `opennebula`, which stands in ordinary sentences."""

_SHORTEST_LOGIN = 6
"""Characters of `user:password`, which hardly stands anywhere by chance."""

_MOST = 64
"""Secrets that are known at once, the oldest goes first: session tokens are renewed for as long as a driver runs."""

_GUESSED = re.compile(
    r"""(?P<name>(?:secret|passw|token|credential|private|api_?key|access_?key)[\w-]*["']?\s*[:=]\s*["']?)[^\s"',;]+""",
    re.IGNORECASE,
)
"""A value under a name that says that it is secret."""


class _Known:
    """The secrets that are known, in every form they are looked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._secrets: dict[tuple[str, str], None] = {}
        self.forms: tuple[tuple[str, str], ...] = ()
        """What is looked for and what takes its place, the longest first."""

    def add(self, secret: str, shown: str = "") -> None:
        """Know a secret; `shown` is what may stay in front of it."""
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


def keep_secret(*secrets: str) -> None:
    """Take these out of everything that is written from now on; not what is short, or an ordinary word."""
    for secret in secrets:
        if len(secret) >= _SHORTEST and not _is_word(secret):
            _known.add(secret)


def keep_login_secret(login: str) -> None:
    """Take the password of `user:password` out of everything, and of the two together however simple it is."""
    user, _, password = login.partition(":")
    keep_secret(password)
    if user and password and len(login) >= _SHORTEST_LOGIN:
        _known.add(login, f"{user}:")


def keep_url_secret(url: str) -> None:
    """Take the password that a URL holds out of everything, if it holds one, as a proxy's does."""
    from urllib.parse import unquote, urlsplit  # not for every start: few have a password in a URL

    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
    except ValueError:
        return
    if parts.password:
        keep_login_secret(f"{parts.username}:{parts.password}")
        keep_login_secret(f"{unquote(parts.username or '')}:{unquote(parts.password)}")


def masked(text: str) -> str:
    """Return the text without the secrets that are known."""
    for form, mask in _known.forms:
        if form in text:
            text = text.replace(form, mask)
    return text


def masked_by_name(text: str) -> str:
    """Mask also what follows a name such as `SecretAccessKey:`, for a program that deals with secrets not known yet."""
    return _GUESSED.sub(rf"\g<name>{MASK}", masked(text))


def _is_word(text: str) -> bool:
    return text.isalpha() and len(text) <= _LONGEST_WORD and (text.islower() or text.isupper() or text.istitle())


def _forms(secret: str, shown: str) -> Iterator[tuple[str, str]]:
    """Each way in which a secret may come back: as it is, in a URL, in quotes, in a template, in base64."""
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

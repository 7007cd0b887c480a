"""The environment that scripts find, as upstream's shell wrappers make it (src/mad/sh/madcommon.sh)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


def script_environment(
    inherited: Mapping[str, str], *, etc: Path, proxy: str, warn: Callable[[str], None]
) -> dict[str, str]:
    """The inherited environment, and what the files of OpenNebula's etc directory add to it.

    Args:
        inherited: the driver's own.
        etc: OpenNebula's etc directory; `defaultrc` and `vmm_exec/vmm_execrc` are read there.
        proxy: `--proxy`, "" for none.
        warn: told of a file that cannot be read.
    """
    environment = dict(inherited)
    for name in ("defaultrc", "vmm_exec/vmm_execrc"):
        environment |= _read(etc / name, warn)
    if proxy:
        environment |= dict.fromkeys(_PROXIES, proxy)
    location = inherited.get("ONE_LOCATION")
    ruby = f"{location}/lib/ruby" if location else "/usr/lib/one/ruby"
    before = inherited.get("RUBYLIB")
    environment["RUBYLIB"] = f"{ruby}:{before}" if before else ruby
    return environment


def _read(path: Path, warn: Callable[[str], None]) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return {}
    except OSError as error:
        warn(f"{path} cannot be read, so scripts run without it: {error.strerror}")
        return {}
    return dict(_assignments(text))


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    """Each `NAME=value`; quotes as a shell takes them, but nothing is expanded or run."""
    for line in text.splitlines():
        match = _ASSIGNMENT.match(line)
        if match is None:
            continue
        try:
            words = shlex.split(match[2], comments=True)
        except ValueError:  # a quote without its fellow
            words = match[2].split()
        yield match[1], words[0] if words else ""

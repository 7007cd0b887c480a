"""The environment of scripts, as upstream's shell wrappers build it (src/mad/sh/madcommon.sh)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from one_provider_mad.scripting.assignments import Assignment, read_assignments

_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


def script_environment(
    inherited: Mapping[str, str], *, etc: Path, files: Iterable[str], proxy: str, warn: Callable[[str], None]
) -> dict[str, str]:
    """Return the inherited environment with the assignments of files in OpenNebula's etc directory.

    Args:
        inherited: the driver's own environment.
        etc: OpenNebula's etc directory.
        files: names of the files to read, in this order; missing ones are skipped.
        proxy: `--proxy`, "" for none.
        warn: called with a sentence for an unreadable file, and for lines that only a shell could read.
    """
    environment = dict(inherited)
    for name in files:
        environment |= _read(etc / name, environment, warn)
    if proxy:
        environment |= dict.fromkeys(_PROXIES, proxy)
    location = inherited.get("ONE_LOCATION")
    ruby = f"{location}/lib/ruby" if location else "/usr/lib/one/ruby"
    before = inherited.get("RUBYLIB")
    environment["RUBYLIB"] = f"{ruby}:{before}" if before else ruby
    return environment


def _read(path: Path, known: Mapping[str, str], warn: Callable[[str], None]) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return {}
    except OSError as error:
        warn(f"{path} cannot be read, so scripts run without it: {error.strerror}")
        return {}
    found, lines = dict[str, str](), list[int]()
    for entry in read_assignments(text, known):
        if isinstance(entry, Assignment):
            found[entry.name] = entry.value
        else:
            lines.append(entry.line)
    if lines:
        where = f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines))}"
        warn(f"{path} {where}: only a shell could read that, so scripts run without its variables")
    return found

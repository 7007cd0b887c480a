"""Readers of user data: cloud-init itself where a Python has it, and the standard library's parsers."""

from __future__ import annotations

import base64
import email
import gzip
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

READER = Path(__file__).with_name("cloud_init_reader.py")

PYTHON = "/usr/bin/python3"
"""The distribution's, which its package cloud-init is for."""

PACKAGES = os.environ.get("CLOUD_INIT_PACKAGES", "")
"""A folder with cloud-init and its libraries, instead of the machine's own."""


class Read(NamedTuple):
    """What a guest reads.

    Attributes:
        parts: type, file name ("" for none) and content.
        config: the cloud-config of all parts.
        errors: complaints.
    """

    parts: list[tuple[str, str, bytes]]
    config: dict[str, Any]
    errors: list[str]

    def bodies(self, kind: str) -> list[bytes]:
        return [body for each, _, body in self.parts if each == kind]


class CloudInit:
    """A process with cloud-init's parsers, merging and schema."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def read(self, data: bytes) -> Read:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"data": base64.b64encode(data).decode()}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        parts = [(kind, name or "", base64.b64decode(body)) for kind, name, body in answer["parts"]]
        return Read(parts, answer["config"], answer["errors"])


@contextmanager
def cloud_init() -> Iterator[CloudInit | None]:
    """Yield cloud-init, None where it is not installed."""
    environ = {**os.environ, **({"PYTHONPATH": PACKAGES} if PACKAGES else {})}
    asked = [PYTHON, "-c", "import cloudinit.config.schema, jsonschema"]
    if not Path(PYTHON).exists() or subprocess.run(asked, env=environ, capture_output=True).returncode:
        yield None
        return
    command = [PYTHON, "-W", "ignore", str(READER)]
    with subprocess.Popen(
        command, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield CloudInit(process)
        finally:
            process.kill()


def read_plainly(data: bytes) -> Read:
    """Read user data without cloud-init: one message, whose cloud-config parts are YAML mappings."""
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    parts, config = [], dict[str, Any]()
    for part in email.message_from_bytes(data).walk():
        if part.is_multipart():
            continue
        body = part.get_payload(decode=True)
        assert isinstance(body, bytes)
        parts.append((part.get_content_type(), part.get_filename() or "", body))
        if part.get_content_type() == "text/cloud-config":
            own = yaml.safe_load(body)
            assert isinstance(own, dict)
            for name, value in own.items():
                is_joined = name in config and isinstance(value, list)
                config[name] = [*config[name], *value] if is_joined else config.get(name, value)
    return Read(parts, config, [])

"""Requests as oned writes them, by user operation."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Unpack

from one_provider_mad.domain import Template
from tests import oned_lines
from tests.oned_lines import Details, Release


def line(
    action: str,
    vm_id: int,
    lcm_state: str = "",
    /,
    *,
    release: Release = "7.4",
    **details: Unpack[Details],
) -> bytes:
    """Any line; with an LCM_STATE by name, or the most frequent one of the action."""
    if lcm_state:
        details["lcm_state"] = oned_lines.LCM_STATES[lcm_state]
    return oned_lines.line(action, vm_id, release=release, **details)


def deploy(vm_id: int, /, *, release: Release = "7.4", **details: Unpack[Details]) -> bytes:
    """Instantiate, or retry."""
    return line("DEPLOY", vm_id, "BOOT", release=release, **details)


def resume(vm_id: int, deploy_id: str, /, *, release: Release = "7.4", **details: Unpack[Details]) -> bytes:
    """Resume from POWEROFF: the SEQ has grown."""
    details = {"deploy_id": deploy_id, "seq": 1, **details}
    return line("DEPLOY", vm_id, "BOOT_POWEROFF", release=release, **details)


def power_off(vm_id: int, deploy_id: str, /, *, release: Release = "7.4", **details: Unpack[Details]) -> bytes:
    """Power off."""
    details = {"deploy_id": deploy_id, **details}
    return line("SHUTDOWN", vm_id, "SHUTDOWN_POWEROFF", release=release, **details)


def terminate(vm_id: int, deploy_id: str, /, *, release: Release = "7.4", **details: Unpack[Details]) -> bytes:
    """Terminate from RUNNING."""
    details = {"deploy_id": deploy_id, **details}
    return line("SHUTDOWN", vm_id, "SHUTDOWN", release=release, **details)


def reboot(vm_id: int, deploy_id: str, /, *, release: Release = "7.4", **details: Unpack[Details]) -> bytes:
    """Reboot."""
    details = {"deploy_id": deploy_id, **details}
    return line("REBOOT", vm_id, release=release, **details)


def poll(vm_id: int, deploy_id: str, /, *, release: Release = "5.10", **details: Unpack[Details]) -> bytes:
    """Poll; no release after 5.12 does."""
    details = {"deploy_id": deploy_id, **details}
    return line("POLL", vm_id, release=release, **details)


def cleanup(vm_id: int, deploy_id: str = "", /, *, release: Release = "7.4", **details: Unpack[Details]) -> bytes:
    """Recover by deleting; oned may not know of an instance."""
    details = {"deploy_id": deploy_id, **details}
    return line("CLEANUP", vm_id, release=release, **details)


def driver_cancel(vm_id: int, /, *, release: Release = "7.4") -> bytes:
    """Cancel an open action, as oned does before CLEANUP."""
    return line("DRIVER_CANCEL", vm_id, release=release)


def unknown(vm_id: int, /, *, release: Release = "7.4") -> bytes:
    """An action of no release. It is refused at once, so a line after its reply was not written before."""
    return line("FROBNICATE", vm_id, release=release)


def without(
    element: str,
    action: str,
    vm_id: int,
    /,
    *,
    release: Release = "7.4",
    **details: Unpack[Details],
) -> bytes:
    """A line whose message lacks one of its elements."""
    document = oned_lines.document(action, vm_id, release=release, **details)
    before, _, rest = document.partition(f"<{element}>".encode())
    _, found, after = rest.partition(f"</{element}>".encode())
    if not found:
        raise ValueError(f"{action} has no {element}")
    return with_payload(action, vm_id, b64encode(before + after), release=release)


def with_payload(action: str, vm_id: int, payload: bytes, /, *, release: Release = "7.4") -> bytes:
    """A line with any payload."""
    return oned_lines.head(action, vm_id, release) + payload + b"\n"


def asking_for(instance_type: str = "", /, **attributes: str) -> Template:
    """A template that asks the simulated cloud for a type, with further attributes of its section."""
    section = {"TYPE": "simulated", "PROVIDER_INSTANCE_TYPE": instance_type, **attributes}
    return Template(values={"CPU": ("1",), "MEMORY": ("256",), "PUBLIC_CLOUD": (section,)})


def document(request_line: bytes) -> bytes:
    """The message inside a line."""
    return b64decode(request_line.split()[2])

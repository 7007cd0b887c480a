"""VMs that run in the embedded cloud before anything is measured, and the lines that oned sends about them."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.started import Starter
from one_provider_mad.cli.driver_message import default_template, wire_line
from one_provider_mad.cli.verbs import Release
from one_provider_mad.domain import Template

NAME = "simulated"
_THREADS = 200

_CONTEXT = {
    "NETWORK": "YES",
    "SSH_PUBLIC_KEY": "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7 oneadmin@front-end",
    "START_SCRIPT": "systemctl enable --now web.service",
    "TARGET": "hda",
}


def _template() -> Template:
    """A VM as people make them: with a context, which brings the messages to the length they have in practice."""
    values = {**default_template().values, "CONTEXT": (_CONTEXT,), "HYPERVISOR": (NAME,)}
    return Template(values=values)


class Fleet:
    """Running VMs, numbered from 0.

    Args:
        deploy_ids: the cloud's id of each.
    """

    def __init__(self, deploy_ids: Sequence[str]) -> None:
        self._deploy_ids = deploy_ids

    @classmethod
    def deploy(cls, starter: Starter, count: int) -> Fleet:
        """Let so many VMs run; not measured."""
        configure(starter, latency=0.0)
        lines = b"".join(_line("DEPLOY", vm_id, "7.4", "") for vm_id in range(count))
        with starter.ours(f"-t {_THREADS} -r 0 {NAME}") as driver:
            answers = driver.exchange(lines, count=count).answers
        deploy_ids = [""] * count
        for answer in answers:
            _, _, vm_id, deploy_id = answer.decode().split()
            deploy_ids[int(vm_id)] = deploy_id
        return cls(deploy_ids)

    def lines(self, action: str, count: int, release: Release) -> bytes:
        """One action for each of the first so many VMs."""
        return b"".join(_line(action, vm_id, release, self._deploy_ids[vm_id]) for vm_id in range(count))


def _line(action: str, vm_id: int, release: Release, deploy_id: str) -> bytes:
    return wire_line(action, vm_id=vm_id, release=release, deploy_id=deploy_id, template=_template())


def configure(starter: Starter, *, latency: float) -> None:
    """Say how long a call to the embedded cloud takes."""
    starter.place.configure(f'provider = "simulated"\nowner = "bench"\n[simulated]\nlatency = {latency}\n', name=NAME)

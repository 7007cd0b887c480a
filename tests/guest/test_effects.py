"""docs/context.md has the table of guest/effects.py, and the table tells the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from one_provider_mad.domain import Template, VmId, VmRequest
from one_provider_mad.guest.choice import Program
from one_provider_mad.guest.effects import EFFECTS, NO, Effect
from one_provider_mad.guest.user_data import user_data_for

PAGE = Path(__file__).parents[2] / "docs" / "context.md"

VALUES = {
    "SSH_PUBLIC_KEY": "ssh-ed25519 AAAA me",
    "SSH_PUBLIC_KEYS": "ssh-ed25519 AAAA me",
    "EC2_PUBLIC_KEY": "ssh-ed25519 AAAA me",
    "SSH_KEY": "ssh-ed25519 AAAA me",
    "USERNAME_SUDO": "NO",
    "GRANT_SUDO": "NO",
    "PASSWORD_BASE64": "d29yZA==",
    "CRYPTED_PASSWORD_BASE64": "JDYkeCR5",
    "DNS": "9.9.9.9",
    "TIMEZONE": "Europe/Madrid",
    "GROW_ROOTFS": "NO",
    "START_SCRIPT_BASE64": "ZWNobyBoaQ==",
    "USER_DATA": "#cloud-config\n{}",
    "USERDATA": "#cloud-config\n{}",
    "REPORT_READY": "YES",
}
ENCODINGS = {"USER_DATA_ENCODING", "USERDATA_ENCODING"}
"""They only say how another one is meant."""

OTHERS = {"USERNAME": "alice", "START_SCRIPT": "echo", "ONEGATE_TOKEN": "t", "REPORT_READY": "YES"}
"""A CONTEXT in which every attribute with an effect shows it."""


def shown(effect: Effect) -> str:
    cells = (effect.cloud_init, effect.one_context, effect.cloudbase_init)
    texts = [f"– ({cell.removeprefix(NO)})" if cell.startswith(NO) else cell for cell in cells]
    return f"| {', '.join(effect.names)} | {' | '.join(texts)} |"


def test_the_page_has_the_table() -> None:
    rows = [
        line for line in PAGE.read_text().split("## What reaches the guest")[1].splitlines() if line.startswith("|")
    ]
    table = rows[2 : 2 + len(EFFECTS)]
    assert table == [shown(effect) for effect in EFFECTS]


def made(program: Program, context: dict[str, str]) -> tuple[bytes, tuple[str, ...]]:
    request = VmRequest(vm_id=VmId(7), template=Template(values={"CONTEXT": (context,)}))
    told = user_data_for(request, program, limit=10**6)
    return told.data, told.warnings


COLUMNS: dict[Program, str] = {
    "cloud-init": "cloud_init",
    "one-context": "one_context",
    "cloudbase-init": "cloudbase_init",
}


@pytest.mark.parametrize("program", COLUMNS)
@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect.names[0])
def test_an_attribute_changes_the_user_data_or_is_named_in_a_sentence(effect: Effect, program: Program) -> None:
    is_dead = getattr(effect, COLUMNS[program]).startswith(NO)
    for name in effect.names:
        attribute = {"ETH0_*": "ETH0_IP", "PCI0_*": "PCI0_MAC", "further ones": "APP"}.get(name, name)
        rest = {} if is_dead else {name: value for name, value in OTHERS.items() if name != attribute}
        without, _ = made(program, rest)
        data, sentences = made(program, {**rest, attribute: VALUES.get(attribute, "some")})
        is_named = any("no effect" in sentence and attribute.split("_")[0] in sentence for sentence in sentences)
        if is_dead:
            assert is_named, f"{attribute} has no effect, and no sentence says so"
        else:
            assert not is_named
            assert data != without or attribute in ENCODINGS, f"{attribute} changes nothing"

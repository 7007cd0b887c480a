"""Shows a driver's journal: unanswered requests, debts, attempts to create."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from one_provider_mad.cli.tables import show_table
from one_provider_mad.journal.reader import (
    read_attempts,
    read_debts,
    read_fact,
    read_open_requests,
    read_recreations,
)
from one_provider_mad.journal.records import OpenRequest
from one_provider_mad.live_provider import ACCOUNT
from one_provider_mad.orphans.reconciler import MACHINE
from one_provider_mad.settings import Places, load


def collect(name: str, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the content of the journal of NAME.

    Returns:
        `path`, `account`, `machine`, and lists of `requests`, `debts`, `attempts` and `recreations` (VMs that may be
        recreated); times in seconds since the epoch.

    Raises:
        MadError: the configuration or the journal cannot be read.
    """
    places = Places.from_environment(environ)
    path = places.journal(load(name, places))
    return {
        "path": str(path),
        "account": read_fact(path, ACCOUNT),
        "machine": read_fact(path, MACHINE),
        "requests": [request_entry(each) for each in read_open_requests(path)],
        "debts": [
            {
                "vm_id": each.identity.vm_id,
                "deploy_id": each.deploy_id or None,
                "since": each.since,
                "tries": each.tries,
                "reason": each.reason,
                "last_error": each.last_error,
            }
            for each in read_debts(path)
        ],
        "attempts": [
            {
                "vm_id": each.identity.vm_id,
                "stime": each.identity.stime,
                "seq": each.identity.seq,
                "number": each.number,
                "state": each.state.value,
                "deploy_id": each.deploy_id or None,
                "sent_at": each.sent_at,
                "detail": each.detail,
            }
            for each in read_attempts(path)
        ],
        "recreations": [
            {
                "vm_id": each.vm_id,
                "stime": each.stime,
                "seq": each.seq,
                "since": each.at,
                "is_interrupted": each.is_interrupted,
                "tries": each.tries,
                "reason": each.reason,
            }
            for each in read_recreations(path)
        ],
    }


def request_entry(request: OpenRequest) -> Mapping[str, object]:
    """Return an unanswered request for --json; its time in seconds since the epoch."""
    return {
        "vm_id": request.vm_id,
        "action": request.action,
        "since": request.opened_at,
        "pid": request.writer.pid,
        "is_writer_alive": request.writer.is_alive(),
    }


def show(found: Mapping[str, Any]) -> None:
    """Write the journal to stdout as tables; an empty part is one line, or none if it usually is empty."""
    click.echo(f"{found['path']}: account {found['account'] or 'not recorded yet'}")
    _part(
        "Unanswered requests",
        ("VM", "ACTION", "SINCE", "DRIVER"),
        [(str(each["vm_id"]), each["action"], _moment(each["since"]), _writer(each)) for each in found["requests"]],
    )
    _part(
        "Debts (pending terminations)",
        ("VM", "DEPLOY ID", "SINCE", "TRIES", "REASON", "LAST ERROR"),
        [_debt(each) for each in found["debts"]],
    )
    if found["recreations"]:
        _part(
            "VMs that may be recreated",
            ("VM", "SEQ", "SINCE", "TRIES", "REASON"),
            [
                (str(each["vm_id"]), str(each["seq"]), _moment(each["since"]), str(each["tries"]), each["reason"])
                for each in found["recreations"]
            ],
        )
    _part(
        "Attempts to create",
        ("VM", "SEQ", "ATTEMPT", "STATE", "DEPLOY ID", "SENT", "DETAIL"),
        [
            (
                str(each["vm_id"]), str(each["seq"]), str(each["number"]), each["state"], each["deploy_id"] or "-",
                _moment(each["sent_at"]), each["detail"] or "-",
            )
            for each in found["attempts"]
        ],
    )  # fmt: skip


def _part(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    click.echo(f"\n{title}: {len(rows) or 'none'}")
    if rows:
        show_table(head, rows)


def _debt(debt: Mapping[str, Any]) -> tuple[str, ...]:
    since, tries = _moment(debt["since"]), str(debt["tries"])
    return str(debt["vm_id"]), debt["deploy_id"] or "-", since, tries, debt["reason"], debt["last_error"] or "-"


def _writer(request: Mapping[str, Any]) -> str:
    return f"{request['pid']}{'' if request['is_writer_alive'] else ', which has ended'}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "-"

"""Asks at a terminal, before a configuration is written, what may become of instances without a VM."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from one_provider_mad.cli.assignments import Tree
from one_provider_mad.providers.registry import costs_money
from one_provider_mad.settings import Configuration, Settings

_RECOMMENDED, _CAUTIOUS = "terminate-done", "report"

_EXPLANATION = """\
OpenNebula sends no driver a request when a VM is terminated that is powered off, suspended, stopped or undeployed: its
instance stays in the cloud, and goes on costing money. The driver looks for such orphans every few minutes.
  terminate-done  terminates the instance of a VM that is certainly DONE, ten minutes later (recommended)
  report          only warns, in oned.log and in one-provider orphans"""


def policy_asked(path: Path, kind: str, given: Tree) -> Tree:
    """Return the table `[orphans]` of the given settings with the policy that a person has chosen, alone in a tree.

    The tree is empty where nothing is asked: a question needs a terminal, a file that is to be written, a cloud whose
    instances cost money, and no policy from --set.

    Args:
        path: the configuration file.
        kind: the provider.
        given: settings of --set.

    Raises:
        click.Abort: there is no answer; nothing was done.
    """
    orphans = given.get("orphans", {})
    is_given = isinstance(orphans, str) or "policy" in orphans
    if is_given or path.exists() or path.is_symlink() or not _is_terminal() or not _costs_money(kind):
        return {}
    click.echo(_EXPLANATION)
    choice = click.Choice((_RECOMMENDED, _CAUTIOUS))
    policy = click.prompt("policy of [orphans]", type=choice, default=_RECOMMENDED, show_choices=True)
    return {"orphans": {**(orphans if isinstance(orphans, dict) else {}), "policy": json.dumps(policy)}}


def _costs_money(kind: str) -> bool:
    return costs_money(Configuration(name=kind, path=None, settings=Settings(provider=kind), table={}))


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()

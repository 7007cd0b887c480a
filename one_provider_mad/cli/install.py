"""`one-provider install`: links the drivers into OpenNebula's drivers folder, and writes a first configuration."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import click

import one_provider_mad
from one_provider_mad.cli import install_hook
from one_provider_mad.cli.assignments import Tree, merged, single, tree_of, written
from one_provider_mad.cli.core_user import CoreUser
from one_provider_mad.cli.install_question import policy_asked
from one_provider_mad.cli.install_transfer import Step as TransferStep
from one_provider_mad.cli.install_transfer import Transfer, carry_out_all, told
from one_provider_mad.cli.names import check_name, complete_name
from one_provider_mad.cli.reference import Key, commented, keys_of, tables
from one_provider_mad.cli.startable import obstacle_in_files, obstacle_to
from one_provider_mad.domain import Value
from one_provider_mad.errors import SettingsError
from one_provider_mad.file_owner import make_directory, make_link, open_file
from one_provider_mad.monitor.settings import read_tables
from one_provider_mad.providers.registry import BUILT_IN, build, settings_type_of
from one_provider_mad.settings import Configuration, Places, Settings, checked
from one_provider_mad.xmlrpc.local import LocalCore

PROGRAMS = ("one_vmm_provider", "one_im_provider")

_HOOK_MANAGER = "next: see that onehem-server runs, which carries hooks out (systemctl status opennebula-hem)"

NO_ANSWERS: Tree = {}

_KINDS = tuple(kind for kind in BUILT_IN if kind != "scripts")


class Step(Value, frozen=True, kw_only=True):
    """One step of the installation: a file or link to create, unless it exists.

    Attributes:
        path: the file or link.
        target: the link's target; "" for a file.
        text: the file's content; "" for a link.
        is_there: True if it exists, so that the step does nothing.
    """

    path: Path
    target: str = ""
    text: str = ""
    is_there: bool = False

    def sentence(self) -> str:
        """Describe the step as a line of text."""
        verb = "exists" if self.is_there else "linked" if self.target else "written"
        return f"{verb}: {self.path}" + (f" -> {self.target}" if self.target else "")


@click.command("install", short_help="Link the drivers, and write a configuration.")
@click.argument("name", shell_complete=complete_name)
@click.option("--provider", "kind", type=click.Choice(_KINDS), default="simulated", show_default=True)
@click.option(
    "--set", "texts", multiple=True, metavar="KEY=VALUE", help="A setting of the new configuration; may be repeated."
)
@click.option("--mads", type=click.Path(path_type=Path), help="OpenNebula's drivers folder.")
@click.option(
    "--datastore",
    "datastores",
    multiple=True,
    metavar="DATASTORE",
    help="OpenNebula 7.x: let VMs with images of this datastore start in the cloud; may be repeated.",
)
@click.option(
    "--recreate-hook", "has_hook", is_flag=True, help="Also make the hook that recreates VMs which the cloud refused."
)
@click.option(
    "--remove",
    "is_removal",
    is_flag=True,
    help="Remove the transfer driver, or only from --datastore; with --recreate-hook the hook alone.",
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Show the steps, and do nothing.")
@click.option("--json", "is_json", is_flag=True, help="One JSON array.")
def command(
    name: str,
    kind: str,
    texts: tuple[str, ...],
    mads: Path | None,
    datastores: tuple[str, ...],
    has_hook: bool,
    is_removal: bool,
    is_dry: bool,
    is_json: bool,
) -> None:
    """Link both drivers into OpenNebula's drivers folder, and write a commented configuration for NAME.

    Existing files are not changed, except for links that lead nowhere. Nothing is done if OpenNebula's user cannot
    start the drivers, as when their Python is in a folder that is closed to it.

    The configuration gets a unique owner, which every instance carries as a tag. At a terminal the command asks what
    may become of instances without a VM, unless --set orphans.policy=... says so. With --set it also gets these
    settings, if the drivers can use the file then: --set ec2.region=eu-west-1 --set orphans.interval=600. VALUE is
    TOML, or else a text.

    Where OpenNebula's transfer drivers are, the transfer driver one_provider is installed beside them, which OpenNebula
    7.x calls for VMs in a cloud. --datastore lets VMs with images of a datastore start in the cloud of NAME: it writes
    files beside the datastore's transfer driver, sets its CLONE_TARGET_ONE_PROVIDER, LN_TARGET_ONE_PROVIDER and
    DISK_TYPE_ONE_PROVIDER, and adds it to NAME's cluster. With several front-ends, run this on each. --remove undoes
    that, unless VMs in the cloud need it, and changes nothing else.

    With --recreate-hook OpenNebula recreates a VM that a cloud of ours refused for want of room, or took back where
    [spot] says so: one hook for all NAMEs. With several front-ends run it on each, as the script is a file.
    """
    places = Places.from_environment(os.environ)
    transfer = Transfer(places.var, LocalCore(os.environ))
    if is_removal and has_hook:
        if datastores:
            raise click.UsageError("give either --recreate-hook or --datastore with --remove")
        _show_hook(install_hook.remove(places, os.environ, is_dry=is_dry), is_dry=is_dry, is_json=is_json)
        return
    if is_removal:
        check_name(name)
        carry_out_all(list(transfer.remove(name, datastores)), is_dry=is_dry, is_json=is_json)
        return
    steps = list(plan(name, kind, mads, os.environ, given=tree_of(texts)))
    transfers = list(transfer.install(name, datastores))
    is_tried = _refuse_what_cannot_start(os.environ)
    if not (is_dry or is_json):
        answers = policy_asked(places.conf / f"{name}.toml", kind, tree_of(texts))
        steps = list(plan(name, kind, mads, os.environ, given=tree_of(texts), answers=answers))
    if not is_dry:
        for step in steps:
            carry_out(step, places.var)
        for each in transfers:
            each.carry_out()
    if has_hook:
        hook = install_hook.install(_program("one-provider"), places, os.environ, is_dry=is_dry)
        done = (*(each.sentence() for each in steps), *told(transfers, is_dry=is_dry), *hook)
        _show_hook(done, is_dry=is_dry, is_json=is_json, further=_HOOK_MANAGER)
        return
    if is_json:
        entries = [{"path": str(each.path), "target": each.target or None, "is_there": each.is_there} for each in steps]
        click.echo(json.dumps([*entries, *(each.entry() for each in transfers)], indent=2))
        return
    _show(steps, transfers, is_dry=is_dry)
    if datastores:
        click.echo("with several front-ends, run this on each: the files are on this machine only")
    if not is_tried:
        click.echo("not tested: whether OpenNebula's user can start the drivers; run one-provider check as root")
    click.echo(f"next: one-provider check {name}, then one-provider oned-conf {name} --release ...")


def _show(steps: Iterable[Step], transfers: Sequence[TransferStep], *, is_dry: bool) -> None:
    for step in steps:
        click.echo(("would be " if is_dry and not step.is_there else "") + step.sentence())
    for sentence in told(transfers, is_dry=is_dry):
        click.echo(sentence)


_DONE = ("linked", "written", "made", "removed")
"""First words of sentences about something that a dry run does not do."""


def _show_hook(done: Iterable[str], *, is_dry: bool, is_json: bool, further: str = "") -> None:
    sentences = [f"would be {each}" if is_dry and each.startswith(_DONE) else each for each in done]
    if is_json:
        click.echo(json.dumps([{"step": each} for each in sentences], indent=2))
        return
    click.echo("\n".join((*sentences, further) if further else sentences or ["there is nothing to remove"]))


def plan(
    name: str, kind: str, mads: Path | None, environ: Mapping[str, str], *, given: Tree, answers: Tree = NO_ANSWERS
) -> Iterator[Step]:
    """Yield the steps of an installation.

    Args:
        name: NAME of the drivers.
        kind: the provider.
        mads: OpenNebula's drivers folder, None for the usual one.
        environ: environment variables, for OpenNebula's directories.
        given: settings of the configuration.
        answers: settings that a person has chosen when asked, which replace them.

    Raises:
        SettingsError: the programs or the drivers folder are missing, another file has a link's name, or the drivers
            could not use the configuration with the given settings.
    """
    check_name(name)
    places = Places.from_environment(environ)
    location = environ.get("ONE_LOCATION")
    folder = mads or (Path(location) / "lib" / "mads" if location else Path("/usr/lib/one/mads"))
    if not folder.is_dir():
        raise SettingsError(f"{folder} does not exist: name OpenNebula's drivers folder with --mads")
    for program in PROGRAMS:
        yield _link(folder / program, _program(program))
    path = places.conf / f"{name}.toml"
    if path.exists() or path.is_symlink():
        if given:
            _compare(path, given)
        yield Step(path=path, is_there=True)
        return
    text = configuration_of(name, kind, given={**given, **answers})
    if given:
        _check(name, text, {**given, **answers}, places)
    yield Step(path=path, text=text)


def _compare(path: Path, given: Tree) -> None:
    """Raise SettingsError unless an existing file has the given settings already."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} exists and cannot be read: {error}") from error
    if others := [key for key, alone in single(given) if merged(data, alone) != data]:
        raise SettingsError(
            f"{path} exists with other values of {', '.join(others)}, and install changes no existing file: edit it"
        )


def _check(name: str, text: str, given: Tree, places: Places) -> None:
    """Raise SettingsError unless the drivers could use a new file with this text and the given settings."""
    path = places.conf / f"{name}.toml"
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"the settings of --set cannot be written as TOML: {error}") from error
    whole = merged(data, given)
    # Keys that no line of the text is for are not in it, and are refused here.
    configuration = checked(name, path, dict(whole))
    read_tables(configuration)
    build(configuration, places, lambda sentence: click.echo(f"note: {sentence}", err=True))
    if whole != data:
        raise SettingsError(f"--set cannot write all these settings: write {path} without it, and edit that file")


def _refuse_what_cannot_start(environ: Mapping[str, str]) -> bool:
    """Start both drivers as OpenNebula's user; return False if this process can try nothing as that user.

    Raises:
        SettingsError: a driver does not start.
    """
    user = CoreUser.of(environ)
    if user is None or not user.can_be_tried():
        return False
    obstacles = [obstacle_to(_program(program), user, environ) for program in PROGRAMS]
    for obstacle in (*obstacles, obstacle_in_files(user)):
        if obstacle is not None and obstacle.is_fatal:
            raise SettingsError(f"OpenNebula's user cannot start the drivers: {obstacle.found}: {obstacle.remedy}")
    return True


def _program(name: str) -> Path:
    """Return the path of a program: in the checkout, else in the folder of the running one."""
    checkout = Path(one_provider_mad.__file__).resolve().parent.parent / "bin"
    for folder in (checkout, Path(sys.argv[0]).resolve().parent, Path(sys.executable).parent):
        if (folder / name).is_file():
            return lasting(folder) / name
    raise SettingsError(f"{name} is not beside {sys.argv[0]}: install one-provider-mad with pip first")


def lasting(folder: Path) -> Path:
    """Return the path by which a folder of programs is reached after an upgrade too.

    A package keeps each release in `releases/<release>`, until no process runs from it, beside a link `current` to the
    installed one (decision 34). Other folders are returned as they are.
    """
    releases = folder.parent.parent
    current = releases.parent / "current" / "bin"
    return current if releases.name == "releases" and current.resolve() == folder else folder


def _link(path: Path, program: Path) -> Step:
    if path.is_symlink() and path.resolve() == program.resolve():
        return Step(path=path, target=str(program), is_there=True)
    if os.path.lexists(path.resolve()):
        raise SettingsError(f"{path} exists and is no link to this driver: move it away, or use --mads")
    return Step(path=path, target=str(program))


def configuration_of(name: str, kind: str, *, given: Tree) -> str:
    """Return a configuration file that sets the required keys and the given ones; comments explain all keys.

    Raises:
        SettingsError: the given settings name another provider.
    """
    if given.get("provider", json.dumps(kind)) != json.dumps(kind):
        raise SettingsError("name the provider with --provider")
    values: Tree = {"owner": json.dumps(f"one-{secrets.token_hex(4)}"), **given, "provider": json.dumps(kind)}
    # Without it a guest gets its context as with release 0.1, for the sake of older configurations.
    values["context"] = {"guest": json.dumps("auto"), **_in_table(given, "context")}
    settings = Settings(provider=kind)
    configuration = Configuration(name=name, path=None, settings=settings, table={})
    plain = (key for key in keys_of(Settings) if not key.table and key.name not in tables())
    typed = {kind: settings_type_of(configuration), **tables()}
    lines = [f"# The drivers of {name}; see docs/configuration.md. An edit takes effect without a restart.", ""]
    lines += commented(plain, given=_in_table(values, ""))
    for name, settings_type in typed.items():
        for table, some in groupby(keys_of(settings_type, table=name), key=_table):
            lines += [f"[{table}]", *commented(some, given=_in_table(values, table))]
    return "\n".join(lines).rstrip() + "\n"


def _in_table(values: Tree, table: str) -> dict[str, str]:
    """Return the values of one table as TOML writes them, by key."""
    found: str | Tree = values
    for part in table.split(".") if table else ():
        found = found.get(part, {}) if isinstance(found, dict) else {}
    return {key: written(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _table(key: Key) -> str:
    return key.table


def carry_out(step: Step, var: Path) -> None:
    """Create the step's file or link, unless it exists; change no existing file.

    Files are given to OpenNebula's user, the owner of its state directory `var`: packages leave /etc/one with root and
    only its group with oneadmin, so the drivers could not read a file of root's with mode 0600.

    Raises:
        SettingsError: the file or link cannot be created.
    """
    if step.is_there:
        return
    try:
        if step.target:
            if step.path.is_symlink():  # it leads nowhere: plan() refuses any other
                step.path.unlink()
            make_link(step.path, step.target)
            return
        make_directory(step.path.parent, 0o750, owner_of=var)
        # Only its owner may read it: an operator may add credentials.
        descriptor = open_file(step.path, os.O_WRONLY | os.O_EXCL, owner_of=var)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(step.text)
    except OSError as error:
        raise SettingsError(f"{step.path} cannot be created: {error.strerror}; run this as root or oneadmin") from error

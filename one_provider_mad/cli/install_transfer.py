"""Installs the transfer driver `one_provider` for OpenNebula 7.x, and removes it: files, attributes of datastores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import click

from one_provider_mad.cli import transfer_files
from one_provider_mad.cli.transfer_core import (
    ATTRIBUTES,
    IMAGES,
    SYSTEM,
    Store,
    clusters_of,
    read_stores,
    vms_in_clouds,
)
from one_provider_mad.cli.transfer_files import DRIVER, MADE, DriverFile
from one_provider_mad.domain import Value
from one_provider_mad.errors import SettingsError
from one_provider_mad.file_owner import replace_file
from one_provider_mad.template_text.exact_writer import attribute
from one_provider_mad.xmlrpc.local import LocalCore
from one_provider_mad.xmlrpc.release import release_of

_FIRST = (7, 0)
_MERGE, _REPLACE = 1, 0
"""How one.datastore.update treats the attributes that the template has already."""

_EVERYBODY, _NOT_DONE = -2, -1
"""Filters of one.vmpool.infoextended."""

_MOST_NAMED = 10
"""Most VMs that a sentence names."""

Record = dict[str, dict[str, list[int]]]
"""For each NAME the image datastores that were installed for it, by number, and the clusters they were added to."""


class Step(Value, frozen=True, kw_only=True):
    """One step of the installation or removal.

    Attributes:
        sentence: what it does, "written: /var/lib/one/...".
        path: the file, "" for a change of OpenNebula's datastores.
        datastore: the datastore, "" for a file.
        is_there: True if there is nothing to do.
        run: does it.
    """

    sentence: str
    run: Callable[[], object]
    path: str = ""
    datastore: str = ""
    is_there: bool = False

    def carry_out(self) -> None:
        """Do it, unless there is nothing to do. Raises MadError."""
        if not self.is_there:
            self.run()

    def entry(self) -> dict[str, object]:
        """Return what --json prints of it."""
        named: dict[str, object] = {"datastore": self.datastore} if self.datastore else {"path": self.path}
        return {**named, "target": None, "is_there": self.is_there, "step": self.sentence}


def carry_out_all(steps: Sequence[Step], *, is_dry: bool, is_json: bool) -> None:
    """Carry steps out one after the other, unless this is a dry run, and print each that is done. Raises MadError."""
    for step in steps:
        if not is_dry:
            step.carry_out()
        if not is_json:
            click.echo("\n".join(told([step], is_dry=is_dry)))
    if is_json:
        click.echo(json.dumps([each.entry() for each in steps], indent=2))
    elif not steps:
        click.echo("nothing to remove")


def told(steps: Sequence[Step], *, is_dry: bool) -> Iterator[str]:
    """Yield a sentence for each step, and one for all files that exist already."""
    for step in steps:
        if not (step.is_there and step.path):
            yield ("would be " if is_dry and not step.is_there else "") + step.sentence
    if there := [step for step in steps if step.is_there and step.path]:
        yield f"exist: {len(there)} files of the transfer driver {DRIVER}"


class Transfer:
    """The transfer driver of one OpenNebula.

    Args:
        var: OpenNebula's state directory, whose owner new files get.
        core: the local OpenNebula; asked only about datastores.
    """

    def __init__(self, var: Path, core: LocalCore) -> None:
        self._var = var
        self._core = core
        self._remotes = var / "remotes"
        self._record_path = self._remotes / "tm" / DRIVER / MADE

    # Installing

    def install(self, name: str, datastores: Sequence[str]) -> Iterator[Step]:
        """Yield the steps that install the driver, and let images of these datastores be used in NAME's cloud.

        Raises:
            SettingsError: a datastore or the cluster is unknown, or OpenNebula calls no transfer driver for a cloud.
            MadError: OpenNebula did not answer.
        """
        if not transfer_files.is_possible(self._remotes):
            if datastores:
                raise SettingsError(f"{self._remotes}/tm does not exist: run this where OpenNebula's drivers are")
            return
        yield from map(self._written, transfer_files.own_files(self._remotes))
        if datastores:
            yield from self._install_datastores(name, datastores)

    def _install_datastores(self, name: str, datastores: Sequence[str]) -> Iterator[Step]:
        self._refuse_old()
        stores = self._stores()
        clusters = clusters_of(
            name, self._core.document("one.hostpool.info"), self._core.document("one.clusterpool.info")
        )
        if not clusters:
            raise SettingsError(f"OpenNebula has no cluster {name} and no host of it: onecluster create {name} first")
        for store in _chosen(stores, datastores):
            folder = self._remotes / "tm" / store.tm_mad
            if not folder.is_dir():
                raise SettingsError(f"{folder} does not exist, and datastore {store.name} has TM_MAD={store.tm_mad}")
            yield from map(self._written, transfer_files.files_beside(self._remotes, store.tm_mad))
            yield self._attributes_set(store, name)
            for number, cluster in clusters.items():
                yield self._added(store, number, cluster, name)

    def _written(self, file: DriverFile) -> Step:
        is_there = file.is_there()
        verb = "exists" if is_there else "written" if file.is_missing() else "replaced"
        return Step(
            sentence=f"{verb}: {file.path}",
            path=str(file.path),
            is_there=is_there,
            run=partial(file.write, self._var),
        )

    def _attributes_set(self, store: Store, name: str) -> Step:
        missing = store.missing()
        text = "\n".join(attribute(key, value) for key, value in missing.items())
        said = "exist" if not missing else "set"

        def update() -> None:
            self._note(name, store.number)
            self._core.call("one.datastore.update", store.number, text, _MERGE)

        return Step(
            sentence=f"{said}: {', '.join(missing or ATTRIBUTES)} of datastore {store.name}",
            datastore=store.name,
            is_there=not missing,
            run=update,
        )

    def _added(self, store: Store, number: int, cluster: str, name: str) -> Step:
        is_there = number in store.clusters

        def add() -> None:
            self._note(name, store.number, number)
            self._core.call("one.cluster.adddatastore", number, store.number)

        verb = "is in" if is_there else "added to"
        return Step(
            sentence=f"{verb} cluster {cluster}: datastore {store.name}",
            datastore=store.name,
            is_there=is_there,
            run=add,
        )

    # Removing

    def remove(self, name: str, datastores: Sequence[str]) -> Iterator[Step]:
        """Yield the steps that undo what was installed for NAME: for these datastores, or else all of it.

        Files and attributes that another NAME or datastore needs stay.

        Raises:
            SettingsError: VMs in a cloud need what would be removed, or a system datastore has the driver.
            MadError: OpenNebula did not answer.
        """
        if not (self._remotes / "tm" / DRIVER).is_dir():
            return
        if release_of(self._core.call("one.system.version")) < _FIRST:
            yield from self._files_removed(DRIVER)
            return
        stores, record = self._stores(), self._record()
        if datastores:
            chosen = _chosen(stores, datastores)
        else:
            _refuse_used(stores)
            chosen = [each for each in stores if name in _users(record, each) or _is_unrecorded(each, record)]
        self._refuse_vms(chosen, stores)
        for store in chosen:
            yield from self._store_removed(store, record, name)
        gone = {each.number for each in chosen if _users(record, each) <= {name}}
        kept = {each.tm_mad for each in stores if each.number not in gone and each.has_attributes()}
        for tm_mad in sorted(transfer_files.drivers_beside(self._remotes) - kept):
            yield from self._files_removed(tm_mad)
        if not datastores and not set(record) - {name}:
            yield from self._files_removed(DRIVER)

    def _store_removed(self, store: Store, record: Record, name: str) -> Iterator[Step]:
        for number in record.get(name, {}).get(str(store.number), []):
            if number in store.clusters:
                yield Step(
                    sentence=f"removed from cluster {number}: datastore {store.name}",
                    datastore=store.name,
                    run=partial(self._core.call, "one.cluster.deldatastore", number, store.number),
                )
        if store.has_attributes() and _users(record, store) <= {name}:
            store.text_without()  # refuses before the first step
            yield Step(
                sentence=f"removed: {', '.join(ATTRIBUTES)} of datastore {store.name}",
                datastore=store.name,
                run=partial(self._clear_attributes, store.number),
            )
        if name in _users(record, store):
            yield Step(
                sentence=f"forgotten: datastore {store.name} in {self._record_path}",
                path=str(self._record_path),
                run=partial(self._forget, name, store.number),
            )

    def _clear_attributes(self, number: int) -> None:
        """Write a datastore's template without this driver's attributes; the template is read anew just before."""
        for store in self._stores():
            if store.number == number:
                self._core.call("one.datastore.update", number, store.text_without(), _REPLACE)

    def _files_removed(self, tm_mad: str) -> Iterator[Step]:
        for path in transfer_files.files_to_remove(self._remotes, tm_mad):
            yield Step(sentence=f"removed: {path}", path=str(path), run=partial(transfer_files.remove, path))

    def _refuse_vms(self, chosen: Sequence[Store], stores: Sequence[Store]) -> None:
        numbers = {each.number: each.name for each in chosen}
        vms = self._core.document("one.vmpool.infoextended", _EVERYBODY, -1, -1, _NOT_DONE)
        using = [vm for vm, needed in vms_in_clouds(vms, stores) if needed & set(numbers)]
        if using:
            shown = ", ".join(map(str, using[:_MOST_NAMED])) + (" and others" if len(using) > _MOST_NAMED else "")
            raise SettingsError(
                f"VMs in a cloud have images of {', '.join(numbers.values())}, and could not be terminated without the"
                f" driver: {shown}. Terminate them first"
            )

    # Asking

    def _stores(self) -> list[Store]:
        return read_stores(self._core.document("one.datastorepool.info"))

    def _refuse_old(self) -> None:
        release = release_of(self._core.call("one.system.version"))
        if release < _FIRST:
            told = ".".join(map(str, release[:2]))
            raise SettingsError(f"OpenNebula {told} calls no transfer driver for a cloud: leave out --datastore")

    # The record

    def _record(self) -> Record:
        """Return the record. Raises SettingsError if it cannot be read."""
        try:
            found = json.loads(self._record_path.read_text(encoding="utf-8"))
            return {
                str(name): {str(store): [int(each) for each in clusters] for store, clusters in stores.items()}
                for name, stores in found.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise SettingsError(f"{self._record_path} cannot be read: {error}; correct or remove it") from error

    def _note(self, name: str, store: int, *clusters: int) -> None:
        record = self._record()
        known = record.setdefault(name, {}).setdefault(str(store), [])
        known += [each for each in clusters if each not in known]
        self._save(record)

    def _forget(self, name: str, store: int) -> None:
        record = self._record()
        record.get(name, {}).pop(str(store), None)
        self._save({key: value for key, value in record.items() if value})

    def _save(self, record: Record) -> None:
        text = json.dumps(record, indent=2) + "\n"
        try:
            replace_file(self._record_path, text.encode(), beside=f".{MADE}.new", mode=0o644)
        except OSError as error:
            raise SettingsError(
                f"{self._record_path} cannot be written: {error.strerror}; run this as root or oneadmin"
            ) from error


def _chosen(stores: Sequence[Store], wanted: Sequence[str]) -> list[Store]:
    """Return the datastores with these names or numbers. Raises SettingsError."""
    found = {text: [each for each in stores if text in (each.name, str(each.number))] for text in wanted}
    for text, those in found.items():
        if not those:
            raise SettingsError(f"OpenNebula has no datastore {text}")
        if len(those) > 1:
            raise SettingsError(f"OpenNebula has several datastores {text}: give the number")
        if those[0].kind != IMAGES:
            raise SettingsError(f"datastore {text} holds no images of disks: name the datastore of the VMs' images")
    return list({those[0].number: those[0] for those in found.values()}.values())


def _users(record: Record, store: Store) -> set[str]:
    """Return the NAMEs that a datastore was installed for."""
    return {name for name, stores in record.items() if str(store.number) in stores}


def _is_unrecorded(store: Store, record: Record) -> bool:
    """True if a datastore has the attributes and nobody's record says for whom."""
    return store.has_attributes() and not _users(record, store)


def _refuse_used(stores: Sequence[Store]) -> None:
    used = [each.name for each in stores if each.kind == SYSTEM and each.tm_mad == DRIVER]
    if used:
        raise SettingsError(
            f"system datastore {', '.join(used)} has TM_MAD={DRIVER}: delete it first, or name datastores with"
            " --datastore to remove the driver from them alone"
        )

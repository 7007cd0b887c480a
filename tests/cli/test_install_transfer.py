"""`one-provider install`: the files of the transfer driver `one_provider`, without OpenNebula's API.

What it asks of OpenNebula is in tests/real_oned/test_transfer.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest
from lxml import etree

from one_provider_mad.cli.install_transfer import Step, Transfer, carry_out_all
from one_provider_mad.cli.transfer_core import ATTRIBUTES, clusters_of, read_stores, vms_in_clouds
from one_provider_mad.errors import SettingsError
from one_provider_mad.safe_xml import Element
from one_provider_mad.template_text.strict_reader import read_template
from one_provider_mad.xmlrpc.local import LocalCore
from tests.cli.running import json_of, output_of


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """The directories of an installed OpenNebula with a transfer driver."""
    for folder in ("lib/mads", "etc", "var/remotes/tm/ssh"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def test_the_transfer_driver_is_installed_where_those_of_opennebula_are_and_renewed(one: Path) -> None:
    steps = json_of(one, "install", "aws")
    made = [each for each in steps if "/remotes/" in each["path"]]
    assert len(made) == 24
    assert not any(each["is_there"] for each in made)
    folder = one / "var" / "remotes" / "tm" / "one_provider"
    assert {str(each) for each in folder.iterdir()} == {each["path"] for each in made}
    (folder / "clone").write_text("#!/bin/sh\n")
    printed = output_of(one, "install", "aws")
    assert f"replaced: {folder}/clone\n" in printed
    assert "exist: 23 files of the transfer driver one_provider\n" in printed
    assert all(each["is_there"] for each in json_of(one, "install", "aws"))


def test_a_dry_run_writes_no_file_of_the_transfer_driver(one: Path) -> None:
    assert "would be written: " in output_of(one, "install", "aws", "--dry-run")
    assert not (one / "var" / "remotes" / "tm" / "one_provider").exists()


def test_there_is_nothing_to_remove_where_nothing_was_installed(one: Path) -> None:
    assert output_of(one, "install", "aws", "--remove") == "nothing to remove\n"


def test_datastores_need_opennebulas_drivers(one: Path) -> None:
    (one / "var" / "remotes" / "tm" / "ssh").rmdir()
    (one / "var" / "remotes" / "tm").rmdir()
    refusal = output_of(one, "install", "aws", "--datastore", "images", code=1)
    assert f"{one}/var/remotes/tm does not exist: run this where OpenNebula's drivers are" in refusal


class Core:
    """An OpenNebula 7.4 with two clouds' clusters and a datastore `images`, which changes as it is asked."""

    def __init__(self) -> None:
        self.attributes: dict[str, str] = {}
        self.clusters = [0]

    def call(self, method: str, *arguments: object) -> object:
        if method == "one.datastore.update":
            _, text, is_merge = arguments
            pairs = dict(re.findall(r'^(\w+) ?= ?"(.*)"$', str(text), re.MULTILINE))
            self.attributes = {**(self.attributes if is_merge else {}), **pairs}
        elif method == "one.cluster.adddatastore":
            self.clusters.append(int(str(arguments[0])))
        elif method == "one.cluster.deldatastore":
            self.clusters.remove(int(str(arguments[0])))
        return "7.4.0"

    def document(self, method: str, *_: object) -> Element:
        attributes = "".join(f"<{name}>{value}</{name}>" for name, value in self.attributes.items())
        clusters = "".join(f"<ID>{each}</ID>" for each in self.clusters)
        store = "<ID>1</ID><NAME>images</NAME><TYPE>0</TYPE><TM_MAD>ssh</TM_MAD>"
        named = "".join(
            f"<CLUSTER><ID>{n}</ID><NAME>{name}</NAME></CLUSTER>" for n, name in ((100, "aws"), (101, "lab"))
        )
        documents = {
            "one.datastorepool.info": f"<A><DATASTORE>{store}<CLUSTERS>{clusters}</CLUSTERS><TEMPLATE>{attributes}"
            "</TEMPLATE></DATASTORE></A>",
            "one.clusterpool.info": f"<A>{named}</A>",
        }
        return etree.fromstring(documents.get(method, "<A/>"))


def test_removing_one_cloud_keeps_what_another_needs_and_the_last_one_removes_all(one: Path) -> None:
    core = Core()
    core.attributes = {"NOTE": "kept"}
    transfer = Transfer(one / "var", cast("LocalCore", core))

    def carry_out(steps: Iterable[Step]) -> None:
        for step in list(steps):
            step.carry_out()

    carry_out(transfer.install("aws", ["images"]))
    carry_out(transfer.install("lab", ["1"]))
    assert all(step.is_there for name in ("aws", "lab") for step in transfer.install(name, ["images"]))
    assert (core.attributes, core.clusters) == ({"NOTE": "kept", **ATTRIBUTES}, [0, 100, 101])
    tm = one / "var" / "remotes" / "tm"
    files = len(list((tm / "ssh").iterdir()))
    assert files == 11
    carry_out(transfer.remove("aws", []))
    assert (core.attributes, core.clusters) == ({"NOTE": "kept", **ATTRIBUTES}, [0, 101])
    assert len(list((tm / "ssh").iterdir())) == files
    carry_out(transfer.remove("lab", []))
    assert (core.attributes, core.clusters) == ({"NOTE": "kept"}, [0])
    assert [each.name for each in tm.rglob("*")] == ["ssh"]


def test_a_template_without_the_drivers_attributes_is_the_one_before() -> None:
    kept = '<NOTE><![CDATA[a "b"]]></NOTE><EMPTY/><BRIDGE><A>1</A><B/></BRIDGE><BRIDGE><A>2</A></BRIDGE><NOTE>2</NOTE>'
    ours = "".join(f"<{name}>{value}</{name}>" for name, value in ATTRIBUTES.items())
    xml = f"<DATASTORE><ID>1</ID><NAME>d</NAME><TYPE>0</TYPE><TEMPLATE>{kept}{ours}</TEMPLATE></DATASTORE>"
    (store,) = read_stores(etree.fromstring(f"<DATASTORE_POOL>{xml}</DATASTORE_POOL>"))
    assert store.has_attributes()
    assert store.missing() == {}
    assert dict(read_template(store.text_without()).values) == {
        "NOTE": ('a "b"', "2"),
        "EMPTY": ("",),
        "BRIDGE": ({"A": "1", "B": ""}, {"A": "2"}),
    }


def test_removing_keeps_an_attribute_that_somebody_sets_meanwhile(one: Path) -> None:
    core = Core()
    transfer = Transfer(one / "var", cast("LocalCore", core))
    for step in list(transfer.install("aws", ["images"])):
        step.carry_out()
    steps = list(transfer.remove("aws", []))
    core.attributes["LIMIT_MB"] = "1000"
    for step in steps:
        step.carry_out()
    assert core.attributes == {"LIMIT_MB": "1000"}


def test_what_was_done_is_printed_although_a_later_step_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise SettingsError("OpenNebula does not answer")

    steps = [Step(sentence="removed: first", run=list), Step(sentence="removed: second", run=fail)]
    with pytest.raises(SettingsError):
        carry_out_all(steps, is_dry=False, is_json=False)
    assert capsys.readouterr().out == "removed: first\n"


def test_removing_keeps_files_that_were_not_installed(one: Path) -> None:
    core = Core()
    transfer = Transfer(one / "var", cast("LocalCore", core))
    for step in list(transfer.install("aws", ["images"])):
        step.carry_out()
    tm = one / "var" / "remotes" / "tm"
    others = [
        tm / "one_provider" / "site.conf",
        tm / "one_provider" / ".seen" / "note",
        tm / "ssh" / "notes.one_provider",
    ]
    others[1].parent.mkdir()
    for path in (*others, others[1].with_name("104")):
        path.touch()
    for step in list(transfer.remove("aws", [])):
        step.carry_out()
    assert sorted(each for each in tm.rglob("*") if each.is_file()) == sorted(others)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could remove other users' files")
def test_root_removes_nothing_through_a_link_that_opennebulas_user_planted(one: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "answer").touch()
    tm = one / "var" / "remotes" / "tm"
    (tm / "one_provider").symlink_to(elsewhere)
    os.chown(tm / "one_provider", 65534, 65534, follow_symlinks=False)
    first, *_ = Transfer(one / "var", cast("LocalCore", Core())).remove("aws", [])
    with pytest.raises(SettingsError, match="answer cannot be removed"):
        first.carry_out()
    assert (elsewhere / "answer").exists()


@pytest.mark.parametrize(("host_cluster", "expected"), [(7, {7: "west"}), (None, {9: "aws"})])
def test_the_cluster_is_that_of_the_clouds_hosts_or_else_the_one_of_its_name(
    host_cluster: int | None, expected: dict[int, str]
) -> None:
    host = f"<HOST><VM_MAD>aws</VM_MAD><CLUSTER_ID>{host_cluster}</CLUSTER_ID></HOST>" if host_cluster else ""
    hosts = f"<HOST_POOL>{host}<HOST><VM_MAD>kvm</VM_MAD><CLUSTER_ID>0</CLUSTER_ID></HOST></HOST_POOL>"
    named = "".join(
        f"<CLUSTER><ID>{number}</ID><NAME>{name}</NAME></CLUSTER>"
        for number, name in ((0, "default"), (7, "west"), (9, "aws"))
    )
    clusters = etree.fromstring(f"<CLUSTER_POOL>{named}</CLUSTER_POOL>")
    assert clusters_of("aws", etree.fromstring(hosts), clusters) == expected


def test_a_vm_needs_the_driver_while_its_last_system_datastore_is_not_at_home() -> None:
    home, cloud = 0, 104
    pool = "".join(
        f"<DATASTORE><ID>{number}</ID><TYPE>1</TYPE><TM_MAD>{tm_mad}</TM_MAD></DATASTORE>"
        for number, tm_mad in ((home, "ssh"), (cloud, "one_provider"))
    )
    stores = read_stores(etree.fromstring(f"<DATASTORE_POOL>{pool}</DATASTORE_POOL>"))

    def vm(number: int, *places: int) -> str:
        histories = "".join(f"<HISTORY><DS_ID>{place}</DS_ID></HISTORY>" for place in places)
        disks = "<DISK><DATASTORE_ID>1</DATASTORE_ID><TM_MAD_SYSTEM>one_provider</TM_MAD_SYSTEM></DISK><DISK/>"
        return f"<VM><ID>{number}</ID><TEMPLATE>{disks}</TEMPLATE><HISTORY_RECORDS>{histories}</HISTORY_RECORDS></VM>"

    vms = vm(1, home) + vm(2, home, cloud) + vm(3, cloud, home) + vm(4)
    found = dict(vms_in_clouds(etree.fromstring(f"<VM_POOL>{vms}</VM_POOL>"), stores))
    assert found == {2: {1}}

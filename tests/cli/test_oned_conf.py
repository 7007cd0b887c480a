"""`one-provider oned-conf`: the complete configuration of OpenNebula for each release, in its own grammar.

The files in `oned_conf/` are the expected output. Sources: OpenNebula's oned.conf and monitord.conf of each release,
src/vmm/VirtualMachineManagerDriver.cc.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.cli.oned_conf import RELEASES
from one_provider_mad.domain import Template, VmId, VmRequest
from one_provider_mad.providers.inherited import IMAGE_ATTRIBUTES, NETWORK_ATTRIBUTES
from one_provider_mad.providers.interface import VerbatimDriver
from one_provider_mad.providers.registry import BUILT_IN, build
from one_provider_mad.settings import Places, load
from one_provider_mad.template_text.strict_reader import read_template
from tests.cli.running import json_of, output_of, ran
from tests.end_to_end.oned import Place

GOLDEN = Path(__file__).parent / "oned_conf"

EC2 = 'provider = "ec2"\nowner = "one-prod-7f3a"\nhypervisor = "ec2"\n[ec2]\nregion = "eu-west-1"\n'


@pytest.mark.parametrize("release", RELEASES)
def test_oned_conf_prints_the_expected_text_for_each_release(place: Place, release: str) -> None:
    place.configure(EC2, name="aws")
    assert output_of(place.root, "oned-conf", "aws", "--release", release) == (GOLDEN / f"{release}.txt").read_text()


@pytest.mark.parametrize(
    ("release", "nearest"),
    [
        pytest.param("7.2", "7.4", id="7.x"),
        pytest.param("7.0.1", "7.4", id="7.x-with-a-third-number"),
        pytest.param("6.0", "6.10", id="6.x"),
        pytest.param("5.12.0.4", "5.12", id="monitord-is-new"),
        pytest.param("5.4", "5.8", id="5.x"),
        pytest.param("4.4", "4.14", id="4.x"),
        pytest.param("8.0", "7.4", id="later-than-all"),
    ],
)
def test_oned_conf_takes_the_nearest_release_and_says_so(place: Place, release: str, nearest: str) -> None:
    place.configure(EC2, name="aws")
    note = f"note: {release} is taken as {nearest}, the nearest release with an output of its own\n"
    golden = (GOLDEN / f"{nearest}.txt").read_text()
    assert ran(place.root, "oned-conf", "aws", "--release", release) == (0, golden, note)


@pytest.mark.parametrize("release", ["4.2", "7", "latest", "7.2-rc1"])
def test_oned_conf_refuses_a_release_that_it_does_not_know(place: Place, release: str) -> None:
    code, printed, errors = ran(place.root, "oned-conf", "aws", "--release", release)
    assert (code, printed) == (2, "")
    assert errors.startswith(
        f"one-provider oned-conf: Invalid value for '--release': {release!r} is not one of '7.4', "
    )


def test_oned_conf_works_without_a_configuration_file(place: Place) -> None:
    code, printed, errors = ran(place.root, "oned-conf", "simulated", "--release", "7.4")
    assert (code, errors) == (0, "")
    assert printed == output_of(place.root, "oned-conf", "simulated", "--release", "7.4")
    assert 'PROVIDER_INSTANCE_TYPE = "auto"' in printed


PARTNER = 'provider = "opennebula"\nowner = "o"\n[opennebula]\nendpoints = ["http://p:2633/RPC2"]\ntemplate = "0"\n'


@pytest.mark.parametrize(
    ("configuration", "word"),
    [
        pytest.param(EC2, "no", id="ec2"),
        pytest.param(PARTNER, "yes", id="opennebula"),
        pytest.param('provider = "simulated"\n', "yes", id="simulated"),
        pytest.param('provider = "scripts"\n', "no", id="scripts"),
    ],
)
def test_live_resize_is_yes_only_for_clouds_that_can_resize(place: Place, configuration: str, word: str) -> None:
    place.configure(configuration, name="cloud")
    (driver,) = _vm_mads(place)
    assert driver["LIVE_RESIZE"] == word


def test_live_resize_is_yes_for_scripts_with_a_resize_script(place: Place) -> None:
    script = place.var / "remotes" / "vmm" / "cloud" / "resize"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    place.configure('provider = "scripts"\n', name="cloud")
    (driver,) = _vm_mads(place)
    assert driver["LIVE_RESIZE"] == "yes"


def _vm_mads(place: Place) -> tuple[Mapping[str, str], ...]:
    block = json_of(place.root, "oned-conf", "cloud", "--release", "7.4")[0]
    return read_template(block["text"]).vectors("VM_MAD")


@pytest.mark.parametrize("release", RELEASES)
def test_printed_file_contents_follow_opennebulas_template_grammar(place: Place, release: str) -> None:
    place.configure(EC2, name="aws")
    blocks = json_of(place.root, "oned-conf", "aws", "--release", release)
    files = [read_template(block["text"]) for block in blocks if block["where"]]
    drivers = {name: vector for file in files for name in ("VM_MAD", "IM_MAD") for vector in file.vectors(name)}
    assert {name: vector["NAME"] for name, vector in drivers.items()} == {"VM_MAD": "aws", "IM_MAD": "aws"}
    inherited = {
        name: [text for file in files for text in _texts(file, name)]
        for name in ("INHERIT_IMAGE_ATTR", "INHERIT_VNET_ATTR")
    }
    assert inherited == {"INHERIT_IMAGE_ATTR": [*IMAGE_ATTRIBUTES], "INHERIT_VNET_ATTR": [*NETWORK_ATTRIBUTES]}
    vm = files[-1]
    assert vm.vectors("PUBLIC_CLOUD")[0]["TYPE"] == "ec2"
    assert vm.text("SCHED_REQUIREMENTS") == r'HYPERVISOR = "ec2"'
    clusters = {words[2] for block in blocks for words in _commands(block["text"]) if words[0] == "onecluster"}
    assert clusters == ({"aws"} if release.startswith("7") else set())


def _texts(file: Template, name: str) -> list[str]:
    return [value for value in file.values.get(name, ()) if isinstance(value, str)]


def _commands(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.startswith("one")]


def test_in_7_x_the_cloud_gets_its_own_cluster_datastore_and_vdc(place: Place) -> None:
    """Seen on 7.4.0: a datastore also in the default cluster, or a host there for a moment, attracts ordinary VMs."""
    assert commands_of(json_of(place.root, "oned-conf", "aws", "--release", "7.4")) == [
        "one-provider install aws",
        "onevdc addcluster 0 0 default",
        "onevdc delcluster 0 0 ALL",
        "onecluster create aws",
        "onedatastore create aws.ds -c aws",
        "onegroup create aws",
        "onevdc create aws",
        "onevdc addcluster aws 0 aws",
        "onevdc addgroup aws aws",
        "onehost create aws -i aws -v aws -c aws",
        "onetemplate create aws.tmpl",
    ]


def commands_of(blocks: list[Mapping[str, Any]], *, is_optional: bool = False) -> list[str]:
    """The commands in the order in which they are run, without those for some sites only."""
    chosen = [block for block in blocks if block["is_optional"] is is_optional]
    lines = [line for block in chosen for line in (block["where"].partition("then: ")[2], *block["text"].splitlines())]
    return [line for line in lines if line.startswith("one")]


LIMITS = {
    "7.4": {
        "schedulers/rank.conf": {"MAX_HOST": "0"},
        "oned.conf": {
            "MAX_ACTIONS_PER_HOST": "200",
            "MAX_ACTIONS_PER_CLUSTER": "200",
            "SCHED_MAX_WND_TIME": "2",
            "SCHED_MAX_WND_LENGTH": "100",
            "SCHED_RETRY_TIME": "15",
            "ACTION_TIMEOUT": "10",
        },
    },
    "5.10": {"sched.conf": {"MAX_HOST": "1000", "MAX_DISPATCH": "0", "SCHED_INTERVAL": "5"}},
}
"""Seen on 7.4.0 and 5.10.5: 100 VMs run within 30 s, and the second of two VMs stays at home."""


def plain_settings(place: Place, release: str) -> Mapping[str, Mapping[str, str]]:
    """The plain settings that every site needs, by file."""
    files: dict[str, dict[str, str]] = {}
    for block in json_of(place.root, "oned-conf", "aws", "--release", release):
        if block["where"].endswith(".conf") and not block["is_optional"]:
            values = read_template(block["text"]).values
            texts = {name: value[0] for name, value in values.items() if isinstance(value[0], str)}
            files.setdefault(block["where"], {}).update(texts)
    return {file: texts for file, texts in files.items() if texts}


@pytest.mark.parametrize("release", LIMITS)
def test_oned_conf_prints_the_limits_of_the_releases_scheduler(place: Place, release: str) -> None:
    assert plain_settings(place, release) == LIMITS[release]


def shipped_7(place: Place, *, rank: str = "", oned: str = "") -> None:
    """Make a front-end of 7.4, with the settings that matter here as it ships them."""
    (place.root / "etc" / "schedulers").mkdir(parents=True)
    (place.root / "etc" / "schedulers" / "rank.conf").write_text(
        rank or "MAX_HOST = 1\nDEFAULT_SCHED = [ POLICY = 1 ]\n"
    )
    (place.root / "etc" / "oned.conf").write_text(oned or "MAX_ACTIONS_PER_HOST = 1\nMAX_ACTIONS_PER_CLUSTER = 30\n")


def rank_of(place: Place) -> str:
    """RANK in the printed DEFAULT_SCHED; "" if none is printed."""
    blocks = json_of(place.root, "oned-conf", "aws", "--release", "7.4")
    vectors = [
        v for b in blocks if b["where"].endswith("rank.conf") for v in read_template(b["text"]).vectors("DEFAULT_SCHED")
    ]
    return vectors[0]["RANK"] if vectors else ""


@pytest.mark.parametrize(
    ("section", "rank"),
    [
        pytest.param("POLICY = 0", "PRIORITY * 1000000 + (RUNNING_VMS)", id="packing"),
        pytest.param("policy = 1", "PRIORITY * 1000000 + (- RUNNING_VMS)", id="striping-in-lower-case"),
        pytest.param("POLICY = 2", "PRIORITY * 1000000 + (FREE_CPU)", id="load-aware"),
        pytest.param(
            'POLICY = 3, RANK = "- (RUNNING_VMS * 50  + FREE_CPU)"',
            "PRIORITY * 10000000 + (- (RUNNING_VMS * 50  + FREE_CPU))",
            id="custom",
        ),
        pytest.param('POLICY = 3, RANK = "FREE_CPU -1"', "PRIORITY", id="custom-that-opennebula-cannot-evaluate"),
        pytest.param('POLICY = 3, RANK = "PRIORITY * 5 + FREE_CPU"', "", id="custom-with-priority"),
        pytest.param("POLICY = 4", "", id="fixed"),
    ],
)
def test_the_rank_is_composed_from_the_front_ends_own_policy(place: Place, section: str, rank: str) -> None:
    shipped_7(place, rank=f"MAX_HOST = 1\nDEFAULT_SCHED = [\n   {section}\n]\n")
    assert rank_of(place) == rank


def test_a_policy_of_6_10_is_found_before_the_upgrade_to_7(place: Place) -> None:
    (place.root / "etc" / "oned.conf").write_text("PORT = 2633\n")
    (place.root / "etc" / "sched.conf").write_text("DEFAULT_SCHED = [ policy = 0 ]\n")
    assert rank_of(place) == "PRIORITY * 1000000 + (RUNNING_VMS)"


def test_settings_that_are_good_enough_on_the_front_end_are_left_as_they_are(place: Place) -> None:
    shipped_7(
        place, oned="MAX_ACTIONS_PER_HOST = 300\nSCHED_MAX_WND_TIME = 1\n" + 'INHERIT_IMAGE_ATTR = "PROVIDER_IMAGE"\n'
    )
    blocks = json_of(place.root, "oned-conf", "aws", "--release", "7.4")
    texts = "\n".join(block["text"] for block in blocks)
    assert "MAX_ACTIONS_PER_CLUSTER = 200" in texts
    assert not [name for name in ("MAX_ACTIONS_PER_HOST", "SCHED_MAX_WND_TIME") if name in texts]
    assert 'INHERIT_IMAGE_ATTR = "PROVIDER_IMAGE"\n' not in texts
    kept = "This front-end has MAX_ACTIONS_PER_HOST = 300, SCHED_MAX_WND_TIME = 1, which can stay"
    assert kept in [block["what"] for block in blocks]


@pytest.mark.parametrize(
    ("tm", "datastores", "completed"),
    [
        pytest.param(
            "-t 20 -d ssh,mine -w 60",
            "-t 15 -d fs -s ssh,one_provider",
            ["-t 20 -d ssh,mine,one_provider -w 60"],
            id="short-options",
        ),
        pytest.param(
            "--tm-types=ssh,mine -t 20",
            "-d fs --system-ds-types ssh",
            ["--tm-types=ssh,mine,one_provider -t 20", "-d fs --system-ds-types ssh,one_provider"],
            id="long-options",
        ),
    ],
)
def test_the_transfer_driver_is_added_to_the_lists_of_the_front_end(
    place: Place, tm: str, datastores: str, completed: list[str]
) -> None:
    shipped_7(
        place,
        oned=f'TM_MAD = [ EXECUTABLE = "one_tm", ARGUMENTS = "{tm}" ]\n'
        f'DATASTORE_MAD = [ EXECUTABLE = "one_datastore", ARGUMENTS = "{datastores}" ]\n',
    )
    blocks = json_of(place.root, "oned-conf", "aws", "--release", "7.4")
    sections = [read_template(block["text"]) for block in blocks if "_MAD" in block["text"]]
    arguments = [
        v["ARGUMENTS"] for name in ("TM_MAD", "DATASTORE_MAD") for each in sections for v in each.vectors(name)
    ]
    assert arguments == completed


def test_a_second_cloud_repeats_only_steps_that_are_marked(place: Place) -> None:
    first = json_of(place.root, "oned-conf", "aws", "--release", "7.4")
    second = json_of(place.root, "oned-conf", "azure", "--release", "7.4")
    repeated = [block for block in second if block["text"] and block in first]
    assert all(block["is_once"] for block in repeated if "systemctl" not in block["text"])
    own = [block for block in second if not block["is_once"] and block["text"]]
    assert all("azure" in block["text"] + block["where"] for block in own if "systemctl" not in block["text"])


@pytest.mark.parametrize("release", ["7.4", "6.10"])
def test_a_group_gets_this_cloud_alone_within_a_quota(place: Place, release: str) -> None:
    blocks = json_of(place.root, "oned-conf", "aws", "--release", release, "--group", "research")
    commands = commands_of(blocks)
    assert commands[commands.index("onegroup create research") :][:6] == [
        "onegroup create research",
        "onevdc create aws",
        "onevdc addcluster aws 0 aws",
        "onevdc addgroup aws research",
        "onevdc delgroup 0 research",
        "onegroup quota research research.quota",
    ]
    assert commands.index("onecluster create aws") < commands.index("onevdc addcluster aws 0 aws")
    assert [each for each in commands if each.startswith("onehost")] == ["onehost create aws -i aws -v aws -c aws"]
    assert "onegroup create aws" not in commands


@pytest.mark.parametrize(
    ("release", "hook"),
    [("5.10", "one-provider install aws --recreate-hook"), ("5.8", "")],
)
def test_hooks_are_sections_of_oned_conf_up_to_5_8(place: Place, release: str, hook: str) -> None:
    blocks = json_of(place.root, "oned-conf", "aws", "--release", release)
    sections = [
        each
        for block in blocks
        if "VM_HOOK" in block["text"]
        for each in read_template(block["text"]).vectors("VM_HOOK")
    ]
    assert [each["LCM_STATE"] for each in sections] == ([] if hook else ["BOOT_FAILURE", "UNKNOWN", "LCM_INIT"])
    assert ("one-provider install aws --recreate-hook" in commands_of(blocks, is_optional=True)) is bool(hook)


def test_oned_conf_notes_files_of_the_front_end_that_opennebula_cannot_read(place: Place) -> None:
    shipped_7(place, oned="VM_MAD = [ NAME\n")
    code, printed, errors = ran(place.root, "oned-conf", "aws", "--release", "7.4")
    assert (code, "MAX_ACTIONS_PER_HOST = 200" in printed) == (0, True)
    path = place.root / "etc" / "oned.conf"
    found = f"note: OpenNebula cannot read {path} from 'VM_MAD = [ NAME' on: correct it there"
    assert errors == f"{found}; the output is for files as shipped\n"


@pytest.mark.parametrize("kind", [kind for kind in BUILT_IN if kind != "scripts"])
def test_provider_accepts_the_printed_vm_template(place: Place, kind: str) -> None:
    region = 'region = "eu-west-1"\n' if kind == "ec2" else ""
    place.configure(f'provider = "{kind}"\nowner = "mine"\n[{kind}]\n{region}', name="cloud")
    template = read_template(json_of(place.root, "oned-conf", "cloud", "--release", "7.4")[-1]["text"])
    places = Places.from_environment({"ONE_LOCATION": str(place.root)})
    provider = build(load("cloud", places), places, print)
    assert not isinstance(provider, VerbatimDriver)
    assert provider.plan(VmRequest(vm_id=VmId(1), name="one", host="cloud", user_template=template)).alternatives


def test_oned_conf_notes_an_invalid_configuration(place: Place) -> None:
    place.configure("nonsense", name="aws")
    code, printed, errors = ran(place.root, "oned-conf", "aws", "--release", "7.4")
    assert (code, 'TYPE = "aws"' in printed) == (0, True)
    assert errors.startswith("note: aws.toml is not TOML: ")
    assert errors.endswith("; the output is for a simulated cloud\n")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (('x"', "--release", "7.4"), 1, "one-provider oned-conf: 'x\"' is no NAME: "),
        (("x", "--release", "7.4", "--group", "a b"), 2, "one-provider oned-conf: 'a b' is no name of a group: "),
        (("x",), 2, "one-provider oned-conf: Missing option '--release'."),
        (("x", "--release", "3.8"), 2, "one-provider oned-conf: Invalid value for '--release': '3.8' is not one of"),
    ],
)
def test_invalid_arguments_of_oned_conf_give_one_sentence(
    place: Place, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    complaint = output_of(place.root, "oned-conf", *arguments, code=code)
    assert complaint.startswith(sentence)
    assert complaint.count("\n") == 1


def test_oned_conf_prints_costs_of_a_type_with_which_showback_shows_its_price(place: Place) -> None:
    """As oned computes it: CPU_COST * CPU + MEMORY_COST * MEMORY, and DISK_COST * the MB of DISKs, an hour."""
    place.configure(
        'provider = "simulated"\nowner = "mine"\n[prices]\ncurrency = "EUR"\ntypes = { large_4gb = 0.0321 }\n'
        'disks = { "*" = 0.073 }\n'
    )
    blocks = json_of(place.root, "oned-conf", "simulated", "--release", "7.4", "--type", "large_4gb", "--json")
    (block,) = (each for each in blocks if "oneshowback" in each["what"])
    template = read_template(block["text"])
    cpu, memory = float(template.text("CPU")), float(template.text("MEMORY"))
    costs = {name: float(template.text(name)) for name in ("CPU_COST", "MEMORY_COST", "DISK_COST")}
    assert costs["CPU_COST"] * cpu + costs["MEMORY_COST"] * memory == pytest.approx(0.0321)
    assert costs["DISK_COST"] * 10 * 1024 == pytest.approx(10 * 0.073 / 730)
    assert "0.0321 EUR an hour" in block["what"]
    assert "SHOWBACK_ONLY_RUNNING" in block["what"]


@pytest.mark.parametrize(
    ("more", "type_name", "sentence"),
    [
        pytest.param(
            "", "nope", "the cloud of simulated has no type nope: one-provider types simulated has", id="none"
        ),
        pytest.param(
            "[simulated.instance_types]\nodd = { cpu = 1, memory = 512 }\n",
            "odd",
            "the price of odd is unknown, so showback has no figure for it: write it into [prices] of ",
            id="no-price",
        ),
    ],
)
def test_oned_conf_without_a_price_says_why_showback_has_no_costs(
    place: Place, more: str, type_name: str, sentence: str
) -> None:
    place.configure(f'provider = "simulated"\nowner = "mine"\n{more}')
    code, printed, errors = ran(place.root, "oned-conf", "simulated", "--release", "7.4", "--type", type_name)
    assert (code, printed) == (1, "")
    assert errors.startswith(f"one-provider oned-conf: {sentence}")

"""What `one-provider check` says of a front-end's own files, and what a scheduler as shipped costs."""

from __future__ import annotations

import pytest

from one_provider_mad.cli.scheduler_checks import check_scheduler
from one_provider_mad.providers.interface import CheckResult
from one_provider_mad.settings import Places
from tests.cli.running import json_of
from tests.end_to_end.oned import Place

DRIVERS = 'VM_MAD = [ NAME = "aws", EXECUTABLE = "one_vmm_provider", ARGUMENTS = "-t {} -r 0 aws" ]\n'
MONITOR = 'IM_MAD = [ NAME = "aws", EXECUTABLE = "one_im_provider", ARGUMENTS = "aws" ]\n'
ONED_7 = """
SCHED_MAD = [ EXECUTABLE = "one_sched", ARGUMENTS = "-t 15 -p rank -o one_drs" ]
SCHED_MAX_WND_TIME   = 10
SCHED_MAX_WND_LENGTH = 7
SCHED_RETRY_TIME = 60
MAX_ACTIONS_PER_HOST    = 1
MAX_ACTIONS_PER_CLUSTER = 30
ACTION_TIMEOUT = 300
TM_MAD = [ EXECUTABLE = "one_tm", ARGUMENTS = "-t 15 -d dummy,ssh" ]
"""
RANK = "MAX_HOST = 1\nDEFAULT_SCHED = [\n   POLICY = 1\n]\n"
SCHED = "SCHED_INTERVAL = 15\nMAX_DISPATCH = 30\n" + RANK


def results(place: Place, **files: str) -> dict[str, CheckResult]:
    """The results for NAME aws, by what they are about, after these files of OpenNebula were written."""
    names = {"oned": "oned.conf", "monitord": "monitord.conf", "sched": "sched.conf", "rank": "schedulers/rank.conf"}
    etc = place.root / "etc"
    (etc / "schedulers").mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (etc / names[file]).write_text(text)
    places = Places.from_environment({"ONE_LOCATION": str(place.root)})
    return {each.what: each for each in check_scheduler("aws", places)}


def test_a_machine_without_opennebula_has_nothing_to_check(place: Place) -> None:
    assert results(place) == {}


def test_7_x_as_shipped_takes_78_s_and_each_limit_is_named(place: Place) -> None:
    found = results(place, oned=DRIVERS.format(15) + ONED_7, monitord=MONITOR, rank=RANK)
    limits = {"MAX_HOST", "MAX_ACTIONS_PER_HOST", "MAX_ACTIONS_PER_CLUSTER", "SCHED_MAX_WND_TIME"}
    limits |= {"SCHED_MAX_WND_LENGTH", "SCHED_RETRY_TIME", "ACTION_TIMEOUT"}
    warnings = {what for what, each in found.items() if each.is_well is None}
    assert warnings == limits | {"scheduler", "rank", "-t", "transfer driver"}
    assert (
        found["scheduler"].found
        == "20 VMs created at once run in the cloud after about 76 s, if it starts each in 3.5 s"
    )
    assert found["scheduler"].remedy.endswith(", SCHED_RETRY_TIME = 15, ACTION_TIMEOUT = 10: then after 6 s")
    assert found["MAX_HOST"].found == f"1 in {place.root}/etc/schedulers/rank.conf"
    assert "At home: the VMs of one placement fill the host of the highest rank" in found["MAX_HOST"].remedy
    assert found["-t"].found == "-t 15 in VM_MAD of aws: 15 deploys run at once, and the next one waits for the first"
    assert found["rank"].remedy == 'set DEFAULT_SCHED = [ POLICY = 3, RANK = "PRIORITY * 1000000 + (- RUNNING_VMS)" ]'


@pytest.mark.parametrize(
    ("release", "files"),
    [
        pytest.param("7.4", {"oned": ONED_7, "monitord": "\n", "rank": RANK}, id="7.4"),
        pytest.param("6.10", {"oned": "PORT = 2633\n", "monitord": "\n", "sched": SCHED}, id="6.10"),
        pytest.param("5.10", {"oned": "PORT = 2633\n", "sched": SCHED.replace("15", "30")}, id="5.10"),
    ],
)
def test_everything_is_well_with_what_oned_conf_prints(place: Place, release: str, files: dict[str, str]) -> None:
    results(place, **files)
    printed = [
        block for block in json_of(place.root, "oned-conf", "aws", "--release", release) if not block["is_optional"]
    ]
    etc = place.root / "etc"
    for file in {block["where"] for block in printed if block["where"].endswith(".conf")}:
        text = "".join(f"{block['text']}\n" for block in printed if block["where"] == file)
        (etc / file).write_text(text)
    found = results(place)
    assert {what: each.found for what, each in found.items() if not each.is_well} == {}
    assert {"driver sections", "scheduler", "rank"} <= found.keys()


def test_mm_sched_as_shipped_places_one_vm_a_turn(place: Place) -> None:
    found = results(place, oned=DRIVERS.format(100) + MONITOR, sched=SCHED)
    assert found["scheduler"].found.startswith("20 VMs created at once run in the cloud after about 304 s")
    assert found["scheduler"].remedy == "set MAX_HOST = 1000, MAX_DISPATCH = 0, SCHED_INTERVAL = 5: then after 8 s"
    assert found["rank"].remedy.endswith(
        ", and PRIORITY = 0 in each cluster at home: up to 5.12 a host without it has any"
    )
    assert "transfer driver" not in found


def test_sections_that_are_missing_are_named_with_their_file(place: Place) -> None:
    found = results(place, oned=DRIVERS.format(100).replace("aws", "other"), monitord="\n", rank=RANK)
    etc = place.root / "etc"
    told = "with aws in its ARGUMENTS: OpenNebula does not start that driver"
    assert found["VM_MAD"].found == f"{etc}/oned.conf has no VM_MAD {told}"
    assert found["IM_MAD"].found == f"{etc}/monitord.conf has no IM_MAD {told}"


def test_a_scheduler_that_knows_no_priority_is_named(place: Place) -> None:
    found = results(place, oned=ONED_7.replace("-p rank", "-p one_drs"), rank=RANK)["rank"]
    assert "places VMs by one_drs, which knows no PRIORITY" in found.found
    assert found.remedy == "write -p rank into its ARGUMENTS; -o one_drs may stay, and then balances clusters"


def test_a_file_that_opennebula_cannot_read_is_named(place: Place) -> None:
    found = results(place, oned="VM_MAD = [ NAME\n")
    path = place.root / "etc" / "oned.conf"
    assert found["scheduler"].found == f"OpenNebula cannot read {path} from 'VM_MAD = [ NAME' on: correct it there"

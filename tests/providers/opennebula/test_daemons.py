"""VMs at a partner through both drivers at once, also while the partner's OpenNebula fails or lies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from one_provider_mad.domain import Template
from tests.conftest import assert_spoke_properly
from tests.end_to_end import oned_requests
from tests.end_to_end.information_driver import PROGRAM, Monitored, states
from tests.end_to_end.oned import Driver, Place
from tests.monitor.decoder import monitor as legacy_monitor
from tests.monitor.decoder import plain, read_legacy, read_modern, vectors
from tests.providers.opennebula.partner_provider import credentials
from tests.waiting import until
from tests.xmlrpc.partner import Partner

NAME = "burst"
BURSTING = Template(
    values={
        "CPU": ("1",),
        "MEMORY": ("256",),
        "PUBLIC_CLOUD": ({"TYPE": "opennebula", "TEMPLATE_NAME": "ubuntu server"},),
    }
)
WITH_TEXT = Template(
    values={"CPU": ("1",), "PUBLIC_CLOUD": ({"TYPE": "opennebula", "TEMPLATE_TEXT": 'CPU="1"\nMEMORY="128"'},)}
)


def configure(place: Place, partner: Partner) -> None:
    table = {
        "endpoints": partner.urls,
        "credentials_file": str(credentials(place.root)),
        "watch_interval": 0.01,
        "patience": 0.2,
        "visibility_grace": 5,
        "allow_template_text": True,
    }
    monitor = {"state_period": 0.1, "sync_period": 0.1, "vm_period": 0.1, "min_list_interval": 0.05}
    lines = ['provider = "opennebula"', 'owner = "one-test"', 'hypervisor = "opennebula"']
    for name, keys in (("opennebula", table), ("monitor", monitor)):
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    place.configure("\n".join([*lines, ""]), name=NAME)


class Watching(Monitored):
    """The information driver of the partner's cloud."""

    def __init__(self, place: Place, *, is_legacy: bool = False) -> None:
        self.place = place
        self._read = read_legacy if is_legacy else read_modern
        self.driver = Driver(place, NAME, program=PROGRAM)
        self.lines = []

    def log(self) -> str:
        path = self.place.var / f"one_im_provider_{NAME}.log"
        return path.read_text() if path.exists() else ""

    def reported(self, vm_id: int) -> set[str]:
        """Every state that was reported of a VM so far."""
        self.catch_up()
        reports = [states(line) for line in self.lines if line.word == "STATE_VM"]
        return {report[vm_id] for report in reports if vm_id in report}


@contextmanager
def watching(place: Place, *, is_legacy: bool = False) -> Iterator[Watching]:
    one = Watching(place, is_legacy=is_legacy)
    try:
        yield one
    finally:
        one.driver.leave()
    assert "unexpected" not in one.log()


@pytest.fixture
def partner() -> Iterator[Partner]:
    with Partner(delay=0.005) as partner:
        yield partner


@pytest.fixture
def burst(place: Place, partner: Partner) -> Iterator[Driver]:
    """Started without INIT, as by a person, so that it does not search for creates of another front-end."""
    configure(place, partner)
    with Driver(place, f"-t 15 -r 0 {NAME}", init=False) as driver:
        yield driver
    assert_spoke_properly(driver)


def word(partner: Partner, number: int = 0) -> str:
    partner.vms[number].catch_up()
    return partner.vms[number].word


def deploy(vm_id: int, template: Template = BURSTING) -> bytes:
    return oned_requests.deploy(vm_id, template=template, host_id=3)


def test_states_of_a_vm_are_reported_through_its_life_but_not_before_its_deploy_is_answered(
    place: Place, burst: Driver, partner: Partner
) -> None:
    partner.order("held", "one.vm.info", times=1000)
    with watching(place) as core:
        core.start()
        burst.send(deploy(7))
        until(lambda: partner.held and word(partner) == "RUNNING")
        core.catch_up()
        assert core.sync(vm7="UNKNOWN") == {7: "UNKNOWN"}, "it runs, but its deploy is not answered yet"
        assert core.reported(7) == {"UNKNOWN"}
        partner.go_on()
        deploy_id = burst.reply("DEPLOY", 7).removeprefix("SUCCESS ")
        assert deploy_id == "opennebula-hybrid-0"
        assert core.sync(vm7="RUNNING") == {7: "RUNNING"}

        assert burst.ask(oned_requests.power_off(7, deploy_id)) == "SUCCESS -"
        assert core.sync(vm7="POWEROFF") == {7: "POWEROFF"}
        assert burst.ask(oned_requests.resume(7, deploy_id, host_id=3)) == f"SUCCESS {deploy_id}"
        assert core.sync(vm7="RUNNING") == {7: "RUNNING"}

        for action, lcm_state, remote, resume, resumed in (
            ("SHUTDOWN", "SHUTDOWN_UNDEPLOY", "UNDEPLOYED", "DEPLOY", "BOOT_UNDEPLOY"),
            ("SAVE", "SAVE_STOP", "STOPPED", "RESTORE", "BOOT_STOPPED"),
        ):
            assert burst.ask(oned_requests.line(action, 7, lcm_state, deploy_id=deploy_id)) == "SUCCESS -"
            assert word(partner) == remote
            until(lambda: core.sync() == {}, pause=0)
            reply = burst.ask(oned_requests.line(resume, 7, resumed, deploy_id=deploy_id, seq=2, host_id=3))
            assert reply == ("SUCCESS -" if resume == "RESTORE" else f"SUCCESS {deploy_id}")
            assert core.sync(vm7="RUNNING") == {7: "RUNNING"}

        assert burst.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"
        assert word(partner) == "DONE"
        until(lambda: core.sync() == {}, pause=0)
        assert "POWEROFF" in core.reported(7)
        assert len(partner.vms) == 1


def test_a_deploy_whose_only_section_is_for_another_cloud_fails(burst: Driver, partner: Partner) -> None:
    """Upstream's driver took a section that stands alone for its own, also one of another TYPE."""
    other = {"TYPE": "another", "TEMPLATE_NAME": "ubuntu server"}
    template = Template(values={"CPU": ("1",), "MEMORY": ("256",), "PUBLIC_CLOUD": (other,)})
    assert burst.ask(deploy(7, template)).startswith(
        'FAILURE the template has no PUBLIC_CLOUD section with TYPE="opennebula": add one'
    )
    assert not partner.vms


def test_oned_of_5_10_gets_a_report_with_our_vm_and_a_wild_one(place: Place, burst: Driver, partner: Partner) -> None:
    deploy_id = burst.created(oned_requests.deploy(7, release="5.10", template=BURSTING, host_id=3))
    user = partner.users["oneadmin:secret"]
    partner.do_template_instantiate(user, 0, "theirs", False, "")  # noqa: FBT003 - as the API has it
    until(lambda: word(partner, 1) == "RUNNING")
    with watching(place, is_legacy=True) as core:
        core.send(legacy_monitor(3, "cloud-3"))
        line = core.wait(lambda line: line.word == "MONITOR")
        assert line.status == "SUCCESS"
        seen = {vm["ID"]: vm["DEPLOY_ID"] for vm in vectors(line.values, "VM")}
        assert seen == {"7": deploy_id, "-1": "opennebula-hybrid-1"}
        assert plain(line.values, "PROVIDER_ERROR") == "-"


def test_a_deploy_that_fails_at_the_partner_quotes_the_partners_error(burst: Driver, partner: Partner) -> None:
    partner.order("held", "one.vm.info", times=1000)
    burst.send(deploy(7))
    until(lambda: partner.held)
    vm = partner.vms[0]
    until(lambda: word(partner) == "RUNNING")
    vm.user_template["ERROR"] = ["Sun Nov 22 10:00:00 2026: DEPLOY: no such bridge"]
    vm.go((3, 36), delay=0)
    partner.go_on()
    assert burst.reply("DEPLOY", 7) == (
        "FAILURE instance opennebula-hybrid-0 is BOOT_FAILURE: Sun Nov 22 10:00:00 2026: DEPLOY: no such bridge"
    )
    assert burst.ask(oned_requests.cleanup(7)) == "SUCCESS -"
    assert word(partner) == "DONE"


def test_a_terminate_fails_if_the_partner_answers_with_html_pages(
    place: Place, burst: Driver, partner: Partner
) -> None:
    deploy_id = burst.created(deploy(7))
    front_end = Place(place.root / "other")  # its journal has no record of the VM
    configure(front_end, partner)
    with Driver(front_end, f"-t 15 -r 0 -w 3 {NAME}") as other:
        assert other.ask(oned_requests.poll(7, deploy_id)).startswith("SUCCESS STATE=a"), "the account is known"
        for method in ("one.vm.info", "one.vmpool.infoextended"):
            partner.order("page", method, times=1_000_000)
        reply = other.ask(oned_requests.terminate(7, deploy_id))
    assert reply == (
        "FAILURE gave up after 3 s waiting for describe: the answer to one.vm.info is not <VM>, it begins with <html>"
    )
    assert word(partner) == "RUNNING"


def test_a_create_whose_answer_is_lost_leaves_one_instance(burst: Driver, partner: Partner) -> None:
    creates = {"one.template.instantiate": BURSTING, "one.vm.allocate": WITH_TEXT}
    for number, (method, template) in enumerate(creates.items()):
        partner.order("lost-answer", method)
        assert burst.created(deploy(7 + number, template)) == f"opennebula-hybrid-{number}"
        assert (len(partner.vms), partner.count(method)) == (number + 1, 1), method


def test_each_fault_of_the_partner_fails_one_action_and_a_missing_leader_none(burst: Driver, partner: Partner) -> None:
    deploy_id = burst.created(deploy(7))
    place = f"the partner's OpenNebula at {partner.place}"
    for kind, reason in (
        ("refused", f"{place} refuses the login of oneadmin: see credentials_file in [opennebula]"),
        ("http-500", f"{place} answers one.vm.action with HTTP 500"),
        ("dropped", f"{place} did not answer one.vm.action: "),
        ("garbage", "the answer to one.vm.action does not come from an OpenNebula: "),
    ):
        partner.order(kind, "one.vm.action")  # type: ignore[arg-type]
        assert burst.ask(oned_requests.line("RESET", 7, deploy_id=deploy_id)).startswith(f"FAILURE {reason}"), kind
    partner.order("no-leader", "one.vm.action")
    assert burst.ask(oned_requests.line("RESET", 7, deploy_id=deploy_id)) == "SUCCESS -", "it is paced until one leads"
    assert burst.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"
    assert (word(partner), len(partner.vms)) == ("DONE", 1)


def test_a_cancel_terminates_the_remote_vm_hard_without_asking_its_guest(burst: Driver, partner: Partner) -> None:
    deploy_id = burst.created(deploy(7))
    partner.vms[0].is_deaf = True
    assert burst.ask(oned_requests.line("CANCEL", 7, "SHUTDOWN", deploy_id=deploy_id)) == "SUCCESS -"
    assert [arguments[0] for method, arguments in partner.calls if method == "one.vm.action"] == ["terminate-hard"]


def test_states_of_vms_stay_as_reported_while_the_partner_fails(place: Place, burst: Driver, partner: Partner) -> None:
    burst.created(deploy(7))
    with watching(place) as core:
        core.start()
        assert core.sync(vm7="RUNNING") == {7: "RUNNING"}
        partner.order("http-500", times=10_000)
        values = core.system()
        while "HTTP 500" not in values.get("PROVIDER_ERROR", [""])[0]:
            values = core.system()
        core.catch_up()
        so_far = len(core.lines)
        partner.faults.clear()
        assert core.sync(vm7="RUNNING") == {7: "RUNNING"}
        since = [states(line).get(7) for line in core.lines[so_far:] if line.word == "STATE_VM"]
        assert set(since) == {"RUNNING"}


def test_a_vm_deployed_by_upstreams_driver_is_adopted_if_adopt_upstream_is_set(
    place: Place, burst: Driver, partner: Partner
) -> None:
    user, as_upstream = partner.users["oneadmin:secret"], "REMOTE_OPENNEBULA = YES\nREMOTE_OPENNEBULA_VM_ID = 7\n"
    partner.do_template_instantiate(user, 0, "remote-opennebula-7", False, as_upstream)  # noqa: FBT003 - as the API has it
    until(lambda: word(partner) == "RUNNING")
    deploy_id = "opennebula-hybrid-0"
    reply = burst.ask(oned_requests.power_off(7, deploy_id, host_id=3))
    assert reply == f"FAILURE instance {deploy_id} has no tags of ours: it is left alone"
    path = place.conf / f"{NAME}.toml"
    place.configure(path.read_text().replace("[opennebula]", "[opennebula]\nadopt_upstream = true"), name=NAME)
    with watching(place) as core:
        core.start()
        assert core.sync(vm7="RUNNING") == {7: "RUNNING"}
        assert burst.ask(oned_requests.terminate(8, deploy_id)) == (
            f"FAILURE instance {deploy_id} is VM 7's by upstream's tag: it is left alone"
        )
        assert burst.ask(oned_requests.power_off(7, deploy_id, host_id=3)) == "SUCCESS -"
        assert partner.vms[0].user_template["ONE_PROVIDER_OWNER"] == ["one-test"]
        assert core.sync(vm7="POWEROFF") == {7: "POWEROFF"}
        assert burst.ask(oned_requests.cleanup(7)) == "SUCCESS -", "by its tags, without its id"
        assert word(partner) == "DONE"

"""Probe folders run unchanged: real scripts in a real folder, their arguments, and the reports made of their output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.processes import Process
from one_provider_mad.protocol.im_messages import Kind, Message, Monitor
from tests.monitor.probed_front_end import (
    DOCUMENT,
    MODERN,
    ProbedFrontEnd,
    come,
    front_end,
    reporting,
    systems,
    texts,
    without_error,
)
from tests.waiting import until

END = "</MONITOR_CONFIGURATION>"
SHOW = """printf 'ARGUMENTS="%s"\\nFOLDER="%s"\\nLANGUAGE="%s"\\n' "$*" "$PWD" "$LANG\""""
LEGACY = Monitor(host_id=3, host="us-east-1", datastore_location="/var/lib/one//datastores")


@pytest.fixture
def front(tmp_path: Path) -> Iterator[ProbedFrontEnd]:
    with front_end(tmp_path) as found:
        yield found


# Up to 5.10


async def test_the_guides_probe_is_reported_as_it_prints(front: ProbedFrontEnd) -> None:
    front.probe("cloud.d/public_cloud.sh", 'echo "PUBLIC_CLOUD=YES"\necho "HYPERVISOR=provider_name"')
    assert without_error(await front.probes().answer(LEGACY)) == ["PUBLIC_CLOUD=YES", "HYPERVISOR=provider_name"]


@pytest.mark.parametrize(
    ("oned_conf", "port_and_interval"),
    [
        pytest.param("", "4124 20", id="not-configured"),
        pytest.param(
            'IM_MAD = [\n NAME = "collectd",\n EXECUTABLE = "collectd",\n ARGUMENTS = "-p 4125 -f 5 -t 50 -i 10" ]\n',
            "4125 10",
            id="configured",
        ),
        pytest.param('# IM_MAD = [ EXECUTABLE = "collectd", ARGUMENTS = "-p 1" ]\n', "4124 20", id="commented-out"),
    ],
)
async def test_a_probe_gets_upstreams_arguments_directory_and_language(
    front: ProbedFrontEnd, oned_conf: str, port_and_interval: str
) -> None:
    (front.places.etc / "oned.conf").write_text(oned_conf)
    probe = front.probe("cloud.d/one", f"{SHOW}; cat")
    assert without_error(await front.probes().answer(LEGACY)) == [
        f'ARGUMENTS="cloud /var/lib/one//datastores {port_and_interval} 3 us-east-1"',
        f'FOLDER="{probe.parent}"',
        'LANGUAGE="C"',
    ]


async def test_a_probe_gets_only_name_and_host_if_oned_sends_no_datastore_location(front: ProbedFrontEnd) -> None:
    front.probe("cloud.d/one", SHOW)
    first, *_ = without_error(await front.probes().answer(Monitor(host_id=3, host="h")))
    assert first == 'ARGUMENTS="cloud 3 h"'


async def test_only_executable_files_run_in_the_order_of_their_names(front: ProbedFrontEnd) -> None:
    for name in ("b", "a", "c.sh", "d.rpmnew", "e.rpmsave", "f.dpkg-old", ".g", "h~"):
        front.probe(f"cloud.d/{name}", f"printf NAME={name}")
    front.probe("cloud.d/not-executable", "echo X=1", mode=0o644)
    front.probe("cloud.d/folder/inside", "echo Y=1")
    assert without_error(await front.probes().answer(LEGACY)) == ["NAME=a", "NAME=b", "NAME=c.sh"]


async def test_probes_without_output_give_an_empty_report(front: ProbedFrontEnd) -> None:
    front.probe("cloud.d/one", "true")
    assert await front.probes().answer(LEGACY) == ""


async def test_a_host_without_probes_gets_an_empty_report_and_a_warning_naming_the_folder(
    front: ProbedFrontEnd,
) -> None:
    assert await front.probes().answer(LEGACY) == "", "which oned ignores"
    assert front.warnings == [f"host 3: there are no probes: {front.root}/var/remotes/im/cloud.d is no directory"]


async def test_a_failed_probe_is_named_and_its_last_output_is_reported(front: ProbedFrontEnd) -> None:
    front.probe("cloud.d/1", "echo A=1")
    flag = front.root / "broken"
    front.probe("cloud.d/2", f"[ -e {flag} ] && {{ echo no answer >&2; exit 4; }}; echo B=2")
    front.probe("cloud.d/3", f"[ -e {flag} ] && echo C=4 || echo C=3")
    probes = front.probes()
    assert without_error(await probes.answer(LEGACY)) == ["A=1", "B=2", "C=3"]
    flag.touch()
    for _ in range(3):
        assert (await probes.answer(LEGACY)).splitlines() == [
            "A=1",
            "B=2",
            "C=4",
            'PROVIDER_ERROR="probe 2: no answer"',
        ]
    assert front.warnings == ["host 3: probe 2: no answer"], "once"
    flag.unlink()
    assert without_error(await probes.answer(LEGACY)) == ["A=1", "B=2", "C=3"]


NEW = msgspec.structs.replace(LEGACY, is_first=True)


async def test_reports_of_a_new_host_fail_with_the_reason_until_its_probes_have_succeeded(
    front: ProbedFrontEnd,
) -> None:
    """An empty report would leave it in INIT for ever; it has no VMs that an ERROR could cost."""
    front.probe("cloud.d/1", "echo A=1")
    flag = front.root / "broken"
    flag.touch()
    front.probe("cloud.d/2", f"[ -e {flag} ] && {{ echo no answer >&2; exit 4; }}; echo B=2")
    probes = front.probes()
    for request in (NEW, LEGACY):
        with pytest.raises(ProviderUnavailable, match=r"^probe 2: no answer$"):
            await probes.answer(request)
    assert front.warnings == ["host 3: probe 2: no answer"]
    flag.unlink()
    assert without_error(await probes.answer(LEGACY)) == ["A=1", "B=2"]
    flag.touch()
    assert 'PROVIDER_ERROR="probe 2: no answer"' in await probes.answer(LEGACY)


async def test_the_first_report_of_a_new_host_without_probes_fails(front: ProbedFrontEnd) -> None:
    with pytest.raises(ProviderUnavailable, match=r"^there are no probes: .*/cloud\.d is no directory$"):
        await front.probes().answer(NEW)


async def test_a_new_host_whose_probes_print_nothing_gets_an_empty_report(front: ProbedFrontEnd) -> None:
    front.probe("cloud.d/one", "true")
    assert await front.probes().answer(NEW) == ""


RUN_PROBES = """
echo Traceback >&2
echo 'INFO: asking' >&2
echo 'ERROR MESSAGE --8<------' >&2
echo Error executing poll >&2
echo 'ERROR MESSAGE ------>8--' >&2
exit 1
"""
"""Upstream's run_probes writes this when a probe fails: the reason, then the probe's name between markers."""


async def test_the_reason_of_a_failed_probe_is_reported_and_all_its_errors_are_logged(front: ProbedFrontEnd) -> None:
    front.probe("cloud.d/run", f"echo 'DEBUG: 1' >&2\n{RUN_PROBES}")
    with pytest.raises(ProviderUnavailable, match=r"^probe run: Traceback$"):
        await front.probes().answer(NEW)
    assert front.warnings == [
        f"host 3: probe run: {line}" for line in ("Traceback", "DEBUG: 1", "INFO: asking", "Error executing poll")
    ]


async def test_backslashes_are_kept_in_provider_error(front: ProbedFrontEnd) -> None:
    flag = front.root / "broken"
    front.probe("cloud.d/1", f"[ -e {flag} ] && {{ printf '%s\\n' 'no C:\\temp' 'at all' >&2; exit 1; }}; echo A=1")
    probes = front.probes()
    await probes.answer(LEGACY)
    flag.touch()
    assert await probes.answer(LEGACY) == 'A=1\nPROVIDER_ERROR="probe 1: no C:\\temp"\n'


async def test_backslashes_and_lines_are_kept_in_a_probes_output(front: ProbedFrontEnd) -> None:
    text = 'PATH="C:\\temp\nD:\\ "\nOTHER="a \\"quoted\\" word"'
    (front.root / "printed").write_text(text)
    front.probe("cloud.d/1", f"cat {front.root}/printed")
    assert await front.probes().answer(LEGACY) == f'{text}\nPROVIDER_ERROR="-"\n'


async def test_the_report_is_empty_until_every_probe_has_succeeded_once(front: ProbedFrontEnd) -> None:
    """In a partial report VMs would be missing, and a failed one would put the host into ERROR."""
    front.probe("cloud.d/1", "echo VM_POLL=YES")
    broken = front.probe("cloud.d/2", "exit 4")
    assert await front.probes().answer(LEGACY) == ""
    assert front.warnings == [f"host 3: probe 2: {broken} ended with exit code 4 and without an error message"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("echo Segmentation fault", r"printed no template: 'Segmentation fault\n\n'", id="no-template"),
        pytest.param("head -c 17000000 /dev/zero | tr '\\0' '\\n'", "printed more than 16777216 bytes", id="too-much"),
    ],
)
async def test_unusable_output_counts_as_a_failure_of_its_probe(
    front: ProbedFrontEnd, text: str, sentence: str
) -> None:
    front.probe("cloud-probes.d/host/system/1", "echo A=1")
    front.probe("cloud-probes.d/host/system/2", text)
    async with reporting(front) as said:
        await come(lambda: systems(said))
    assert front.warnings == [f"host 3: probe 2 {sentence}"]
    assert systems(said)[0].startswith('A=1\nPROVIDER_ERROR="probe 2 ')


async def test_with_host_error_after_a_failing_probe_fails_the_report_after_that_time(front: ProbedFrontEnd) -> None:
    front.settings(host_error_after=100)
    flag = front.root / "broken"
    front.probe("cloud.d/1", f"[ -e {flag} ] && exit 4; echo A=1")
    probes = front.probes()
    await probes.answer(LEGACY)
    flag.touch()
    assert "A=1" in await probes.answer(LEGACY)
    front.now = 100
    with pytest.raises(ProviderUnavailable, match="probe 1"):
        await probes.answer(LEGACY)


async def test_a_probe_that_hangs_is_killed_and_named(front: ProbedFrontEnd) -> None:
    front.probe("cloud.d/1", f"echo $$ > {front.root}/pid; sleep 60")
    assert await front.probes(seconds=0.2).answer(LEGACY) == ""
    assert front.warnings == ["host 3: probe 1 did not end within 0.2 s"]
    until(lambda: Process.of(int((front.root / "pid").read_text())) is None)


async def test_background_processes_of_a_probe_are_killed(front: ProbedFrontEnd) -> None:
    front.probe("cloud.d/1", "sleep 60 &\necho PID=$!")
    [line] = without_error(await front.probes().answer(LEGACY))
    until(lambda: Process.of(int(line.removeprefix("PID="))) is None)


# From 5.12 on


FOLDERS = (*("host/beacon", "host/system", "host/monitor"), *("vm/status", "vm/monitor", "vm/snapshot", "vm/execution"))


async def test_output_of_each_probe_folder_becomes_the_folders_message(front: ProbedFrontEnd) -> None:
    for folder in FOLDERS:
        front.probe(f"cloud-probes.d/{folder}/one", f"echo FOLDER={folder}")
    async with reporting(front) as said:
        await come(lambda: {message.kind for message in said} >= {Kind.BEACON_HOST, Kind.STATE_VM, Kind.EXEC_VM})
        await come(lambda: len(texts(said, Kind.MONITOR_VM)) == 2 and systems(said))
        await come(lambda: "FOLDER=host/monitor" in "".join(texts(said, Kind.MONITOR_HOST)))
    assert without_error(systems(said)[0]) == ["FOLDER=host/system"]
    assert texts(said, Kind.STATE_VM) == ["FOLDER=vm/status\n"]
    assert sorted(texts(said, Kind.MONITOR_VM)) == ["FOLDER=vm/monitor\n", "FOLDER=vm/snapshot\n"]
    assert texts(said, Kind.EXEC_VM) == ["FOLDER=vm/execution\n"]
    assert texts(said, Kind.BEACON_HOST) == ["FOLDER=host/beacon\n"]
    assert {(message.host_id, message.is_success) for message in said} == {(3, True)}


async def test_a_probe_gets_monitords_configuration_on_stdin_and_driver_and_host_as_arguments(
    front: ProbedFrontEnd,
) -> None:
    front.probe("cloud-probes.d/host/system/one", f"""{SHOW}; printf 'INPUT="'; cat; echo '"'""")
    async with reporting(front) as said:
        await come(lambda: systems(said))
    assert without_error(systems(said)[0]) == [
        'ARGUMENTS="cloud 3 us-east-1"',
        f'FOLDER="{front.root}/var/remotes/im/cloud-probes.d/host/system"',
        'LANGUAGE="C"',
        f'INPUT="{DOCUMENT.decode().removesuffix(END)}<HOST_ID>3</HOST_ID>{END}"',
    ]


@pytest.mark.parametrize("im_mad", ["", "elsewhere", "../cloud"])
async def test_without_a_folder_of_the_hosts_im_mad_the_drivers_name_chooses_the_folder(
    front: ProbedFrontEnd, im_mad: str
) -> None:
    front.probe("cloud-probes.d/host/system/one", "echo A=1")
    async with reporting(front, msgspec.structs.replace(MODERN, im_mad=im_mad)) as said:
        await come(lambda: systems(said))
    assert without_error(systems(said)[0]) == ["A=1"]


async def test_output_of_the_guides_probe_becomes_system_host(front: ProbedFrontEnd) -> None:
    front.probe("cloud.d/public_cloud.sh", 'echo "PUBLIC_CLOUD=YES"\necho "HYPERVISOR=provider_name"')
    async with reporting(front) as said:
        await come(lambda: systems(said))
    assert without_error(systems(said)[0]) == ["PUBLIC_CLOUD=YES", "HYPERVISOR=provider_name"]
    assert not texts(said, Kind.STATE_VM)


async def test_output_of_a_beacon_probe_need_not_be_a_template(front: ProbedFrontEnd) -> None:
    front.settings(heartbeat=0.05, host_error_after=1)
    front.now = 100
    front.probe("cloud-probes.d/host/beacon/date.sh", "date +%s")
    front.probe("cloud-probes.d/host/system/one", "echo A=1")
    async with reporting(front) as said:
        await come(lambda: texts(said, Kind.BEACON_HOST) and systems(said) and len(said) > 5)
    assert texts(said, Kind.BEACON_HOST)[0].strip().isdigit()
    assert front.warnings == []
    assert {(message.kind, message.is_success) for message in said} == {
        (kind, True) for kind in (Kind.SYSTEM_HOST, Kind.MONITOR_HOST, Kind.BEACON_HOST)
    }


async def test_a_hanging_probe_delays_neither_other_probes_nor_heartbeats(front: ProbedFrontEnd) -> None:
    front.settings(heartbeat=0.05)
    front.probe("cloud-probes.d/host/system/one", "sleep 60")
    front.probe("cloud-probes.d/host/monitor/one", "echo A=1")
    front.probe("cloud-probes.d/vm/status/one", "sleep 60")
    async with reporting(front) as said:
        await come(lambda: sum("A=1" in text for text in texts(said, Kind.MONITOR_HOST)) > 3)
    assert said[0] == Message(kind=Kind.SYSTEM_HOST, host_id=3, timestamp=0, text='PROVIDER_ERROR="-"\n')
    assert not systems(said)


async def test_a_failing_probe_is_named_in_the_hosts_provider_error(front: ProbedFrontEnd) -> None:
    front.settings(heartbeat=0.05)
    front.probe("cloud-probes.d/vm/status/bad", "echo out of order >&2; exit 1")
    front.probe("cloud-probes.d/vm/status/good", 'echo \'VM=[ID="7",STATE="RUNNING"]\'')
    async with reporting(front) as said:
        await come(lambda: 'PROVIDER_ERROR="probe bad: out of order"\n' in texts(said, Kind.MONITOR_HOST))
        await come(lambda: texts(said, Kind.STATE_VM))
    assert texts(said, Kind.STATE_VM) == ['VM=[ID="7",STATE="RUNNING"]\n']
    assert all(message.is_success for message in said)


async def test_sync_state_is_removed_from_a_report_while_one_of_its_probes_fails(front: ProbedFrontEnd) -> None:
    front.probe("cloud-probes.d/vm/status/bad", "exit 1")
    front.probe("cloud-probes.d/vm/status/good", "echo 'Sync_State=YES missing_state=POWEROFF'; echo 'VM=[ID=7]'")
    async with reporting(front) as said:
        await come(lambda: texts(said, Kind.STATE_VM))
    assert texts(said, Kind.STATE_VM)[0].split() == ["VM=[ID=7]"]


async def test_a_host_in_error_gets_system_host_again_when_its_probes_recover(front: ProbedFrontEnd) -> None:
    front.settings(heartbeat=0.05, state_period=0.1, host_error_after=50)
    front.probe("cloud-probes.d/host/system/one", "echo A=1")
    flag = front.root / "broken"
    flag.touch()
    front.probe("cloud-probes.d/vm/status/one", f"[ -e {flag} ] && exit 1; true")
    async with reporting(front) as said:
        await come(lambda: front.warnings)
        assert all(message.is_success for message in said)
        front.now = 50
        await come(lambda: not said[-1].is_success)
        failed = said[-1]
        assert (failed.kind, failed.text.startswith("probe one: ")) == (Kind.MONITOR_HOST, True)
        del said[:]
        flag.unlink()
        await come(lambda: systems(said))
    assert without_error(systems(said)[0]) == ["A=1"]

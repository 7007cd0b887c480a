"""The drivers' metrics, read from their files as node_exporter does, while both serve a VM's life."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest
from prometheus_client.parser import text_string_to_metric_families

from one_provider_mad import __version__, metrics, metrics_file
from one_provider_mad.domain import VmId
from one_provider_mad.errors import NoCapacity, ProviderUnavailable, Throttled
from one_provider_mad.journal.reader import read_debts
from one_provider_mad.metrics_file import InUseError, MetricsFile, Textfile
from one_provider_mad.settings import Places
from tests.end_to_end import oned_requests
from tests.end_to_end.information_driver import configure, monitored
from tests.end_to_end.oned import ROOT, Driver, Place
from tests.waiting import until

UMASK = ("sh", "-c", 'umask 077; exec "$@"', "sh")

BUDGET = "[budget]\nmax_instances = 99\n"

DEAD = "# of a dead process\n"

PAGE = ROOT / "docs" / "metrics.md"

SHORT = {"actions": metrics.ACTIONS, "reports": metrics.REPORTS}

Samples = Mapping[str, float]


@pytest.fixture
def directory(place: Place) -> Path:
    """A directory that node_exporter reads."""
    path = place.root / "textfile_collector"
    path.mkdir()
    return path


def write_metrics(place: Place, directory: Path | None, **settings: object) -> None:
    """Configure a fast simulated cloud with metrics, in one step, so that no driver reads half of an edit."""
    aside = Place(place.root / "aside")
    path = configure(aside, **settings)  # type: ignore[arg-type]
    if directory is not None:
        path.write_text(f'{path.read_text()}[metrics]\ntextfile_directory = "{directory}"\ninterval = 0.1\n{BUDGET}')
    path.replace(place.conf / path.name)


def read(path: Path) -> Samples:
    """Every sample by name and labels, without the labels that all have; fails if the file cannot be parsed."""
    program = path.stem.removesuffix("_simulated")
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation.endswith("."), family.name
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("name"), labels.pop("program")) == ("simulated", program)
            shown = ",".join(f"{label}={value}" for label, value in labels.items())
            found[f"{sample.name}{{{shown}}}"] = sample.value
    return found


def until_read(path: Path, wanted: Mapping[str, float]) -> Samples:
    """The samples once the file has these values; fails with the differences, or if it is ever incomplete."""
    found: Samples = {}

    def has_all() -> bool:
        nonlocal found
        found = read(path) if path.exists() else {}
        return wanted.items() <= found.items()

    try:
        until(has_all)
    except AssertionError:
        assert {name: found.get(name) for name in wanted} == dict(wanted)
    return found


def documented() -> set[tuple[str, str, str, str]]:
    """The metrics in docs/metrics.md: program, name, type, and labels except those that all have."""
    rows = re.findall(r"^\| `(one_provider_\w+)` \| (\w+) \| ([^|]*)\| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    return {
        (program, name, kind, ",".join(re.findall(r"\w+", labels)))
        for name, kind, labels, of in rows
        for program in ([SHORT[of]] if of in SHORT else SHORT.values())
    }


def written(path: Path) -> set[tuple[str, str, str, str]]:
    """The metrics in a file, in the form of `documented`."""
    text, found = path.read_text(), set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE):
        sample = re.search(rf"^{name}(?:_count)?{{(.*)}}", text, re.MULTILINE)
        assert sample, f"{name} has no sample"
        labels = dict(re.findall(r'(\w+)="(.*?)"', sample[1]))
        program = labels.pop("program")
        found.add((program, name, kind, ",".join(sorted(labels.keys() - {"name"}))))
    return found


def total(action: str, result: str) -> str:
    return f"one_provider_actions_total{{action={action},result={result}}}"


def calls(operation: str, outcome: str) -> str:
    return f"one_provider_cloud_calls_total{{operation={operation},outcome={outcome}}}"


def test_both_drivers_write_metrics_of_a_vm_life_until_they_end(place: Place, directory: Path) -> None:
    write_metrics(place, directory)
    one_file, other_file = (directory / f"{program}_simulated.prom" for program in SHORT.values())
    for file in (one_file, other_file):
        file.write_text(DEAD)
        file.chmod(0o600)
    with Driver(place, "-t 15 -r 1 -w 3 simulated", via=UMASK) as one, monitored(place, via=UMASK) as other:
        deploy_id = one.created(oned_requests.deploy(7))
        one.ask(oned_requests.poll(7, deploy_id, release="7.4"))
        one.ask(oned_requests.unknown(8))
        until_read(other_file, {"one_provider_hosts_monitored{}": 0})
        other.start()
        until_read(
            other_file,
            {"one_provider_vms{state=running}": 1, "one_provider_vms{state=poweroff}": 0, "one_provider_cloud_up{}": 1},
        )
        one.ask(oned_requests.power_off(7, deploy_id))
        seen = until_read(
            other_file,
            {"one_provider_vms{state=running}": 0, "one_provider_vms{state=poweroff}": 1, "one_provider_vms_held{}": 0},
        )
        assert seen["one_provider_hosts_monitored{}"] == 1
        assert seen[calls("list", "success")] >= 1
        assert seen["one_provider_sweep_duration_seconds_count{}"] >= 2
        assert seen["one_provider_sweep_last_success_timestamp_seconds{}"] >= seen["one_provider_start_time_seconds{}"]

        check_failures(place, directory, one, one_file, deploy_id)
        check_an_outage(place, directory, other_file)

        # A second process of the same program does not write the file.
        for file, driver in ((one_file, one), (other_file, other.driver)):
            with pytest.raises(InUseError, match=f"^{driver.process.pid}$"):
                Textfile(file).write(lambda: b"")
            assert stat.S_IMODE(file.stat().st_mode) == 0o644

        write_metrics(place, directory, faults={"calls_a_second": 2})
        one.write(oned_requests.deploy(9) + oned_requests.deploy(10))
        until(lambda: all(read(file)["one_provider_cloud_throttles_total{}"] for file in (one_file, other_file)))
        assert written(one_file) | written(other_file) == documented()

        assert {one.wait_for(lambda line: line.startswith("DEPLOY ")).split()[2] for _ in range(2)} == {"9", "10"}
        one.send(oned_requests.unknown(8))
        assert one.finalize() == 0
        is_given_up = "metrics not written at the end" in place.log()
        assert is_given_up or read(one_file)[total("other", "failure")] == 2, "the last request is counted at the end"
        Textfile(one_file).write(lambda: b"")  # another process may write it now

        write_metrics(place, None)
        until(lambda: [path.name for path in directory.glob("*.prom")] == [one_file.name])


def check_failures(place: Place, directory: Path, one: Driver, file: Path, deploy_id: str) -> None:
    """Assert how failures are counted: a retry, a deadline, DRIVER_CANCEL, a debt."""
    faults = {"transient": {"times": 1, "calls": ["start"]}, "hangs": {"calls": ["reboot"]}}
    write_metrics(place, directory, faults=faults)
    assert one.ask(oned_requests.resume(7, deploy_id)).startswith("SUCCESS")
    one.write(oned_requests.reboot(7, deploy_id) * 2)
    until_read(file, {"one_provider_requests_running{}": 1, "one_provider_requests_waiting{}": 1})
    assert one.reply("REBOOT", 7).startswith("FAILURE gave up after 3 s")
    one.write(oned_requests.reboot(7, deploy_id) + oned_requests.driver_cancel(7))  # one of the first two was answered

    write_metrics(place, directory, faults={"permanent": {"calls": ["destroy"]}})
    assert one.ask(oned_requests.cleanup(7, deploy_id)).startswith("FAILURE")
    counted = until_read(
        file,
        {
            total("DEPLOY", "success"): 2,
            total("POLL", "success"): 1,
            total("SHUTDOWN", "success"): 1,
            total("REBOOT", "failure"): 1,
            total("REBOOT", "cancelled"): 2,
            total("CLEANUP", "failure"): 1,
            total("other", "failure"): 1,
            "one_provider_actions_timed_out_total{action=REBOOT}": 1,
            "one_provider_action_duration_seconds_count{action=SHUTDOWN}": 1,
            "one_provider_action_duration_seconds_count{action=REBOOT}": 1,
            calls("create", "success"): 1,
            "one_provider_cloud_call_duration_seconds_count{operation=create}": 1,
            calls("start", "ProviderUnavailable"): 1,
            calls("start", "success"): 1,
            "one_provider_cloud_retries_total{operation=start}": 1,
            "one_provider_cloud_throttles_total{}": 0,
            "one_provider_requests_waiting{}": 0,
            "one_provider_requests_running{}": 0,
            "one_provider_debts{}": 2,
            f"one_provider_info{{version={__version__}}}": 1,
        },
    )
    assert counted[calls("reboot", "cancelled")] in (1, 2), (
        "the second one was cancelled before or after its call was sent"
    )
    # CLEANUP makes two debts: the instance that it names, and any other instance of this VM.
    assert len(read_debts(place.var / "one_provider_mad_simulated.journal")) == counted["one_provider_debts{}"]
    assert not [name for name in counted if "sweep" in name or "_created" in name or "vms" in name]


def check_an_outage(place: Place, directory: Path, file: Path) -> None:
    """Assert that in an outage the timestamp of the last sweep stays that of the last successful one."""
    write_metrics(place, directory, faults={"outage": True})
    swept = "one_provider_sweep_last_success_timestamp_seconds{}"
    written_at = "one_provider_last_write_timestamp_seconds{}"
    first = until_read(file, {"one_provider_cloud_up{}": 0})
    until(lambda: read(file)[written_at] > first[written_at])
    later = read(file)
    assert (later["one_provider_cloud_up{}"], later[swept]) == (0, first[swept])
    assert later[calls("list", "NotReached")] >= 1
    assert later["one_provider_vms{state=running}"] == first["one_provider_vms{state=running}"]


STARTER = """\
#!{python}
import sys
sys.path[:0] = [{fake!r}, {root!r}]
from one_provider_mad.programs import one_vmm_provider
one_vmm_provider()
"""


def test_prometheus_client_is_imported_only_if_configured_and_warned_about_once_if_missing(
    place: Place, directory: Path, tmp_path: Path
) -> None:
    fake, tried = tmp_path / "fake", tmp_path / "tried"
    fake.mkdir()
    note = f"open({str(tried)!r}, 'a').write('-')"
    (fake / "prometheus_client.py").write_text(f"{note}\nraise ImportError('there is none')\n")
    program = tmp_path / "one_vmm_provider"
    program.write_text(STARTER.format(python=sys.executable, fake=str(fake), root=str(ROOT)))
    program.chmod(0o755)
    configure(place)
    with Driver(place, program=program) as one:
        one.created(oned_requests.deploy(7))
        assert not tried.exists()
        write_metrics(place, directory)
        assert one.wait_for(lambda line: line.startswith("LOG W")) == (
            f"LOG W -1 metrics are not written: prometheus-client is not installed for {sys.executable};"
            " pip install 'one-provider-mad[metrics]', or take [metrics] out of the configuration"
        )
        until(lambda: len(tried.read_text()) >= 3)
        one.created(oned_requests.deploy(8))
        assert one.is_quiet()
    assert len([entry for entry in place.events() if entry["event"] == "metrics are not written"]) == 1
    assert not any(directory.iterdir())


class Keeper:
    """A MetricsFile that runs in a thread of this process, with its warnings and the number of its measurements."""

    def __init__(self, place: Place) -> None:
        self.warnings: list[str] = []
        self._measured = 0
        places = Places.from_environment({"ONE_LOCATION": str(place.root)})
        self._file = MetricsFile("simulated", metrics.ACTIONS, places, warn=self.warnings.append, measure=self._measure)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    async def _measure(self, _recorder: metrics.Recorder) -> None:
        self._measured += 1

    def measure_again(self, times: int = 3) -> None:
        """Return after as many further measurements."""
        wanted = self._measured + times
        until(lambda: self._measured >= wanted)

    def __enter__(self) -> Self:
        self._thread.start()
        self._keeping = asyncio.run_coroutine_threadsafe(self._file.keep(), self._loop)
        return self

    def __exit__(self, *_error: object) -> None:
        self._keeping.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        metrics.recorder = None


def test_missing_metrics_directory_is_warned_about_once_and_written_to_when_created(
    place: Place, directory: Path
) -> None:
    directory.rmdir()
    write_metrics(place, directory)
    sentence = (
        f"metrics are not written: {directory}: {{}}; create that directory, or correct [metrics],"
        f" and let user {os.geteuid()} write to it"
    )
    with Keeper(place) as keeper:
        keeper.measure_again()
        assert keeper.warnings == [sentence.format("No such file or directory")]
        directory.write_text("")
        keeper.measure_again()
        directory.unlink()
        directory.mkdir()
        until(lambda: list(directory.glob("*.prom")))
        for left in directory.iterdir():
            left.unlink(missing_ok=True)
        until(lambda: list(directory.glob("*.prom")))  # a deleted file is written again
    # Between removal of the file and creation of the directory, neither exists for a moment.
    assert {*keeper.warnings} == {sentence.format(why) for why in ("No such file or directory", "Not a directory")}
    assert len(keeper.warnings) <= 3


def test_second_process_warns_and_writes_metrics_after_the_first_has_ended(
    place: Place, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_file, "_PATIENCE", 0.0)
    write_metrics(place, directory)
    path = directory / "one_vmm_provider_simulated.prom"
    first = Textfile(path)
    first.write(lambda: b"of the first")
    with Keeper(place) as keeper:
        keeper.measure_again()
        assert path.read_bytes() == b"of the first"
        first.remove()
        until(path.exists)
        first.remove()
        assert read(path), "the file of another process is left"
    [sentence] = keeper.warnings
    assert sentence == (
        f"metrics are not written: another one_vmm_provider of simulated, process {os.getpid()}, writes {path} already;"
        " end one of the two"
    )


async def test_sweep_metrics_are_removed_when_no_host_is_monitored() -> None:
    recorder = metrics.Recorder(name="ec2", program=metrics.REPORTS, version="1")
    recorder.monitored(1)
    recorder.swept(1.0, 0.1, {"running": 2}, held=0)
    assert b'one_provider_vms{name="ec2",program="one_im_provider",state="running"} 2.0' in recorder.text()
    recorder.monitored(0)
    gone = ("one_provider_vms{", "one_provider_vms_held{", "one_provider_cloud_up{", "one_provider_sweep_last")
    assert not [line for line in recorder.text().decode().splitlines() if line.startswith(gone)]


async def test_outcome_label_is_the_error_kind_and_operations_are_limited_to_64() -> None:
    recorder = metrics.Recorder(name="ec2", program=metrics.ACTIONS, version="1")

    class SoldOut(NoCapacity):
        """An error class of a third party's provider."""

    async def fail(error: Exception) -> None:
        raise error

    for error in (Throttled("slow down"), SoldOut("sold out"), ProviderUnavailable("gone"), KeyError(VmId(7))):
        with pytest.raises(type(error)):
            await recorder.timed("create", fail(error))
    for number in range(1000):
        recorder.called(f"operation {number}", 0.1)
    samples = [each for family in text_string_to_metric_families(recorder.text().decode()) for each in family.samples]
    calls = [each.labels for each in samples if each.name == "one_provider_cloud_calls_total"]
    outcomes = {labels["outcome"] for labels in calls if labels["operation"] == "create"}
    assert outcomes == {"Throttled", "NoCapacity", "ProviderUnavailable", "defect"}
    operations = {labels["operation"] for labels in calls}
    assert (len(operations), "other" in operations) == (65, True)
    assert [each.value for each in samples if each.name == "one_provider_cloud_throttles_total"] == [1]

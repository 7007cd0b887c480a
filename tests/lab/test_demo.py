"""`one-provider demo`: succeeds with the real driver, and reports the error of a failing one in a sentence."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from one_provider_mad.cli.main import main
from one_provider_mad.lab import demo
from one_provider_mad.lab.demo_life import KEY, LIFE
from tests.waiting import HANG

COMMAND = [sys.executable, "-m", "one_provider_mad.cli.main"]


def test_demo_runs_a_vms_whole_life_and_leaves_no_files(tmp_path: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path), "ONE_PROVIDER_MAD_CONF": "/no/such", "ONE_LOCATION": "/no/such"}
    done = subprocess.run([*COMMAND, "demo"], env=environ, capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
    lines = done.stdout.splitlines()
    assert lines[0].endswith('one_vmm_provider "-t 15 -r 0 simulated"')
    assert lines[1].endswith('one_im_provider "-t 15 -r 0 simulated"')
    states = [
        match[1] for line in lines if (match := re.match(r'  < STATE_VM VM=\[ID="42",.*STATE="([A-Z]+)"\]', line))
    ]
    assert states == [step.reported for step in LIFE if step.reported]
    assert [line for line in lines if line.endswith(("  > INIT", "  > FINALIZE"))] == ["  > INIT", "  > FINALIZE"]
    words = [line.split()[1] for line in lines if re.match("  > [A-Z]+ ", line)]
    assert words == [step.action for step in LIFE]
    answers = [line.split()[1:4] for line in lines if re.match("  < [A-Z]+ SUCCESS 42 ", line)]
    assert answers == [[step.action, "SUCCESS", "42"] for step in LIFE]
    assert [line.rpartition("-> ")[2] for line in lines if line.startswith("  . VM ")] == ["home", "home", "simulated"]
    assert f"  | cloud-init: ssh_authorized_keys: {KEY}" in lines
    assert "  . 0.0100 USD an hour: small_256mb 0.0050, address 0.0050" in lines
    assert lines[-2].startswith("  < exit code 0")
    assert lines[-1].startswith("9 actions, all answered SUCCESS; no instance is left in the cloud")


def test_demo_keep_leaves_a_cloud_that_instances_can_list(tmp_path: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([*COMMAND, "demo", "--keep"], env=environ, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0
    (folder,) = tmp_path.iterdir()
    assert f"kept: {folder}\n" in done.stdout
    environ["ONE_LOCATION"] = str(folder)
    command = [*COMMAND, "instances", "--all", "simulated"]
    seen = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=HANG)
    assert seen.stdout.splitlines()[1].split()[0::2][:2] == ["42", "terminated"]


def run_with(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Run the demo with a shell script as action driver, beside one that reports; return exit code and stderr."""
    scripts = {"one_vmm_provider": folder / "driver", "one_im_provider": folder / "monitor"}
    payload = base64.b64encode(zlib.compress(b'TOTALCPU="100"\n')).decode()
    reporting = f"echo SYSTEM_HOST SUCCESS 0 1 {payload}; exec sleep 20"
    for script, text in zip(scripts.values(), (program, reporting), strict=True):
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
    monkeypatch.setattr(demo, "launcher", scripts.__getitem__)
    monkeypatch.setattr(demo, "PATIENCE", 0.3)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    result = CliRunner().invoke(main, ["demo"])
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        pytest.param(
            "exec sleep 20",
            "one-provider demo: the driver did not answer INIT within 0.3 s\n",
            id="silence",
        ),
        pytest.param(
            "echo something is missing >&2; exit 3",
            "    the end of stderr.log:\n    something is missing\n"
            "one-provider demo: the driver ended without answering INIT, exit code 3\n",
            id="death",
        ),
        pytest.param(
            "echo hello; exec sleep 20",
            "one-provider demo: the driver answered INIT with hello\n",
            id="nonsense",
        ),
        pytest.param(
            "echo INIT SUCCESS; echo LOG I 42 trying; echo DEPLOY FAILURE 42 no room; exec sleep 20",
            "one-provider demo: deploy failed: no room\n",
            id="failure",
        ),
        pytest.param(
            "echo INIT SUCCESS; echo DEPLOY SUCCESS 41 i-1; exec sleep 20",
            "one-provider demo: deploy was answered with a line that is no answer to it\n",
            id="another's answer",
        ),
        pytest.param(
            "echo INIT SUCCESS; echo; exec sleep 20",
            "one-provider demo: deploy was answered with a line that is no answer to it: empty line\n",
            id="an empty line",
        ),
    ],
)
def test_demo_reports_a_failing_driver_in_one_sentence(
    program: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, stderr = run_with(program, tmp_path, monkeypatch)
    assert code == 1
    assert stderr.endswith(sentence)
    assert {path.name for path in tmp_path.iterdir()} == {"driver", "monitor"}


def test_demo_reports_a_missing_driver_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "a" / "b" / "demo.py"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 1
    assert result.stderr.startswith("one-provider demo: one_vmm_provider is neither at ")

"""`one-provider demo --ec2`: succeeds with the real drivers on its own endpoint, and names a missing botocore."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from one_provider_mad.cli.main import main
from one_provider_mad.lab import demo_ec2
from one_provider_mad.lab.demo_life import EC2_LIFE, KEY
from tests.waiting import HANG

COMMAND = [sys.executable, "-m", "one_provider_mad.cli.main", "demo", "--ec2"]


def test_demo_ec2_runs_a_vms_whole_life_and_leaves_no_files(tmp_path: Path) -> None:
    environ = {
        **os.environ,
        "TMPDIR": str(tmp_path),
        "AWS_PROFILE": "no-such-profile",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    done = subprocess.run(COMMAND, env=environ, capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"serve  EC2's API at http://127\.0\.0\.1:\d+/, on a simulated cloud", lines[0])
    assert lines[1].endswith('one_vmm_provider "-t 15 -r 0 ec2"')
    states = [
        match[1] for line in lines if (match := re.match(r'  < STATE_VM VM=\[ID="42",.*STATE="([A-Z]+)"\]', line))
    ]
    assert states == [step.reported for step in EC2_LIFE if step.reported]
    answers = [match[1] for line in lines if (match := re.match(r"  < ([A-Z]+) SUCCESS 42 ", line))]
    assert answers == [step.action for step in EC2_LIFE]
    assert [line.rpartition("-> ")[2] for line in lines if line.startswith("  . VM ")] == ["home", "home", "ec2"]
    assert f"  | cloud-init: ssh_authorized_keys: {KEY}" in lines
    assert "LOG W" not in done.stdout
    assert lines[-1].startswith("10 actions, all answered SUCCESS; no instance is left in the cloud")


def test_demo_ec2_without_botocore_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_ec2, "find_spec", lambda name: None if name == "botocore" else find_spec(name))
    result = CliRunner().invoke(main, ["demo", "--ec2"])
    assert result.exit_code == 1
    assert result.stderr == (
        "one-provider demo: provider ec2 needs botocore: run pip install 'one-provider-mad[ec2]'\n"
    )

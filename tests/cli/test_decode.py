"""`one-provider decode` with lines of both directions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from base64 import b64encode
from pathlib import Path

import pytest
from click import unstyle
from hypothesis import given, settings
from hypothesis import strategies as st

from one_provider_mad.cli.decode import entry, explain
from tests import oned_lines
from tests.waiting import HANG

DECODE = [sys.executable, "-m", "one_provider_mad.cli.main", "decode"]


def decode(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, without a terminal."""
    done = subprocess.run([*DECODE, *arguments], input=stdin, capture_output=True, timeout=HANG)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def explained(line: bytes) -> str:
    return unstyle("\n".join(explain(line)))


def test_decode_explains_every_action_of_every_release() -> None:
    cases = [(action, release) for action in sorted(oned_lines.ACTIONS) for release in oned_lines.RELEASES]
    lines = [oned_lines.line(action, 7, release=release, deploy_id="i-0f3a") for action, release in cases]
    done = decode(stdin=b"".join(lines))
    assert (done.returncode, done.stderr) == (0, "")
    explanation = done.stdout.split("\n> ")
    assert len(explanation) == len(cases)
    for (action, release), text in zip(cases, explanation, strict=True):
        assert text.removeprefix("> ").startswith(f"{action} VM 7  ({'6.0 and later' if release == '7.4' else 'up to'}")
        if action != "DRIVER_CANCEL":
            state = f"LCM_STATE      {oned_lines.usual_lcm_state(action, release)} "
            assert all(part in text for part in ("remote_provider (id 0)", "i-0f3a", state, "TYPE=simulated"))


def test_decode_shows_the_important_fields_of_a_request() -> None:
    line = oned_lines.line("SHUTDOWN", 7, deploy_id="i-0f3a", lcm_state=18, stime=1_760_000_000, seq=2)
    assert explained(line).splitlines() == [
        "> SHUTDOWN VM 7  (6.0 and later)",
        "    name           one-7",
        "    host           remote_provider (id 0)",
        "    deploy id      i-0f3a",
        "    LCM_STATE      18 SHUTDOWN_POWEROFF",
        "    asks for       stop",
        "    identity       STIME 1760000000 (2025-10-09 08:53:20 UTC), SEQ 2",
        "    capacity       CPU 1  MEMORY 256",
        "    PUBLIC_CLOUD   PROVIDER_IMAGE_ID=id-141234  PROVIDER_INSTANCE_TYPE=small_256mb  TYPE=simulated",
    ]


def test_decode_shows_the_operand_of_an_action() -> None:
    text = explained(oned_lines.line("ATTACHDISK", 7, operand={"SIZE": "1024"}))
    assert "    operand        ATTACH=YES  DISK_ID=0  SIZE=1024" in text.splitlines()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"INIT", "> INIT are you ready?"),
        (b"FINALIZE", "> FINALIZE please exit"),
        (b"DRIVER_CANCEL  7 ", "> DRIVER_CANCEL VM 7  (6.0 and later)"),
        (b"INIT SUCCESS", "< INIT SUCCESS the driver is ready"),
        (b"INIT SUCCESS - -", "< INIT SUCCESS the driver is ready"),
        (b"DEPLOY SUCCESS 7 i-0f3a", "< DEPLOY SUCCESS VM 7: deploy id i-0f3a"),
        (b"SHUTDOWN SUCCESS 7 -", "< SHUTDOWN SUCCESS VM 7"),
        (b"SAVE FAILURE 7 no such instance", "< SAVE FAILURE VM 7: no such instance"),
        (b"POLL SUCCESS 7 STATE=a CPU=1.5", "< POLL SUCCESS VM 7: STATE=a CPU=1.5"),
        (b"LOG I 7 creating", "< LOG info log of VM 7: creating"),
        (b"LOG E -1 the cloud is gone", "< LOG error oned's log: the cloud is gone"),
        (b"LOG D - noted", "< LOG debug oned's log: noted"),
        (b"DEPLOY 7 PGE+", "> DEPLOY VM 7  (up to 5.12)\n    payload        payload is not the XML of a driver "),
        (b"DEPLOY 7 ***", "> DEPLOY VM 7  (up to 5.12)\n    payload        payload is not base64: "),
        (b"DEPLOY 7", "> DEPLOY VM 7  (up to 5.12)\n    payload        the request has no payload"),
        (b"", "? (neither request nor reply: empty line)"),
        (b"hello 7 x", "? hello 7 x (neither request nor reply: Action HELLO not supported)"),
        (b"DEPLOY seven", "? DEPLOY seven (neither request nor reply: DEPLOY came with SEVEN in place of"),
        (b"DEPLOY SUCCESS x7 i", "? DEPLOY SUCCESS x7 i (neither request nor reply: X7 is not a VM id)"),
        (b"INIT FAILURE", "? INIT FAILURE (neither request nor reply: INIT was not answered with SUCCESS)"),
        (b"DEPLOY SUCCESS 7 \x1b[2Jboo", "< DEPLOY SUCCESS VM 7: deploy id \\x1b[2Jboo"),
        (b"\x1b[2J\xff", "? \\x1b[2J\\xff (neither"),
    ],
)  # fmt: skip
def test_decode_explains_lines_of_the_action_driver(line: bytes, text: str) -> None:
    assert explained(line).startswith(text)


def packed(text: str) -> bytes:
    return b64encode(zlib.compress(text.encode()))


START = (
    "<MONITOR_DRIVER_ACTION><HOST><ID>3</ID><NAME>cloud</NAME><IM_MAD>ec2</IM_MAD></HOST><MONITOR_CONFIGURATION>"
    "<PROBES_PERIOD><STATE_VM>7</STATE_VM></PROBES_PERIOD></MONITOR_CONFIGURATION></MONITOR_DRIVER_ACTION>"
)
SECONDS = (
    "    seconds        BEACON_HOST 30  SYSTEM_HOST 600  MONITOR_HOST 120  STATE_VM 7  SYNC_STATE_VM 180  "
    "MONITOR_VM 30  EXEC_VM 5"
)
NO_HOST = (
    "? START_MONITOR x (neither request nor reply: START_MONITOR came with X in place of a host id (0 to 2147483647))"
)
FIGURES = b64encode(b'CPU=1.5\nAWS_X="a"').decode()
REPORT = f'VM = [ ID="7", DEPLOY_ID="i-1", MONITOR="{FIGURES}" ]\nNAME="a \\"b\\""'


@pytest.mark.parametrize(
    ("line", "explanation"),
    [
        (b"START_MONITOR - 3 0 " + packed(START), [
            "> START_MONITOR host 3  (5.12 and later)",
            "    name           cloud",
            "    drivers        IM_MAD ec2",
            SECONDS,
        ]),
        (b"STOP_MONITOR - 3 0 eJw", ["> STOP_MONITOR host 3  (5.12 and later)"]),
        (b"MONITOR 3 cloud /var/lib/one/datastores 1", [
            "> MONITOR host 3  (up to 5.10)",
            "    name           cloud",
            "    datastores     /var/lib/one/datastores",
            "    first time     yes",
        ]),
        (b"STOPMONITOR 3 cloud", ["> STOPMONITOR host 3  (up to 5.10)"]),
        (b"START_MONITOR x", [NO_HOST]),
        (b"START_MONITOR SUCCESS 3 1760000000 ", ["< START_MONITOR SUCCESS host 3 (2025-10-09 08:53:20 UTC)"]),
        (b"MONITOR_VM SUCCESS 3 0 " + packed(REPORT), [
            "< MONITOR_VM SUCCESS host 3",
            '    VM             ID=7  DEPLOY_ID=i-1  MONITOR=(CPU=1.5 AWS_X="a")',
            '    NAME           a "b"',
        ]),
        (b"MONITOR_HOST FAILURE 3 0 " + packed("it is gone"), ["< MONITOR_HOST FAILURE host 3: it is gone"]),
        (b"STATE_VM SUCCESS 3 0 " + packed("VM = [ ID=7"), [
            "< STATE_VM SUCCESS host 3",
            "    payload        OpenNebula cannot read the text from here on: VM = [ ID=7",
        ]),
        (b"STATE_VM SUCCESS 3 0 QUJD", [
            "< STATE_VM SUCCESS host 3", "    payload        it is not base64 of zlib data",
        ]),
        (b"LOG W -1 0 " + packed("slow"), ["< LOG warning monitord's log: slow"]),
        (b"LOG W 3 0 " + packed("slow"), ["< LOG warning monitord's log, of host 3: slow"]),
        (b"LOG W 7 0 slowly", ["< LOG warning log of VM 7: 0 slowly"]),
        (b"MONITOR SUCCESS 3 " + b64encode(b"TOTALCPU=800\n"), ["< MONITOR SUCCESS host 3", "    TOTALCPU       800"]),
        (b"MONITOR FAILURE 3 " + b64encode(b"no access"), ["< MONITOR FAILURE host 3: no access"]),
        (b"MONITOR SUCCESS 3 -", ["< MONITOR SUCCESS host 3", "    payload        it is not base64"]),
        (b"STOPMONITOR SUCCESS 3 -", ["< STOPMONITOR SUCCESS host 3"]),
    ],
)  # fmt: skip
def test_decode_explains_lines_of_the_information_driver(line: bytes, explanation: list[str]) -> None:
    assert explained(line).splitlines() == explanation


def test_decode_prints_json_objects() -> None:
    lines = [b"DEPLOY SUCCESS 7 i-0f3a", b"MONITOR_HOST SUCCESS 3 0 " + packed("USEDCPU=1\n"), b"nonsense"]
    assert [json.loads(each) for each in decode("--json", stdin=b"\n".join(lines)).stdout.splitlines()] == [
        {"from": "driver", "word": "DEPLOY", "status": "SUCCESS", "vm_id": 7, "host_id": None,
         "text": "VM 7: deploy id i-0f3a", "note": None, "fields": []},
        {"from": "driver", "word": "MONITOR_HOST", "status": "SUCCESS", "vm_id": None, "host_id": 3,
         "text": "host 3", "note": None, "fields": [{"name": "USEDCPU", "text": "1"}]},
        {"from": None, "word": "nonsense", "status": None, "vm_id": None, "host_id": None, "text": "",
         "note": "neither request nor reply: Action NONSENSE not supported", "fields": []},
    ]  # fmt: skip
    assert "<HOST>remote_provider</HOST>" in json.loads(entry(oned_lines.line("DEPLOY", 7), is_xml=True))["xml"]


@settings(deadline=None)
@given(st.binary(max_size=60) | st.tuples(st.sampled_from(sorted(oned_lines.ACTIONS)), st.binary(max_size=80)).map(
    lambda pair: f"{pair[0]} 7 ".encode() + b64encode(pair[1])
) | st.tuples(st.sampled_from(["START_MONITOR -", "STATE_VM SUCCESS", "LOG I"]), st.text(max_size=60)).map(
    lambda pair: f"{pair[0]} 7 0 ".encode() + b64encode(zlib.compress(pair[1].encode("utf-8", "replace")))
))  # fmt: skip
def test_decode_explains_any_bytes_without_an_error(line: bytes) -> None:
    for text in explain(line, is_xml=True):
        assert unstyle(text).isprintable()
    assert json.loads(entry(line, is_xml=True))


@pytest.mark.parametrize(
    "line",
    [
        b"BEACON_HOST SUCCESS " + b"9" * 5000 + b" 0 ",
        b"MONITOR_VM SUCCESS 7 " + b"9" * 5000 + b" ",
        b"MONITOR SUCCESS " + b"9" * 5000 + b" VFdP",
        b"MONITOR_VM SUCCESS 7 0" + b" " * 1_000_000 + b"x y",
    ],
    ids=["host-id", "timestamp", "up-to-5.10", "blanks"],
)
def test_decode_handles_huge_numbers_and_blanks_quickly(line: bytes) -> None:
    assert json.loads(entry(line))


def test_decode_xml_prints_the_document_indented(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(oned_lines.line("DEPLOY", 7) + b"FINALIZE\n")
    done = decode("--xml", str(file), str(file))
    assert done.returncode == 0
    assert done.stdout.count("\n    <VMM_DRIVER_ACTION_DATA>\n      <HOST>remote_provider</HOST>\n") == 2
    assert done.stdout.count("          <PROVIDER_IMAGE_ID>id-141234</PROVIDER_IMAGE_ID>\n") == 2


def test_decode_explains_each_line_at_once_and_without_colour_in_a_pipe() -> None:
    with subprocess.Popen(DECODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in ("INIT", "FINALIZE"):
            process.stdin.write(word.encode() + b"\n")
            process.stdin.flush()
            assert process.stdout.readline().startswith(f"> {word} ".encode())
        process.stdin.close()
        assert process.wait(HANG) == 0


def test_decode_succeeds_if_its_reader_closes_the_pipe() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(DECODE, input=b"INIT\n" * 1000, stdout=write_end, stderr=subprocess.PIPE, timeout=HANG)
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


def test_decode_of_a_missing_file_fails_with_one_sentence() -> None:
    done = decode("/no/such")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "one-provider decode: /no/such cannot be read: No such file or directory\n"


def test_decode_explains_an_overlong_line_and_a_last_line_without_line_feed() -> None:
    endless = b"DEPLOY  7 " + b"A" * (16 * 1024 * 1024 + 10)
    done = decode(stdin=endless + b"\nINIT SUCCESS")
    assert done.returncode == 0
    assert "(neither request nor reply: the request line is longer than 16777216 bytes)" in done.stdout
    assert done.stdout.endswith("< INIT SUCCESS the driver is ready\n")

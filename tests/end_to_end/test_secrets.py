"""A cloud and credential helpers that repeat secrets: none gets into replies, hosts or logs."""

from __future__ import annotations

import re
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.information_driver import PROGRAM, Monitored
from tests.end_to_end.oned import OWNER, Driver, Place
from tests.monitor.decoder import plain, read_modern
from tests.providers.ec2.drivers import ENVIRON, template
from tests.waiting import until

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "IQoJb3JpZ2luX2VjEXAMPLE//TOKEN+/"
LOGIN = "burster:c0rrect-horse"


class Echo(BaseHTTPRequestHandler):
    """A cloud that refuses every call with an error that repeats its token or login."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if found := re.search("<string>([^<]*:[^<]*)</string>", body):
            error = f"User {found[1]} may not do that"
            answer = (
                "<methodResponse><params><param><value><array><data><value><boolean>0</boolean></value>"
                f"<value><string>{error}</string></value><value><i4>512</i4></value></data></array></value></param>"
                "</params></methodResponse>"
            )
            self._answer(200, answer)
        else:
            error = f"the token {self.headers['X-Amz-Security-Token']} of the key {SECRET} may not do that"
            code = "<Code>UnauthorizedOperation</Code>"
            self._answer(403, f"<Response><Errors><Error>{code}<Message>{error}</Message></Error></Errors></Response>")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    """The URL of an Echo."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def configure(place: Place, kind: str, *keys: str) -> None:
    table = "\n".join([f"[{kind}]", *keys, "[monitor]", "min_list_interval = 0.05", ""])
    place.configure(f'provider = "{kind}"\nowner = "{OWNER}"\n{table}', name="echo")


def everything_written(place: Place, *drivers: Driver) -> str:
    logs = [path.read_text() for path in sorted(place.var.glob("*.log"))]
    assert logs
    return "\n".join([*logs, *(driver.raw.decode() for driver in drivers)])


class Watching(Monitored):
    """The information driver of that cloud."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._read = read_modern
        self.driver = Driver(place, "echo", program=PROGRAM, environ=ENVIRON)
        self.lines = []


@pytest.mark.parametrize(
    ("kind", "secrets", "message"),
    [
        pytest.param("ec2", (TOKEN, SECRET), "the token *** of the key *** may not do that", id="ec2"),
        pytest.param("opennebula", (LOGIN, "c0rrect-horse"), "User burster:*** may not do that", id="opennebula"),
    ],
)
def test_secrets_that_the_cloud_repeats_are_masked_in_replies_hosts_and_logs(
    driver: StartDriver, place: Place, echo: str, kind: str, secrets: tuple[str, ...], message: str
) -> None:
    login = place.root / "login"
    login.write_text(LOGIN)
    login.chmod(0o600)
    keys = {
        "ec2": (
            'region = "eu-west-1"', f'endpoint_url = "{echo}"', 'access_key_id = "AKIAEXAMPLE"',
            f'secret_access_key = "{SECRET}"', f'session_token = "{TOKEN}"',
        ),
        "opennebula": (f'endpoints = ["{echo}RPC2"]', f'credentials_file = "{login}"'),
    }  # fmt: skip
    configure(place, kind, *keys[kind])
    one = driver("-t 15 -r 0 echo", environ=ENVIRON)
    reply = one.ask(oned_requests.deploy(7, template=template()))
    assert reply.startswith("FAILURE ")
    assert message in reply
    watching = Watching(place)
    watching.start()
    failing = watching.wait(lambda line: line.word == "SYSTEM_HOST" and plain(line.values, "PROVIDER_ERROR") != "-")
    assert message in plain(failing.values, "PROVIDER_ERROR")
    watching.driver.leave()
    written = everything_written(place, one, watching.driver)
    assert message in written
    assert [secret for secret in secrets if secret in written] == []


def test_stderr_of_a_credential_helper_is_only_in_the_drivers_log(
    driver: StartDriver, place: Place, tmp_path: Path
) -> None:
    helper, config = tmp_path / "helper", tmp_path / "config"
    helper.write_text("#!/bin/sh\necho 'vault is sealed; SecretAccessKey: f00bar-not-known' >&2\nexit 1\n")
    helper.chmod(stat.S_IRWXU)
    config.write_text(f"[default]\ncredential_process = {helper}\n")
    configure(place, "ec2", 'region = "eu-west-1"', 'endpoint_url = "http://127.0.0.1:9/"', f'config_file = "{config}"')
    one = driver("-t 15 -r 0 echo", environ=ENVIRON)
    assert one.ask(oned_requests.deploy(7, template=template())) == (
        "FAILURE the AWS credentials cannot be read: credential_process of the profile failed, the driver's log has its"
        " stderr"
    )
    [entry] = until(lambda: [each for each in place.events("echo") if each["event"] == "credential_process failed"])
    assert entry["stderr"] == "vault is sealed; SecretAccessKey: ***\n"
    assert "sealed" not in one.raw.decode()
    assert "f00bar" not in everything_written(place, one)

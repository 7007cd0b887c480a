"""An invalid configuration: INIT succeeds, every action names the error, and a corrected file is read at once."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import OWNER, Driver, Place

FILE = "simulated.toml"
SHOWN = 79
"""Characters of a failure's text that oned certainly keeps: from 6.10 on 100 with its own prefix."""

GOOD = f'provider = "simulated"\nowner = "{OWNER}"\n'


def refusal(driver: Driver, vm_id: int = 7) -> str:
    """The error of a refused deploy."""
    result, sentence = driver.ask(oned_requests.deploy(vm_id)).split(" ", 1)
    assert result == "FAILURE", sentence
    return sentence


@pytest.fixture(scope="module")
def never_good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver without a usable configuration so far; each test gives it another invalid one."""
    place = Place(tmp_path_factory.mktemp("never_good"))
    place.configure("")
    with Driver(place) as driver:
        yield driver
        assert "unexpected" not in place.log()


def without_file(place: Place) -> Path:
    """Remove the configuration file; returns its path."""
    path = place.conf / FILE
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    return path


# Errors in the text of the file


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        pytest.param("", f"{FILE}: provider is missing", id="empty"),
        pytest.param('provider = "ec2"\n', f"{FILE}: owner is missing: ", id="no-owner"),
        pytest.param('provider = "simulated"\nowner = "two words"\n', f"{FILE}: owner: expected ", id="bad-owner"),
        pytest.param(f'{GOOD}ownr = "x"\n', f"{FILE}: ownr is no setting of this release; check ", id="unknown-key"),
        pytest.param(
            f"{GOOD}[simulated]\nlatncy = 1\n",
            f"{FILE}: simulated.latncy is no setting of ",
            id="unknown-key-of-provider",
        ),
        pytest.param(
            f'{GOOD}[simulated]\nlatency = "fast"\n', f"{FILE}: simulated.latency: expected `float`", id="wrong-type"
        ),
        pytest.param(
            f"{GOOD}[simulated]\nlatency = -1\n", f"{FILE}: simulated.latency: expected `float` >= 0", id="range"
        ),
        pytest.param(
            f"{GOOD}[simulated.capacity]\nhuge = 1\n",
            f"{FILE}: simulated: capacity names the instance type huge",
            id="unknown-type",
        ),
        pytest.param(f"{GOOD}simulated = 5\n", f"{FILE}: simulated: expected a table [simulated]", id="not-a-table"),
        pytest.param(f"{GOOD}[simulated\n", f"{FILE} is not TOML: ", id="not-toml"),
        pytest.param(
            f'provider = "azure"\nowner = "{OWNER}"\n',
            f"{FILE}: provider: there is no provider 'azure' here",
            id="azure",
        ),
    ],
)
def test_configuration_error_names_file_key_and_expected_value_in_every_reply(
    never_good: Driver, text: str, begins: str
) -> None:
    without_file(never_good.place)
    never_good.place.configure(text)
    sentence = refusal(never_good)
    assert sentence[:SHOWN].startswith(begins[:SHOWN])
    for line in (oned_requests.reboot(8, "sim-x"), oned_requests.cleanup(8)):
        assert never_good.ask(line) == f"FAILURE {sentence}"
    assert never_good.ask(oned_requests.poll(8, "sim-x")) == "SUCCESS STATE=-", (
        "oned makes a VM UNKNOWN after a failed POLL"
    )


# Type and mode of the file


def make_directory(path: Path) -> None:
    path.mkdir()


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def make_readable_secret(path: Path) -> None:
    path.write_text(f'{GOOD}[simulated]\napi_key = "hush"\n')
    path.chmod(0o644)


def make_nested_secret(path: Path) -> None:
    path.write_text(f'{GOOD}[monitor]\nsecret_access_key = "hush"\n')
    path.chmod(0o604)


def make_not_text(path: Path) -> None:
    path.write_bytes(b"\xff")
    path.chmod(0o600)


def make_not_toml(path: Path) -> None:
    path.write_text("[simulated")
    path.chmod(0o600)


def make_writable(path: Path) -> None:
    path.write_text(GOOD)
    path.chmod(0o602)


@pytest.mark.parametrize(
    ("make", "begins"),
    [
        pytest.param(make_directory, f"{FILE} cannot be read: Is a directory", id="directory"),
        pytest.param(make_loop, f"{FILE} cannot be read: Too many levels of symbolic links", id="loop"),
        pytest.param(make_dangling_link, f"{FILE} cannot be read: ", id="link-to-nothing"),
        pytest.param(make_readable_secret, f"{FILE} holds the secret simulated.api_key and can be read", id="secret"),
        pytest.param(make_nested_secret, f"{FILE} holds the secret monitor.secret_access_key and can be", id="nested"),
        pytest.param(make_not_text, f"{FILE} is not TOML: ", id="not-text"),
        pytest.param(make_writable, f"{FILE} can be written by all users", id="writable"),
    ],
)
def test_unreadable_or_unsafe_configuration_file_fails_every_action(
    never_good: Driver, make: Callable[[Path], None], begins: str
) -> None:
    make(without_file(never_good.place))
    sentence = refusal(never_good)
    assert sentence[:SHOWN].startswith(begins)
    assert "hush" not in sentence + never_good.place.log()


def test_corrected_configuration_file_is_read_without_a_restart(driver: StartDriver, place: Place) -> None:
    make_not_toml(place.conf / FILE)
    one = driver()
    for make, begins in (
        (make_not_toml, f"{FILE} is not TOML: "),
        (make_directory, f"{FILE} cannot be read: Is a directory"),
        (make_loop, f"{FILE} cannot be read: Too many levels of symbolic links"),
    ):
        make(without_file(place))
        assert refusal(one).startswith(begins)
    without_file(place)
    place.configure(GOOD)
    assert one.created(oned_requests.deploy(7))


def test_chmod_corrects_a_file_others_can_write_and_its_group_may_read_a_secret(
    driver: StartDriver, place: Place
) -> None:
    path = place.simulate(boot_time=0, api_key="hush")
    path.chmod(0o602)
    one = driver()
    assert refusal(one) == f"{FILE} can be written by all users: run chmod o-rw {path}"
    path.chmod(0o640)
    assert one.created(oned_requests.deploy(7))
    assert "hush" not in place.log()


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        pytest.param("nowhere", "nowhere.toml does not exist: create ", id="unknown"),
        pytest.param("a/b", "ARGUMENTS name no provider ('a/b')", id="path"),
    ],
)
def test_name_without_a_configuration_file_is_refused(
    driver: StartDriver, place: Place, name: str, begins: str
) -> None:
    one = driver(f"-t 15 -r 0 {name}")
    assert refusal(one)[:SHOWN].startswith(begins)
    assert not [path for path in place.var.parent.rglob("*") if path.suffix in {".db", ".journal"}]
    if name == "nowhere":
        place.configure(GOOD, name=name)
        assert one.created(oned_requests.deploy(7)), "a file that is created later is read at once"


def test_one_provider_mad_conf_takes_precedence_over_one_location(
    driver: StartDriver, place: Place, tmp_path: Path
) -> None:
    place.configure("nonsense")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / FILE).write_text(GOOD)
    assert driver(environ={"ONE_PROVIDER_MAD_CONF": str(tmp_path / "conf")}).created(oned_requests.deploy(7))


def test_embedded_cloud_works_without_a_configuration_directory(driver: StartDriver, place: Place) -> None:
    shutil.rmtree(place.root / "etc")
    assert driver().created(oned_requests.deploy(7))


UNWRITABLE = [
    (f'journal = "/proc/no/journal"\n{GOOD}', "the journal cannot be ", "/proc/no/journal"),
    (
        f'{GOOD}[simulated]\ndatabase = "/proc/no/cloud"\n',
        "the simulated cloud's database cannot be ",
        "/proc/no/cloud",
    ),
]


def test_unwritable_journal_or_database_is_named_until_its_path_is_corrected(driver: StartDriver, place: Place) -> None:
    """No user, not even root, can create files in /proc."""
    place.configure(UNWRITABLE[0][0])
    one = driver()
    for text, begins, path in UNWRITABLE:
        place.configure(text)
        sentence = refusal(one)
        assert sentence[:SHOWN].startswith(begins)
        assert path in sentence
    place.simulate(boot_time=0)
    assert one.created(oned_requests.deploy(7))


# Editing a good file


BROKEN = {
    "TOML": "[simulated\n",
    "a key": f"{GOOD}colour = 1\n",
    "a key of the provider": f"{GOOD}[simulated]\nlatncy = 1\n",
    "the owner": 'provider = "ec2"\n',
    "the provider": f'provider = "azure"\nowner = "{OWNER}"\n',
}


def test_last_good_settings_stay_in_force_after_an_invalid_edit_or_a_removed_file(
    driver: StartDriver, place: Place
) -> None:
    path = place.simulate(boot_time=0)
    one = driver()
    first = one.created(oned_requests.deploy(99))
    for vm_id, (what, text) in enumerate(BROKEN.items()):
        place.configure(text)
        one.send(oned_requests.deploy(vm_id))
        warning = one.next_line()
        assert re.fullmatch(rf"LOG W -1 {FILE}.+; the settings from before stay in force", warning), what
        assert one.next_line().startswith(f"DEPLOY SUCCESS {vm_id} sim-"), what
        one.send(oned_requests.reboot(99, first))
        assert one.next_line() == "REBOOT SUCCESS 99 -", "the warning is not repeated"
    path.unlink()
    one.send(oned_requests.deploy(2000))
    assert one.next_line().startswith(f"LOG W -1 {FILE} is missing, and simulated was configured by it before: put it ")
    assert one.next_line().startswith("DEPLOY SUCCESS 2000 sim-")
    place.simulate(boot_time=0, max_instances=2)
    one.send(oned_requests.deploy(3000))
    assert one.next_line() == (
        "DEPLOY FAILURE 3000 the simulated account may have 2 instances and has them, terminate one first"
    ), "the corrected file is read"


OTHER_CLOUDS = {
    "owner": 'provider = "simulated"\nowner = "other"\n',
    "provider": f'provider = "scripts"\nowner = "{OWNER}"\n',
    "journal": f'{GOOD}journal = "elsewhere"\n',
    "simulated.database": f'{GOOD}[simulated]\ndatabase = "elsewhere"\n',
    "simulated.account": f'{GOOD}[simulated]\naccount = "elsewhere"\n',
    "simulated.region": f'{GOOD}[simulated]\nregion = "elsewhere"\n',
}


def test_settings_that_identify_the_cloud_change_only_with_a_restart(driver: StartDriver, place: Place) -> None:
    place.configure(GOOD)
    one = driver()
    deploy_id = one.created(oned_requests.deploy(7))
    for key, text in OTHER_CLOUDS.items():
        place.configure(text)
        one.send(oned_requests.reboot(7, deploy_id))
        sentence = f"{FILE}: {key} changes only when the driver is restarted; the settings from before stay in force"
        assert one.next_line() == f"LOG W -1 {sentence}"
        assert one.next_line() == "REBOOT SUCCESS 7 -"
    place.simulate(boot_time=0, max_instances=1)
    assert refusal(one, 8).startswith("the simulated account may have 1 instances"), (
        "other settings change without a restart"
    )


def test_changed_account_or_owner_is_refused_after_a_restart(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver()
    deploy_id = one.created(oned_requests.deploy(7))
    assert one.drop() == 0
    place.configure(GOOD.replace(OWNER, "another"))
    one = driver()
    reply = one.ask(oned_requests.terminate(7, deploy_id))
    assert reply == f"FAILURE instance {deploy_id} belongs to owner {OWNER}: it is left alone"
    for key, account in (("account", "elsewhere/embedded"), ("region", "simulated/elsewhere")):
        assert one.drop() == 0
        place.simulate(boot_time=0, **{key: "elsewhere"})
        one = driver()
        for line in (oned_requests.terminate(7, deploy_id), oned_requests.deploy(8), oned_requests.cleanup(7)):
            assert one.ask(line).startswith(
                f"FAILURE credentials now belong to account {account}, expected simulated/embedded: restore them"
            )
        assert one.ask(oned_requests.poll(7, deploy_id)) == "SUCCESS STATE=-"
    place.simulate(boot_time=0)
    assert one.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"


def test_wrong_api_key_fails_actions_until_it_is_corrected(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0, api_key="right")
    one = driver()
    one.created(oned_requests.deploy(7))
    assert one.drop() == 0
    place.simulate(boot_time=0, api_key="wrong")
    two = driver()
    assert refusal(two, 8).startswith("the simulated cloud does not accept the key")
    place.simulate(boot_time=0, api_key="right")
    assert two.created(oned_requests.deploy(8))


# A removed file


@pytest.mark.parametrize("journal", ["", "elsewhere.journal"], ids=["usual-journal", "journal-elsewhere"])
def test_removed_configuration_file_is_reported_missing_after_a_restart(
    driver: StartDriver, place: Place, journal: str
) -> None:
    where = f'journal = "{place.root / journal}"\n' if journal else ""
    path = place.configure(f"{where}{GOOD}")
    one = driver()
    one.created(oned_requests.deploy(7))
    assert one.drop() == 0
    path.unlink()
    two = driver()
    assert refusal(two).startswith(f"{FILE} is missing, and simulated was configured by it before: put it back ")
    place.configure(f"{where}{GOOD}")
    assert two.created(oned_requests.deploy(7))
    assert len(place.instances()) == 1, "it is the same cloud"


def test_name_with_a_removed_configuration_file_is_not_served_as_scripts(driver: StartDriver, place: Place) -> None:
    path = place.configure(GOOD, name="mycloud")
    one = driver("-t 15 -r 0 mycloud")
    one.created(oned_requests.deploy(7))
    assert one.drop() == 0
    path.unlink()
    scripts = place.var / "remotes" / "vmm" / "mycloud"
    scripts.mkdir(parents=True)
    witness = place.root / "witness"
    (scripts / "deploy").write_text(f"#!/bin/sh\ntouch {witness}\necho i-0\n")
    (scripts / "deploy").chmod(0o755)
    assert refusal(driver("-t 15 -r 0 mycloud")).startswith("mycloud.toml is missing, and mycloud was configured by it")
    assert not witness.exists()


def test_embedded_cloud_without_a_configuration_file_survives_a_restart(driver: StartDriver, place: Place) -> None:
    one = driver()
    deploy_id = one.created(oned_requests.deploy(7))
    assert one.drop() == 0
    assert driver().ask(oned_requests.poll(7, deploy_id)).startswith("SUCCESS STATE=a ")
    assert not (place.conf / FILE).exists()

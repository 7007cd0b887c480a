from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from one_provider_mad.errors import AuthenticationRefused, SettingsError
from one_provider_mad.settings import (
    Configuration,
    Places,
    Policy,
    Settings,
    SettingsSource,
    convert,
    known_names,
    load,
)

GOOD = 'provider = "simulated"\nowner = "harbour-7f3a"\n'


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places(conf=tmp_path / "conf", var=tmp_path / "var", log=tmp_path / "log")
    for path in (places.conf, places.var, places.log):
        path.mkdir()
    return places


def configure(places: Places, text: str | bytes, *, name: str = "provider_name", mode: int = 0o600) -> Path:
    path = places.conf / f"{name}.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def refusal(places: Places, name: str = "provider_name") -> str:
    with pytest.raises(SettingsError) as caught:
        load(name, places)
    return str(caught.value)


# Valid files


def test_all_settings_are_read_from_a_file(places: Places) -> None:
    path = configure(
        places,
        """
        provider = "simulated"
        owner = "one-prod:7f3a@north.example_1-x"
        hypervisor = "cloud"
        journal = "/srv/journal"
        call_timeout = 12
        [simulated]
        latency = 0.1
        [capacity]
        cpu = 100
        [monitor]
        period = 30
        [policy]
        allow_import = true
        forbidden_attributes = ["IAM_PROFILE"]
        """,
    )
    assert load("provider_name", places) == Configuration(
        name="provider_name",
        path=path,
        settings=Settings(
            provider="simulated",
            owner="one-prod:7f3a@north.example_1-x",
            hypervisor="cloud",
            journal="/srv/journal",
            call_timeout=12.0,
            capacity={"cpu": 100},
            monitor={"period": 30},
            policy=Policy(allow_import=True, forbidden_attributes=("IAM_PROFILE",)),
        ),
        table={"latency": 0.1},
    )


def test_missing_settings_have_defaults(places: Places) -> None:
    configure(places, 'provider = "ec2"\nowner = "harbour"\n')
    configuration = load("provider_name", places)
    assert configuration.settings == Settings(provider="ec2", owner="harbour", hypervisor="provider_name")
    assert configuration.settings.call_timeout == 60.0
    assert configuration.settings.policy == Policy(allow_import=False, forbidden_attributes=())
    assert configuration.table == {}


@pytest.mark.parametrize("kind", ["simulated", "scripts"])
def test_simulated_and_scripts_need_no_owner(places: Places, kind: str) -> None:
    configure(places, f'provider = "{kind}"\n')
    assert load("provider_name", places).settings.owner == kind


@pytest.mark.parametrize("key", ["monitor", "capacity", "policy", "owner", "provider"])
def test_a_provider_named_like_a_setting_does_not_take_that_setting_as_its_table(places: Places, key: str) -> None:
    configure(places, f'provider = "{key}"\nowner = "x"\n[capacity]\ncpu = 3\n')
    configuration = load("provider_name", places)
    assert (configuration.table, configuration.settings.capacity) == ({}, {"cpu": 3})


# Invalid files

UNKNOWN = "is no setting of this release; check the spelling"

SENTENCES = [
    pytest.param('owner = "x"', "provider is missing", id="no-provider"),
    pytest.param('provider = "ec2"', 'owner is missing: add a name for this OpenNebula, owner = "…"', id="no-owner"),
    pytest.param("provider = 7", "provider: expected `str`, got `int`", id="provider-is-no-string"),
    pytest.param(GOOD + "call_timeout = 0", "call_timeout: expected `float` > 0.0", id="timeout-is-zero"),
    pytest.param(GOOD + 'call_timeout = "1"', "call_timeout: expected `float`, got `str`", id="timeout-is-no-number"),
    pytest.param(GOOD + "callTimeout = 1", f"callTimeout {UNKNOWN}", id="unknown-key"),
    pytest.param(
        GOOD + "[policy]\nallow_imports = true",
        f"policy.allow_imports {UNKNOWN}",
        id="unknown-key-of-a-table",
    ),
    pytest.param(
        GOOD + "[policy]\nallow_import = 1", "policy.allow_import: expected `bool`, got `int`", id="wrong-kind"
    ),
    pytest.param(
        GOOD + '[policy]\nforbidden_attributes = ["A", 7]',
        "policy.forbidden_attributes[1]: expected `str`, got `int`",
        id="wrong-kind-in-a-list",
    ),
    pytest.param(GOOD + "capacity = 7", "capacity: expected `object`, got `int`", id="no-table"),
    pytest.param(GOOD + "[ec2]\nregion = 'x'", f"ec2 {UNKNOWN}", id="another-providers-table"),
    pytest.param(
        'simulated = 7\nprovider = "simulated"', "simulated: expected a table [simulated]", id="own-table-is-no-table"
    ),
]


@pytest.mark.parametrize(("text", "sentence"), SENTENCES)
def test_an_invalid_file_is_refused_with_file_key_and_expected_type(places: Places, text: str, sentence: str) -> None:
    path = configure(places, text)
    assert refusal(places) == f"provider_name.toml: {sentence} ({path})"


@pytest.mark.parametrize("owner", ["two words", "grüße", "a/b", "x" * 65, "a,b", "a=b", "a\nb"], ids=ascii)
def test_an_owner_that_is_no_valid_tag_in_every_cloud_is_refused(places: Places, owner: str) -> None:
    configure(places, f"provider = 'ec2'\nowner = {msgspec.json.encode(owner).decode()}")
    expected = "provider_name.toml: owner: expected up to 64 letters, digits, `_.:@-`, got "
    assert refusal(places) == expected + repr(owner)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"provider = ", "Invalid value (at end of document)", id="half-a-line"),
        pytest.param(b"a = 1\na = 2", "Cannot overwrite a value (at end of document)", id="a-key-twice"),
        pytest.param(
            b"# \xff", "'utf-8' codec can't decode byte 0xff in position 2: invalid start byte", id="no-utf-8"
        ),
    ],
)
def test_a_file_that_is_no_toml_is_refused_with_the_parse_error(places: Places, content: bytes, reason: str) -> None:
    path = configure(places, content)
    assert refusal(places) == f"provider_name.toml is not TOML: {reason} ({path})"


def test_the_error_is_in_the_first_79_characters_of_the_message(places: Places) -> None:
    """oned cuts a message to 100 characters, its own words included (src/vm/VirtualMachine.cc, set_template_error)."""
    configure(places, GOOD + "[policy]\nallow_import = 1")
    assert refusal(places)[:79].startswith("provider_name.toml: policy.allow_import: expected `bool`")


# File permissions


@pytest.mark.parametrize("mode", [0o602, 0o666, 0o646], ids=oct)
def test_a_world_writable_file_is_refused(places: Places, mode: int) -> None:
    path = configure(places, GOOD, mode=mode)
    assert refusal(places) == f"provider_name.toml can be written by all users: run chmod o-rw {path}"


SECRETS = ["secret_access_key", "password", "token", "api_key", "credentials", "PRIVATE_KEY", "aws_secret", "passwd"]


@pytest.mark.parametrize("key", SECRETS)
def test_a_world_readable_file_with_a_secret_is_refused(places: Places, key: str) -> None:
    path = configure(places, f'{GOOD}[simulated]\n{key} = "hush"', mode=0o644)
    assert refusal(places) == (
        f"provider_name.toml holds the secret simulated.{key} and can be read by all users: run chmod 640 {path}"
    )


def test_a_refusal_does_not_contain_the_secret(places: Places) -> None:
    configure(places, f'{GOOD}[simulated]\npassword = "hush-hush"', mode=0o644)
    assert "hush" not in refusal(places)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660], ids=oct)
def test_a_file_with_a_secret_that_only_the_group_can_read_is_accepted(places: Places, mode: int) -> None:
    configure(places, f'{GOOD}[simulated]\napi_key = "hush"', mode=mode)
    assert load("provider_name", places).table == {"api_key": "hush"}


@pytest.mark.parametrize(
    "line",
    ["latency = 0.1", 'api_key = ""', "tokens = 7", 'password_file = "/etc/hush"', 'region = "north"'],
)
def test_a_world_readable_file_without_a_secret_is_accepted(places: Places, line: str) -> None:
    configure(places, f"{GOOD}[simulated]\n{line}", mode=0o644)
    load("provider_name", places)


# No file


def test_without_a_file_the_name_simulated_is_the_embedded_cloud(places: Places) -> None:
    assert load("simulated", places) == Configuration(
        name="simulated",
        path=None,
        settings=Settings(provider="simulated", owner="simulated", hypervisor="simulated"),
        table={},
    )


def test_without_a_file_the_name_of_a_scripts_directory_is_served_by_it(places: Places) -> None:
    places.scripts("mycloud").mkdir(parents=True)
    assert places.scripts("mycloud") == places.var / "remotes" / "vmm" / "mycloud"
    assert load("mycloud", places).settings == Settings(provider="scripts", owner="scripts", hypervisor="mycloud")


def test_without_file_and_scripts_the_error_says_what_to_create(places: Places) -> None:
    expected = f"mycloud.toml does not exist: create {places.conf}/mycloud.toml, or scripts in "
    assert refusal(places, "mycloud") == expected + str(places.var / "remotes/vmm/mycloud")


def test_a_mistyped_name_is_answered_with_the_most_similar_one_known_here(places: Places) -> None:
    configure(places, GOOD, name="aws-frankfurt")
    places.default_journal("oldscripts").touch()
    assert refusal(places, "aws-frankfort").endswith("; did you mean aws-frankfurt?")
    assert refusal(places, "old-scripts").endswith("; did you mean oldscripts?")
    assert refusal(places, "simulate").endswith("; did you mean simulated?")
    assert "did you mean" not in refusal(places, "azure")


def test_known_names_are_those_of_configurations_and_of_the_files_that_drivers_keep(places: Places) -> None:
    configure(places, GOOD, name="aws")
    for name in ("not a name.toml", "notes.txt"):
        (places.conf / name).touch()
    places.default_journal("of-journal").touch()
    places.mark("of-mark").touch()
    for name in ("provider_mad_of-scripts.scripts", "provider_mad_of-probes.probes", "im_provider_of-state.state"):
        (places.var / f"one_{name}").touch()
    for name in (".db", "_im_provider_aws.log", "_provider_mad_.journal", "_provider_mad_x.journal-wal"):
        (places.var / f"one{name}").touch()
    assert known_names(places) == {"aws", "of-journal", "of-mark", "of-scripts", "of-probes", "of-state"}
    assert known_names(Places(conf=Path("/nowhere"), var=Path("/dev/null"), log=places.log)) == set()


@pytest.mark.parametrize("name", ["simulated", "mycloud"])
def test_a_name_once_configured_by_a_file_is_not_served_without_it(places: Places, name: str) -> None:
    places.scripts(name).mkdir(parents=True)
    path = configure(places, GOOD, name=name)
    in_force(SettingsSource(name, places, check=accept, warn=pytest.fail))
    path.unlink()
    mark = places.var / f"one_provider_mad_{name}.configured"
    assert refusal(places, name) == (
        f"{name}.toml is missing, and {name} was configured by it before: put it back ({path});"
        f" if {name} is to be served without one from now on, remove {mark}"
    )
    mark.unlink()
    assert load(name, places).path is None


def test_a_name_served_without_a_file_stays_served_without_one(places: Places) -> None:
    in_force(SettingsSource("simulated", places, check=accept, warn=pytest.fail))
    assert load("simulated", places).path is None


def test_settings_work_with_a_warning_if_the_configured_mark_cannot_be_written(places: Places) -> None:
    configure(places, GOOD)
    places.var.rmdir()
    source = Source(places)
    assert source.in_force().settings.owner == "harbour-7f3a"
    [warning] = source.warnings
    assert warning.startswith("cannot remember that provider_name has a configuration file: ")


@pytest.mark.parametrize("name", ["simulated", "mycloud"])
def test_an_unreadable_file_is_an_error_and_not_treated_as_missing(places: Places, name: str) -> None:
    places.scripts(name).mkdir(parents=True)
    (places.conf / f"{name}.toml").mkdir()
    expected = f"{name}.toml cannot be read: Is a directory ({places.conf}/{name}.toml)"
    assert refusal(places, name) == expected


def test_a_dangling_link_is_an_error_and_not_treated_as_missing(places: Places) -> None:
    """A mount may be missing, for example: the embedded cloud must not replace a real one."""
    (places.conf / "simulated.toml").symlink_to(places.conf / "elsewhere" / "simulated.toml")
    expected = f"simulated.toml cannot be read: it is a link to nothing ({places.conf}/simulated.toml)"
    assert refusal(places, "simulated") == expected


@pytest.mark.parametrize("name", ["", "-x", "../x", "a/b", "a b", ".hidden", "x" * 65, "grüße", "a\0b"], ids=ascii)
def test_an_invalid_name_is_refused(places: Places, name: str) -> None:
    assert refusal(places, name) == f"ARGUMENTS name no provider ({name!r}): end them with a NAME such as simulated"


# A provider's table


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    region: str
    latency: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    types: dict[str, int] = {}

    def __post_init__(self) -> None:
        if self.region == "nowhere":
            raise ValueError("there is no region nowhere")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        pytest.param({}, "ec2.region is missing", id="missing"),
        pytest.param({"region": "n", "x": 1}, f"ec2.x {UNKNOWN}", id="unknown"),
        pytest.param({"region": "n", "latency": -1}, "ec2.latency: expected `float` >= 0.0", id="out-of-range"),
        pytest.param({"region": "n", "types": {"a": "b"}}, "ec2.types[...]: expected `int`, got `str`", id="deep"),
        pytest.param({"region": "nowhere"}, "ec2: there is no region nowhere", id="validation-of-the-table"),
    ],
)
def test_an_invalid_provider_table_is_refused_with_its_key(table: Mapping[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        convert(table, Table, path=Path("/etc/x.toml"), prefix="ec2.")
    assert str(caught.value) == f"x.toml: {sentence} (/etc/x.toml)"


def test_the_error_of_a_table_without_file_names_no_file() -> None:
    with pytest.raises(SettingsError) as caught:
        convert({}, Table, path=None, prefix="ec2.")
    assert str(caught.value) == "ec2.region is missing"


def test_a_valid_table_is_converted_to_its_type() -> None:
    assert convert({"region": "n", "latency": 1}, Table, path=None) == Table(region="n", latency=1.0)


# Reloading


def accept(_configuration: Configuration) -> None:
    """The check of a provider's table that accepts all."""


def in_force(source: SettingsSource) -> Configuration:
    """Load the settings and put them in force, as the driver does once they work."""
    configuration = source.current()
    source.put_in_force(configuration)
    return configuration


class Source:
    """A SettingsSource with the configurations it has checked and the warnings it has issued."""

    def __init__(self, places: Places, name: str = "provider_name") -> None:
        self.warnings: list[str] = []
        self.checked: list[Configuration] = []
        self.objection = ""
        self.source = SettingsSource(name, places, check=self.check, warn=self.warnings.append)

    def check(self, configuration: Configuration) -> None:
        self.checked.append(configuration)
        if self.objection:
            raise SettingsError(self.objection)

    def current(self) -> Configuration:
        return self.source.current()

    def in_force(self) -> Configuration:
        return in_force(self.source)

    def fault(self) -> str:
        with pytest.raises(SettingsError) as caught:
            self.source.current()
        return str(caught.value)


def test_settings_are_not_reloaded_while_the_file_is_unchanged(places: Places) -> None:
    configure(places, GOOD)
    source = Source(places)
    assert source.current() is source.current()
    assert len(source.checked) == 1


def test_a_rewritten_file_with_the_same_values_keeps_the_settings_in_force(places: Places) -> None:
    path = configure(places, GOOD)
    source = Source(places)
    before = source.in_force()
    path.unlink()
    configure(places, f"# a comment\n{GOOD}")
    assert source.current() is before


def edit_in_place(path: Path, text: str) -> None:
    path.write_text(text)


def edit_by_renaming(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.chmod(0o600)
    fresh.rename(path)


@pytest.mark.parametrize("edit", [edit_in_place, edit_by_renaming])
def test_an_edit_is_loaded_without_a_restart(places: Places, edit: Callable[[Path, str], None]) -> None:
    path = configure(places, GOOD)
    source = Source(places)
    source.in_force()
    edit(path, f"{GOOD}call_timeout = 5")
    assert source.current().settings.call_timeout == 5
    assert not source.warnings


def test_an_invalid_file_raises_until_it_is_corrected(places: Places) -> None:
    source = Source(places)
    assert source.fault().startswith("provider_name.toml does not exist")
    path = configure(places, "provider = ")
    assert source.fault().startswith("provider_name.toml is not TOML")
    assert source.fault().startswith("provider_name.toml is not TOML")
    edit_in_place(path, GOOD)
    assert source.current().settings.owner == "harbour-7f3a"
    assert not source.warnings, "every action failed with the error already"


def test_an_error_in_the_providers_table_raises_until_it_is_corrected(places: Places) -> None:
    path = configure(places, GOOD)
    source = Source(places)
    source.objection = "provider_name.toml: simulated.latency: expected `float`"
    assert source.fault() == source.objection
    source.objection = ""
    edit_in_place(path, GOOD + "call_timeout = 5")
    assert source.current().settings.call_timeout == 5


def test_an_invalid_edit_keeps_the_last_good_settings_and_warns_once(places: Places) -> None:
    path = configure(places, GOOD)
    source = Source(places)
    before = source.in_force()
    edit_in_place(path, "provider = ")
    assert all(source.current() is before for _ in range(5))
    assert len(source.warnings) == 1
    assert source.warnings[0].startswith("provider_name.toml is not TOML")
    assert source.warnings[0].endswith("; the settings from before stay in force")
    edit_in_place(path, "provider =  ")
    assert source.current() is before
    assert len(source.warnings) == 2, "another edit, another warning"
    edit_in_place(path, GOOD)
    assert source.current() is before


def test_fall_back_returns_to_the_last_good_settings_if_valid_ones_do_not_work(places: Places) -> None:
    path = configure(places, GOOD)
    source = Source(places)
    before = source.in_force()
    edit_in_place(path, GOOD + "call_timeout = 5")
    assert source.current() is not before
    assert source.source.fall_back(AuthenticationRefused("the key is not accepted")) is before
    assert all(source.current() is before for _ in range(5))
    assert source.warnings == ["the key is not accepted; the settings from before stay in force"]


def test_first_settings_that_never_worked_can_be_replaced_by_another_provider(places: Places) -> None:
    """A typing error in the provider's name must not need a restart."""
    path = configure(places, 'provider = "simulatd"\nowner = "quay"')
    source = Source(places)
    source.current()
    with pytest.raises(AuthenticationRefused):
        source.source.fall_back(AuthenticationRefused("the key is not accepted"))
    edit_in_place(path, GOOD)
    assert source.current().settings.owner == "harbour-7f3a"
    assert not source.warnings


# Keys that this release does not know


MORE = f"{GOOD}later = 1\n[policy]\nallow_import = true\nlater = 2\n[simulated]\nlatency = 2\n"


def test_unknown_keys_are_left_out_with_a_sentence_while_no_settings_are_in_force(places: Places) -> None:
    path = configure(places, MORE)
    found = Source(places).current()
    assert found.caution == (f"provider_name.toml: later, policy.later are no settings of this release ({path})")
    assert found.settings.policy.allow_import
    assert found.table == {"latency": 2}


def test_an_edit_with_an_unknown_key_keeps_the_last_good_settings(places: Places) -> None:
    path = configure(places, GOOD)
    source = Source(places)
    before = source.in_force()
    edit_in_place(path, MORE)
    assert source.current() is before
    assert source.warnings[0].endswith("; the settings from before stay in force")


def test_settings_with_unknown_keys_are_no_good_ones_after_a_later_edit(places: Places) -> None:
    """An edit that corrects a misspelt `provider` or `region` must not need a restart, nor hide its own fault."""
    path = configure(places, MORE)
    source = Source(places)
    source.in_force()
    edit_in_place(path, GOOD.replace("harbour-7f3a", "quay"))
    assert source.current().settings.owner == "quay"
    source = Source(places)
    edit_in_place(path, MORE)
    source.in_force()
    edit_in_place(path, "provider = ")
    assert source.fault().startswith("provider_name.toml is not TOML")


def test_an_unknown_key_and_another_fault_are_refused(places: Places) -> None:
    configure(places, f"{GOOD}later = 1\ncall_timeout = 0\n")
    assert "call_timeout: expected" in Source(places).fault()


def remove(path: Path) -> None:
    path.unlink()


def replace_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def let_all_users_write(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.parametrize("spoil", [remove, replace_by_a_directory, let_all_users_write])
def test_a_removed_or_unreadable_file_keeps_the_last_good_settings(
    places: Places, spoil: Callable[[Path], None]
) -> None:
    path = configure(places, GOOD, name="simulated")
    source = Source(places, "simulated")
    before = source.in_force()
    spoil(path)
    assert source.current() is before
    assert len(source.warnings) == 1


AT_START = [
    pytest.param('provider = "ec2"\nowner = "harbour"', "provider", id="provider"),
    pytest.param('provider = "simulated"\nowner = "quay"', "owner", id="owner"),
    pytest.param('provider = "simulated"\nowner = "harbour"\njournal = "/srv/j"', "journal", id="journal"),
    *[
        pytest.param(
            f'provider = "simulated"\nowner = "harbour"\n[simulated]\n{key} = "other"', f"simulated.{key}", id=key
        )
        for key in ("account", "region", "endpoint", "endpoint_url", "endpoints", "database")
    ],
]


@pytest.mark.parametrize(("text", "key"), AT_START)
def test_an_edit_that_selects_another_cloud_needs_a_restart(places: Places, text: str, key: str) -> None:
    path = configure(places, 'provider = "simulated"\nowner = "harbour"\n')
    source = Source(places)
    before = source.in_force()
    edit_in_place(path, text)
    assert source.current() is before
    assert source.warnings == [
        f"provider_name.toml: {key} changes only when the driver is restarted; the settings from before stay in force"
    ]
    assert len(source.checked) == 1, "it is refused before the provider checks it"
    assert Source(places).current().settings.provider in text


def test_a_new_file_cannot_replace_the_embedded_cloud_without_a_restart(places: Places) -> None:
    source = Source(places, "simulated")
    before = source.in_force()
    configure(places, 'provider = "ec2"\nowner = "harbour"', name="simulated")
    assert source.current() is before
    assert len(source.warnings) == 1


# Directories


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without OpenNebula, even if the one that runs the tests has one."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "/var/lib/one" and real(path, mode))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path


def test_one_location_determines_all_directories(tmp_path: Path) -> None:
    places = Places.from_environment({"ONE_LOCATION": str(tmp_path), "HOME": "/nowhere"})
    assert places == Places(
        conf=tmp_path / "etc" / "one_provider_mad", var=tmp_path / "var", log=tmp_path / "var", etc=tmp_path / "etc"
    )


@pytest.mark.parametrize("location", [{}, {"ONE_LOCATION": "/srv/one"}], ids=["system", "self-contained"])
def test_one_provider_mad_conf_determines_the_directory_of_configurations(
    nowhere: Path, location: dict[str, str]
) -> None:
    places = Places.from_environment({"ONE_PROVIDER_MAD_CONF": "/srv/conf", "HOME": str(nowhere), **location})
    assert places.conf == Path("/srv/conf")


def test_a_system_wide_opennebula_uses_etc_var_lib_and_var_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: str(path) == "/var/lib/one")
    assert Places.from_environment({"HOME": "/root"}) == Places(
        conf=Path("/etc/one/one_provider_mad"), var=Path("/var/lib/one"), log=Path("/var/log/one")
    )


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({"HOME": "{}/home"}, "home/.local/state/one_provider_mad", id="home"),
        pytest.param({"HOME": "{}/home", "XDG_STATE_HOME": "{}/xdg"}, "xdg/one_provider_mad", id="xdg"),
    ],
)
def test_without_opennebula_state_is_kept_in_the_users_state_directory(
    nowhere: Path, environ: dict[str, str], expected: str
) -> None:
    places = Places.from_environment({name: value.format(nowhere) for name, value in environ.items()})
    assert (places.var, places.is_stand_in, places.is_temporary) == (nowhere / expected, True, False)
    assert stat.S_IMODE(places.var.stat().st_mode) == 0o700
    assert places.log == Path("/var/log/one")


NO_HOME: list[object] = [
    pytest.param({}, id="no-home"),
    pytest.param({"HOME": "relative"}, id="relative"),
    pytest.param({"HOME": "/dev/null"}, id="home-is-no-directory"),
    pytest.param({"HOME": "/proc"}, id="home-cannot-be-written"),
]


@pytest.mark.parametrize("environ", NO_HOME)
def test_without_a_home_state_is_kept_in_a_private_temporary_directory(nowhere: Path, environ: dict[str, str]) -> None:
    places = Places.from_environment(environ)
    assert places.var == nowhere / "tmp" / f"one_provider_mad-{os.getuid()}"
    assert (places.is_stand_in, places.is_temporary) == (True, True)
    assert stat.S_IMODE(places.var.stat().st_mode) == 0o700
    assert Places.from_environment(environ).var == places.var, "the same directory the next time"


def claim_by_a_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(path.parent / "elsewhere")


CLAIMS: list[object] = [
    pytest.param(lambda path: path.mkdir(mode=0o777) or path.chmod(0o777), id="world-writable"),
    pytest.param(lambda path: path.write_text(""), id="a-file"),
    pytest.param(claim_by_a_link, id="a-link"),
]


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_temporary_directory_that_another_user_may_have_created_is_not_used(
    nowhere: Path, claim: Callable[[Path], None]
) -> None:
    taken = nowhere / "tmp" / f"one_provider_mad-{os.getuid()}"
    claim(taken)
    places = Places.from_environment({})
    assert places.var != taken
    assert places.var.parent == nowhere / "tmp"
    assert stat.S_IMODE(places.var.stat().st_mode) == 0o700


def a_configuration(name: str = "x", *, provider: str = "simulated", journal: str = "", **table: str) -> Configuration:
    return Configuration(
        name=name, path=None, settings=Settings(provider=provider, owner="o", journal=journal), table=table
    )


def test_each_name_has_its_own_journal(places: Places) -> None:
    assert places.journal(a_configuration("a")) == places.var / "one_provider_mad_a.journal"
    assert places.journal(a_configuration("b", database="/srv/b.db")) == places.var / "one_provider_mad_b.journal"
    assert places.journal(a_configuration("c", journal="/srv/c.journal")) == Path("/srv/c.journal")


def test_without_opennebula_each_embedded_cloud_has_its_own_journal(places: Places) -> None:
    stand_in = msgspec.structs.replace(places, is_stand_in=True)
    assert stand_in.journal(a_configuration(database="/srv/b.db")) == Path("/srv/b.db.journal")
    assert stand_in.journal(a_configuration()) == stand_in.default_journal("x")
    assert stand_in.journal(a_configuration(provider="ec2", database="/srv/b.db")) == stand_in.default_journal("x")

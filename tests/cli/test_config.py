"""`one-provider config`: every value with its source, and no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cli.running import json_of, on_a_terminal, output_of, ran
from tests.end_to_end.oned import Place
from tests.providers.plugins import install

SECRETS = ("hush-1", "hush-2", "hush-3", "hush-4", "hush-5", "hush-6")

PLUGIN = """
import msgspec
from typing import Annotated

class Inner(msgspec.Struct, frozen=True):
    api_token: str = ""
    harmless: str = ""

class Table(msgspec.Struct):
    login: str = ""
    pin: Annotated[str, msgspec.Meta(extra={"secret": True})] = ""
    home: str = ""
    regions: dict[str, dict[str, str]] = {}
    mirrors: list[str] = []
    inner: Inner = Inner()
    login_from_host: str = ""

class Factory:
    settings_type = Table
    def __call__(self, context, settings):
        raise AssertionError

factory = Factory()
"""


def entries(place: Place, name: str = "simulated") -> dict[str, dict[str, Any]]:
    return {entry.pop("key"): entry for entry in json_of(place.root, "config", name)}


def test_config_shows_the_source_of_each_value(place: Place) -> None:
    path = place.configure(
        'provider = "simulated"\nowner = "mine"\n[simulated]\nlatency = 0.5\n[monitor]\nmissing_after = 7\n'
        "[simulated.faults]\noutage = true\n[orphans]\ngrace = 60\n"
        '[metrics]\ntextfile_directory = "/srv/metrics"\n',
        name="cloud",
    )
    code, printed, errors = ran(place.root, "config", "cloud", "--json")
    assert (code, errors) == (0, "")
    found = {entry["key"]: (entry["value"], entry["source"]) for entry in json.loads(printed)}
    written = str(path)
    assert found["owner"] == ("mine", written)
    assert found["simulated.latency"] == (0.5, written)
    assert found["simulated.jitter"] == (0.0, "default")
    assert found["simulated.faults.outage"] == (True, written)
    assert found["monitor.missing_after"] == (7, written)
    assert found["monitor.unusual_count"] == (5, "default")
    assert found["orphans.grace"] == (60.0, written)
    assert found["metrics.textfile_directory"] == ("/srv/metrics", written)
    assert found["metrics.interval"] == (15.0, "default")
    assert found["policy.allow_import"] == (False, "default")
    assert found["hypervisor"] == ("cloud", "NAME")
    assert found["journal"] == (
        str(place.var / "one_provider_mad_cloud.journal"),
        "OpenNebula's var directory, and NAME",
    )
    assert not [key for key in found if key in ("monitor", "capacity", "policy", "orphans", "metrics")]


def test_config_without_a_file_shows_default_values_and_their_reason(place: Place) -> None:
    found = entries(place)
    assert found["provider"] == {"value": "simulated", "source": f"there is no {place.conf / 'simulated.toml'}"}
    assert found["owner"] == {"value": "simulated", "source": "the provider's name"}
    assert found["hypervisor"] == {"value": "simulated", "source": "NAME"}
    (place.var / "remotes" / "vmm" / "mine").mkdir(parents=True)
    found = entries(place, "mine")
    assert found["provider"] == {"value": "scripts", "source": str(place.var / "remotes" / "vmm" / "mine")}
    assert found["scripts.transfer"] == {"value": "run", "source": "default"}


def test_without_section_is_refuse_by_default_only_for_clouds_that_cost_money(place: Place) -> None:
    key = "policy.without_section"
    assert entries(place)[key] == {"value": "allow", "source": "instances of simulated cost no money"}
    ec2 = 'provider = "ec2"\nowner = "mine"\n[ec2]\nregion = "eu-west-1"\n'
    place.configure(ec2, name="cloud")
    assert entries(place, "cloud")[key] == {"value": "refuse", "source": "instances of ec2 cost money"}
    path = place.configure(f'{ec2}[policy]\nwithout_section = "allow"\n', name="cloud")
    assert entries(place, "cloud")[key] == {"value": "allow", "source": str(path)}


def test_config_prints_columns_and_on_a_terminal_a_ruled_table(place: Place) -> None:
    place.simulate(latency=0.5)
    plain = output_of(place.root, "config", "simulated")
    head, *rows = plain.splitlines()
    assert head.split() == ["SETTING", "VALUE", "FROM"]
    assert ["simulated.latency", "0.5", str(place.conf / "simulated.toml")] in [row.split() for row in rows]
    assert "\x1b" not in plain
    code, ruled = on_a_terminal(place.root, "config", "simulated", columns=200)
    assert (code, "─" in ruled) == (0, True)
    assert "\x1b[" in ruled


def test_config_never_shows_a_secret_of_a_plugin(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, name="harbour", module="harbours_cloud", code=PLUGIN)
    one, two, three, four, five, six = SECRETS
    path = place.configure(
        f'provider = "harbour"\nowner = "mine"\n[harbour]\nlogin = "me:{one}"\npin = "{two}"\n'
        f'home = "https://me:{three}@harbour.example/api"\nmirrors = ["https://{four}@mirror.example"]\n'
        f'login_from_host = "aws"\n[harbour.regions.south]\npassword = "{five}"\nname = "South"\n'
        f'[harbour.inner]\napi_token = "{six}"\nharmless = "seen"\n'
    )
    for printed in (
        output_of(place.root, "config", "simulated"),
        output_of(place.root, "config", "simulated", "--json"),
    ):
        assert not [secret for secret in SECRETS if secret in printed]
    found = {key: entry["value"] for key, entry in entries(place).items()}
    hidden = "********"
    assert found["harbour.login"] == found["harbour.pin"] == found["harbour.inner.api_token"] == hidden
    assert found["harbour.home"] == f"https://{hidden}@harbour.example/api"
    assert found["harbour.mirrors"] == [f"https://{hidden}@mirror.example"]
    assert found["harbour.regions"] == {"south": {"password": hidden, "name": "South"}}
    assert (found["harbour.inner.harmless"], found["harbour.login_from_host"]) == ("seen", "aws")
    path.chmod(0o644)
    sentence = output_of(place.root, "config", "simulated", code=1)
    assert "simulated.toml holds the secret harbour." in sentence
    assert not [secret for secret in SECRETS if secret in sentence]


def test_config_hides_secrets_of_built_in_clouds(place: Place) -> None:
    place.configure(
        'provider = "ec2"\nowner = "mine"\n[ec2]\nregion = "eu-west-1"\naccess_key_id = "AKIAHUSH"\n'
        'secret_access_key = "hush-1"\nsession_token = "hush-2"\n[ec2.defaults]\nUSERDATA = "hush-3"\nAMI = "ami-1"\n'
    )
    printed = output_of(place.root, "config", "simulated", "--json")
    assert not [secret for secret in ("AKIAHUSH", *SECRETS) if secret in printed]
    values = {entry["key"]: entry["value"] for entry in msgspec.json.decode(printed)}
    assert values["ec2.defaults"] == {"USERDATA": "********", "AMI": "ami-1"}
    assert values["ec2.region"] == "eu-west-1"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("provider = 5", "one-provider config: simulated.toml: provider: expected `str`, got `int` ("),
        ('provider = "simulated"\nowner = "x"\n[monitor]\nperiod = 1', "one-provider config: simulated.toml: monitor."),
        ("nonsense", "one-provider config: simulated.toml is not TOML: "),
    ],
)
def test_config_prints_one_sentence_for_an_invalid_configuration(place: Place, text: str, sentence: str) -> None:
    place.configure(text)
    complaint = output_of(place.root, "config", "simulated", code=1)
    assert complaint.startswith(sentence)
    assert complaint.count("\n") == 1

"""`one-provider types`, on EC2's API with its price list, and on the simulated cloud."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.ec2_here import NAME, Here
from tests.cli.running import json_of, output_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An OpenNebula with a simulated cloud of a few types."""
    conf = tmp_path / "etc" / "one_provider_mad"
    conf.mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (conf / "sim.toml").write_text(
        'provider = "simulated"\nowner = "o"\n[simulated.instance_types]\n'
        'gpu_t4 = { cpu = 4, memory = 16384, price = 0.5, gpus = 1, gpu = "NVIDIA T4" }\n'
        'arm_2gb = { cpu = 2, memory = 2048, price = 0.001, architecture = "arm64" }\n'
        "unpriced = { cpu = 2, memory = 2048 }\n"
    )
    return tmp_path


def priced(here: Here) -> None:
    """Lets the commands read the account's price list."""
    url = next(line.partition("=")[2] for line in here.file.read_text().splitlines() if line.startswith("endpoint_url"))
    here.file.write_text(f"{here.file.read_text()}pricing_endpoint_url ={url}\n")


def names(printed: str) -> list[str]:
    table = printed[printed.index("TYPE ") :].partition("\n\n")[0]
    return [line.split()[0] for line in table.splitlines()[1:]]


def test_types_are_ranked_by_the_price_that_ec2_asks(here: Here) -> None:
    priced(here)
    printed = output_of(here.root, "types", NAME, "--cpu", "2", "--memory", "4G")
    lines = printed.splitlines()
    assert lines[0].split() == ["TYPE", "CPU", "MEMORY", "GPU", "ARCH", "HOUR", "SPOT", "MONTH"]
    assert lines[1].split() == ["t3a.medium", "2", "4G", "-", "x86_64", "0.0376", "0.0150", "27.45"]
    assert names(printed) == ["t3a.medium", "t3.medium", "t3.large", "m5.large"]
    assert "USD an hour, and a month of 730 hours, without disks and addresses" in lines
    assert any(line.startswith("prices: AWS price list of ") for line in lines)


def test_types_are_ranked_by_spot_price_and_as_json(here: Here) -> None:
    priced(here)
    found = json_of(here.root, "types", NAME, "--memory", "4G", "--spot", "--most", "1")
    spot = [each["spot"]["amount"] for each in found]
    assert len(found) == 4, "JSON has all"
    assert spot == sorted(spot)
    assert found[0]["price"]["currency"] == "USD"
    assert (found[0]["type"], found[0]["memory"], found[0]["gpu"]) == ("t3a.medium", 4096, None)


def test_types_without_prices_come_smallest_first_and_that_is_said(here: Here) -> None:
    for action in ("DescribeSpotPriceHistory", "DescribeInstanceTypes"):
        here.refuse(action)
    printed = output_of(here.root, "types", NAME, "--allow", "t3", "--most", "2")
    assert names(printed) == ["t3.nano", "t3.micro"]
    assert "the price of 7 of 7 types is unknown (?): they come last, the smallest first" in printed
    assert "5 more: --most 0" in printed
    assert "an hour, and a month" not in printed
    assert "are those of this release's table: EC2: You are not authorized" in printed


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(["--cpu", "4"], ["large_8gb", "xlarge_16gb"], id="no-gpu-unless-asked-for"),
        pytest.param(["--cpu", "4", "--memory", "16G", "--gpu", "1"], ["gpu_t4"], id="gpu"),
        pytest.param(["--gpu", "t4"], ["gpu_t4"], id="model"),
        pytest.param(["--arch", "aarch64"], ["arm_2gb"], id="architecture"),
        pytest.param(["--allow", "large,gpu"], ["large_4gb", "large_8gb", "gpu_t4"], id="allowed"),
        pytest.param(
            ["--memory", "2048", "--exclude", "*large*"], ["arm_2gb", "medium_2gb", "unpriced"], id="excluded"
        ),
        pytest.param(["--memory", "1.5GiB", "--most", "1"], ["arm_2gb"], id="most"),
    ],
)
def test_types_have_what_is_asked_for(root: Path, options: list[str], expected: list[str]) -> None:
    assert names(output_of(root, "types", "sim", *options)) == expected


def test_types_of_unknown_price_are_counted_and_null_in_json(root: Path) -> None:
    printed = output_of(root, "types", "sim", "--allow", "*2gb,unpriced")
    assert printed.endswith(
        "\n\nUSD an hour, and a month of 730 hours, without disks and addresses\nprices: [simulated]\n"
        "the price of 1 of 3 types is unknown (?): they come last, the smallest first\n"
        "one-provider check tells which right to prices is missing; [prices] may have your own\n"
    )
    found = json_of(root, "types", "sim", "--allow", "unpriced")
    assert [(each["price"], each["spot"]) for each in found] == [(None, None)]


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--cpu", "99"], 1, "no instance type of the cloud of sim has 99 cores and 0 MiB: the largest is"),
        (["--memory", "lots"], 2, "'lots' is no size of memory: write 16G, or 16384 for as many MiB"),
        (["--allow", "a b"], 1, "ALLOWEDTYPES has 'a b': write types or families"),
    ],
)
def test_what_cannot_be_ranked_is_refused_in_one_sentence(
    root: Path, options: list[str], code: int, sentence: str
) -> None:
    assert sentence in output_of(root, "types", "sim", *options, code=code)


def test_no_type_is_an_empty_array_in_json(root: Path) -> None:
    assert json.loads(output_of(root, "types", "sim", "--cpu", "99", "--json")) == []


def test_a_cloud_without_a_list_of_types_says_so(root: Path) -> None:
    conf = root / "etc" / "one_provider_mad" / "one.toml"
    conf.write_text('provider = "opennebula"\nowner = "o"\n[opennebula]\nendpoint = "http://127.0.0.1:9/RPC2"\n')
    printed = output_of(root, "types", "one", code=1)
    assert "opennebula" in printed

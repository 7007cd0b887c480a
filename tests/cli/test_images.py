"""`one-provider images` and `one-provider networks`, on EC2's API and on the simulated cloud."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec

from one_provider_mad.lab.ec2.public_images import PublicImage
from one_provider_mad.mappings import ImageMapping, NetworkMapping
from one_provider_mad.template_text.strict_reader import read_template
from tests.cli.ec2_here import NAME, Here
from tests.cli.running import json_of, output_of, ran

DEBIAN_13, DEBIAN_12, WINDOWS = "ami-0de0000000000013a", "ami-0de0000000000012b", "ami-0ff00000000002022"


def sections(text: str) -> dict[str, dict[str, dict[str, object]]]:
    """Every section of the printed configuration; each has the same name, to be replaced."""
    numbered = re.sub("NAME OF YOURS", lambda match: f"image-{match.start()}", text)
    return tomllib.loads(numbered)


def test_images_lists_the_newest_of_each_family_with_lines_that_the_configuration_takes(here: Here) -> None:
    printed = output_of(here.root, "images", NAME)
    table, lines = printed.split("\n\n", 1)
    rows = [row.split() for row in table.splitlines()[1:]]
    assert DEBIAN_12 in table
    assert "ami-0de0000000000012a" not in table, "an older one of the same family"
    dates = [each["created_at"] for each in json_of(here.root, "images", NAME)]
    assert dates == sorted(dates, reverse=True)
    assert lines.count('# datastore = "DATASTORE"\n') == len(rows)
    mappings = msgspec.convert(sections(lines)["images"], dict[str, ImageMapping])
    by_image = {each.image: each for each in mappings.values()}
    assert by_image[DEBIAN_13] == ImageMapping(image=DEBIAN_13, guest="cloud-init", user="admin", smallest_disk=8)
    assert (by_image[WINDOWS].guest, by_image[WINDOWS].user) == ("none", "Administrator")
    assert len(mappings) == len(rows)


def test_images_are_matched_in_any_case_by_name_id_and_publisher(here: Here) -> None:
    def found(text: str) -> list[str]:
        return [each["image_id"] for each in json_of(here.root, "images", NAME, "--match", text)]

    assert found("DEBIAN-13-amd64") == [DEBIAN_13]
    assert found(WINDOWS) == [WINDOWS]
    assert found("french") == ["ami-0ff00000000002023"], "no image of the list without --match"
    assert found("almalinux os 9") == ["ami-0a100000000000096"]
    assert found("*") == []
    assert output_of(here.root, "images", NAME, "--match", "zz") == "no images with 'zz' in id, name or publisher\n"


def test_images_of_the_account_itself_have_guest_and_user_of_their_tags(here: Here) -> None:
    tags = (("PROVIDER_GUEST", "one-context"), ("PROVIDER_USER", "deploy"))
    own = PublicImage("ami-0fe0000000000000a", "self", "golden-20250101", "2025-01-01T00:00:00.000Z", 20, tags=tags)
    older = own._replace(id="ami-0fe0000000000000b", name="golden-20240101", tags=(("PROVIDER_GUEST", "other"),))
    windows = own._replace(id="ami-0fe0000000000000c", tags=(("PROVIDER_GUEST", "Cloudbase-init"),))
    here.account.images.known += [own, older, windows]
    found = {each["image_id"]: each for each in json_of(here.root, "images", NAME, "--match", "golden")}
    assert found.keys() == {own.id, older.id, windows.id}
    assert found[windows.id]["guest"] == "cloudbase-init"
    assert (found[own.id]["guest"], found[own.id]["user"], found[own.id]["smallest_disk"]) == (
        "one-context",
        "deploy",
        20,
    )
    assert (found[older.id]["guest"], found[older.id]["publisher"]) == ("auto", "account 123456789012")


def test_images_and_networks_of_the_simulated_cloud_and_of_scripts(tmp_path: Path) -> None:
    conf = tmp_path / "etc" / "one_provider_mad"
    conf.mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (conf / "sim.toml").write_text('provider = "simulated"\nowner = "o"\n[simulated]\nimages = ["one", "two"]\n')
    assert [each["image_id"] for each in json_of(tmp_path, "images", "sim")] == ["one", "two"]
    (network,) = json_of(tmp_path, "networks", "sim")
    assert (network["network_id"], network["ranges"]) == ("sim-net", [{"first": "10.0.0.2", "size": 4093}])
    (conf / "kvm.toml").write_text('provider = "scripts"\nowner = "o"\n')
    code, _, complaint = ran(tmp_path, "images", "kvm")
    assert (code, complaint.count("\n")) == (1, 1)
    assert "kvm is served by scripts, which has no cloud to ask" in complaint


# Networks


def test_networks_prints_templates_without_the_addresses_that_ec2_keeps(here: Here) -> None:
    subnet = here.account.topology.subnets[0]
    here.account.topology.subnets += [
        {**subnet, "subnetId": "subnet-large", "cidrBlock": "10.1.0.0/16", "mapPublicIpOnLaunch": False, "tagSet": []},
        {**subnet, "subnetId": "subnet-six", "cidrBlock": "", "tagSet": []},
    ]
    found = {each["network_id"]: each for each in json_of(here.root, "networks", NAME)}
    small = read_template(found["subnet-default"]["template"])
    assert [dict(each) for each in small.vectors("AR")] == [{"TYPE": "IP4", "IP": "10.0.0.4", "SIZE": "4091"}]
    assert {name: small.text(name) for name in small.values if name != "AR"} == {
        "NAME": "aws-public",
        "VN_MAD": "dummy",
        "BRIDGE": "none",
        "GATEWAY": "10.0.0.1",
        "NETWORK_MASK": "255.255.240.0",
        "PROVIDER_SUBNET": "subnet-default",
        "PROVIDER_ADDRESSES": "opennebula",
        "PROVIDER_SECURITY_GROUPS": "sg-default",
    }
    large = read_template(found["subnet-large"]["template"]).vectors("AR")
    assert [each["IP"] for each in large[:2]] == ["10.1.0.4", "10.1.16.4"]
    assert sum(int(each["SIZE"]) for each in large) == 65536 - 5
    assert max(int(each["SIZE"]) for each in large) == 4096
    assert found["subnet-six"]["template"] == ""


def test_networks_prints_lines_that_the_configuration_takes_and_one_network_alone(here: Here) -> None:
    printed = output_of(here.root, "networks", NAME)
    assert "10.0.0.0/20; interfaces get public addresses\n" in printed
    lines = printed[printed.index(f"# for {NAME}.toml") :]
    mapping = msgspec.convert(tomllib.loads(lines)["networks"]["aws-public"], NetworkMapping)
    assert mapping == NetworkMapping(subnet="subnet-default", security_groups=("sg-default",), addresses="opennebula")
    alone = output_of(here.root, "networks", NAME, "--only", "subnet-default")
    assert read_template(alone).text("NAME") == "aws-public"
    assert "[networks" not in alone
    assert ran(here.root, "networks", NAME, "--only", "subnet-x") == (
        1,
        "",
        "one-provider networks: the cloud of aws has no network subnet-x\n",
    )


def test_networks_of_one_name_get_different_names_in_opennebula(here: Here) -> None:
    subnet = here.account.topology.subnets[0]
    here.account.topology.subnets.append({**subnet, "subnetId": "subnet-b", "cidrBlock": "10.2.0.0/24"})
    names = [read_template(each["template"]).text("NAME") for each in json_of(here.root, "networks", NAME)]
    assert sorted(names) == ["aws-public-subnet-b", "aws-public-subnet-default"]
    alone = output_of(here.root, "networks", NAME, "--only", "subnet-b")
    assert read_template(alone).text("NAME") == "aws-public-subnet-b", "as in the lines for [networks]"

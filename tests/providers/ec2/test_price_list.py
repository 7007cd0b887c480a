"""The price list, spot prices, types and volumes as values: what is read from answers, and what is charged for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from one_provider_mad.domain import DeployId, Instance, InstanceState
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.pricing.values import MONTH_HOURS, SPOT, Item, Kind
from one_provider_mad.providers.ec2.address_lookup import read_addresses, read_subnets
from one_provider_mad.providers.ec2.built_in import built_in_prices, built_in_types
from one_provider_mad.providers.ec2.client import price_endpoint, price_region
from one_provider_mad.providers.ec2.image_disks import read_image_disks
from one_provider_mad.providers.ec2.instances import read_instances
from one_provider_mad.providers.ec2.launch import Launch
from one_provider_mad.providers.ec2.launch_volumes import launched_volumes
from one_provider_mad.providers.ec2.price_items import look_items, look_of, volume_items
from one_provider_mad.providers.ec2.price_list import (
    OPERATIONS,
    PART,
    Listed,
    PriceList,
    collected,
    queries,
    read_page,
)
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.ec2.spot_prices import SpotPrices, read_spot_prices
from one_provider_mad.providers.ec2.types import read_types
from one_provider_mad.providers.ec2.volume_facts import VolumeFacts
from one_provider_mad.providers.ec2.volume_lookup import read_volume_facts
from one_provider_mad.safe_xml import Element, parse_bounded
from tools.instance_types import prices_table, types_table

BLANK = PriceList(region="eu-west-1", date="2026-12-01")


def xml(text: str) -> Element:
    return parse_bounded(f"<Response>{text}</Response>".encode())


def entry(
    usage: str, price: str, *, unit: str = "Hrs", currency: str = "USD", begin: str = "0", **attributes: str
) -> str:
    dimension = {"unit": unit, "beginRange": begin, "pricePerUnit": {currency: price}}
    return json.dumps(
        {
            "product": {"attributes": {"usagetype": usage, **attributes}, "sku": "X"},
            "terms": {"OnDemand": {"X.Y": {"priceDimensions": {"X.Y.Z": dimension}}}, "Reserved": {"X": {}}},
            "publicationDate": "2026-11-20T01:02:03Z",
        }
    )


def page(*entries: str, **more: Any) -> bytes:
    return json.dumps({"FormatVersion": "aws_v1", "PriceList": entries, **more}).encode()


LINUX = {"operatingSystem": "Linux"}


# AWS's price list


@pytest.mark.parametrize(
    ("one", "name", "amount"),
    [
        (entry("BoxUsage:m5.large", "0.0960000000", instanceType="m5.large", **LINUX), "m5.large", 0.096),
        (entry("EU-BoxUsage:t3.nano", "0.0057", instanceType="t3.nano", **LINUX), "t3.nano", 0.0057),
        (entry("EU-EBS:VolumeUsage.gp3", "0.088", unit="GB-Mo"), "gp3", 0.088 / MONTH_HOURS),
        (entry("EBS:VolumeUsage", "0.05", unit="GB-Mo"), "standard", 0.05 / MONTH_HOURS),
        (entry("APN1-EBS:VolumeUsage.io2", "0.142", unit="GB-month"), "io2", 0.142 / MONTH_HOURS),
        (entry("USE2-EBS:VolumeUsage.piops", "0.125", unit="GB-Mo"), "io1", 0.125 / MONTH_HOURS),
        (entry("EBS:VolumeP-IOPS.gp3", "0.005", unit="IOPS-Mo"), "gp3 IOPS", 0.005 / MONTH_HOURS),
        (entry("APN1-EBS:VolumeP-Throughput.gp3", "49.152", unit="GiBps-mo"), "gp3 throughput", 0.048 / MONTH_HOURS),
        (entry("EUC1-EBS:VolumeP-Throughput.gp3", "0.0476", unit="MiBps-Mo"), "gp3 throughput", 0.0476 / MONTH_HOURS),
        (entry("EBS:VolumeP-IOPS.io2.tier3", "0.03185", unit="IOPS-Mo"), "io2 IOPS over 64000", 0.03185 / MONTH_HOURS),
        (entry("EUN1-EBS:SnapshotUsage", "0.05", unit="GB-Mo"), "snapshot", 0.05 / MONTH_HOURS),
        (entry("USE1-PublicIPv4:InUseAddress", "0.005"), "public IPv4", 0.005),
    ],
)
def test_a_price_an_hour_is_read_from_a_product(one: str, name: str, amount: float) -> None:
    (found,) = read_page(page(one)).prices
    assert (found.name, found.currency, found.date) == (name, "USD", "2026-11-20")
    assert found.amount == pytest.approx(amount)


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(entry("EBS:SnapshotArchiveStorage", "0.0125", unit="GB-Mo"), id="archive"),
        pytest.param(entry("EBS:VolumeIOUsage", "0.00000005", unit="IOs"), id="requests"),
        pytest.param(entry("PublicIPv4:IdleAddress", "0.005"), id="idle"),
        pytest.param(entry("PublicIPv4:ContiguousBlock", "0.008"), id="block"),
        pytest.param(entry("BoxUsage:m5.large", "0.0", instanceType="m5.large", **LINUX), id="zero"),
        pytest.param(entry("BoxUsage:m5.large", "free", instanceType="m5.large", **LINUX), id="no-number"),
        pytest.param(entry("BoxUsage:m5.large", "-1", instanceType="m5.large", **LINUX), id="negative"),
        pytest.param(entry("BoxUsage:m5.large", "nan", instanceType="m5.large", **LINUX), id="nan"),
        pytest.param(entry("BoxUsage:m5.large", "1", unit="Fortnight", instanceType="m5.large", **LINUX), id="unit"),
        pytest.param(entry("EBS:VolumeUsage.gp3", "0.01", unit="GB-Mo", begin="1000"), id="second-tier"),
        pytest.param(entry("ReservedHostUsage:m5", "1", instanceType="m5"), id="host"),
        pytest.param("{}", id="empty"),
    ],
)
def test_other_products_and_prices_that_are_none_are_left_out(one: str) -> None:
    assert read_page(page(one)).prices == []


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"PriceList": [1]}', b'{"PriceList": ["no JSON"]}', b"[" * 10_000],
    ids=["empty", "portal", "list", "number", "text", "deep"],
)
def test_another_document_is_no_price_list(body: bytes) -> None:
    with pytest.raises(ProviderUnavailable, match="the answer to GetProducts cannot be read"):
        read_page(body)


@given(st.text(), st.dictionaries(st.text(), st.text()))
def test_any_product_is_read_or_left_out(usage: str, attributes: dict[str, str]) -> None:
    attributes.pop("usage", None)
    body = page(
        json.dumps(
            {
                "product": {"attributes": {**attributes, "usagetype": usage}},
                "terms": {"OnDemand": {"": {"priceDimensions": {"": {"unit": "Hrs", "pricePerUnit": attributes}}}}},
            }
        )
    )
    assert all(each.amount > 0 for each in read_page(body).prices)


def test_the_next_page_is_named() -> None:
    assert read_page(page(NextToken="more")).token == "more"
    assert read_page(page()).token == ""


def test_prices_in_several_currencies_are_no_list() -> None:
    euro = Listed(name="gp3", amount=0.1, currency="EUR", date="")
    with pytest.raises(ProviderUnavailable, match="several currencies, EUR, USD"):
        collected({PART: [euro, structs.replace(euro, currency="USD")]}, blank=BLANK)


def test_a_list_knows_what_it_was_asked_for() -> None:
    small = Listed(name="t3.small", amount=0.02, currency="USD", date="2026-11-20")
    listed = collected({"": [small], "Windows": [], PART: []}, blank=BLANK)
    unit = listed.unit(Item(kind=Kind.COMPUTE, name="t3.small"))
    assert (unit.amount, unit.currency, unit.source, unit.date) == (0.02, "USD", "AWS price list", "2026-11-20")
    assert listed.unit(Item(kind=Kind.COMPUTE, name="t3.small", system="Windows")).amount is None
    assert listed.unit(Item(kind=Kind.DISK, name="gp3")).amount is None


def test_all_questions_name_the_region() -> None:
    asked = [query for name in (PART, *OPERATIONS) for query in queries("eu-west-1", name)]
    assert all(query.filters["regionCode"] == "eu-west-1" for query in asked)
    assert len({str(query) for query in asked}) == len(asked)
    assert queries("eu-west-1", "BeOS") == []


@pytest.mark.parametrize(
    ("settings", "region", "url"),
    [
        ({"region": "eu-west-1"}, "us-east-1", "https://api.pricing.us-east-1.amazonaws.com/"),
        ({"region": "cn-north-1"}, "cn-northwest-1", "https://api.pricing.cn-northwest-1.amazonaws.com.cn/"),
        (
            {"region": "eu-west-1", "pricing_endpoint_url": "https://api.pricing.eu-central-1.amazonaws.com"},
            "eu-central-1",
            "https://api.pricing.eu-central-1.amazonaws.com/",
        ),
        (
            {"region": "eu-west-1", "pricing_endpoint_url": "https://vpce-1.api.pricing.ap-south-1.vpce.amazonaws.com"},
            "ap-south-1",
            "https://vpce-1.api.pricing.ap-south-1.vpce.amazonaws.com/",
        ),
        ({"region": "us-gov-west-1"}, "", None),
        ({"region": "eusc-de-east-1"}, "", None),
        ({"region": "eu-west-1", "endpoint_url": "http://here:1/"}, "", None),
        (
            {"region": "eu-west-1", "endpoint_url": "http://here:1/", "pricing_endpoint_url": "http://here:2"},
            "us-east-1",
            "http://here:2/",
        ),
    ],
)
def test_the_price_list_is_asked_where_it_is(settings: dict[str, str], region: str, url: str | None) -> None:
    assert price_region(msgspec.convert(settings, Ec2Settings)) == region
    if url:
        assert price_endpoint(msgspec.convert(settings, Ec2Settings)) == url


# Spot prices


def spot(type_name: str, zone: str, price: str, at: str, product: str = "Linux/UNIX") -> str:
    return (
        f"<item><instanceType>{type_name}</instanceType><productDescription>{product}</productDescription>"
        f"<spotPrice>{price}</spotPrice><timestamp>{at}</timestamp><availabilityZone>{zone}</availabilityZone></item>"
    )


def test_the_latest_spot_price_of_a_zone_counts_and_without_a_zone_the_highest() -> None:
    rows = (
        spot("m5.large", "a", "0.04", "2026-12-01T08:00:00.000Z", "Linux/UNIX (Amazon VPC)"),
        spot("m5.large", "a", "0.03", "2026-12-01T07:00:00.000Z"),
        spot("m5.large", "b", "0.02", "2026-12-01T07:00:00.000Z"),
        spot("m5.large", "b", "0.09", "2026-12-01T07:00:00.000Z", "Windows"),
        spot("m5.large", "c", "none", "2026-12-01T07:00:00.000Z"),
    )
    prices = SpotPrices(read_spot_prices(xml(f"<spotPriceHistorySet>{''.join(rows)}</spotPriceHistorySet>")))

    def amount(place: str, system: str = "") -> float | None:
        item = Item(kind=Kind.COMPUTE, name="m5.large", market=SPOT, place=place, system=system)
        return prices.unit(item).amount

    assert [amount(zone) for zone in ("a", "b", "c", "")] == [0.04, 0.02, None, 0.04]
    assert amount("b", "Windows") == 0.09
    assert amount("a", "Windows") is None


# Volumes


@pytest.mark.parametrize(
    ("volume", "items"),
    [
        (VolumeFacts(kind="gp3", size=8, iops=3000, throughput=125), {"gp3": 8}),
        (VolumeFacts(kind="gp3", size=8, iops=3001, throughput=500), {"gp3": 8, "gp3 IOPS": 1, "gp3 throughput": 375}),
        (VolumeFacts(kind="gp2", size=100, iops=300), {"gp2": 100}),
        (VolumeFacts(kind="io1", size=4, iops=200), {"io1": 4, "io1 IOPS": 200}),
        (VolumeFacts(kind="io2", size=4, iops=32_000), {"io2": 4, "io2 IOPS": 32_000}),
        (
            VolumeFacts(kind="io2", size=4, iops=50_000),
            {"io2": 4, "io2 IOPS": 32_000, "io2 IOPS over 32000": 18_000},
        ),
        (
            VolumeFacts(kind="io2", size=4, iops=70_000),
            {"io2": 4, "io2 IOPS": 32_000, "io2 IOPS over 32000": 32_000, "io2 IOPS over 64000": 6_000},
        ),
        (VolumeFacts(kind="standard", size=1), {"standard": 1}),
    ],
)
def test_a_volume_is_charged_for_its_size_and_for_provisioned_speed(
    volume: VolumeFacts, items: dict[str, float]
) -> None:
    assert {item.name: item.quantity for item in volume_items(volume)} == items


@given(st.integers(0, 300_000))
def test_the_steps_of_io2_are_all_its_iops(iops: int) -> None:
    charged = [item.quantity or 0 for item in volume_items(VolumeFacts(kind="io2", size=1, iops=iops))][1:]
    assert sum(charged) == iops


def test_volumes_addresses_and_subnets_are_read() -> None:
    volumes = read_volume_facts(
        xml(
            "<volumeSet><item><volumeId>vol-1</volumeId><size>8</size><volumeType>gp3</volumeType><iops>4000</iops>"
            "<throughput>200</throughput></item><item><volumeId>vol-2</volumeId></item></volumeSet>"
        )
    )
    assert volumes["vol-1"] == VolumeFacts(kind="gp3", size=8, iops=4000, throughput=200)
    assert volumes["vol-2"].size is None
    rows = (
        ("198.51.100.1", "i-1", "amazon"),
        ("198.51.100.2", "i-1", ""),
        ("203.0.113.1", "i-1", "ipv4pool-ec2-0123"),
        ("198.51.100.3", "", "amazon"),
    )
    text = "".join(
        f"<item><publicIp>{ip}</publicIp><instanceId>{instance}</instanceId><publicIpv4Pool>{pool}</publicIpv4Pool></item>"
        for ip, instance, pool in rows
    )
    addresses = read_addresses(xml(f"<addressesSet>{text}</addressesSet>"))
    assert dict(addresses.elastic) == {"i-1": 2}
    assert addresses.own == frozenset({"198.51.100.1", "198.51.100.2", "203.0.113.1"})
    subnet = "<subnetId>subnet-1</subnetId><availabilityZone>eu-west-1a</availabilityZone>"
    subnet += "<mapPublicIpOnLaunch>false</mapPublicIpOnLaunch>"
    found = read_subnets(xml(f"<subnetSet><item>{subnet}</item></subnetSet>"))
    assert (found["subnet-1"].zone, found["subnet-1"].gives_address) == ("eu-west-1a", False)


IMAGE = read_image_disks(
    xml(
        "<imagesSet><item><rootDeviceName>/dev/sda1</rootDeviceName><platformDetails>Linux/UNIX</platformDetails>"
        "<blockDeviceMapping>"
        "<item><deviceName>/dev/sda1</deviceName><ebs><volumeSize>8</volumeSize><volumeType>gp2</volumeType></ebs></item>"
        "<item><deviceName>/dev/sdf</deviceName><ebs><volumeSize>100</volumeSize><volumeType>io1</volumeType>"
        "<iops>500</iops></ebs></item>"
        "<item><deviceName>/dev/sdb</deviceName><virtualName>ephemeral0</virtualName></item>"
        "</blockDeviceMapping></item></imagesSet>"
    )
)


def mapping(device: str, at: int = 1, **ebs: str) -> dict[str, str]:
    prefix = f"BlockDeviceMapping.{at}"
    written = {f"{prefix}.{name.replace('_', '.')}": text for name, text in ebs.items()}
    return {f"{prefix}.DeviceName": device, **written}


@pytest.mark.parametrize(
    ("launch", "volumes"),
    [
        pytest.param(Launch(parameters={}), [("gp2", 8, 0), ("io1", 100, 500)], id="as-in-the-image"),
        pytest.param(Launch(parameters={}, least_root=20), [("io1", 100, 500), ("gp2", 20, 0)], id="larger-root"),
        pytest.param(
            Launch(parameters={}, root_volume={"VolumeType": "gp3"}),
            [("io1", 100, 500), ("gp3", 8, 0)],
            id="other-root",
        ),
        pytest.param(Launch(parameters=mapping("sdf", NoDevice="")), [("gp2", 8, 0)], id="without-a-device"),
        pytest.param(
            Launch(parameters=mapping("/dev/sdf", Ebs_VolumeSize="50")), [("gp2", 8, 0), ("io1", 50, 500)], id="smaller"
        ),
        pytest.param(
            Launch(parameters=mapping("/dev/sdg", Ebs_SnapshotId="snap-1")),
            [("gp2", 8, 0), ("io1", 100, 500), ("gp2", 30, 0)],
            id="of-a-snapshot",
        ),
        pytest.param(
            Launch(parameters=mapping("/dev/sdg", Ebs_SnapshotId="snap-2")),
            [("gp2", 8, 0), ("io1", 100, 500), ("gp2", None, 0)],
            id="of-an-unknown-snapshot",
        ),
    ],
)
def test_the_volumes_of_a_launch_are_the_images_and_its_own(
    launch: Launch, volumes: list[tuple[str, float | None, int]]
) -> None:
    found = launched_volumes(launch, IMAGE, {"snap-1": 30})
    assert found is not None
    assert [(each.kind, each.size, each.iops) for each in found] == volumes


# Instances


@pytest.mark.parametrize(
    ("reason", "since"),
    [
        ("User initiated (2026-12-01 09:30:00 GMT)", 1_796_117_400),
        ("Server.SpotInstanceTermination: Spot (2026-12-01 09:30:00 GMT)", 1_796_117_400),
        ("User initiated", 0),
        ("(yesterday)", 0),
        ("", 0),
    ],
)
def test_a_stopped_instance_is_so_since_its_transition(reason: str, since: float) -> None:
    (found,) = read_instances(
        xml(
            "<reservationSet><item><instancesSet><item><instanceId>i-1</instanceId>"
            f"<instanceState><name>stopped</name></instanceState><reason>{reason}</reason>"
            "<launchTime>2026-11-01T00:00:00.000Z</launchTime></item></instancesSet></item></reservationSet>"
        )
    )
    assert (found.state, found.state_since) == (InstanceState.STOPPED, since)


def test_an_instance_in_an_undocumented_state_costs_as_if_it_ran() -> None:
    instance = Instance(deploy_id=DeployId("i-1"), state=InstanceState.UNKNOWN, raw_state="strange")
    look = look_of(instance, state=instance.state, volumes={}, addresses=0)
    assert look_items(look)[0].is_running


# Types, and the tables of the package


def test_types_are_read_with_their_gpus_and_architectures() -> None:
    item = (
        "<item><instanceType>g6f.large</instanceType><currentGeneration>true</currentGeneration>"
        "<processorInfo><supportedArchitectures><item>x86_64</item></supportedArchitectures></processorInfo>"
        "<vCpuInfo><defaultVCpus>2</defaultVCpus></vCpuInfo><memoryInfo><sizeInMiB>8192</sizeInMiB></memoryInfo>"
        "<gpuInfo><gpus><item><name>L4</name><manufacturer>NVIDIA</manufacturer><count>0</count>"
        "<logicalGpuCount>1</logicalGpuCount></item></gpus></gpuInfo></item>"
    )
    (found,) = read_types(xml(f"<instanceTypeSet>{item}<item><instanceType>x</instanceType></item></instanceTypeSet>"))
    assert found == built_in_types()["g6f.large"]


def test_the_table_of_types_is_what_its_tool_writes() -> None:
    facts = {
        "VCpuInfo": {"DefaultVCpus": 4},
        "MemoryInfo": {"SizeInMiB": 16384},
        "GpuInfo": {"Gpus": [{"Count": 1, "Manufacturer": "NVIDIA", "Name": "T4"}]},
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
        "CurrentGeneration": True,
    }
    *_, line = types_table({"g4dn.xlarge": facts}, date="2026-10-27")
    assert line in table("instance_types.tsv")


def test_the_table_of_prices_is_what_its_tool_writes() -> None:
    source = '// generated at 2026-07-20T13:44:30Z for us-east-1\n\t"us-east-1": {\n\t\t"m5.large": 0.096000,\n'
    assert list(prices_table([source]))[1:] == ["# 2026-07-20 USD us-east-1", "m5.large\t0.096"]
    assert "# 2026-07-20 USD us-east-1" in table("instance_prices.tsv")
    listed = built_in_prices("us-east-1")
    assert listed is not None
    assert listed.compute[""]["m5.large"] == 0.096


def table(name: str) -> list[str]:
    folder = Path(__file__).parents[3] / "one_provider_mad" / "providers" / "ec2" / "data"
    return (folder / name).read_text().splitlines()


def test_every_type_of_the_table_has_cores_memory_and_an_architecture() -> None:
    types = built_in_types()
    assert len(types) > 1000
    for each in types.values():
        assert each.cpu >= 1
        assert each.memory >= 512
        assert set(each.architectures) <= {"i386", "x86_64", "arm64", "x86_64_mac", "arm64_mac"}
        assert bool(each.gpus) is bool(each.gpu)


@pytest.mark.parametrize(
    ("region", "currency"), [("us-east-1", "USD"), ("us-gov-west-1", "USD"), ("cn-north-1", "CNY"), ("eu-west-1", "")]
)
def test_a_region_without_known_prices_is_not_in_the_table(region: str, currency: str) -> None:
    listed = built_in_prices(region)
    assert (listed.currency if listed else "") == currency
    if listed:
        assert all(0 < amount < 3000 for amount in listed.compute[""].values())

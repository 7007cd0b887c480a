"""The kinds of instances that VMs of EC2 usually get, and the kind of each create."""

from __future__ import annotations

import pytest

from one_provider_mad.mappings import NetworkMapping
from one_provider_mad.providers.ec2.rooms import room_of, usual_rooms

NETWORKS = {"private": NetworkMapping(subnet="subnet-a, subnet-b"), "other": NetworkMapping()}


@pytest.mark.parametrize(
    ("types", "defaults", "networks", "rooms"),
    [
        pytest.param([], {}, {}, set(), id="no-type-known"),
        pytest.param([], {"INSTANCETYPE": "t3.small,m5.large"}, {}, {"t3.small", "m5.large"}, id="defaults"),
        pytest.param(["c5.large"], {"INSTANCETYPE": "t3.small"}, {}, {"c5.large"}, id="capacity-comes-first"),
        pytest.param(["t3.small"], {"SUBNETID": "subnet-1"}, {}, {"t3.small in subnet-1"}, id="default-subnet"),
        pytest.param(
            ["t3.small"], {"AVAILABILITYZONE": "a,b"}, {}, {"t3.small in a", "t3.small in b"}, id="default-zones"
        ),
        pytest.param(
            ["t3.small"],
            {"SUBNETID": "subnet-1"},
            NETWORKS,
            {"t3.small in subnet-a", "t3.small in subnet-b"},
            id="mapped-networks",
        ),
        pytest.param(["t3.small"], {"SPOT": "YES"}, {}, {"spot t3.small"}, id="spot"),
        pytest.param(["t3.small"], {"SPOT": "PREFERRED"}, {}, {"spot t3.small", "t3.small"}, id="spot-first"),
        pytest.param(["t3.small"], {"SPOT": "maybe"}, {}, set(), id="defaults-that-make-no-vm"),
    ],
)
def test_usual_rooms_are_the_types_in_the_usual_places_and_markets(
    types: list[str], defaults: dict[str, str], networks: dict[str, NetworkMapping], rooms: set[str]
) -> None:
    assert usual_rooms(types, defaults=defaults, networks=networks) == rooms


def call(**more: str) -> dict[str, object]:
    names = {"zone": "Placement.AvailabilityZone", "subnet": "SubnetId", "market": "InstanceMarketOptions.MarketType"}
    return {"parameters": {"InstanceType": "t3.small", **{names[name]: text for name, text in more.items()}}}


@pytest.mark.parametrize(
    ("parameters", "own", "defaults", "networks", "room"),
    [
        pytest.param(call(), {}, {}, {}, "t3.small", id="plain"),
        pytest.param(call(market="spot"), {"SPOT": "YES"}, {}, {}, "spot t3.small", id="spot"),
        pytest.param(call(subnet="subnet-a"), {}, {}, NETWORKS, "t3.small in subnet-a", id="mapped-network"),
        pytest.param(call(subnet="subnet-z"), {}, {}, NETWORKS, "", id="a-network-that-is-not-in-the-configuration"),
        pytest.param(call(subnet="subnet-z"), {}, {}, {}, "t3.small", id="networks-that-name-their-own-subnets"),
        pytest.param(call(zone="a"), {"AVAILABILITYZONE": "a"}, {}, {}, "", id="a-zone-of-its-own"),
        pytest.param(
            call(zone="a"),
            {"AVAILABILITYZONE": "a"},
            {"AVAILABILITYZONE": "a,b"},
            {},
            "t3.small in a",
            id="a-usual-zone",
        ),
        pytest.param(call(), {"TENANCY": "dedicated"}, {}, {}, "", id="tenancy"),
        pytest.param(call(), {"TENANCY": "dedicated"}, {"TENANCY": "dedicated"}, {}, "t3.small", id="usual-tenancy"),
        pytest.param(call(market="spot"), {"SPOTPRICE": "0.001"}, {}, {}, "", id="a-price-of-its-own"),
        pytest.param(
            call(), {"AMI": "ami-1", "KEYPAIR": "mine"}, {}, {}, "t3.small", id="attributes-without-influence"
        ),
    ],
)
def test_the_room_of_a_create_is_its_type_place_and_market_unless_the_vm_has_special_wishes(
    parameters: dict[str, object],
    own: dict[str, str],
    defaults: dict[str, str],
    networks: dict[str, NetworkMapping],
    room: str,
) -> None:
    assert room_of(parameters, own=own, defaults=defaults, networks=networks) == room

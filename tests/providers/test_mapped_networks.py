"""Which subnet of the cloud stands for the network of a NIC."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from one_provider_mad.domain import Template
from one_provider_mad.errors import BadParameter
from one_provider_mad.mappings import NetworkMapping
from one_provider_mad.providers.mapped_networks import (
    MappedNetwork,
    mapped_network,
    network_name,
    other_nics,
    plain_nics,
)
from tests.actions.fakes import request_of
from tests.providers.contexts import a_context

NIC = {"NIC_ID": "0", "NETWORK": "private", "NETWORK_ID": "3", "IP": "10.0.0.7"}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        pytest.param({"private": NetworkMapping(subnet="a")}, MappedNetwork(subnets=("a",)), id="by-name"),
        pytest.param({"3": NetworkMapping(subnet="a")}, MappedNetwork(subnets=("a",)), id="by-number"),
        pytest.param(
            {"private": NetworkMapping(subnet="a, b,a", addresses="opennebula", public_address=False)},
            MappedNetwork(subnets=("a", "b"), addresses="opennebula", public_address=False),
            id="several-subnets",
        ),
        pytest.param({"private": NetworkMapping()}, MappedNetwork(), id="the-clouds-default-subnet"),
        pytest.param({"public": NetworkMapping(subnet="subnet-1")}, None, id="another-network"),
    ],
)
def test_a_network_is_found_by_name_or_number(
    table: Mapping[str, NetworkMapping], expected: MappedNetwork | None
) -> None:
    assert mapped_network(NIC, a_context(networks=table)) == expected


def test_a_network_without_an_entry_counts_by_its_own_attributes() -> None:
    nic = {
        **NIC,
        "PROVIDER_SUBNET": "aws-east=subnet-1 aws-west=subnet-2",
        "PROVIDER_SECURITY_GROUPS": "sg-1,sg-2",
        "PROVIDER_PUBLIC_ADDRESS": "YES",
        "PROVIDER_ADDRESSES": "OpenNebula",
    }
    assert mapped_network(nic, a_context()) == MappedNetwork(
        subnets=("subnet-1",), security_groups=("sg-1", "sg-2"), public_address=True, addresses="opennebula"
    )


def test_the_table_comes_before_the_networks_own_attributes_one_by_one() -> None:
    nic = {**NIC, "PROVIDER_SUBNET": "subnet-1", "PROVIDER_PUBLIC_ADDRESS": "NO", "PROVIDER_ADDRESSES": "opennebula"}
    context = a_context(networks={"3": NetworkMapping(security_groups=("sg-1",), public_address=True)})
    assert mapped_network(nic, context) == MappedNetwork(
        subnets=("subnet-1",), security_groups=("sg-1",), public_address=True, addresses="cloud"
    )


def test_attributes_for_other_clouds_only_map_nothing() -> None:
    assert mapped_network({**NIC, "PROVIDER_SUBNET": "aws-west=subnet-2"}, a_context()) is None


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        (
            {"PROVIDER_PUBLIC_ADDRESS": "perhaps"},
            "PROVIDER_PUBLIC_ADDRESS=perhaps of network private (3) is neither YES nor NO: correct the network",
        ),
        (
            {"PROVIDER_ADDRESSES": "dhcp"},
            "PROVIDER_ADDRESSES=dhcp of network private (3) is neither cloud nor opennebula: correct the network",
        ),
    ],
    ids=["public", "addresses"],
)
def test_an_unreadable_attribute_of_a_network_is_named(attributes: Mapping[str, str], sentence: str) -> None:
    with pytest.raises(BadParameter) as caught:
        mapped_network({**NIC, **attributes}, a_context())
    assert str(caught.value) == sentence


def test_aliases_pci_devices_and_external_nics_exist_at_home_only() -> None:
    external, alias, pci = {"NIC_ID": "1", "EXTERNAL": "YES"}, {"NIC_ID": "2"}, {"NIC_ID": "3", "VENDOR": "8086"}
    gpu = {"VENDOR": "10de"}
    values = {"NIC": (NIC, external), "NIC_ALIAS": (alias,), "PCI": (pci, gpu)}
    request = request_of(template=Template(values=values))
    assert list(plain_nics(request)) == [NIC]
    assert list(other_nics(request)) == [external, alias, pci]


@pytest.mark.parametrize(
    ("nic", "expected"),
    [(NIC, "private (3)"), ({"NETWORK": "private"}, "private"), ({"NETWORK_ID": "3"}, "3")],
    ids=["both", "name", "number"],
)
def test_messages_name_a_network_by_name_and_number(nic: Mapping[str, str], expected: str) -> None:
    assert network_name(nic) == expected

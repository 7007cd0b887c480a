"""Costs of templates and VMs as a partner's showback counts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from one_provider_mad.providers.opennebula.costs import (
    Costs,
    ImageFacts,
    Rules,
    number,
    read_costs,
    read_image,
    read_rules,
    read_template,
    size_of,
    total,
)

ZEROS = Costs(cpu=0.0, memory=0.0, disk=0.0)
IMAGES = {
    4: ImageFacts(name="debian", user="ada", size=2048),
    5: ImageFacts(name="debian", user="burst", size=4096),
    6: ImageFacts(name="twice", user="burst", size=1),
    7: ImageFacts(name="twice", user="burst", size=1),
}


@pytest.mark.parametrize(
    ("default", "own", "expected"),
    [
        pytest.param(ZEROS, Costs(), Costs(), id="neither-says-anything"),
        pytest.param(ZEROS, Costs(cpu=1.0), Costs(cpu=1.0, memory=0.0, disk=0.0), id="shipped-zeros-beside-a-cost"),
        pytest.param(ZEROS, Costs(cpu=0.0), ZEROS, id="free-on-purpose"),
        pytest.param(Costs(cpu=2.0, memory=0.0, disk=0.0), Costs(), Costs(cpu=2.0, memory=0.0, disk=0.0), id="default"),
        pytest.param(Costs(), Costs(cpu=1.0), Costs(cpu=1.0), id="default-not-shown"),
        pytest.param(Costs(cpu=2.0, memory=3.0), Costs(memory=1.0), Costs(cpu=2.0, memory=1.0), id="own-wins"),
    ],
)
def test_a_vm_has_its_own_costs_and_the_default_ones_that_it_lacks(default: Costs, own: Costs, expected: Costs) -> None:
    assert Rules(default=default).completed(own) == expected


@pytest.mark.parametrize("root", ["OPENNEBULA_CONFIGURATION", "TEMPLATE"])
def test_the_partners_oned_conf_is_read(root: str) -> None:
    section = "<DEFAULT_COST><CPU_COST>0.5</CPU_COST><MEMORY_COST>x</MEMORY_COST></DEFAULT_COST>"
    text = f"<{root}>{section}<SHOWBACK_ONLY_RUNNING>yes</SHOWBACK_ONLY_RUNNING></{root}>"
    assert read_rules(etree.fromstring(text)) == Rules(default=Costs(cpu=0.5), is_only_running=True)
    assert read_rules(etree.fromstring(f"<{root}/>")) == Rules()


def test_a_template_tells_its_costs_size_and_disks() -> None:
    text = (
        "<VMTEMPLATE><NAME>small</NAME><TEMPLATE><CPU>2</CPU><MEMORY>512</MEMORY><CPU_COST>0.1</CPU_COST>"
        "<MEMORY_UNIT_COST>GB</MEMORY_UNIT_COST><DISK><IMAGE_ID>4</IMAGE_ID></DISK></TEMPLATE></VMTEMPLATE>"
    )
    facts = read_template(etree.fromstring(text))
    assert (facts.name, facts.costs, facts.values) == ("small", Costs(cpu=0.1), {"CPU": "2", "MEMORY": "512"})
    assert facts.disks == ({"IMAGE_ID": "4"},)
    image = read_image(etree.fromstring("<IMAGE><NAME>a</NAME><UNAME>b</UNAME><SIZE>7</SIZE></IMAGE>"))
    assert image == ImageFacts(name="a", user="b", size=7.0)


@pytest.mark.parametrize(
    ("disk", "expected"),
    [
        ({"SIZE": "100", "IMAGE_ID": "4"}, 100),
        ({"IMAGE_ID": "4"}, 2048),
        ({"IMAGE_ID": "99"}, None),
        ({"IMAGE": "debian"}, 4096),
        ({"IMAGE": "debian", "IMAGE_UNAME": "ada"}, 2048),
        ({"IMAGE": "twice"}, None),
        ({"SIZE": "much"}, None),
        ({}, None),
    ],
)
def test_a_disk_has_its_own_size_or_that_of_its_image(disk: dict[str, str], expected: float | None) -> None:
    assert size_of(disk, IMAGES, user="burst") == expected


@given(st.text() | st.floats().map(str))
def test_a_cost_is_a_number_from_zero_or_not_given(text: str) -> None:
    found = number(text)
    assert found is None or found >= 0
    assert read_costs({"CPU_COST": text}).cpu == found


def test_a_sum_with_an_unknown_size_is_unknown() -> None:
    assert (total([1.0, 2.0]), total([1.0, None]), total([])) == (3.0, None, 0.0)

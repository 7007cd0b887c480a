"""Choosing a VM's PUBLIC_CLOUD section, and reading its attributes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from one_provider_mad.domain import Template, VmId, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.public_cloud import MOST_ATTRIBUTES, Section, parse_tags, read_section


def a_vm(*sections: Mapping[str, str], host: str = "Cloud-1") -> VmRequest:
    return VmRequest(vm_id=VmId(7), host=host, user_template=Template(values={"PUBLIC_CLOUD": sections}))


def read(*sections: Mapping[str, str], hypervisor: str = "simulated") -> Section:
    return read_section(a_vm(*sections), hypervisor=hypervisor)


OURS = {"TYPE": "simulated", "N": "ours"}
OTHER = {"TYPE": "ec2", "N": "other"}


@pytest.mark.parametrize(
    ("sections", "chosen"),
    [
        pytest.param([OURS], "ours", id="the-only-one"),
        pytest.param([OTHER], "other", id="the-only-one-of-another-type"),
        pytest.param([{"N": "plain"}], "plain", id="the-only-one-without-a-type"),
        pytest.param([OTHER, OURS], "ours", id="by-type"),
        pytest.param([OTHER, {**OURS, "TYPE": "SimuLated"}], "ours", id="by-type-in-another-case"),
        pytest.param([{**OURS, "HOST": "elsewhere"}, OTHER], "ours", id="unique-type-with-another-host"),
        pytest.param([{**OURS, "HOST": "x"}, {**OURS, "HOST": "cloud-1", "N": "2"}], "2", id="several-by-host"),
        pytest.param([{**OURS, "CLOUD": "x"}, {**OURS, "CLOUD": "CLOUD-1", "N": "2"}], "2", id="several-by-cloud"),
        pytest.param([{"HOST": "x", "N": "1"}, {"HOST": "cloud-1", "N": "2"}], "2", id="no-type-by-host"),
        pytest.param([{**OTHER, "HOST": "x"}, {**OTHER, "HOST": "cloud-1", "N": "2"}], "2", id="other-type-by-host"),
        pytest.param([{**OURS, "HOST": "cloud-1"}, {**OTHER, "HOST": "cloud-1"}], "ours", id="type-before-host"),
        pytest.param([{**OURS, "HOST": ""}, {**OTHER, "TYPE": " "}], "ours", id="empty-values-are-ignored"),
    ],
)
def test_the_public_cloud_section_is_chosen_by_type_then_by_host(
    sections: list[Mapping[str, str]], chosen: str
) -> None:
    assert read(*sections).text("N") == chosen


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        pytest.param([OURS, OURS], "2 PUBLIC_CLOUD sections, none for host Cloud-1", id="no-host"),
        pytest.param([{**OURS, "HOST": "a"}, {**OURS, "HOST": "b"}], "none for host Cloud-1", id="other-hosts"),
        pytest.param([OTHER, {"TYPE": "az"}], "none for host Cloud-1", id="other-types"),
        pytest.param([{**OURS, "HOST": "cloud-1"}] * 2, "more than one for host Cloud-1", id="twice"),
    ],
)
def test_an_ambiguous_choice_of_section_is_refused_with_the_attributes_to_write(
    sections: list[Mapping[str, str]], sentence: str
) -> None:
    with pytest.raises(BadParameter, match=f"{sentence}: give exactly one of them TYPE=simulated and HOST=Cloud-1"):
        read(*sections)


def test_a_vm_without_a_public_cloud_section_has_an_empty_one() -> None:
    assert read() == Section()
    assert read_section(VmRequest(vm_id=VmId(7)), hypervisor="simulated") == Section()


def test_a_public_cloud_flag_is_not_read_as_a_section() -> None:
    request = VmRequest(vm_id=VmId(7), user_template=Template(values={"PUBLIC_CLOUD": ("YES",)}))
    assert read_section(request, hypervisor="simulated") == Section()


def test_a_section_in_the_template_instead_of_the_user_template_is_read() -> None:
    request = VmRequest(vm_id=VmId(7), template=Template(values={"PUBLIC_CLOUD": (OURS,)}))
    assert read_section(request, hypervisor="simulated").text("N") == "ours"


def test_attribute_names_are_read_in_any_case_and_values_are_stripped() -> None:
    assert read({"Provider_Image_Id": "  id-1 "}).attributes == {"PROVIDER_IMAGE_ID": "id-1"}


@pytest.mark.parametrize("name", ["CLIENTTOKEN", "CLIENT_TOKEN", "clienttoken"])
def test_a_client_token_in_the_section_is_dropped_with_a_warning(name: str) -> None:
    section = read({name: "mine", "N": "1"})
    assert section.attributes == {"N": "1"}
    assert len(section.warnings) == 1
    assert name.upper() in section.warnings[0]


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"TAGS": "a=b,ONE_PROVIDER_OWNER=x"}, "TAGS .* ONE_PROVIDER_OWNER"),
        ({"TAGS": "One_Provider_vm_id"}, "TAGS .* One_Provider_vm_id"),
        ({"one_provider_seq": "1"}, "attribute ONE_PROVIDER_SEQ"),
    ],
)
def test_a_section_with_tags_of_ours_is_refused(section: Mapping[str, str], sentence: str) -> None:
    with pytest.raises(BadParameter, match=f"{sentence}.*remove it"):
        read(section)


def test_a_section_for_another_cloud_is_not_checked() -> None:
    assert read(OURS, {**OTHER, "TAGS": "ONE_PROVIDER_OWNER=x"}).text("N") == "ours"


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", {}),
        ("role=web", {"role": "web"}),
        (" role = web , , tier=front end", {"role": "web", "tier": "front end"}),
        ("flag", {"flag": ""}),
        ("query=a=b", {"query": "a=b"}),
    ],
)
def test_tags_are_parsed_as_names_and_values(text: str, tags: Mapping[str, str]) -> None:
    assert parse_tags(text) == tags
    assert read({"TAGS": text}).tags == tags


def test_a_tag_without_a_name_is_refused() -> None:
    with pytest.raises(BadParameter, match="tag without a name, write k=v,k=v: =web"):
        parse_tags("a=b,=web")


def test_an_attribute_unknown_to_the_cloud_gets_a_warning() -> None:
    section = read({"TYPE": "simulated", "AMI": "ami-1"})
    (warning,) = section.unknown(("TYPE", "NAME"), cloud="simulated")
    assert warning.startswith("PUBLIC_CLOUD attribute AMI is not known to the simulated cloud")
    assert warning.endswith("NAME, TYPE")


def test_many_attributes_unknown_to_the_cloud_get_one_short_warning() -> None:
    section = read({f"{number:03}{'N' * 1000}": "x" for number in range(MOST_ATTRIBUTES)})
    (warning,) = section.unknown(("TYPE",), cloud="simulated")
    assert warning.startswith("PUBLIC_CLOUD attributes 000NNN")
    assert warning.endswith("and 195 more are not known to the simulated cloud and are ignored, known are TYPE")
    assert len(warning) < 500


def test_a_section_with_too_many_attributes_is_refused() -> None:
    with pytest.raises(BadParameter, match="has 300000 attributes, the driver takes 200: remove some"):
        read({f"N{number}": "x" for number in range(300_000)})

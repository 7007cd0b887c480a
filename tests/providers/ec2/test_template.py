"""PUBLIC_CLOUD attributes of a VM, upstream's and further ones, become RunInstances calls."""

from __future__ import annotations

import base64
import email
import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.domain import Template, VmId, VmRequest
from one_provider_mad.errors import BadParameter, SettingsError
from one_provider_mad.mappings import ContextSettings, Guest, ImageMapping, Mappings
from one_provider_mad.pricing.settings import PriceSettings
from one_provider_mad.providers.ec2.attributes import KNOWN_ATTRIBUTES, LONGEST_USER_DATA
from one_provider_mad.providers.ec2.context import user_data_of
from one_provider_mad.providers.ec2.launch import read_launch, run_instances
from one_provider_mad.providers.ec2.launch_disks import ImageDisks
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.ec2.spot_limits import SpotLimits, max_price
from one_provider_mad.providers.ec2.template import plan
from one_provider_mad.providers.ec2.type_choice import Offers
from one_provider_mad.providers.interface import CreatePlan
from one_provider_mad.providers.public_cloud import Section
from one_provider_mad.settings import convert
from tests.providers.contexts import a_context
from tests.providers.ec2.model import unknown_parameters

SECTION = {"TYPE": "ec2", "AMI": "ami-0abc", "INSTANCETYPE": "t3.small"}


def a_vm(
    *sections: Mapping[str, str],
    context: Mapping[str, str] | None = None,
    name: str = "PUBLIC_CLOUD",
    host: str = "aws",
) -> VmRequest:
    values: dict[str, Any] = {"CPU": ("1",), "MEMORY": ("512",)}
    if context is not None:
        values["CONTEXT"] = (context,)
    return VmRequest(
        vm_id=VmId(7),
        name="web-1",
        host=host,
        template=Template(values=values),
        user_template=Template(values={name: sections}),
    )


CLASHES = [
    pytest.param(
        {"SECURITYGROUPS": "web", "SUBNETID": "subnet-1"},
        {},
        "SECURITYGROUPS and SUBNETID exclude each other: name ids in SECURITYGROUPIDS",
        id="group-names-in-a-subnet",
    ),
    pytest.param(
        {"SECURITYGROUPS": "web"},
        {"SUBNETID": "subnet-1"},
        "SECURITYGROUPS and SUBNETID exclude each other: name ids in SECURITYGROUPIDS ([ec2.defaults] has SUBNETID)",
        id="a-subnet-of-the-defaults",
    ),
    pytest.param(
        {"PRIVATEIP": "10.0.0.9", "AVAILABILITYZONE": "eu-west-1a"},
        {},
        "PRIVATEIP needs a SUBNETID: name the subnet in which the address lies",
        id="an-address-without-a-subnet",
    ),
    pytest.param(
        {"TENANCY": "Host", "PLACEMENTGROUP": "rack"},
        {},
        "TENANCY=host and PLACEMENTGROUP exclude each other: leave one of them out",
        id="a-group-on-a-host",
    ),
    *(
        pytest.param(
            {"TENANCY": "host", **spot},
            {},
            "TENANCY=host and SPOT exclude each other: spot instances run on no dedicated host",
            id=f"{'-'.join(spot)}-on-a-host",
        )
        for spot in ({"SPOT": "preferred"}, {"SPOTPRICE": "0.1"})
    ),
    pytest.param(
        {"VOLUMETYPE": "gp2", "VOLUMEIOPS": "300"},
        {},
        "VOLUMEIOPS and VOLUMETYPE=gp2 exclude each other: only gp3, io1, io2 can have that",
        id="iops-of-gp2",
    ),
    pytest.param(
        {"VOLUMETHROUGHPUT": "250"},
        {"VOLUMETYPE": "io2"},
        "VOLUMETHROUGHPUT and VOLUMETYPE=io2 exclude each other: only gp3 can have that"
        " ([ec2.defaults] has VOLUMETYPE)",
        id="throughput-of-io2",
    ),
    pytest.param(
        {"BLOCKDEVICEMAPPING": "/dev/sdg=none /dev/sdf=:10:true:st1:500"},
        {},
        "BLOCKDEVICEMAPPING: /dev/sdf=:10:true:st1:500 has iops for a st1 volume: only gp3, io1, io2 can have that",
        id="iops-of-a-mapped-volume",
    ),
]


@pytest.mark.parametrize(("attributes", "defaults", "sentence"), CLASHES)
def test_attributes_that_exclude_each_other_are_refused_by_their_names(
    attributes: dict[str, str], defaults: dict[str, str], sentence: str
) -> None:
    with pytest.raises(BadParameter) as refused:
        planned(attributes, defaults=defaults)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    "attributes",
    [
        {"SECURITYGROUPS": "web", "AVAILABILITYZONE": "eu-west-1a"},
        {"SECURITYGROUPIDS": "sg-1", "SUBNETID": "subnet-1", "PRIVATEIP": "10.0.0.9"},
        {"TENANCY": "dedicated", "PLACEMENTGROUP": "rack", "SPOT": "YES"},
        {"TENANCY": "host", "SPOT": "NO", "SPOTPRICE": "0.1"},
        {"VOLUMETYPE": "io2", "VOLUMEIOPS": "3000"},
        {"VOLUMEIOPS": "3000", "VOLUMETHROUGHPUT": "250"},
        {"VOLUMETYPE": "gp9", "VOLUMEIOPS": "3000"},
        {"BLOCKDEVICEMAPPING": "/dev/sdf=:10:true:io1:500 /dev/sdg=snap-1"},
    ],
    ids="-".join,
)
def test_combinations_of_attributes_that_ec2_accepts_are_accepted(attributes: dict[str, str]) -> None:
    assert planned(attributes).alternatives


def planned(attributes: Mapping[str, str], *, context: Mapping[str, str] | None = None, **settings: Any) -> CreatePlan:
    table = msgspec.convert({"region": "eu-west-1", **settings}, Ec2Settings)
    return plan(a_vm({**SECTION, **attributes}, context=context), table, a_context())


NO_PRICES = PriceSettings()


def spot_plan(
    asked: str,
    *,
    budget: float | None = None,
    on_demand: float | None,
    prices: PriceSettings = NO_PRICES,
    **settings: Any,
) -> CreatePlan:
    """The plan of a spot instance with this SPOTPRICE, limit of the budget and price on demand."""
    context = msgspec.structs.replace(a_context(), max_spot_price=lambda _owner: budget, prices=prices)
    table = msgspec.convert({"region": "eu-west-1", **settings}, Ec2Settings)
    request = a_vm({**SECTION, "SPOT": "YES", **({"SPOTPRICE": asked} if asked else {})})
    return plan(request, table, context, offers_of=lambda _: Offers(on_demand=lambda _name: on_demand))


def calls(made: CreatePlan) -> list[dict[str, str]]:
    """The calls of a plan, without the parameters that every call has, after a check that EC2 has each of them."""
    found = []
    for parameters in made.alternatives:
        identity = VmRequest(vm_id=VmId(7)).identity(owner="me")
        call = run_instances(
            read_launch(parameters), identity=identity, token="t", image=ImageDisks(root_device="/dev/xvda")
        )
        assert unknown_parameters("RunInstances", call) == []
        always = ("TagSpecification.", "MetadataOptions.", "MinCount", "MaxCount", "ClientToken")
        found.append({name: value for name, value in call.items() if not name.startswith(always)})
    return found


def call(attributes: Mapping[str, str], *, context: Mapping[str, str] | None = None, **settings: Any) -> dict[str, str]:
    (one,) = calls(planned(attributes, context=context, **settings))
    return {name: value for name, value in one.items() if name not in ("ImageId", "InstanceType")}


@pytest.mark.parametrize(
    ("attributes", "parameters"),
    [
        pytest.param({"AMI": "ami-9"}, {}, id="image"),
        pytest.param({"AKI": "aki-1", "RAMDISK": "ari-1"}, {"KernelId": "aki-1", "RamdiskId": "ari-1"}, id="kernel"),
        pytest.param({"KEYPAIR": "mine"}, {"KeyName": "mine"}, id="keypair"),
        pytest.param(
            {"SECURITYGROUPS": "web, db"}, {"SecurityGroup.1": "web", "SecurityGroup.2": "db"}, id="group-names"
        ),
        pytest.param(
            {"SECURITYGROUPIDS": "sg-1,sg-2"},
            {"SecurityGroupId.1": "sg-1", "SecurityGroupId.2": "sg-2"},
            id="group-ids",
        ),
        pytest.param(
            {"SUBNETID": "subnet-1", "PRIVATEIP": "10.0.0.9"},
            {"SubnetId": "subnet-1", "PrivateIpAddress": "10.0.0.9"},
            id="subnet",
        ),
        pytest.param({"AVAILABILITYZONE": "eu-west-1b"}, {"Placement.AvailabilityZone": "eu-west-1b"}, id="zone"),
        pytest.param(
            {"PLACEMENTGROUP": "rack", "TENANCY": "dedicated"},
            {"Placement.GroupName": "rack", "Placement.Tenancy": "dedicated"},
            id="placement",
        ),
        pytest.param({"EBS_OPTIMIZED": "yes"}, {"EbsOptimized": "true"}, id="ebs-optimized"),
        pytest.param(
            {"BLOCKDEVICEMAPPING": "/dev/sdf=snap-1:10:false:io1:300 /dev/sdg=:20 /dev/sdh=none"},
            {
                "BlockDeviceMapping.1.DeviceName": "/dev/sdf",
                "BlockDeviceMapping.1.Ebs.SnapshotId": "snap-1",
                "BlockDeviceMapping.1.Ebs.VolumeSize": "10",
                "BlockDeviceMapping.1.Ebs.DeleteOnTermination": "false",
                "BlockDeviceMapping.1.Ebs.VolumeType": "io1",
                "BlockDeviceMapping.1.Ebs.Iops": "300",
                "BlockDeviceMapping.2.DeviceName": "/dev/sdg",
                "BlockDeviceMapping.2.Ebs.VolumeSize": "20",
                "BlockDeviceMapping.2.Ebs.DeleteOnTermination": "true",
                "BlockDeviceMapping.3.DeviceName": "/dev/sdh",
                "BlockDeviceMapping.3.NoDevice": "",
            },
            id="block-devices",
        ),
        pytest.param({"USERDATA": "ZWNobyBoaQ=="}, {"UserData": "ZWNobyBoaQ=="}, id="user-data-as-given"),
        pytest.param(
            {"SPOT": "YES"},
            {
                "InstanceMarketOptions.MarketType": "spot",
                "InstanceMarketOptions.SpotOptions.SpotInstanceType": "one-time",
                "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior": "terminate",
            },
            id="spot",
        ),
        pytest.param({"SPOT": "NO", "SPOTPRICE": "0.02"}, {}, id="spot-price-but-no-spot"),
        pytest.param(
            {"VOLUMESIZE": "30", "VOLUMETYPE": "gp3", "VOLUMEIOPS": "4000", "VOLUMETHROUGHPUT": "250"},
            {
                "BlockDeviceMapping.1.DeviceName": "/dev/xvda",
                "BlockDeviceMapping.1.Ebs.VolumeSize": "30",
                "BlockDeviceMapping.1.Ebs.VolumeType": "gp3",
                "BlockDeviceMapping.1.Ebs.Iops": "4000",
                "BlockDeviceMapping.1.Ebs.Throughput": "250",
                "BlockDeviceMapping.1.Ebs.DeleteOnTermination": "true",
            },
            id="root-volume",
        ),
        pytest.param(
            {"BLOCKDEVICEMAPPING": "/dev/sdf=:5", "VOLUMEENCRYPTED": "YES", "DELETEONTERMINATION": "NO"},
            {
                "BlockDeviceMapping.1.DeviceName": "/dev/sdf",
                "BlockDeviceMapping.1.Ebs.VolumeSize": "5",
                "BlockDeviceMapping.1.Ebs.DeleteOnTermination": "true",
                "BlockDeviceMapping.2.DeviceName": "/dev/xvda",
                "BlockDeviceMapping.2.Ebs.Encrypted": "true",
                "BlockDeviceMapping.2.Ebs.DeleteOnTermination": "false",
            },
            id="root-volume-after-others",
        ),
    ],
)
def test_an_attribute_becomes_parameters_of_run_instances(
    attributes: dict[str, str], parameters: dict[str, str]
) -> None:
    assert call(attributes) == parameters
    assert planned(attributes).warnings == ()


def chosen(made: CreatePlan, *names: str) -> list[tuple[str, ...]]:
    return [tuple(one.get(name, "") for name in names) for one in calls(made)]


class TestAlternatives:
    def test_an_instance_type_is_tried_in_all_subnets_before_the_next_type(self) -> None:
        made = planned({"INSTANCETYPE": "t3.small, t3a.small", "SUBNETID": "subnet-1,subnet-2"})
        assert chosen(made, "InstanceType", "SubnetId") == [
            ("t3.small", "subnet-1"),
            ("t3.small", "subnet-2"),
            ("t3a.small", "subnet-1"),
            ("t3a.small", "subnet-2"),
        ]

    def test_several_availability_zones_are_alternatives(self) -> None:
        made = planned({"AVAILABILITYZONE": "eu-west-1a,eu-west-1b"})
        assert chosen(made, "Placement.AvailabilityZone") == [("eu-west-1a",), ("eu-west-1b",)]

    def test_with_spot_preferred_on_demand_alternatives_come_after_spot_ones(self) -> None:
        made = planned({"SPOT": "preferred", "INSTANCETYPE": "a.1,b.1"})
        assert chosen(made, "InstanceMarketOptions.MarketType", "InstanceType") == [
            ("spot", "a.1"),
            ("spot", "b.1"),
            ("", "a.1"),
            ("", "b.1"),
        ]


class TestConfiguration:
    def test_defaults_replace_attributes_that_the_section_lacks(self) -> None:
        defaults = {"KEYPAIR": "ours", "SUBNETID": "subnet-9", "INSTANCETYPE": "m5.large", "TAGS": "team=ops"}
        made = planned({"KEYPAIR": "mine"}, defaults=defaults)
        assert chosen(made, "KeyName", "SubnetId", "InstanceType") == [("mine", "subnet-9", "t3.small")]
        assert read_launch(made.alternatives[0]).tags == {"Name": "web-1", "team": "ops"}

    def test_the_instance_profile_is_taken_from_the_configuration_only(self) -> None:
        made = planned({"IAMINSTANCEPROFILE": "admin"}, instance_profile="guests")
        assert chosen(made, "IamInstanceProfile.Name") == [("guests",)]
        assert [re.search("IAMINSTANCEPROFILE is ignored: only", each) is not None for each in made.warnings] == [True]
        arn = "arn:aws:iam::123456789012:instance-profile/guests"
        assert chosen(planned({}, instance_profile=arn), "IamInstanceProfile.Arn") == [(arn,)]

    @pytest.mark.parametrize(("setting", "sent"), [({}, "required"), ({"imdsv2": "optional"}, "optional")], ids=str)
    def test_instances_require_metadata_tokens_unless_imdsv2_is_optional(
        self, setting: dict[str, Any], sent: str
    ) -> None:
        parameters = read_launch(planned({}, **setting).alternatives[0]).parameters
        assert parameters["MetadataOptions.HttpTokens"] == sent
        assert parameters["MetadataOptions.HttpPutResponseHopLimit"] == "1"

    def test_the_spot_price_is_limited_by_max_spot_price(self) -> None:
        capped: dict[str, Any] = {"max_spot_price": "0.05"}
        name = "InstanceMarketOptions.SpotOptions.MaxPrice"
        assert chosen(planned({"SPOT": "YES"}, **capped), name) == [("0.05",)]
        assert chosen(planned({"SPOTPRICE": "0.01"}, **capped), name) == [("0.01",)]
        with pytest.raises(BadParameter, match=r"SPOTPRICE=0\.06 is more than the configuration allows: 0\.05"):
            planned({"SPOTPRICE": "0.06"}, **capped)

    @pytest.mark.parametrize(
        ("asked", "settings", "budget", "on_demand", "sent"),
        [
            ("", {}, None, 0.1, ""),
            ("", {}, None, None, ""),
            ("0.02", {}, None, 0.1, "0.02"),
            ("999999", {}, None, 0.1, "0.1"),
            ("0.02", {}, None, None, ""),
            ("999999", {}, 0.05, None, "0.05"),
            ("999999", {}, 0.05, 0.1, "0.05"),
            ("999999", {}, 0.5, 0.1, "0.1"),
            ("", {}, 0.05, 0.1, "0.05"),
            ("", {}, 0.0123456789, None, "0.012345"),
            ("0.15", {"max_spot_price": "0.2"}, None, 0.1, "0.15"),
            ("", {"max_spot_price": "0.2"}, 0.05, None, "0.05"),
        ],
    )
    def test_max_price_is_the_least_of_what_is_asked_configured_and_charged_on_demand(
        self, asked: str, settings: dict[str, Any], budget: float | None, on_demand: float | None, sent: str
    ) -> None:
        made = spot_plan(asked, budget=budget, on_demand=on_demand, **settings)
        assert chosen(made, "InstanceMarketOptions.SpotOptions.MaxPrice") == [(sent,)]
        is_told = bool(asked) and budget is None and on_demand is None
        assert [each.startswith(f"SPOTPRICE={asked} is not sent") for each in made.warnings] == [True] * is_told

    def test_the_warning_of_a_spot_price_that_is_not_sent_says_what_to_set(self) -> None:
        assert spot_plan("0.02", on_demand=None).warnings == (
            (
                "SPOTPRICE=0.02 is not sent to EC2 for t3.small, since the price on demand is unknown: EC2 limits the"
                " price to that on demand; set max_spot_price in [ec2] of the configuration for SPOTPRICE to count"
            ),
        )

    @given(
        asked=st.one_of(st.just(""), st.decimals("0.000001", "999999", places=6).map(str)),
        budget=st.none() | st.floats(0.0001, 1e6),
        on_demand=st.none() | st.decimals("0.0001", "500", places=6).map(float),
    )
    def test_no_max_price_exceeds_the_price_on_demand_the_budget_or_what_is_asked(
        self, asked: str, budget: float | None, on_demand: float | None
    ) -> None:
        sent = max_price(SpotLimits(requested=asked, budget=budget), on_demand)
        bounds = [each for each in (float(asked or "inf"), budget, on_demand) if each is not None]
        assert not sent or (re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", sent) and float(sent) <= min(bounds))
        # Left out, EC2 applies the price on demand: nothing lower may be asked for unless that price is unknown.
        if not sent:
            assert budget is None
            assert not asked or on_demand is None

    def test_the_budgets_limit_counts_in_dollars_where_prices_are_in_another_currency(self) -> None:
        made = spot_plan("", budget=0.09, on_demand=None, prices=PriceSettings(currency="EUR", rate=0.9))
        assert chosen(made, "InstanceMarketOptions.SpotOptions.MaxPrice") == [("0.1",)]

    def test_configured_tags_overwrite_tags_of_the_vm(self) -> None:
        made = planned({"TAGS": "Name=mine,role=web"}, tags={"role": "any", "site": "a"})
        assert read_launch(made.alternatives[0]).tags == {"Name": "mine", "role": "any", "site": "a"}

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"region": "Ireland"}, "ec2.region: expected a name such as eu-west-1"),
            ({"endpoint_url": "ftp://x"}, "ec2.endpoint_url: expected an http or https URL"),
            ({"proxy": "http://me:pw@proxy"}, "ec2.proxy: expected an http or https URL without user"),
            ({"access_key_id": "AKIA"}, "access_key_id and secret_access_key belong together"),
            ({"access_key_id": "A", "secret_access_key": "S", "profile": "p"}, "give either a profile or keys"),
            ({"role_arn": "opennebula"}, "role_arn: expected an ARN such as"),
            ({"max_spot_price": "cheap"}, "max_spot_price: expected dollars"),
            ({"defaults": {"AMY": "x"}}, "defaults: AMY is no PUBLIC_CLOUD attribute"),
            ({"defaults": {"TAGS": "a=b, one_provider_seq=1"}}, "defaults: TAGS holds one_provider_seq"),
            ({"tags": {"ONE_PROVIDER_OWNER": "x"}}, "tags: ONE_PROVIDER_OWNER is reserved"),
            ({"tags": {f"t{n}": "x" for n in range(41)}}, "tags: an instance may have 40"),
            ({"imdsv2": "off"}, "ec2.imdsv2: invalid enum value"),
            ({"page_size": 4}, "ec2.page_size: expected `int` >= 5"),
            ({"regoin": "x"}, "ec2.regoin is no setting"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_an_invalid_setting_is_refused_by_its_name(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SettingsError, match=re.escape(sentence.removeprefix("ec2."))):
            convert({"region": "eu-west-1", **settings}, Ec2Settings, path=None, prefix="ec2.")


class TestSections:
    def test_an_ec2_section_of_4_x_is_read(self) -> None:
        settings = Ec2Settings(region="eu-west-1")
        made = plan(a_vm({"AMI": "ami-4", "INSTANCETYPE": "m1.small"}, name="EC2"), settings, a_context())
        assert chosen(made, "ImageId", "InstanceType") == [("ami-4", "m1.small")]

    def test_of_several_sections_one_is_chosen_by_type_then_by_host(self) -> None:
        settings = Ec2Settings(region="eu-west-1")
        vm = a_vm(
            {"TYPE": "azure", "AMI": "x"}, {**SECTION, "HOST": "other"}, {**SECTION, "HOST": "AWS", "AMI": "ami-7"}
        )
        assert chosen(plan(vm, settings, a_context()), "ImageId") == [("ami-7",)]
        old = a_vm({**SECTION, "HOST": "other"}, {**SECTION, "CLOUD": "aws", "AMI": "ami-8"}, name="EC2")
        assert chosen(plan(old, settings, a_context()), "ImageId") == [("ami-8",)]


class TestContext:
    def decoded(self, attributes: dict[str, str], context: dict[str, str]) -> str:
        return base64.b64decode(call(attributes, context=context)["UserData"]).decode()

    def test_context_becomes_user_data_that_a_shell_can_source(self) -> None:
        context = {"NETWORK": "YES", "START_SCRIPT": 'echo "$HOME" `id` \\'}
        assert self.decoded({}, context) == 'NETWORK="YES"\nSTART_SCRIPT="echo \\"\\$HOME\\" \\`id\\` \\\\"\n'

    def test_with_cloud_init_user_data_is_a_cloud_config_with_the_ssh_keys(self) -> None:
        context = {"SSH_PUBLIC_KEY": 'ssh-rsa AAAA me\n\nssh-ed25519 BBBB: "you"'}
        for attributes in ({"CLOUD_INIT": "yes"}, {"GUEST": "cloud-init"}):
            _, part = email.message_from_string(self.decoded(attributes, context)).walk()
            assert part.get_content_type() == "text/cloud-config"
            config = json.loads(str(part.get_payload()).removeprefix("#cloud-config"))
            assert config == {"ssh_authorized_keys": ["ssh-rsa AAAA me", 'ssh-ed25519 BBBB: "you"']}
        assert self.decoded({"CLOUD_INIT": "NO"}, context).startswith("SSH_PUBLIC_KEY=")

    def test_the_template_then_the_configuration_says_which_program_reads_the_context(self) -> None:
        def user_data(attributes: dict[str, str], guest: Guest | None) -> str:
            context = msgspec.structs.replace(a_context(), mappings=Mappings(context=ContextSettings(guest=guest)))
            vm = a_vm({**SECTION, **attributes}, context={"SET_HOSTNAME": "web", "EMPTY": ""})
            made = plan(vm, Ec2Settings(region="eu-west-1"), context)
            return base64.b64decode(read_launch(made.alternatives[0]).parameters.get("UserData", "")).decode()

        lines = 'SET_HOSTNAME="web"\nNETCFG_TYPE="none"\n'
        assert user_data({}, None) == 'SET_HOSTNAME="web"\nEMPTY=""\n'
        assert "#cloud-config" in user_data({}, "auto")
        assert "#cloud-config" in user_data({}, "cloud-init")
        assert user_data({}, "one-context") == lines
        assert user_data({}, "none") == ""
        assert user_data({"GUEST": "One-Context"}, "none") == lines
        assert user_data({"CLOUD_INIT": "no"}, "cloud-init") == lines
        assert user_data({"GUEST": "none", "CLOUD_INIT": "yes"}, None) == ""

    def test_the_image_of_the_first_disk_says_which_program_reads_the_context(self) -> None:
        images = {"old": ImageMapping(image="ami-1", guest="one-context"), "new": ImageMapping(image="ami-2")}

        def program(guest: Guest | None, **disk: str) -> str:
            vm = a_vm(SECTION, context={"SET_HOSTNAME": "web"})
            values = {**vm.template.values, "DISK": (disk,)}
            context = a_context(images)
            mappings = msgspec.structs.replace(context.mappings, context=ContextSettings(guest=guest))
            data = user_data_of(
                msgspec.structs.replace(vm, template=Template(values=values)),
                Section(),
                msgspec.structs.replace(context, mappings=mappings),
            )
            return data.program

        assert program("auto", IMAGE="old") == "one-context"
        assert program(None, IMAGE="old") == "one-context"
        assert program("none", IMAGE="new") == "none"
        assert program("none", IMAGE="other", PROVIDER_GUEST="aws-east=cloud-init x=none") == "cloud-init"

    @pytest.mark.parametrize(
        ("imdsv2", "guest", "tokens", "warnings"),
        [
            ("required", "cloud-init", "required", 0),
            ("required", "one-context", "required", 1),
            ("one-context", "one-context", "optional", 0),
            ("one-context", "cloud-init", "required", 0),
            ("optional", "cloud-init", "optional", 0),
        ],
    )
    def test_only_the_configuration_lets_one_context_read_user_data_without_a_session_token(
        self, imdsv2: str, guest: Guest, tokens: str, warnings: int
    ) -> None:
        settings = convert({"region": "eu-west-1", "imdsv2": imdsv2}, Ec2Settings, path=None)
        made = plan(a_vm({**SECTION, "GUEST": guest}, context={"USERNAME": "me"}), settings, a_context())
        assert read_launch(made.alternatives[0]).parameters["MetadataOptions.HttpTokens"] == tokens
        assert sum('set imdsv2 = "one-context"' in warning for warning in made.warnings) == warnings

    def test_one_context_may_read_userdata_of_the_section_as_it_may_read_the_context(self) -> None:
        settings = convert({"region": "eu-west-1", "imdsv2": "one-context"}, Ec2Settings, path=None)
        made = plan(a_vm({**SECTION, "GUEST": "one-context", "USERDATA": "eA=="}), settings, a_context())
        assert read_launch(made.alternatives[0]).parameters["MetadataOptions.HttpTokens"] == "optional"

    def test_userdata_of_the_section_is_sent_instead_of_the_context(self) -> None:
        assert call({"USERDATA": "eA=="}, context={"A": "b"}) == {"UserData": "eA=="}

    def test_without_a_context_no_user_data_is_sent(self) -> None:
        assert "UserData" not in call({})

    @pytest.mark.parametrize("size", [LONGEST_USER_DATA, LONGEST_USER_DATA + 1])
    def test_user_data_beyond_ec2s_limit_is_refused(self, size: int) -> None:
        context = {"A": "x" * (size - len('A=""\n'))}
        given = base64.b64encode(b"x" * size).decode()
        if size <= LONGEST_USER_DATA:
            assert call({}, context=context)
            assert call({"USERDATA": given})
            return
        with pytest.raises(BadParameter, match="CONTEXT has 16385 bytes, EC2 takes 16384 of user data"):
            planned({}, context=context)
        with pytest.raises(BadParameter, match="USERDATA of the PUBLIC_CLOUD section has 16385 bytes"):
            planned({"USERDATA": given})

    def test_lines_that_hardly_any_guest_reads_are_told_with_the_setting_that_changes_that(self) -> None:
        told = [warning for warning in planned({}, context={"A": "b"}).warnings if "[context]" in warning]
        assert len(told) == 1
        assert not planned({}).warnings

    def test_a_context_that_userdata_replaces_is_told(self) -> None:
        told = planned({"USERDATA": "eA=="}, context={"A": "b"}).warnings
        assert "USERDATA of the PUBLIC_CLOUD section is sent instead of CONTEXT" in told[-1]


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"AMI": ""}, "names no AMI"),
        ({"INSTANCETYPE": " , "}, "names no INSTANCETYPE"),
        ({"USERDATA": "not base64!"}, "USERDATA of the PUBLIC_CLOUD section is not base64"),
        ({"EBS_OPTIMIZED": "maybe"}, "EBS_OPTIMIZED=maybe of the PUBLIC_CLOUD section is neither YES nor NO"),
        ({"CLOUD_INIT": "maybe"}, "CLOUD_INIT=maybe"),
        ({"GUEST": "windows"}, "GUEST=windows of the template is none of auto, cloud-init, one-context"),
        ({"SPOT": "sometimes"}, "SPOT=SOMETIMES"),
        ({"SPOTPRICE": "-1"}, "SPOTPRICE=-1 of the PUBLIC_CLOUD section is no price"),
        ({"SPOTPRICE": "0"}, "SPOTPRICE=0 of the PUBLIC_CLOUD section is no price"),
        ({"VOLUMESIZE": "30G"}, "VOLUMESIZE=30G of the PUBLIC_CLOUD section is not a whole number"),
        ({"BLOCKDEVICEMAPPING": "sdf"}, "BLOCKDEVICEMAPPING of the PUBLIC_CLOUD section: sdf is not"),
        ({"BLOCKDEVICEMAPPING": "sdf=a:1:true:gp3:9:9"}, "has too many parts"),
        ({"SUBNETID": "s-1,s-2", "PRIVATEIP": "10.0.0.1"}, "PRIVATEIP and several SUBNETIDs exclude"),
        ({"SUBNETID": "s-1", "AVAILABILITYZONE": "a,b"}, "SUBNETID and several AVAILABILITYZONEs exclude"),
        ({"INSTANCETYPE": ",".join(f"t{n}" for n in range(51))}, "allow 51 combinations"),
        ({"TAGS": ",".join(f"t{n}=x" for n in range(45))}, "TAGS of the PUBLIC_CLOUD section has 46 tags"),
        ({"TAGS": "AWS:x=1"}, "names that begin with aws: are EC2's"),
        ({"TAGS": f"k={'v' * 257}"}, "k is longer than EC2 takes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_invalid_attribute_is_refused_by_its_name(attributes: dict[str, str], sentence: str) -> None:
    context = {"A": "b"}
    with pytest.raises(BadParameter, match=re.escape(sentence)):
        planned(attributes, context=context)


@pytest.mark.parametrize(
    ("attributes", "warning"),
    [
        (
            {"FLAVOUR": "sweet"},
            "FLAVOUR is not known to the ec2 cloud and is ignored, known are AKI, ALLOWEDTYPES, AMI, ",
        ),
        ({"LICENSEPOOL": "x"}, "LICENSEPOOL is ignored: EC2 has no licence pools any more"),
        ({"AUTHORIZEDPORTS": "22"}, "AUTHORIZEDPORTS is ignored: ports are opened in security groups"),
        ({"CLIENTTOKEN": "mine"}, "CLIENTTOKEN is ignored, the driver chooses the idempotency token itself"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_ignored_attribute_gets_a_warning(attributes: dict[str, str], warning: str) -> None:
    made = planned(attributes)
    assert [warning in each for each in made.warnings] == [True]
    assert made.alternatives == planned({}).alternatives


def test_every_attribute_of_upstreams_driver_is_known() -> None:
    """From OpenNebula's src/vmm_mad/remotes/ec2/ec2_driver.rb."""
    upstream = "AMI KEYPAIR INSTANCETYPE SECURITYGROUPS SECURITYGROUPIDS ELASTICIP AVAILABILITYZONE USERDATA TAGS"
    upstream += " BLOCKDEVICEMAPPING SUBNETID PRIVATEIP PLACEMENTGROUP TENANCY EBS_OPTIMIZED CLOUD_INIT AKI RAMDISK"
    assert set(upstream.split()) <= set(KNOWN_ATTRIBUTES)


def test_run_instances_carries_the_token_and_identity_tags_for_every_resource() -> None:
    identity = VmRequest(vm_id=VmId(7), stime=5, seq=1, host_id=3).identity(owner="me")
    launch = read_launch(planned({"SPOT": "YES", "TAGS": "role=web"}).alternatives[0])
    sent = run_instances(launch, identity=identity, token="once")
    assert (sent["ClientToken"], sent["MinCount"], sent["MaxCount"]) == ("once", "1", "1")
    for number, resource in enumerate(("instance", "volume", "spot-instances-request"), 1):
        at = f"TagSpecification.{number}"
        assert sent[f"{at}.ResourceType"] == resource
        keys = [sent[name] for name in sent if name.startswith(f"{at}.Tag.") and name.endswith(".Key")]
        assert set(keys) == {"Name", "role", *identity.tags()}


def test_create_parameters_of_another_provider_are_refused() -> None:
    with pytest.raises(BadParameter, match="the create parameters are not valid for EC2"):
        read_launch({"type": "small"})

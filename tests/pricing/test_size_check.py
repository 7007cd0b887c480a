"""A type that a template names is compared with its CPU, VCPU and MEMORY."""

from __future__ import annotations

import pytest

from one_provider_mad.pricing.size_check import TemplateSize, size_remark
from one_provider_mad.providers.interface import InstanceType

LARGE = InstanceType(name="m5.large", cpu=2, memory=8192)

SMALLER = "instance type m5.large has 2 cores and 8192 MiB, less than {} of the template: name a larger type, or auto"
LARGER = (
    "instance type m5.large has 2 cores and 8192 MiB, more than 4 times {} of the template, which quotas and the host's"
    " room count: set {}, or name a smaller type, or auto"
)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        pytest.param(TemplateSize(cpu=2, vcpu=2, memory=8192), "", id="as-large"),
        pytest.param(TemplateSize(cpu=0.5, vcpu=1, memory=2048), "", id="four-times"),
        pytest.param(TemplateSize(), "", id="nothing-known"),
        pytest.param(TemplateSize(cpu=2.5, memory=8192), SMALLER.format("CPU=2.5"), id="too-few-cores"),
        pytest.param(TemplateSize(cpu=1, vcpu=4, memory=9000), SMALLER.format("VCPU=4 and MEMORY=9000"), id="smaller"),
        pytest.param(TemplateSize(cpu=0.1, memory=8192), LARGER.format("CPU=0.1", "CPU=2"), id="a-tenth-of-a-core"),
        pytest.param(TemplateSize(cpu=1, vcpu=0.1, memory=8192), "", id="vcpu-counts-in-no-quota"),
        pytest.param(
            TemplateSize(cpu=0.1, memory=512),
            LARGER.format("CPU=0.1 and MEMORY=512", "CPU=2 and MEMORY=8192"),
            id="larger-in-both",
        ),
    ],
)
def test_a_named_type_that_is_smaller_or_far_larger_is_remarked_on(size: TemplateSize, sentence: str) -> None:
    assert size_remark(LARGE, size) == sentence

from __future__ import annotations

import pytest

from one_provider_mad.domain import Identity, VmId, whole_number

ODD = [
    "",
    "-",
    "7.0",
    "1e3",
    " 7",
    "7\n",
    "1_0",
    "+7",
    "--7",
    "seven",
    "\u0663",
    "\uff17",
    "\xb2",
    "9" * 19,
    "9" * 5000,
]


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_whole_number_rejects_other_notations(text: str) -> None:
    assert whole_number(text) is None


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("-1", -1), ("9" * 18, 10**18 - 1)])
def test_whole_number_parses_decimal_integers(text: str, number: int) -> None:
    assert whole_number(text) == number


IDENTITY = Identity(owner="one-test", vm_id=VmId(7), stime=1_760_000_000, seq=0, host_id=-1)


def test_an_identity_is_parsed_back_from_its_tags() -> None:
    assert Identity.from_tags(IDENTITY.tags()) == IDENTITY


@pytest.mark.parametrize("name", ["OWNER", "VM_ID", "STIME", "SEQ", "HOST_ID"])
def test_tags_with_a_missing_or_invalid_part_yield_no_identity(name: str) -> None:
    tags = IDENTITY.tags()
    del tags[f"ONE_PROVIDER_{name}"]
    assert Identity.from_tags(tags) is None
    for odd in ODD if name != "OWNER" else ():
        assert Identity.from_tags({**tags, f"ONE_PROVIDER_{name}": odd}) is None

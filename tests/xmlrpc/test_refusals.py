"""Each error code and text of OpenNebula becomes one of our error classes."""

from __future__ import annotations

import re

import pytest

from one_provider_mad import errors
from one_provider_mad.xmlrpc.envelope import Failure
from one_provider_mad.xmlrpc.refusals import error_of, is_not_the_leader

REFUSALS = [
    (256, "[one.vm.info] User couldn't be authenticated, aborting call.", errors.AuthenticationRefused),
    (512, "[one.vm.action] User [2] : Not authorized to perform MANAGE VM [7].", errors.PermissionDenied),
    (512, "[one.template.instantiate] User [2] : limit of 2 reached for VMS quota in VM.", errors.QuotaExceeded),
    (1024, "[one.vm.info] Error getting virtual machine [7].", errors.InstanceNotFound),
    (1024, "[one.template.instantiate] Error getting virtual machine template [7].", errors.BadParameter),
    (1024, "[one.host.info] Error getting host [7].", errors.BadParameter),
    (2048, "[one.vm.action] ... This action is not available for state RUNNING", errors.WrongState),
    (
        2048,
        "[one.vm.snapshotcreate] Could not create a new snapshot for VM 2, wrong state POWEROFF.",
        errors.WrongState,
    ),
    (2048, '[one.vm.action] Action "frobnicate" is not supported', errors.BadParameter),
    (2048, "[one.vm.resize] Host 0 does not have enough capacity.", errors.NoCapacity),
    (4096, "[one.vmpool.info] Incorrect filter_flag", errors.BadParameter),
    (8192, "[one.vm.update] Parse error: syntax error, unexpected CCDATA", errors.BadParameter),
    (8192, "[one.vmpool.info] Full text search is not supported by the SQL backend", errors.BadParameter),
    (8192, "[one.vm.allocate] CPU attribute must be a positive float or integer value.", errors.BadParameter),
    (8192, "[one.vm.allocate] User 2 does not own a network with name: x . Set NETWORK_UNAME", errors.BadParameter),
    (8192, "[one.vm.allocate] Cannot process request, no leader found", errors.Throttled),
    (8192, "[one.vm.allocate] Cannot process request, oned cluster in election mode", errors.Throttled),
    (8192, "[one.vm.allocate] Cannot process request, oned cluster is replicating log", errors.Throttled),
    (8192, "[one.vm.allocate] Cannot process request, zone disabled", errors.Throttled),
    (8192, "[one.vm.info] Forwarding xml-rpc message to gRPC leader is not supported", errors.Throttled),
    (8192, "[one.vm.allocate] Error sending request to leader: timeout", errors.ProviderUnavailable),
    (16384, "[one.vm.allocate] CPU attribute must be a positive float", errors.BadParameter),
    (16384, "[one.template.instantiate] Error inserting VM in DB.", errors.ProviderUnavailable),
    (32768, "[one.vm.action] VM is locked", errors.WrongState),
    (65536, "[one.zone.replicate] oned is not follower", errors.Throttled),
    (-501, "Parameter that is supposed to be integer is not", errors.BadParameter),
    (-506, "Method 'one.nosuch.method' not defined", errors.NotSupported),
    (77, "", errors.ProviderUnavailable),
]


@pytest.mark.parametrize(("code", "text", "kind"), REFUSALS, ids=[f"{code}-{text[-30:]}" for code, text, _ in REFUSALS])
def test_an_error_code_and_text_become_our_error_class(code: int, text: str, kind: type[errors.ProviderError]) -> None:
    error = error_of("one.vm.action", Failure(code=code, text=text))
    assert type(error) is kind
    said = re.sub(r"^\[.*?\] (User \[2\] : )?", "", text)
    assert said in str(error) or kind is errors.NotSupported


def test_a_call_lost_between_follower_and_leader_may_have_been_carried_out() -> None:
    failure = Failure(code=8192, text="[one.vm.allocate] Unable to transport XML to server and get XML response back.")
    assert not is_not_the_leader(failure)
    assert not error_of("one.vm.allocate", failure).definite


def test_a_call_refused_for_want_of_a_leader_was_not_carried_out() -> None:
    error = error_of("one.vm.allocate", Failure(code=8192, text="[x] Cannot process request, no leader found"))
    assert error.definite
    assert isinstance(error, errors.Throttled)
    assert error.retry_after


def test_an_error_text_of_a_million_characters_is_cut() -> None:
    assert len(str(error_of("one.vm.action", Failure(code=2048, text="x" * 1_000_000)))) < 2100


@pytest.mark.parametrize(
    ("code", "text", "sentence"),
    [
        (
            512,
            "[one.template.instantiate] User [2] : limit of 2 reached for VMS quota in VM.",
            "the partner refuses: limit of 2 reached for VMS quota in VM. (one.vm.action)",
        ),
        (2048, "[one.vm.action] Wrong state", "Wrong state (one.vm.action)"),
        (77, "", "refused without a reason, code 77 (one.vm.action)"),
    ],
)
def test_an_error_sentence_begins_with_the_reason_and_ends_with_the_method(code: int, text: str, sentence: str) -> None:
    assert str(error_of("one.vm.action", Failure(code=code, text=text), peer="the partner")) == sentence

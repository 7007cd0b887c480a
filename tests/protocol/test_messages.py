from __future__ import annotations

import pytest

from one_provider_mad.domain import VmId
from one_provider_mad.protocol.messages import Action, Control, Malformed, Reply, Severity
from tests.protocol.cases import HELLO, request


def test_every_action_has_its_word_on_the_wire_as_its_name() -> None:
    assert all(action.value == action.name for action in Action)


def test_the_action_words_are_those_of_all_releases_from_3_8_to_7_4() -> None:
    assert {action.value for action in Action} == {
        *("DEPLOY", "SHUTDOWN", "CANCEL", "SAVE", "RESTORE", "MIGRATE", "REBOOT", "RESET", "POLL", "CLEANUP"),
        *("ATTACHDISK", "DETACHDISK", "ATTACHNIC", "DETACHNIC", "DRIVER_CANCEL", "RESIZE", "RESIZEDISK"),
        *("SNAPSHOTCREATE", "SNAPSHOTREVERT", "SNAPSHOTDELETE", "DISKSNAPSHOTCREATE", "DISKSNAPSHOTREVERT"),
        *("UPDATECONF", "UPDATESG", "UPDATENIC", "BACKUP", "BACKUPCANCEL", "EXEC", "EXEC_CANCEL"),
    }


def test_no_action_word_is_a_control_word_or_log() -> None:
    words = {action.value for action in Action}
    assert words.isdisjoint({control.value for control in Control} | {"LOG"})


def test_severities_are_written_as_one_letter() -> None:
    assert [severity.value for severity in Severity] == ["I", "W", "E", "D"]


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        request().vm_id = VmId(1)  # type: ignore[misc]


def test_requests_of_the_same_content_are_equal_and_hash_alike() -> None:
    assert request(payload=HELLO) == request(payload=HELLO)
    assert len({request(payload=HELLO), request(payload=HELLO)}) == 1


def test_a_reply_without_info_has_a_dash() -> None:
    assert Reply(word="REBOOT", vm_id=VmId(1), is_success=True).info == "-"


def test_a_malformed_line_has_no_vm_id_by_default() -> None:
    malformed = Malformed(reason="empty line")
    assert (malformed.word, malformed.vm_id) == ("", None)

from __future__ import annotations

import pytest

from one_provider_mad.domain import VmId
from one_provider_mad.protocol.messages import Action, Control, Malformed, Reply, Severity
from tests.protocol.cases import HELLO, request


def test_every_action_is_called_as_on_the_wire() -> None:
    assert all(action.value == action.name for action in Action)


def test_the_action_words_are_those_of_all_releases_from_3_8_to_7_4() -> None:
    assert {action.value for action in Action} == {
        *("DEPLOY", "SHUTDOWN", "CANCEL", "SAVE", "RESTORE", "MIGRATE", "REBOOT", "RESET", "POLL", "CLEANUP"),
        *("ATTACHDISK", "DETACHDISK", "ATTACHNIC", "DETACHNIC", "DRIVER_CANCEL", "RESIZE", "RESIZEDISK"),
        *("SNAPSHOTCREATE", "SNAPSHOTREVERT", "SNAPSHOTDELETE", "DISKSNAPSHOTCREATE", "DISKSNAPSHOTREVERT"),
        *("UPDATECONF", "UPDATESG", "UPDATENIC", "BACKUP", "BACKUPCANCEL", "EXEC", "EXEC_CANCEL"),
    }


def test_no_action_is_a_word_that_speaks_to_the_driver_or_to_a_log() -> None:
    words = {action.value for action in Action}
    assert words.isdisjoint({control.value for control in Control} | {"LOG"})


def test_a_severity_is_one_letter() -> None:
    assert [severity.value for severity in Severity] == ["I", "W", "E", "D"]


def test_a_value_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        request().vm_id = VmId(1)  # type: ignore[misc]


def test_values_of_the_same_content_are_equal_and_hash_alike() -> None:
    assert request(payload=HELLO) == request(payload=HELLO)
    assert len({request(payload=HELLO), request(payload=HELLO)}) == 1


def test_a_reply_without_anything_to_say_says_a_dash() -> None:
    assert Reply(word="REBOOT", vm_id=VmId(1), is_success=True).info == "-"


def test_a_malformed_line_has_no_id_unless_one_was_read() -> None:
    malformed = Malformed(reason="empty line")
    assert (malformed.word, malformed.vm_id) == ("", None)

"""What one-context is told: lines for a shell, with the attributes that it can take."""

from __future__ import annotations

from one_provider_mad.domain import Template, VmId, VmRequest
from one_provider_mad.guest.user_data import UserData, user_data_for


def told(**context: str) -> UserData:
    request = VmRequest(vm_id=VmId(7), stime=3, template=Template(values={"CONTEXT": (context,)}))
    return user_data_for(request, "one-context", limit=16384)


def test_an_attribute_that_a_sentence_names_as_left_out_is_not_sent() -> None:
    unusable = {
        "USERNAME": "no name",
        "TIMEZONE": "../etc/passwd",
        "START_SCRIPT_BASE64": "no base64!",
        "REPORT_READY": "yes",
        "USER_DATA": "no base64!",
        "USER_DATA_ENCODING": "base64",
    }
    made = told(SET_HOSTNAME="web", **unusable)
    left_out = {sentence.split()[2] for sentence in made.warnings if " is left out: " in sentence}
    assert left_out == unusable.keys() - {"USER_DATA_ENCODING"}
    assert made.data == b'SET_HOSTNAME="web"\nUSER_DATA_ENCODING="base64"\nNETCFG_TYPE="none"\n'


def test_values_reach_the_shell_with_their_quotes_and_line_ends() -> None:
    assert told(APP='a$b`c"d\\e\r\nf').data == b'APP="a\\$b\\`c\\"d\\\\e\r\nf"\nNETCFG_TYPE="none"\n'

from __future__ import annotations

import base64
import contextvars
from urllib.parse import quote

import pytest

from one_provider_mad import masking
from one_provider_mad.masking import (
    forget_vm_secrets,
    keep_login_secret,
    keep_secret,
    keep_url_secret,
    keep_vm_secret,
    masked,
    masked_by_name,
)

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_known", masking._Known())
    forget_vm_secrets()


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"the signature of {SECRET} does not match", "the signature of *** does not match"),
        (f"<{SECRET}><{SECRET}>", "<***><***>"),
        (f"token={quote(SECRET, safe='')}&x", "token=***&x"),
        (f"Basic {in_base64(SECRET)}", "Basic ***"),
        ("nothing of ours", "nothing of ours"),
    ],
    ids=["plain", "twice", "quoted", "base64", "none"],
)
def test_a_secret_is_masked_plain_quoted_and_in_base64(text: str, expected: str) -> None:
    keep_secret(SECRET)
    assert masked(text) == expected


def test_a_secret_with_quotes_is_masked_as_json_python_and_templates_write_it() -> None:
    keep_secret('pass"wor\\d 1')
    for form in ('pass"wor\\d 1', 'pass\\"wor\\\\d 1', "pass'word 1"):
        assert masked(f"it was {form}!") == "it was ***!"


@pytest.mark.parametrize("word", ["", "abc1234", "opennebula", "Password", "INSTANCE"])
def test_short_secrets_and_common_words_are_not_masked(word: str) -> None:
    keep_secret(word)
    assert masked(f"the {word} of VM 7") == f"the {word} of VM 7"


@pytest.mark.parametrize("password", ["opennebula", "x1", "9f8e7d6c5b4a"])
def test_only_the_password_of_a_login_is_masked(password: str) -> None:
    keep_login_secret(f"oneadmin:{password}")
    pair = f"oneadmin:{password}"
    assert masked(f"user {pair} is not known") == "user oneadmin:*** is not known"
    assert masked(f"Authorization: Basic {in_base64(pair)}") == "Authorization: Basic ***"
    assert masked(f"<session>{quote(pair, safe='')}</session>") == "<session>oneadmin:***</session>"


@pytest.mark.parametrize("url", ["http://me:p%40ssw0rd@proxy:3128/", "me:p%40ssw0rd@proxy:3128"])
def test_a_proxy_password_is_masked_both_percent_encoded_and_decoded(url: str) -> None:
    keep_url_secret(url)
    keep_url_secret("http://[half")
    assert masked(f"{url} refused p@ssw0rd") == f"{url.replace('p%40ssw0rd', '***')} refused ***"


def test_a_secret_that_contains_another_one_is_masked_whole() -> None:
    keep_secret("12345678", "12345678-abcdefgh")
    assert masked("12345678-abcdefgh") == "***"


def test_the_least_recently_used_secret_is_forgotten_beyond_the_limit() -> None:
    keep_secret("the-first-one")
    for number in range(masking._MOST - 1):
        keep_secret(f"session-token-{number:03}")
    keep_secret("the-first-one", "session-token-999")
    assert masked("the-first-one session-token-000 session-token-001") == "*** session-token-000 ***"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"SecretAccessKey": "abc", "AccessKeyId": "AKIA1"}', '{"SecretAccessKey": "***", "AccessKeyId": "***"}'),
        ("export AWS_SESSION_TOKEN=abc; password: xyz", "export AWS_SESSION_TOKEN=***; password: ***"),
        ("vault: permission denied", "vault: permission denied"),
    ],
)
def test_a_value_after_a_name_like_password_is_masked_even_if_it_is_no_configured_secret(
    text: str, expected: str
) -> None:
    assert masked_by_name(text) == expected


def test_a_vms_secrets_are_masked_in_its_own_task_until_they_are_forgotten() -> None:
    for secret in ("correct horse", SECRET, "short", "opennebula"):
        keep_vm_secret(secret)
    text = f"correct horse, {SECRET}, {in_base64(SECRET)}, short, opennebula"
    assert masked(text) == "***, ***, ***, short, opennebula"
    assert contextvars.Context().run(masked, text) == text, "another task writes of another VM"
    forget_vm_secrets()
    assert masked(text) == text

"""The token of a VM for OneGate."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.onegate import onegate_token
from tests.xmlrpc.local_core import decrypted

PASSWORD = "a47ac9d5b0c2e0a1c0d3b9bb4a4e1b2f53dd1d5d0cf0e9bbf6e25b7ac8e4b9f1"


def test_token_is_what_openssl_makes() -> None:
    """OpenNebula takes OpenSSL with the first 32 bytes of the password as the key, and no initialization vector."""
    assert onegate_token(vm_id=7, stime=1_700_000_000, token_password=PASSWORD) == openssl("7:1700000000")


def openssl(text: str) -> str:
    """The same from OpenSSL's own command, which OpenNebula's functions are made of."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command")
    command = ["openssl", "enc", "-aes-256-cbc", "-K", PASSWORD[:32].encode().hex(), "-iv", "0" * 32, "-base64", "-A"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


@given(st.integers(0, 2**31), st.integers(0, 2**40), st.text("0123456789abcdef", min_size=32, max_size=64))
def test_onegate_reads_vm_and_start_time_from_the_token(vm_id: int, stime: int, password: str) -> None:
    token = onegate_token(vm_id=vm_id, stime=stime, token_password=password)
    assert decrypted(token, password) == f"{vm_id}:{stime}"
    assert token.isascii()
    assert "\n" not in token


def test_a_short_password_is_refused() -> None:
    with pytest.raises(ValueError, match="key"):
        onegate_token(vm_id=7, stime=1, token_password=PASSWORD[:31])

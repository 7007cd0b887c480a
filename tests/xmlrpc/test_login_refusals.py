"""Errors of reaching an OpenNebula name the endpoint, the user and the setting, and never the password."""

from __future__ import annotations

from one_provider_mad.xmlrpc.login_refusals import endpoint_name, login_refused


def test_errors_name_the_endpoint_and_the_user_of_a_login_without_its_password() -> None:
    assert endpoint_name("https://user:secret@partner.example:2633/RPC2", peer="the partner") == (
        "the partner at partner.example:2633"
    )
    assert str(login_refused("the partner", "alice:secret", setting="X")) == (
        "the partner refuses the login of alice: see X"
    )

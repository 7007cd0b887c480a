"""Errors of reaching an OpenNebula name the endpoint, the user and the setting, and never the password."""

from __future__ import annotations

from one_provider_mad.xmlrpc.reach import login_refused, place_of


def test_place_and_refused_login_are_named_without_the_password() -> None:
    assert place_of("https://user:secret@partner.example:2633/RPC2", whose="the partner") == (
        "the partner at partner.example:2633"
    )
    assert str(login_refused("the partner", "alice:secret", setting="X")) == (
        "the partner refuses the login of alice: see X"
    )

"""Who cannot be logged in to is told in plain words, with the setting that says so."""

from __future__ import annotations

from one_provider_mad.xmlrpc.reach import login_refused, place_of


def test_neither_place_nor_login_tells_a_password() -> None:
    assert place_of("https://user:secret@partner.example:2633/RPC2", whose="the partner") == (
        "the partner at partner.example:2633"
    )
    assert str(login_refused("the partner", "alice:secret", setting="X")) == (
        "the partner refuses the login of alice: see X"
    )

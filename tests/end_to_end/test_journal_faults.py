"""What becomes of actions when the journal cannot be used, or goes away while the driver runs."""

from __future__ import annotations

from tests.conftest import StartDriver
from tests.end_to_end import wire
from tests.end_to_end.oned import Place


def test_an_unusable_journal_fails_every_action_but_poll(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver()
    deploy_id, ended = one.created(wire.deploy(7)), one.created(wire.deploy(8))
    assert one.ask(wire.terminate(8, ended)).startswith("SUCCESS")
    assert one.finalize() == 0
    journal = place.var / "one_provider_mad_simulated.journal"
    journal.write_bytes(b"no database " * 1000)
    one = driver()
    assert one.ask(wire.poll(7, deploy_id)).startswith("SUCCESS STATE=a ")
    assert one.ask(wire.poll(8, ended)) == "SUCCESS STATE=-"
    assert one.ask(wire.poll(9, "sim-nowhere")) == "SUCCESS STATE=-"
    refused = f"the journal cannot be used: file is not a database ({journal})"
    assert one.ask(wire.deploy(9, release="5.10")) == f"FAILURE {refused}"
    assert [line for line in one.lines if line.startswith("LOG W")] == [
        f"LOG W - {refused}; POLLs are answered meanwhile, all other actions fail"
    ]
    journal.unlink()
    one.created(wire.deploy(9, release="5.10"))
    assert one.ask(wire.poll(8, ended)) == (
        f"FAILURE instance {ended} is terminated for good: onevm recover --recreate makes a new one"
    )


def test_a_journal_that_is_removed_while_the_driver_runs_is_made_anew_and_told_once(
    driver: StartDriver, place: Place
) -> None:
    place.simulate(boot_time=0)
    one = driver()
    one.created(wire.deploy(7))
    journal = place.var / "one_provider_mad_simulated.journal"
    journal.unlink()
    one.created(wire.deploy(8))
    assert place.has_attempts(2), "what it held is in there as well"
    one.created(wire.deploy(9))
    told = "the journal was removed while it was in use: it is created again, with its whole content"
    assert [line for line in one.lines if line.startswith("LOG W")] == [f"LOG W -1 {told} ({journal})"]

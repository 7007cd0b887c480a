"""A journal that cannot be used, goes away while the driver runs, or was written by an earlier release."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from one_provider_mad.journal.reader import read_attempts
from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import Place
from tests.waiting import until

VERSION_9 = Path(__file__).parents[1] / "journal_versions" / "9.sql"


def test_every_action_but_poll_fails_while_the_journal_is_unusable(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver()
    deploy_id, ended = one.created(oned_requests.deploy(7)), one.created(oned_requests.deploy(8))
    assert one.ask(oned_requests.terminate(8, ended)).startswith("SUCCESS")
    assert one.finalize() == 0
    journal = place.var / "one_provider_mad_simulated.journal"
    journal.write_bytes(b"no database " * 1000)
    one = driver()
    assert one.ask(oned_requests.poll(7, deploy_id)).startswith("SUCCESS STATE=a ")
    assert one.ask(oned_requests.poll(8, ended)) == "SUCCESS STATE=-"
    assert one.ask(oned_requests.poll(9, "sim-nowhere")) == "SUCCESS STATE=-"
    refused = f"the journal cannot be used: file is not a database ({journal})"
    assert one.ask(oned_requests.deploy(9, release="5.10")) == f"FAILURE {refused}"
    assert [line for line in one.lines if line.startswith("LOG W")] == [
        f"LOG W - {refused}; POLLs are answered meanwhile, all other actions fail"
    ]
    journal.unlink()
    one.created(oned_requests.deploy(9, release="5.10"))
    assert one.ask(oned_requests.poll(8, ended)) == (
        f"FAILURE instance {ended} is terminated for good: onevm recover --recreate makes a new one"
    )


def test_journal_removed_while_the_driver_runs_is_created_again_with_one_warning(
    driver: StartDriver, place: Place
) -> None:
    place.simulate(boot_time=0)
    one = driver()
    one.created(oned_requests.deploy(7))
    journal = place.var / "one_provider_mad_simulated.journal"
    journal.unlink()
    one.created(oned_requests.deploy(8))
    assert place.has_attempts(2), "the new file has the earlier attempt too"
    one.created(oned_requests.deploy(9))
    warning = "the journal was removed while it was in use: it is created again, with its whole content"
    assert [line for line in one.lines if line.startswith("LOG W")] == [f"LOG W -1 {warning} ({journal})"]


def test_an_earlier_journal_with_many_old_records_shrinks_while_the_driver_serves(
    driver: StartDriver, place: Place
) -> None:
    place.simulate(boot_time=0)
    journal = place.var / "one_provider_mad_simulated.journal"
    with closing(sqlite3.connect(journal)) as db:
        db.executescript(VERSION_9.read_text())
        rows = "WITH RECURSIVE row (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM row WHERE n < 500)"
        db.execute(
            f"INSERT INTO attempts {rows} SELECT 'old-' || n, 'harbour', n, 1, 0, 0, 1, '{{}}', 'gone', 'i-' || n, 1.0,"
            " 1.0, hex(zeroblob(2000)) FROM row"
        )
        db.commit()
    before = journal.stat().st_size
    one = driver()
    deploy_id = one.created(oned_requests.deploy(7))
    until(lambda: [each.deploy_id for each in read_attempts(journal)] == [deploy_id])
    until(lambda: journal.stat().st_size < before / 4)
    assert one.ask(oned_requests.terminate(7, deploy_id)).startswith("SUCCESS")
    assert one.finalize() == 0

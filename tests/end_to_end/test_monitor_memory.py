"""What the state file keeps of an earlier information driver that another monitord started."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing

from tests.end_to_end.information_driver import Console, configure, monitored
from tests.end_to_end.oned import Place
from tests.waiting import HANG


def test_state_file_keeps_listed_instances_but_not_timestamps_for_another_monitord(place: Place) -> None:
    configure(place, monitor={"sync_period": 0.1, "missing_after": 1000})
    gone, _ = Console(place).run_many([7, 8])
    with monitored(place) as one:
        one.start()
        one.sync(vm7="RUNNING", vm8="RUNNING")
    file = place.var / "one_im_provider_simulated.state"
    state = json.loads(file.read_bytes())
    state["parent"]["start"], state["timestamp"] = "of another boot", 2 * state["timestamp"]
    file.write_text(json.dumps(state))
    with closing(sqlite3.connect(place.var / "simulated.db", timeout=HANG)) as db, db:
        db.execute("DELETE FROM instance WHERE id = ?", (gone,))
    with monitored(place) as one:
        one.start()
        assert one.sync() == {7: "UNKNOWN", 8: "RUNNING"}
        assert all((line.timestamp or 0) < time.time() + 1000 for line in one.lines)

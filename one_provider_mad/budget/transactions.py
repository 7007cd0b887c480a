"""What the store does within one transaction; each function works on the connection alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from one_provider_mad.budget.months import Month
from one_provider_mad.budget.records import Observed, Spent, Wish
from one_provider_mad.budget.rules import Ask, Refusal, Scope, Terms, Unready, Use, refusal
from one_provider_mad.domain import DeployId, Identity, Value
from one_provider_mad.pricing.values import Price
from one_provider_mad.processes import Process
from one_provider_mad.timestamps import Timestamp

_ADDED_SECONDS = 1800.0
"""Seconds for which a new disk counts although the instance's price does not show it: providers read disks every few
minutes."""

_SECONDS = 3600.0

Row = dict[str, Any]


class Calls(Value, frozen=True, kw_only=True):
    """Which calls for commitments are still carried out.

    Attributes:
        me: the present process.
        keys: token or instance of each call that it carries out. Others of its own were cancelled, or their end could
            not be written.
    """

    me: Process
    keys: frozenset[str]

    def are_under_way(self, row: Row) -> bool:
        """Return True while a process carries out the call of a commitment."""
        process = Process(pid=row["pid"], start=row["start"])
        if process == self.me:
            return row["key"] in self.keys or row["deploy_id"] in self.keys
        return process.is_alive()


def use_of(db: sqlite3.Connection, scope: Scope, month: Month, *, until: float | None = None) -> Use:
    """Return what the instances of a scope use; `Use.month` until the month's end, or until the given time."""
    end = month.end if until is None else until
    where, values = _filter(scope)
    begin = f"max(since, coalesce(as_of, 0), {month.begin!r})"
    count, known, to_come, gib, currencies = db.execute(
        "SELECT count(*), coalesce(total(known + added), 0),"  # noqa: S608
        f" total((known + added) * max(0, {end!r} - {begin})) / {_SECONDS}, total(gib + added_gib),"
        " group_concat(DISTINCT CASE WHEN known > 0 THEN currency END)"
        f" FROM commitments LEFT JOIN names USING (name) WHERE {where}",
        values,
    ).fetchone()
    spent = db.execute(
        f'SELECT total(known * max(0, "end" - max("begin", coalesce(as_of, 0), {month.begin!r}))) / {_SECONDS}'  # noqa: S608
        f" FROM segments LEFT JOIN names USING (name) WHERE {where}",
        values,
    ).fetchone()[0]
    booked, unpriced_hours = booked_in(db, scope, month)
    return Use(
        instances=count,
        per_hour=known,
        month=booked + spent + to_come,
        unpriced_hours=unpriced_hours,
        gib=gib,
        unpriced=_named(db, f"amount IS NULL AND {where}", values),
        unsized=_named(db, f"gib IS NULL AND {where}", values),
        currencies=frozenset(currencies.split(",")) if currencies is not None else frozenset(),
    )


def deploy_ids(db: sqlite3.Connection, scope: Scope, *, name: str) -> frozenset[str]:
    """Return the instances of a NAME that a scope counts."""
    where, values = _filter(scope)
    query = f"SELECT deploy_id FROM commitments WHERE name = ? AND deploy_id <> '' AND {where}"  # noqa: S608
    return frozenset(row[0] for row in db.execute(query, (name, *values)))


def booked_in(db: sqlite3.Connection, scope: Scope, month: Month) -> tuple[float, float]:
    """Return what the ledgers have booked for a scope in a month, and the hours whose price they do not know."""
    where, values = _filter(scope)
    query = f"SELECT total(known), total(unpriced) FROM booked WHERE month = ? AND {where}"  # noqa: S608
    known, unpriced = db.execute(query, (month.text, *values)).fetchone()
    return float(known), float(unpriced)


def _filter(scope: Scope) -> tuple[str, tuple[str, ...]]:
    if scope.user is not None:
        return "user = ?", (scope.user,)
    if scope.group is not None:
        return "grp = ?", (scope.group,)
    return "true", ()


def _named(db: sqlite3.Connection, condition: str, values: Sequence[str]) -> str:
    """Return one instance that fulfils a condition, for a person; "" for none."""
    row = db.execute(f"SELECT name, deploy_id, vm_id FROM commitments WHERE {condition} LIMIT 1", values).fetchone()  # noqa: S608
    if row is None:
        return ""
    return f"instance {row[1]} of VM {row[2]} ({row[0]})" if row[1] else f"the new instance of VM {row[2]} ({row[0]})"


def admit(
    db: sqlite3.Connection, wish: Wish, *, name: str, scopes: Iterable[Scope], terms: Terms, at: Timestamp, me: Process
) -> Refusal | Unready | None:
    """Commit what is wished if all limits admit it; else return why not."""
    scopes = list(scopes)
    if (unready := _unready(db, name, scopes)) is not None:
        return unready
    row = _row_of(db, name, wish)
    ask = _ask(wish, row)
    for scope in scopes:
        if (refused := refusal(scope, use_of(db, scope, terms.month), ask, terms)) is not None:
            return refused
    if row is None:
        _insert(db, wish, name=name, at=at)
    elif wish.is_part:
        _add_part(db, name, row, wish, at)
    else:
        _raise(db, name, row, wish, at)
    key = row["key"] if row else wish.key or wish.deploy_id
    _touch(db, name, key, at, wait=None, me=me)
    return None


def _unready(db: sqlite3.Connection, name: str, scopes: Sequence[Scope]) -> Unready | None:
    row = db.execute("SELECT looked_at, is_booked FROM names WHERE name = ?", (name,)).fetchone()
    if row is None or not row[0]:
        return Unready.LOOK
    if not row[1] and any(scope.limits.max_per_month is not None for scope in scopes):
        return Unready.BOOK
    return None


def forget_look(db: sqlite3.Connection, name: str) -> None:
    """Admit nothing for a NAME before its cloud is listed and its ledger read again."""
    db.execute("UPDATE names SET looked_at = 0, is_booked = 0 WHERE name = ?", (name,))


def _row_of(db: sqlite3.Connection, name: str, wish: Wish) -> Row | None:
    column, value = ("deploy_id", wish.deploy_id) if wish.deploy_id else ("key", wish.key)
    cursor = db.execute(f"SELECT * FROM commitments WHERE name = ? AND {column} = ?", (name, value))  # noqa: S608
    row = cursor.fetchone()
    if row is None and wish.deploy_id:
        return _unanswered(db, name, wish)
    return None if row is None else _as_dict(cursor, row)


def _unanswered(db: sqlite3.Connection, name: str, wish: Wish) -> Row | None:
    """Return the commitment of a create whose answer was lost, and whose instance the wish names now."""
    who = wish.identity
    cursor = db.execute(
        "SELECT * FROM commitments WHERE name = ? AND vm_id = ? AND stime = ? AND seq = ? AND deploy_id = '' LIMIT 1",
        (name, who.vm_id, who.stime, who.seq),
    )
    rows = [_as_dict(cursor, row) for row in cursor.fetchall()]
    for row in rows:
        db.execute(
            "UPDATE commitments SET deploy_id = ? WHERE name = ? AND key = ?", (wish.deploy_id, name, row["key"])
        )
        return {**row, "deploy_id": wish.deploy_id}
    return None


def _as_dict(cursor: sqlite3.Cursor, row: Sequence[Any]) -> Row:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def _ask(wish: Wish, row: Row | None) -> Ask:
    """Return what a wish adds to what is committed for its instance already."""
    type_name, is_spot, spot_price = wish.kind
    price = wish.price
    has = 0.0 if row is None or wish.is_part else row["known"]
    whole = price.known + (row["known"] + row["added"] if row and wish.is_part else 0.0)
    return Ask(
        what=wish.what,
        amount=None if price.amount is None else max(0.0, price.known - has),
        known=max(0.0, price.known - has),
        price=whole,
        currency=price.currency,
        instances=int(row is None),
        gib=wish.gib if row is None or wish.is_part else max(0.0, (wish.gib or 0.0) - (row["gib"] or 0.0)),
        type_name=type_name,
        is_new_type=wish.is_new_type,
        spot_price=spot_price,
        is_spot=is_spot,
    )


def _insert(db: sqlite3.Connection, wish: Wish, *, name: str, at: Timestamp) -> None:
    identity, price = wish.identity, wish.price
    db.execute(
        "INSERT INTO commitments (name, key, deploy_id, vm_id, stime, seq, user, grp, amount, known, currency, gib,"
        " since, touched_at, touched_steady, touched_boot) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            name,
            wish.key or wish.deploy_id,
            wish.deploy_id,
            identity.vm_id,
            identity.stime,
            identity.seq,
            wish.owner.user,
            wish.owner.group,
            price.amount,
            price.known,
            price.currency,
            wish.gib,
            at.at,
            at.at,
            at.steady,
            at.boot,
        ),
    )


def _add_part(db: sqlite3.Connection, name: str, row: Row, wish: Wish, at: Timestamp) -> None:
    _end_segment(db, row, at.at)
    db.execute(
        "UPDATE commitments SET added = added + ?, added_gib = added_gib + ?, added_at = ?, since = ?"
        " WHERE name = ? AND key = ?",
        (wish.price.known, wish.gib or 0.0, at.at, at.at, name, row["key"]),
    )


def _raise(db: sqlite3.Connection, name: str, row: Row, wish: Wish, at: Timestamp) -> None:
    price = wish.price
    if price.known > row["known"]:
        _set_price(db, row, amount=price.amount, known=price.known, currency=price.currency, now=at.at)
    if wish.gib is not None and wish.gib > (row["gib"] or 0.0):
        db.execute("UPDATE commitments SET gib = ? WHERE name = ? AND key = ?", (wish.gib, name, row["key"]))
    if wish.owner.user:
        db.execute(
            "UPDATE commitments SET user = ?, grp = ? WHERE name = ? AND key = ?",
            (wish.owner.user, wish.owner.group, name, row["key"]),
        )


def _set_price(
    db: sqlite3.Connection, row: Row, *, amount: float | None, known: float, currency: str, now: float
) -> None:
    _end_segment(db, row, now)
    db.execute(
        "UPDATE commitments SET amount = ?, known = ?, currency = ?, since = ? WHERE name = ? AND key = ?",
        (amount, known, currency, now, row["name"], row["key"]),
    )


def _end_segment(db: sqlite3.Connection, row: Row, now: float) -> None:
    """Keep what a commitment has cost until now, since it changes or ends; the ledger books it later."""
    known = row["known"] + row["added"]
    if known > 0 and now > row["since"]:
        db.execute(
            "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)",
            (row["name"], row["user"], row["grp"], known, row["since"], now),
        )


def _touch(db: sqlite3.Connection, name: str, key: str, at: Timestamp, *, wait: float | None, me: Process) -> None:
    db.execute(
        "UPDATE commitments SET touched_at = ?, touched_steady = ?, touched_boot = ?, wait = ?, pid = ?, start = ?"
        " WHERE name = ? AND key = ?",
        (at.at, at.steady, at.boot, wait, me.pid, me.start, name, key),
    )


def settle(db: sqlite3.Connection, key: str, *, name: str, deploy_id: str, wait: float, at: Timestamp) -> None:
    """Note that no call for a commitment is under way any more.

    Args:
        db: the connection.
        key: token of its create, or its id.
        name: NAME of the configuration.
        deploy_id: the id of its instance, "" when unknown.
        wait: seconds from now on for which a listing does not lower it.
        at: the present time.
    """
    db.execute(
        "UPDATE commitments SET touched_at = ?, touched_steady = ?, touched_boot = ?, wait = ?,"
        " deploy_id = CASE ? WHEN '' THEN deploy_id ELSE ? END WHERE name = ? AND (key = ? OR deploy_id = ?)",
        (at.at, at.steady, at.boot, wait, deploy_id, deploy_id, name, key, key),
    )
    if deploy_id:  # a listing may have shown the instance before the answer came
        db.execute("DELETE FROM commitments WHERE name = ? AND key = ? AND key <> ?", (name, deploy_id, key))


def lower(db: sqlite3.Connection, deploy_id: DeployId, price: Price, *, name: str, now: float) -> None:
    """Lower the price of an instance to this one, unless it is unknown, or a call for the instance is under way."""
    cursor = db.execute(
        "SELECT * FROM commitments WHERE name = ? AND deploy_id = ? AND wait IS NOT NULL AND known > ?",
        (name, deploy_id, price.known),
    )
    for row in [_as_dict(cursor, each) for each in cursor.fetchall() if price.amount is not None]:
        _set_price(db, row, amount=price.amount, known=price.known, currency=price.currency, now=now)


def withdraw(db: sqlite3.Connection, wish: Wish, *, name: str) -> None:
    """Take back a disk that certainly was not made."""
    db.execute(
        "UPDATE commitments SET added = max(0, added - ?), added_gib = max(0, added_gib - ?)"
        " WHERE name = ? AND deploy_id = ?",
        (wish.price.known, wish.gib or 0.0, name, wish.deploy_id),
    )


def release(db: sqlite3.Connection, key: str, *, name: str) -> None:
    """Forget the commitment of a create that certainly made nothing."""
    db.execute("DELETE FROM commitments WHERE name = ? AND key = ? AND deploy_id = ''", (name, key))


def gone(
    db: sqlite3.Connection, identity: Identity, deploy_ids: Collection[DeployId], *, name: str, at: Timestamp
) -> None:
    """End the commitments of a VM's instances, and of its creates that were answered or given up."""
    cursor = db.execute("SELECT * FROM commitments WHERE name = ? AND vm_id = ?", (name, identity.vm_id))
    for row in [_as_dict(cursor, each) for each in cursor.fetchall()]:
        is_given_up = row["stime"] == identity.stime and not row["deploy_id"] and row["wait"] is not None
        if is_given_up or row["deploy_id"] in deploy_ids:
            _end(db, row, at.at)


def reconcile(
    db: sqlite3.Connection,
    observed: Sequence[Observed],
    *,
    name: str,
    begun: Timestamp,
    at: Timestamp,
    grace: float,
    calls: Calls,
) -> None:
    """Bring the commitments of a NAME in line with a complete listing.

    Args:
        db: the connection.
        observed: every instance with tags of this NAME's owner.
        name: NAME of the configuration.
        begun: when the listing began.
        at: the present time.
        grace: seconds for which the cloud may not list an instance.
        calls: the calls that the present process carries out.
    """
    _settle_abandoned(db, name, at, grace=grace, calls=calls)
    rows = _rows(db, name)
    by_id = {row["deploy_id"]: row for row in rows if row["deploy_id"]}
    waiting = {(row["vm_id"], row["stime"], row["seq"]): row for row in rows if not row["deploy_id"]}
    for each in observed:
        row = by_id.get(each.deploy_id)
        if row is None and not each.is_ended:
            row = _matched(db, each, waiting)
            if row is None:
                _insert_observed(db, each, name=name, at=at)
                continue
        if row is not None:
            _observe(db, each, row, begun=begun, now=at.at)
    _drop_unlisted(db, name, {each.deploy_id for each in observed}, begun=begun, grace=grace, now=at.at)
    db.execute(
        "INSERT INTO names (name, looked_at) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET looked_at = ?",
        (name, begun.at, begun.at),
    )


def _rows(db: sqlite3.Connection, name: str) -> list[Row]:
    cursor = db.execute("SELECT * FROM commitments WHERE name = ?", (name,))
    return [_as_dict(cursor, row) for row in cursor.fetchall()]


def _settle_abandoned(db: sqlite3.Connection, name: str, at: Timestamp, *, grace: float, calls: Calls) -> None:
    """Let the grace begin of calls that no process carries out any more: they may still take effect."""
    for row in _rows(db, name):
        if row["wait"] is None and not calls.are_under_way(row):
            settle(db, row["key"], name=name, deploy_id="", wait=grace, at=at)


def _matched(db: sqlite3.Connection, each: Observed, waiting: Mapping[tuple[int, int, int], Row]) -> Row | None:
    """Return the commitment of a create whose answer is not there yet, if its instance is this one."""
    row = waiting.get((each.vm_id, each.stime, each.seq))
    if row is None or row["deploy_id"]:
        return None
    row["deploy_id"] = each.deploy_id
    db.execute(
        "UPDATE commitments SET deploy_id = ? WHERE name = ? AND key = ?", (each.deploy_id, row["name"], row["key"])
    )
    return row


def _insert_observed(db: sqlite3.Connection, each: Observed, *, name: str, at: Timestamp) -> None:
    db.execute(
        "INSERT INTO commitments (name, key, deploy_id, vm_id, stime, seq, user, grp, amount, known, currency, gib,"
        " since, seen_at, touched_at, touched_steady, touched_boot, wait)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
        (
            name,
            each.deploy_id,
            each.deploy_id,
            each.vm_id,
            each.stime,
            each.seq,
            each.owner.user,
            each.owner.group,
            each.amount,
            each.known,
            each.currency,
            each.gib,
            min(each.created_at or at.at, at.at),
            at.at,
            at.at,
            at.steady,
            at.boot,
        ),
    )


def _observe(db: sqlite3.Connection, each: Observed, row: Row, *, begun: Timestamp, now: float) -> None:
    if each.is_ended:
        _end(db, row, now)
        return
    db.execute("UPDATE commitments SET seen_at = ? WHERE name = ? AND key = ?", (begun.at, row["name"], row["key"]))
    if each.owner.user and (each.owner.user, each.owner.group) != (row["user"], row["grp"]):
        db.execute(
            "UPDATE commitments SET user = ?, grp = ? WHERE name = ? AND key = ?",
            (each.owner.user, each.owner.group, row["name"], row["key"]),
        )
    if each.is_ending:
        return
    is_sure = _is_sure(row, begun)
    row = _without_added(db, each, row, now) if is_sure else row
    if each.gib is not None and (is_sure or each.gib > (row["gib"] or 0.0)):
        db.execute("UPDATE commitments SET gib = ? WHERE name = ? AND key = ?", (each.gib, row["name"], row["key"]))
    if each.amount is None and row["amount"] is not None:
        return  # a price that is not known any more counts as before
    is_other = (each.amount, each.known, each.currency) != (row["amount"], row["known"], row["currency"])
    if is_other and (is_sure or each.known > row["known"]):
        _set_price(db, row, amount=each.amount, known=each.known, currency=each.currency, now=now)


def _without_added(db: sqlite3.Connection, each: Observed, row: Row, now: float) -> Row:
    """Forget a new disk's own price once the instance's price has it."""
    has_it = each.gib is not None and each.gib >= (row["gib"] or 0.0) + row["added_gib"]
    if not row["added_at"] or not (has_it or now - row["added_at"] > _ADDED_SECONDS or now < row["added_at"]):
        return row
    _end_segment(db, row, now)
    db.execute(
        "UPDATE commitments SET added = 0, added_gib = 0, added_at = 0, since = ? WHERE name = ? AND key = ?",
        (now, row["name"], row["key"]),
    )
    return {**row, "added": 0.0, "added_gib": 0.0, "added_at": 0.0, "since": now}


def _is_sure(row: Row, begun: Timestamp) -> bool:
    """Return True when a listing that began at this time shows what the last call for an instance has made of it."""
    if row["wait"] is None:
        return False
    touched = Timestamp(at=row["touched_at"], steady=row["touched_steady"], boot=row["touched_boot"])
    wait = float(row["wait"])
    if touched.boot and touched.boot == begun.boot:
        return begun.steady - touched.steady >= wait
    return begun.since(touched) >= wait


def _drop_unlisted(
    db: sqlite3.Connection, name: str, listed: set[str], *, begun: Timestamp, grace: float, now: float
) -> None:
    """End the commitments of instances that the listing lacks, once their grace has passed."""
    for row in _rows(db, name):
        if row["deploy_id"] in listed or not _is_sure(row, begun):
            continue
        if not row["seen_at"] or not 0 <= begun.at - row["seen_at"] < grace:
            _end(db, row, now)


def _end(db: sqlite3.Connection, row: Row, now: float) -> None:
    _end_segment(db, row, now)
    db.execute("DELETE FROM commitments WHERE name = ? AND key = ?", (row["name"], row["key"]))


def book(db: sqlite3.Connection, spent: Spent, *, name: str, month: Month) -> None:
    """Record what the ledger of a NAME has booked in a month, by user and group."""
    db.execute("DELETE FROM booked WHERE name = ?", (name,))
    db.executemany(
        "INSERT INTO booked VALUES (?, ?, ?, ?, ?, ?)",
        [(name, month.text, *owner, known, spent.unpriced.get(owner, 0.0)) for owner, known in spent.costs.items()],
    )
    db.execute(
        "INSERT INTO names (name, as_of, is_booked) VALUES (?, ?, 1)"
        " ON CONFLICT (name) DO UPDATE SET as_of = ?, is_booked = 1",
        (name, spent.as_of, spent.as_of),
    )
    db.execute('DELETE FROM segments WHERE name = ? AND "end" <= ?', (name, max(spent.as_of, month.begin)))


def waiting_tokens(db: sqlite3.Connection, name: str, calls: Calls) -> list[str]:
    """Return the tokens of creates that no process carries out any more and whose instance is not known."""
    rows = [row for row in _rows(db, name) if not row["deploy_id"] and row["wait"] is None]
    return [row["key"] for row in rows if not calls.are_under_way(row)]

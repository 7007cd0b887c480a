"""Tags of all resources: CreateTags, DeleteTags, DescribeTags."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from one_provider_mad.lab.ec2 import forms
from one_provider_mad.lab.ec2.answers import Answer
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.refusals import Refusal, needed, not_found
from one_provider_mad.lab.ec2.resources import Resources
from one_provider_mad.providers.simulated import table

_KINDS = {
    "instance": ("instance", "visible_at <= :now AND (forget_at IS NULL OR forget_at > :now)"),
    "volume": ("ec2_volume", "deleted_at IS NULL"),
    "elastic-ip": ("ec2_address", "1"),
    "network-interface": ("ec2_interface", "1"),
    "security-group": ("ec2_group", "1"),
}
"""Kind of resource to its table, and the condition for its visible lines."""


class Tags:
    """Tags of one account's resources.

    Args:
        resources: the account.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def create(self, form: Form) -> Answer:
        """Carry out CreateTags: adds tags, and replaces those with the same key."""
        given = forms.pairs(form, "Tag")
        if not given:
            raise needed("Tag")
        return await self._change(form, lambda tags: forms.checked({**tags, **given}))

    async def delete(self, form: Form) -> Answer:
        """Carry out DeleteTags: by key; by key and value, if a value is given; without tags all of them."""
        keys = forms.pairs(form, "Tag")
        at = {form[f"Tag.{number}.Key"]: form.get(f"Tag.{number}.Value") for number in range(1, len(keys) + 1)}

        def left(tags: dict[str, str]) -> dict[str, str]:
            if not at:
                return {}
            return {key: text for key, text in tags.items() if key not in at or at[key] not in (None, text)}

        return await self._change(form, left)

    async def _change(self, form: Form, change: Callable[[dict[str, str]], dict[str, str]]) -> Answer:
        ids = forms.needed_list(form, "ResourceId")

        def operation(db: sqlite3.Connection) -> Answer:
            for each in ids:
                kind, tags = self._tags(db, each)
                query = f"UPDATE {_KINDS[kind][0]} SET tags = ? WHERE id = ?"  # noqa: S608 - a table of ours
                db.execute(query, (table.encode(change(tags)), each))
            return {"return": True}

        return await self._resources.write(operation)

    def _tags(self, db: sqlite3.Connection, resource_id: str) -> tuple[str, dict[str, str]]:
        now = self._resources.clock()
        for kind, (name, seen) in _KINDS.items():
            query = f"SELECT tags FROM {name} WHERE id = :id AND {seen}"  # noqa: S608 - tables of ours
            line = db.execute(query, {"id": resource_id, "now": now}).fetchone()
            if line is not None:
                return kind, table.decode_tags(line[0])
        if resource_id.startswith("i-"):
            raise not_found(resource_id)
        raise Refusal("InvalidID", f"The ID '{resource_id[:80]}' is not valid")

    async def describe(self, form: Form) -> Answer:
        """Carry out DescribeTags."""
        now = self._resources.clock()

        def operation(db: sqlite3.Connection) -> list[tuple[str, str, str, str]]:
            found = []
            for kind, (name, seen) in _KINDS.items():
                query = f"SELECT id, tags FROM {name} WHERE {seen} ORDER BY number"  # noqa: S608 - tables of ours
                for resource_id, tags in db.execute(query, {"now": now} if ":now" in seen else {}):
                    found += [(resource_id, kind, key, text) for key, text in table.decode_tags(tags).items()]
            return found

        found = await self._resources.read(operation)
        wanted = forms.matching(
            found,
            forms.filters(form),
            tags=lambda line: {line[2]: line[3]},
            fields={
                "resource-id": lambda line: line[0],
                "resource-type": lambda line: line[1],
                "key": lambda line: line[2],
                "value": lambda line: line[3],
            },
        )
        names = ("resourceId", "resourceType", "key", "value")
        page, more = forms.Page.of(form).cut(list(enumerate(wanted, 1)), lambda numbered: numbered[0])
        return {"tagSet": [dict(zip(names, line, strict=True)) for _, line in page], **more}

"""One step that `one-provider oned-conf` prints."""

from __future__ import annotations

from collections.abc import Mapping

from one_provider_mad.domain import Value


class Block(Value, frozen=True, kw_only=True):
    """One step for the operator.

    Attributes:
        what: the step's purpose, as a sentence.
        where: the file to change, "" for a command.
        text: the text to write or the command to run; "" for a remark.
        is_once: True if it is done for the first cloud only; a NAME in the text is then none of the clouds'.
        is_optional: True if not every site needs it, or if a word in capitals stands for something of the site's own.
    """

    what: str
    where: str = ""
    text: str = ""
    is_once: bool = False
    is_optional: bool = False

    def entry(self) -> Mapping[str, object]:
        """Return the step for --json."""
        return {
            "what": self.what,
            "where": self.where,
            "text": self.text,
            "is_once": self.is_once,
            "is_optional": self.is_optional,
        }


def vector(name: str, pairs: Mapping[str, str]) -> str:
    """Write a section; the values have their quotes."""
    width = max(map(len, pairs))
    inside = ",\n".join(f"    {key.ljust(width)} = {value}" for key, value in pairs.items())
    return f"{name} = [\n{inside} ]"

"""Writes changes into the text of a template, which stays as it is everywhere else: its comments, too. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from one_provider_mad.domain import Template
from one_provider_mad.front_end.burst_template import Attribute, Edit
from one_provider_mad.template_text.exact_writer import UnwritableError, attribute
from one_provider_mad.template_text.lenient_reader import find_attributes


def edited(text: str, edits: Sequence[Edit]) -> str:
    """Return the text with the changes in it, new attributes at its end.

    Raises:
        UnwritableError: a value cannot be written as template text.
    """
    found = find_attributes(text)
    if isinstance(found, str):
        raise UnwritableError(f"the template cannot be changed in its text near {found!r}")
    places = [(_place(found, edit), edit) for edit in edits if edit.number is not None]
    for (start, end), edit in sorted(places, key=lambda each: each[0], reverse=True):
        text = text[:start] + written(edit.name, edit.value) + text[end:]
    added = [written(edit.name, edit.value) for edit in edits if edit.number is None]
    if not added:
        return text
    return "\n".join([*([text.removesuffix("\n")] if text.strip() else []), *added, ""])


def _place(found: Sequence[tuple[str, int, int]], edit: Edit) -> tuple[int, int]:
    return [(start, end) for name, start, end in found if name == edit.name][edit.number or 0]


def text_of_template(template: Template) -> str:
    """Return a template of the core as text, in the core's order, by name. Raises UnwritableError."""
    return "".join(f"{line}\n" for line in _lines(template))


def _lines(template: Template) -> Iterable[str]:
    return (written(name, value) for name in sorted(template.values) for value in template.values[name])


def written(name: str, value: Attribute) -> str:
    """Return one attribute as text; empty values stay. Raises UnwritableError."""
    if isinstance(value, str):
        return f"{name} = " + attribute(name, value).partition("=")[2]
    pairs = ",\n  ".join(_pair(name, key, text) for key, text in value.items())
    return f"{name} = [\n  {pairs} ]" if pairs else f"{name} = [ ]"


def _pair(name: str, key: str, text: str) -> str:
    try:
        return f"{key} = " + attribute(key, text).partition("=")[2]
    except UnwritableError as error:
        raise UnwritableError(f"{name}: {error}") from error


def same_values(before: Template, after: Template, edits: Sequence[Edit]) -> bool:
    """Return whether a template has, after the changes, all that it had before, and nothing else."""
    values: dict[str, list[str | Mapping[str, str]]] = {name: list(each) for name, each in before.values.items()}
    for edit in edits:
        if edit.number is None:
            values.setdefault(edit.name, []).append(edit.value)
        else:
            values[edit.name][edit.number] = edit.value
    return {name: tuple(each) for name, each in values.items()} == dict(after.values)

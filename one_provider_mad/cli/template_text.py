"""Reads the template for `one-provider template`: from OpenNebula by its number, from a file, or from stdin."""

from __future__ import annotations

from pathlib import Path

import click

from one_provider_mad.cli.template_file import Source, file_source_of
from one_provider_mad.errors import MadError
from one_provider_mad.front_end.template_edits import text_of_template
from one_provider_mad.protocol.payload import read_template
from one_provider_mad.template_text.exact_writer import UnwritableError
from one_provider_mad.xmlrpc.local import LocalCore

_IS_EXTENDED = False
"""one.template.info without what it would add to DISKs."""


def source_of(text: str, core: LocalCore) -> Source:
    """Return the template with this number, or in this file; "-" is stdin. Blocks.

    Raises:
        click.UsageError: it cannot be read.
        MadError: OpenNebula did not answer, or has no such template.
    """
    is_number = text.isascii() and text.isdecimal() and not Path(text).exists()
    return _stored(int(text), core) if is_number else file_source_of(text)


def _stored(number: int, core: LocalCore) -> Source:
    try:
        template = read_template(core.document("one.template.info", number, _IS_EXTENDED), "TEMPLATE")
        return Source(text_of_template(template), template, is_stored=True)
    except MadError as error:
        raise click.ClickException(f"template {number} cannot be read: {error}") from error
    except UnwritableError as error:
        raise click.ClickException(f"template {number} cannot be written as text: {error}") from error

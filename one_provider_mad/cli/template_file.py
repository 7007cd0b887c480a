"""Reads the template of a command from a file or stdin."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import click

from one_provider_mad.domain import Template
from one_provider_mad.template_text.strict_reader import TemplateError, read_template


class Source(NamedTuple):
    """A template.

    Attributes:
        text: as `onetemplate create` takes it.
        template: what it says.
        is_stored: it is one of OpenNebula's, so that `onetemplate update` takes the result.
    """

    text: str
    template: Template
    is_stored: bool = False


def file_source_of(text: str) -> Source:
    """Return the template in a file; "-" is stdin. Raises click.UsageError when it cannot be read."""
    name = "the template" if text == "-" else text
    try:
        content = (sys.stdin.buffer.read() if text == "-" else Path(text).read_bytes()).decode()
        return Source(content, read_template(content))
    except OSError as error:
        raise click.UsageError(f"the template {text} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{name} is not UTF-8 text at byte {error.start}") from error
    except TemplateError as error:
        raise click.UsageError(f"{name}, {error}") from error

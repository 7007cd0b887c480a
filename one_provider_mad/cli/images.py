"""`one-provider images`: lists the cloud's images, and prints their lines for the configuration."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
import msgspec

from one_provider_mad.cli.asked_cloud import Cloud, ask
from one_provider_mad.cli.decode import printable
from one_provider_mad.cli.names import complete_name
from one_provider_mad.cli.tables import show_table
from one_provider_mad.providers.interface import CloudImage, ImageCatalogue

_COLUMNS = ("IMAGE", "NAME", "BY", "DATE", "ARCH")

MOST_CALLS = 3
"""Slow calls for which the command waits; most pages take a second or two."""

MOST_SECTIONS = 10
"""Most images for which the lines of the configuration are printed; --match chooses among more."""


@click.command("images", short_help="List the cloud's images, with their lines for [images].")
@click.argument("name", shell_complete=complete_name)
@click.option("--match", default="", metavar="TEXT", help="Only those with this text in id, name or publisher.")
@click.option("--json", "is_json", is_flag=True, help="One JSON array.")
def command(name: str, match: str, is_json: bool) -> None:
    """List the images of the cloud of NAME: of each family the newest, and the account's own.

    The lines for the table [images] of the configuration follow; replace NAME OF YOURS by the image's name in your
    OpenNebula.
    """

    async def list_them(cloud: Cloud) -> Sequence[CloudImage]:
        if not isinstance(cloud.provider, ImageCatalogue):
            raise cloud.lacks("a list of its images")
        return await cloud.provider.images(match)

    found = ask(name, os.environ, list_them, calls=MOST_CALLS, is_quiet=is_json)
    if is_json:
        click.echo(json.dumps([entry(image) for image in found], indent=2))
        return
    if not found:
        click.echo(f"no images with {printable(match)!r} in id, name or publisher" if match else "no images")
        return
    show_table(_COLUMNS, [_row(image) for image in found])
    click.echo()
    for line in sections(found, name=name):
        click.echo(line)


def entry(image: CloudImage) -> Mapping[str, Any]:
    """Return an image for --json."""
    return {**msgspec.structs.asdict(image), "created_at": image.created_at or None}


def _row(image: CloudImage) -> tuple[str, ...]:
    date = time.strftime("%Y-%m-%d", time.gmtime(image.created_at)) if image.created_at else "-"
    return (image.image_id, image.name, image.publisher, date, image.architecture or "-")


def sections(found: Sequence[CloudImage], *, name: str) -> Iterator[str]:
    """Yield the lines of the configuration, as TOML, for the first images."""
    yield f"# for {name}.toml: replace NAME OF YOURS by the image's name or number in OpenNebula, DATASTORE by its"
    yield "# datastore's. Without datastore only VMs with a PUBLIC_CLOUD section are deployed"
    for image in found[:MOST_SECTIONS]:
        yield ""
        yield f"# {printable(image.name)}"
        if image.note:
            yield f"# {image.note}"
        yield '[images."NAME OF YOURS"]'
        yield f"image = {json.dumps(image.image_id)}"
        yield '# datastore = "DATASTORE"'
        yield f"guest = {json.dumps(image.guest)}"
        if image.user:
            yield f"user = {json.dumps(image.user)}"
        if image.smallest_disk:
            yield f"smallest_disk = {image.smallest_disk}"
    if len(found) > MOST_SECTIONS:
        yield ""
        yield f"# {len(found) - MOST_SECTIONS} more: one-provider images {name} --match TEXT"

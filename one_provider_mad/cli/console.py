"""`one-provider console`: shows an instance's console, a picture of it, or its Windows password."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import click

from one_provider_mad.cli.asked_cloud import Cloud, ask
from one_provider_mad.cli.console_lines import console_lines
from one_provider_mad.cli.names import complete_name, complete_vm_id
from one_provider_mad.file_owner import replace_file
from one_provider_mad.providers.interface import ConsoleSource, PasswordSource, ScreenSource

_CALLS = 2
"""The search for the instance, and its console."""

_PASSWORD_LENGTH = 256
"""Most characters of a password of Windows; longer text comes from a wrong key."""

_OPENSSL_SECONDS = 60.0
"""Time for openssl, which may ask for the key file's passphrase on the terminal."""


@click.command("console", short_help="Show an instance's console, or its Windows password.")
@click.argument("name", shell_complete=complete_name)
@click.option(
    "--vm", "vm_id", type=click.IntRange(min=0), required=True, shell_complete=complete_vm_id, help="The VM's number."
)
@click.option("--lines", type=click.IntRange(min=1), metavar="N", help="Only the last N lines.")
@click.option(
    "--screenshot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a picture of the screen to FILE, as JPEG.",
)
@click.option("--password", "is_password", is_flag=True, help="Show the password of Windows' administrator.")
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The private RSA key of the instance's key pair, for --password.",
)
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def command(
    name: str,
    vm_id: int,
    lines: int | None,
    screenshot: Path | None,
    is_password: bool,
    key: Path | None,
    is_json: bool,
) -> None:
    """Show what the guest of a VM has written to its console, as far as the cloud of NAME keeps it.

    --password --key FILE decrypts the password that a Windows instance has made for its administrator, with openssl on
    this machine: the key does not leave it.
    """
    if is_password is not (key is not None):
        raise click.UsageError("--password and --key belong together: the cloud has the password encrypted")
    if is_password and screenshot is not None:
        raise click.UsageError("give either --password or --screenshot")
    if screenshot is not None and not screenshot.parent.is_dir():
        raise click.UsageError(f"--screenshot: folder {screenshot.parent} does not exist: make it, or name another")
    if screenshot is not None:
        picture = ask(name, os.environ, lambda cloud: _screenshot(cloud, vm_id), calls=_CALLS, is_quiet=is_json)
        replace_file(screenshot, picture, beside=f".{screenshot.name}.new")
        click.echo(json.dumps({"vm_id": vm_id, "file": str(screenshot)}) if is_json else f"written to {screenshot}")
    elif key is not None:
        shown = decrypted(
            ask(name, os.environ, lambda cloud: _password(cloud, vm_id), calls=_CALLS, is_quiet=is_json), key
        )
        click.echo(json.dumps({"vm_id": vm_id, "password": shown}) if is_json else shown)
    else:
        written = console_lines(
            ask(name, os.environ, lambda cloud: console_text(cloud, vm_id), calls=_CALLS, is_quiet=is_json)
        )
        written = written[-lines:] if lines else written
        if is_json:
            click.echo(json.dumps({"vm_id": vm_id, "lines": written}, indent=2))
            return
        for line in written:
            click.echo(line)
        if not written:
            click.echo("the console has no text yet: some clouds show it minutes after the start", err=True)


async def console_text(cloud: Cloud, vm_id: int) -> str:
    """Return the text on the console of a VM's instance. Raises MadError, and NoInstance."""
    if not isinstance(cloud.provider, ConsoleSource):
        raise cloud.lacks("a console")
    return await cloud.provider.console_text((await cloud.instance_of(vm_id)).deploy_id)


async def _screenshot(cloud: Cloud, vm_id: int) -> bytes:
    if not isinstance(cloud.provider, ScreenSource):
        raise cloud.lacks("a picture of the console")
    return await cloud.provider.screenshot((await cloud.instance_of(vm_id)).deploy_id)


async def _password(cloud: Cloud, vm_id: int) -> bytes:
    if not isinstance(cloud.provider, PasswordSource):
        raise cloud.lacks("passwords")
    encrypted = await cloud.provider.encrypted_password((await cloud.instance_of(vm_id)).deploy_id)
    if not encrypted:
        raise click.ClickException(
            f"the cloud has no password for VM {vm_id} yet: Windows makes one within 15 minutes of its first start,"
            " if the instance has a key pair; other guests make none"
        )
    return encrypted


def decrypted(encrypted: bytes, key: Path) -> str:
    """Return the password, decrypted by openssl with a private RSA key.

    Raises:
        click.ClickException: openssl is not installed, cannot read the key, or it is another key.
    """
    command = ["openssl", "pkeyutl", "-decrypt", "-inkey", os.fspath(key), "-pkeyopt", "rsa_padding_mode:pkcs1"]
    try:
        done = subprocess.run(command, input=encrypted, capture_output=True, timeout=_OPENSSL_SECONDS, check=False)  # noqa: S603 - a fixed program
    except FileNotFoundError as error:
        raise click.ClickException("openssl is not installed: it decrypts the password") from error
    except subprocess.TimeoutExpired as error:
        raise click.ClickException(f"openssl did not end within {_OPENSSL_SECONDS:g} s") from error
    password = done.stdout.decode("utf-8", "replace")
    # From 3.2 on openssl answers a wrong key with random bytes (pkeyutl(1), rsa_pkcs1_implicit_rejection).
    if done.returncode or not password.isprintable() or not 0 < len(password) <= _PASSWORD_LENGTH:
        raise click.ClickException(
            f"{key} does not decrypt the password: give the RSA key of the instance's key pair, as PEM;"
            f" ssh-keygen -p -m PEM -f {key} converts OpenSSH's own form"
        )
    return password

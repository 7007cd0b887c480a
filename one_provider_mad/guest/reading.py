"""Reads CONTEXT as OpenNebula's own context scripts do (OpenNebula/one-apps, context-linux/src/etc/one-context.d)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from ipaddress import ip_address

from one_provider_mad.domain import Value

MOST_SENTENCES = 20
"""Most sentences about one CONTEXT; further ones would fill the VM's log and say little more."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}\$?")
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
_DOMAIN = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")

OF_DISK = re.compile(r"DISK_ID|TARGET|NETWORK|DISK\d+_MOUNT_(TAG|POINT)")
"""Attributes about the context disk and the core's own work, which mean nothing in a cloud."""

OF_NETWORK = re.compile(r"((?:ETH|PCI)\d+)(_ALIAS\d+|_EXTERNAL)?_.*")
"""Attributes about the interfaces that OpenNebula would make; the cloud's have other addresses."""

SECRET = ("CRYPTED_PASSWORD_BASE64", "PASSWORD_BASE64", "CRYPTED_PASSWORD", "PASSWORD")
"""Attributes for the user's password, in the order in which one-context takes them."""

LONGEST_PASSWORD = 511
"""Bytes; libcrypt takes no longer one (crypt(3), CRYPT_MAX_PASSPHRASE_SIZE), and its hash would hold up the driver."""

KEYS = ("SSH_PUBLIC_KEY", "SSH_PUBLIC_KEYS", "EC2_PUBLIC_KEY", "SSH_KEY")
"""Attributes with SSH keys, one a line; SSH_KEY is read by cloud-init's own OpenNebula source."""

SCRIPTS = ("START_SCRIPT_BASE64", "START_SCRIPT")

GIVEN = ("USER_DATA", "USERDATA")

ENCODINGS = ("USER_DATA_ENCODING", "USERDATA_ENCODING")

FILES = ("FILES", "FILES_DS", "INIT_SCRIPTS")
"""Attributes about files on the context disk, which stay on OpenNebula's front-end."""


class Password(Value, frozen=True, kw_only=True):
    """The user's password, in one of two forms.

    Attributes:
        plain: "" for none.
        hashed: in crypt's form, "" for none.
    """

    plain: str = ""
    hashed: str = ""

    def __bool__(self) -> bool:
        return bool(self.plain or self.hashed)


class Context(Value, frozen=True, kw_only=True):
    """What a CONTEXT asks of the guest.

    Attributes:
        keys: SSH keys that may log in.
        user: the user that gets them and the password; "" for none named, which is root for one-context.
        shell: the user's.
        has_sudo: whether the user may become root.
        password: the user's.
        hostname: name, with or without a domain; "" for the cloud's own.
        asks_dns: whether DNS_HOSTNAME asks for the name that the address has in the DNS.
        timezone: as in /usr/share/zoneinfo, "" for the image's.
        name_servers: addresses.
        search_domains: names.
        grows_root: whether the root file system fills its volume.
        start_script: "" for none.
        given: the user's own user data, b"" for none.
        reports_ready: whether READY=YES goes to OneGate after the start script.
        ready_script: tried before that, "" for none.
        variables: attributes that scripts in the guest may want, no secrets and nothing empty.
        has_own: whether one of the variables is known to no context script, or is OneGate's.
        interfaces: ETH0, PCI1..., which are described in the CONTEXT.
        faults: sentences about attributes that cannot be taken.
        left_out: those of them that no guest gets.
        names: all attributes with a value.
    """

    keys: tuple[str, ...] = ()
    user: str = ""
    shell: str = ""
    has_sudo: bool = True
    password: Password = Password()
    hostname: str = ""
    asks_dns: bool = False
    timezone: str = ""
    name_servers: tuple[str, ...] = ()
    search_domains: tuple[str, ...] = ()
    grows_root: bool = True
    start_script: bytes = b""
    given: bytes = b""
    reports_ready: bool = False
    ready_script: str = ""
    variables: Mapping[str, str] = {}
    has_own: bool = False
    interfaces: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()


KNOWN = frozenset({
    *KEYS, *SECRET, *SCRIPTS, *GIVEN, *ENCODINGS, *FILES,
    *("USERNAME", "USERNAME_SUDO", "GRANT_SUDO", "USERNAME_SHELL", "USERNAME_PASSWORD_RESET"),
    *("SET_HOSTNAME", "HOSTNAME", "DNS_HOSTNAME", "DNS", "SEARCH_DOMAIN", "TIMEZONE", "GROW_ROOTFS", "GROW_FS"),
    *("TOKEN", "REPORT_READY", "READY_SCRIPT", "READY_SCRIPT_PATH", "NETCFG_TYPE", "NETCFG_NETPLAN_RENDERER"),
})  # fmt: skip
"""Attributes that context scripts read; all others are the user's own, for the scripts in the guest."""


class _Reader:
    """Reads one CONTEXT, and keeps the faults that it finds."""

    def __init__(self, attributes: Mapping[str, str]) -> None:
        self.attributes = {name: value for name, value in attributes.items() if value.strip()}
        self.faults: list[str] = []
        self.left_out: set[str] = set()

    def text(self, name: str) -> str:
        return self.attributes.get(name, "").strip()

    def first(self, *names: str) -> str:
        return next((self.text(name) for name in names if self.text(name)), "")

    def is_yes(self, name: str, *, default: bool) -> bool:
        return self.text(name).upper() == "YES" if self.text(name) else default

    def matching(self, name: str, form: re.Pattern[str], remedy: str) -> str:
        text = self.text(name)
        if text and not form.fullmatch(text):
            self.leave_out(name, f"{text[:40]!r} is {remedy}")
            return ""
        return text

    def leave_out(self, name: str, reason: str) -> None:
        """Note that no guest gets this attribute, and why."""
        shown = name if _NAME.fullmatch(name) and len(name) <= 40 else repr(name[:40])
        self.faults.append(f"CONTEXT attribute {shown} is left out: {reason}")
        self.left_out.add(name)

    def decoded(self, name: str) -> bytes:
        """Decode base64; b"" with a fault for other text."""
        try:
            return base64.b64decode("".join(self.text(name).split()), validate=True)
        except (binascii.Error, ValueError):
            self.leave_out(name, "it is not base64, encode it")
            return b""

    def decoded_text(self, name: str) -> str:
        try:
            return self.decoded(name).decode()
        except UnicodeDecodeError:
            self.leave_out(name, "it encodes bytes that are not UTF-8 text")
            return ""

    def password(self) -> Password:
        name = next((each for each in SECRET if self.text(each)), "")
        # Of a base64 value the shell's $(...) drops the final newlines; many encode one by accident.
        is_encoded = name.endswith("_BASE64")
        text = self.decoded_text(name).rstrip("\n") if is_encoded else self.attributes.get(name, "")
        if "\n" in text or "\0" in text:
            self.leave_out(name, "a password has one line, without a line end")
            return Password()
        if not name.startswith("CRYPTED"):
            if len(text.encode(errors="replace")) > LONGEST_PASSWORD:
                self.leave_out(name, f"a password has at most {LONGEST_PASSWORD} bytes")
                return Password()
            return Password(plain=text)
        if ":" in text:
            self.leave_out(name, "a hash has no colon")
            return Password()
        return Password(hashed=text)

    def start_script(self) -> bytes:
        name = next((each for each in SCRIPTS if self.text(each)), "")
        is_encoded = name.endswith("_BASE64")
        script = self.decoded(name) if is_encoded else self.attributes.get(name, "").encode()
        self.note_line_ends(name, script)
        return script

    def note_line_ends(self, name: str, script: bytes) -> None:
        """Note a script for Linux whose first line names an interpreter with a carriage return, which no guest has."""
        first, _, _ = script.partition(b"\n")
        if first.startswith(b"#!") and first.endswith(b"\r"):
            self.faults.append(
                f"CONTEXT attribute {name} has Windows line ends, with which Linux finds no interpreter: save it with"
                " Unix line ends"
            )

    def reports_ready(self) -> bool:
        # one-context compares it with YES as it is.
        word = self.text("REPORT_READY")
        if word != "YES" and word.upper() == "YES":
            self.leave_out("REPORT_READY", f"write YES in capitals instead of {word}")
        return word == "YES"

    def given(self) -> bytes:
        name = next((each for each in GIVEN if self.text(each)), "")
        if self.first(*ENCODINGS).lower() == "base64":
            return self.decoded(name) if name else b""
        return self.attributes.get(name, "").encode()

    def name_servers(self) -> tuple[str, ...]:
        good = []
        for word in re.split(r"[\s,]+", self.text("DNS")):
            try:
                good.append(str(ip_address(word)))
            except ValueError:
                if word:
                    self.faults.append(f"CONTEXT attribute DNS: {word[:40]!r} is left out, it is no address")
        return tuple(dict.fromkeys(good))

    def search_domains(self) -> tuple[str, ...]:
        words = list(filter(None, re.split(r"[\s,]+", self.text("SEARCH_DOMAIN"))))
        for word in words:
            if not _DOMAIN.fullmatch(word):
                self.faults.append(f"CONTEXT attribute SEARCH_DOMAIN: {word[:40]!r} is left out, it is no domain")
        return tuple(dict.fromkeys(word for word in words if _DOMAIN.fullmatch(word)))

    def variables(self) -> dict[str, str]:
        left_out = {*SECRET, *KEYS, *SCRIPTS, *GIVEN, *ENCODINGS, *FILES, "READY_SCRIPT", "TOKEN"}
        found = {}
        for name, value in self.attributes.items():
            if name in left_out or OF_DISK.fullmatch(name) or OF_NETWORK.fullmatch(name):
                continue
            if not _NAME.fullmatch(name):
                self.leave_out(name, "no shell has variables of such a name")
            elif "\0" not in value:
                found[name] = value
        return found


def hostname_of(text: str) -> str:
    """Return a name for a host as one-context makes it: other characters become dashes; "" when none is left."""
    cleaned = re.sub(r"[^-a-zA-Z0-9.]", "-", text.strip())
    labels = [label.strip("-")[:63].rstrip("-") for label in cleaned.split(".")]
    return ".".join(filter(None, labels))[:253].rstrip(".-")


def read_context(attributes: Mapping[str, str]) -> Context:
    """Read the attributes of a CONTEXT; those without a value count as absent.

    Attributes with unusable values are left out, each with a sentence in `faults`.
    """
    reader = _Reader(attributes)
    lines = [line.strip() for name in KEYS for line in reader.attributes.get(name, "").splitlines()]
    variables = reader.variables()
    return Context(
        keys=tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#"))),
        user=reader.matching("USERNAME", _USER, "no user name: letters, digits, _, - and . only"),
        shell=reader.text("USERNAME_SHELL"),
        has_sudo=reader.first("USERNAME_SUDO", "GRANT_SUDO").upper() in ("", "YES"),
        password=reader.password(),
        hostname=hostname_of(reader.first("SET_HOSTNAME", "HOSTNAME")),
        asks_dns=bool(reader.text("DNS_HOSTNAME")) and not reader.first("SET_HOSTNAME", "HOSTNAME"),
        timezone=reader.matching("TIMEZONE", _ZONE, "no time zone: write one such as Europe/Madrid"),
        name_servers=reader.name_servers(),
        search_domains=reader.search_domains(),
        grows_root=reader.is_yes("GROW_ROOTFS", default=True),
        start_script=reader.start_script(),
        given=reader.given(),
        reports_ready=reader.reports_ready(),
        ready_script=_plain(reader.text("READY_SCRIPT")),
        variables=variables,
        has_own=any(name not in KNOWN for name in variables),
        interfaces=tuple(
            dict.fromkeys(match[1] for name in reader.attributes if (match := OF_NETWORK.fullmatch(name)))
        ),
        faults=tuple(reader.faults),
        left_out=frozenset(reader.left_out),
        names=frozenset(reader.attributes),
    )


def _plain(text: str) -> str:
    """Return READY_SCRIPT, which may be in base64; one-context tells by its characters."""
    if re.fullmatch(r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)?", text):
        try:
            return base64.b64decode(text).decode()
        except ValueError:
            return text
    return text

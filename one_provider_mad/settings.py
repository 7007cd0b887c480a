"""The configuration file of a NAME: its place, its settings, and the messages about wrong ones.

A file `<conf>/<NAME>.toml` holds the provider, the owner of its instances, and one table named after the provider.
This module knows no provider: each one types its own table (providers/interface.py, ProviderFactory).
"""

from __future__ import annotations

import math
import os
import re
import stat
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from one_provider_mad.billing_tags import problem_of
from one_provider_mad.budget.settings import BudgetSettings
from one_provider_mad.domain import Value
from one_provider_mad.errors import MadError, SettingsError, UnknownSetting
from one_provider_mad.file_owner import make_directory, open_file
from one_provider_mad.idle.settings import IdleSettings
from one_provider_mad.mappings import ContextSettings, ImageMapping, Mappings, NetworkMapping, SecurityGroupSettings
from one_provider_mad.masking import keep_secret, keep_url_secret
from one_provider_mad.pricing.settings import PriceSettings, SizeCheck
from one_provider_mad.unknown_keys import KeyPath, dotted, unknown_keys, without_keys

_Struct = TypeVar("_Struct", bound=msgspec.Struct)

EMBEDDED = "simulated"
"""The NAME, and the provider, that works without a configuration file."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
"""Valid NAMEs of drivers."""

_OF_NAME = "one_provider_mad_"
"""Prefix of NAME in the files that the drivers keep in OpenNebula's var directory, but for monitoring's state."""

_KEPT = re.compile(rf"(?:{_OF_NAME}(.+)\.(?:journal|budget|configured|scripts|probes)|one_im_provider_(.+)\.state)")
"""All these files."""

_OWNER = re.compile(r"[A-Za-z0-9_.:@-]{1,64}")
_SECRET = re.compile(r"secret|passw|token|api_key|access_key|private_key|credential", re.IGNORECASE)

TRY_AGAIN_SECONDS = 2.0
"""Seconds until edited settings that could not be tested, as during an outage, are tried again."""

_ONLY_AT_START = ("account", "region", "endpoint", "endpoint_url", "endpoints", "database")
"""Keys of a provider's table that identify the cloud; an edit of them is refused until the driver restarts."""


_IMAGE, _SUBNET, _GROUPS = ("DISK/PROVIDER_IMAGE",), ("NIC/PROVIDER_SUBNET",), ("NIC/PROVIDER_SECURITY_GROUPS",)

_SAME_MEANING = {
    **dict.fromkeys(("AMI", "TEMPLATE_ID", "TEMPLATE_NAME", "PROVIDER_IMAGE_ID"), _IMAGE),
    "SUBNETID": (*_SUBNET, "NIC/SUBNETID"),
    "NETWORKS": _SUBNET,
    "SECURITYGROUPS": _GROUPS,
    "SECURITYGROUPIDS": (*_GROUPS, "NIC/SECURITYGROUPIDS"),
    "PRIVATEIP": ("NIC/PROVIDER_ADDRESSES",),
    "VOLUMESIZE": ("DISK/PROVIDER_SMALLEST_DISK",),
    "GUEST": ("DISK/PROVIDER_GUEST", "USER_TEMPLATE/PROVIDER_GUEST"),
}
"""Attributes of PUBLIC_CLOUD, each with those elsewhere in a VM by which a user chooses the same."""

_INHERITED = ("DISK/PROVIDER_", "NIC/PROVIDER_")


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Permissions of end users."""

    allow_import: bool = False
    """A DEPLOY may take over an untagged instance that its template names. Off by default, since a user could name
    another user's instance."""

    forbidden_attributes: tuple[str, ...] = ()
    """Names of attributes that a PUBLIC_CLOUD section may not hold, and with their vector's name before them those of
    others: `DISK/SIZE`, `NIC/IP`, `CONTEXT/USER_DATA`; such a DEPLOY fails. Upper or lower case. `DISK/SIZE` forbids
    another size than the image's. An attribute that OpenNebula writes itself forbids every VM that has it."""

    inherited_attributes: Literal["as-section", "allow"] = "as-section"
    """Whether forbidden attributes of PUBLIC_CLOUD are forbidden in DISK and NIC, too, where `PROVIDER_IMAGE`,
    `PROVIDER_SUBNET` and the like mean the same. `allow`: only images and networks set these, since
    `VM_RESTRICTED_ATTR` in oned.conf keeps users from it (`one-provider oned-conf` prints the lines)."""

    without_section: Literal["refuse", "allow"] | None = None
    """Create an instance for a VM that does not ask for this cloud, or refuse it. A VM asks by a PUBLIC_CLOUD section
    with `hypervisor` as TYPE, or by a first disk whose image `[images]` maps with a `datastore`. Unset: `refuse` where
    instances cost money (ec2, opennebula, entry points unless they say otherwise), else `allow`."""

    size_check: SizeCheck = "warn"
    """For a VM whose template names an instance type that has less than CPU, VCPU and MEMORY, or more than four times
    CPU or MEMORY, which quotas and the host's room count: `warn` in the VM's log, `refuse` the deploy, or `off`. Where
    the provider knows its types (ec2, simulated)."""

    @property
    def forbidden(self) -> frozenset[str]:
        """Return all forbidden attributes in upper case, those in `_SAME_MEANING` included."""
        given = frozenset(name.upper() for name in self.forbidden_attributes)
        same = {each for name in given for each in _SAME_MEANING.get(name, ())}
        may_inherit = self.inherited_attributes == "allow"
        return given | {each for each in same if not (may_inherit and each.startswith(_INHERITED))}

    def needs_section(self, *, costs_money: bool) -> bool:
        """Return True when a VM needs a PUBLIC_CLOUD section for this cloud before an instance is created."""
        return costs_money if self.without_section is None else self.without_section == "refuse"


class OrphanPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Handling of instances without a VM."""

    policy: Literal["report", "terminate-done"] = "report"
    """`report` warns about orphans; `terminate-done` also terminates those of a VM that is certainly DONE, and
    leftovers: older instances of a VM that has a newer one."""

    interval: Annotated[float, msgspec.Meta(ge=1)] = 300.0
    """Seconds between two checks; each lists the cloud, and the VMs of the local OpenNebula, once."""

    grace: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    """Seconds since the end of its VM, and since its own start, before an orphan is terminated."""

    at_most: Annotated[int, msgspec.Meta(ge=1)] = 5
    """Most orphans to terminate after one check, so that an operator can notice a mistake in time."""


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The drivers' metrics, for Prometheus."""

    textfile_directory: Annotated[str, msgspec.Meta(pattern="^(/.*)?$")] = ""
    """Directory of node_exporter's textfile collector: each driver writes `<program>_<NAME>.prom` to it. Empty: no
    metrics."""

    interval: Annotated[float, msgspec.Meta(ge=0.1)] = 15.0
    """Seconds between two writes."""


class SpotSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Instances that the cloud may take back, such as spot instances."""

    interrupted: Literal["report", "recreate"] = "report"
    """What becomes of a VM whose instance its cloud takes back: `report` leaves it as it is, `recreate` has the hook of
    `one-provider install NAME --recreate-hook` recreate it. INTERRUPTED of a VM's PUBLIC_CLOUD section overrides it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One configuration file, without the provider's own table."""

    provider: str
    """The provider: simulated, scripts, ec2, opennebula, or an entry point's name."""

    owner: str = ""
    """Name of this OpenNebula in its instances' tags. Required wherever instances can cost money."""

    hypervisor: str = ""
    """HYPERVISOR of the host, and TYPE of this cloud's PUBLIC_CLOUD sections. Default: the file's name."""

    journal: str = ""
    """Path of the journal. Default: `one_provider_mad_<NAME>.journal` in OpenNebula's var directory."""

    call_timeout: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """Seconds one call to the cloud may take. Long enough for a slow cloud, short enough to leave time for retries."""

    capacity: dict[str, Any] = {}
    """Capacity of the host; read by the information driver."""

    monitor: dict[str, Any] = {}
    """Periods and thresholds of monitoring; read by the information driver."""

    images: dict[str, ImageMapping] = {}
    """What stands in the cloud for OpenNebula's images."""

    networks: dict[str, NetworkMapping] = {}
    """What stands in the cloud for OpenNebula's virtual networks."""

    context: ContextSettings = ContextSettings()
    """How a VM's CONTEXT reaches its guest."""

    security_groups: SecurityGroupSettings = SecurityGroupSettings()
    """OpenNebula's own security groups in the cloud."""

    policy: Policy = Policy()
    """Permissions of end users."""

    orphans: OrphanPolicy = OrphanPolicy()
    """Handling of instances without a VM."""

    idle: IdleSettings = IdleSettings()
    """Handling of VMs that nobody uses."""

    spot: SpotSettings = SpotSettings()
    """Instances that the cloud may take back."""

    tags: dict[str, str] = {}
    """Tags of instances, and of the volumes made with them, for the cloud's own bill: name and text. In the texts
    `{user}`, `{user_id}`, `{group}`, `{group_id}`, `{name}`, `{id}` and `{owner}` stand for the VM's in OpenNebula, and
    for `owner` of this file. They are part of the create, are written anew when the VM's user, group or name changes,
    and replace a user's tags of the same name. Characters that the cloud does not take become `_`."""

    prices: PriceSettings = PriceSettings()
    """Prices that win over the cloud's own."""

    budget: BudgetSettings = BudgetSettings()
    """The most that instances may use and cost."""

    metrics: MetricsSettings = MetricsSettings()
    """The drivers' metrics, for Prometheus."""

    @property
    def mappings(self) -> Mappings:
        """Return what the cloud has for images, networks, context and security groups."""
        return Mappings(
            images=self.images,
            networks=self.networks,
            context=self.context,
            security_groups=self.security_groups,
        )


class Configuration(Value, frozen=True, kw_only=True):
    """A checked configuration.

    Attributes:
        name: NAME, the positional argument.
        path: its file; None without a file.
        settings: the checked settings, defaults filled in.
        table: the provider's own table, not yet typed.
        caution: a sentence about keys of the file that this release does not know, and that were left out; "" for none.
            While there are some, VMs are reported and no action is carried out (decision 32).
    """

    name: str
    path: Path | None
    settings: Settings
    table: Mapping[str, Any]
    caution: str = ""


class Places(Value, frozen=True, kw_only=True):
    """The directories of this OpenNebula.

    Attributes:
        conf: configuration files.
        var: state (OpenNebula's var directory, or a substitute where there is none).
        log: log files.
        etc: OpenNebula's own configuration.
        is_stand_in: `var` is not OpenNebula's.
        is_temporary: `var` does not survive a reboot: sufficient for the simulated cloud only.
    """

    conf: Path
    var: Path
    log: Path
    etc: Path = Path("/etc/one")
    is_stand_in: bool = False
    is_temporary: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], *, may_create: bool = True) -> Places:
        """Return the directories: under ONE_LOCATION, else system-wide, else the user's own state directory.

        Args:
            environ: environment variables.
            may_create: create the user's own state directory if it is needed and missing.
        """
        location = environ.get("ONE_LOCATION")
        root = Path(location) if location else None
        conf = environ.get("ONE_PROVIDER_MAD_CONF")
        etc = root / "etc" if root else Path("/etc/one")
        conf_path = Path(conf) if conf else etc / "one_provider_mad"
        if root is not None:
            return cls(conf=conf_path, var=root / "var", log=root / "var", etc=etc)
        var, log = Path("/var/lib/one"), Path("/var/log/one")
        if os.access(var, os.W_OK | os.X_OK):
            return cls(conf=conf_path, var=var, log=log)
        own = _own_state_directory(environ, may_create=may_create)
        if own is not None:
            return cls(conf=conf_path, var=own, log=log, is_stand_in=True)
        if not may_create:
            return cls(conf=conf_path, var=var, log=log)
        return cls(conf=conf_path, var=_temporary_directory(), log=log, is_stand_in=True, is_temporary=True)

    def journal(self, configuration: Configuration) -> Path:
        """Return the path of this configuration's journal."""
        if configuration.settings.journal:
            return Path(configuration.settings.journal)
        database = configuration.table.get("database")
        if self.is_stand_in and configuration.settings.provider == EMBEDDED and database:
            # Without an OpenNebula each cloud has a journal, not each NAME: people try many clouds under one name.
            return Path(f"{database}.journal")
        return self.default_journal(configuration.name)

    def default_journal(self, name: str) -> Path:
        """Return the default path of NAME's journal."""
        return self.var / f"{_OF_NAME}{name}.journal"

    def ledger(self, configuration: Configuration) -> Path:
        """Return the path of this configuration's ledger of costs, which lies beside its journal."""
        journal = self.journal(configuration)
        if journal == self.default_journal(configuration.name):
            return self.default_ledger(configuration.name)
        return journal.with_name(f"{journal.name.removesuffix('.journal')}.ledger")

    def default_ledger(self, name: str) -> Path:
        """Return the default path of NAME's ledger."""
        return self.var / f"{_OF_NAME}{name}.ledger"

    def budget(self, configuration: Configuration) -> Path:
        """Return the path of this configuration's budget: that of all NAMEs that share it, or its own."""
        if share := configuration.settings.budget.share:
            return self.var / f"one_provider_budget_{share}.sqlite"
        journal = self.journal(configuration)
        return journal.with_name(f"{journal.name.removesuffix('.journal')}.budget")

    def mark(self, name: str) -> Path:
        """Return the path of the file that marks a NAME once served from a configuration file."""
        return self.var / f"{_OF_NAME}{name}.configured"

    def scripts(self, name: str) -> Path:
        """Return upstream's directory of action scripts for NAME."""
        return self.var / "remotes" / "vmm" / name

    def has_scripts(self, name: str) -> bool:
        """Return True when there are action scripts or probes for NAME, which need no configuration file."""
        probes = self.var / "remotes" / "im"
        return any(path.is_dir() for path in (self.scripts(name), probes / f"{name}.d", probes / f"{name}-probes.d"))


def _own_state_directory(environ: Mapping[str, str], *, may_create: bool) -> Path | None:
    home = environ.get("HOME")
    state = environ.get("XDG_STATE_HOME") or (f"{home}/.local/state" if home else "")
    if not state.startswith("/"):
        return None
    path = Path(state) / "one_provider_mad"
    try:
        if may_create:
            make_directory(path, 0o700)
    except OSError:
        return None
    return path if os.access(path, os.W_OK | os.X_OK) else None


def _temporary_directory() -> Path:
    import tempfile

    path = Path(tempfile.gettempdir()) / f"one_provider_mad-{os.getuid()}"
    try:
        make_directory(path, 0o700)
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
            return path
    except OSError:
        pass
    # Another user has that name: never share a directory with them.
    return Path(tempfile.mkdtemp(prefix="one_provider_mad-"))


def load(name: str, places: Places, *, left_out: Sequence[KeyPath] = ()) -> Configuration:
    """Read and check the configuration of NAME.

    Args:
        name: NAME, the positional argument.
        places: the directories.
        left_out: keys of the file to ignore, each by its path from the top.

    Raises:
        SettingsError: it is missing or cannot be used; the message names file, key and expected value.
    """
    if not NAME.fullmatch(name):
        raise SettingsError(f"ARGUMENTS name no provider ({name!r}): end them with a NAME such as {EMBEDDED}")
    path = places.conf / f"{name}.toml"
    try:
        status, content = _read(path)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise SettingsError(f"{path.name} cannot be read: it is a link to nothing ({path})") from error
        return _without_file(name, path, places)
    except OSError as error:
        raise SettingsError(f"{path.name} cannot be read: {error.strerror} ({path})") from error
    return _parse(name, path, status, content, left_out)


def _read(path: Path) -> tuple[os.stat_result, bytes]:
    with path.open("rb") as file:
        return os.fstat(file.fileno()), file.read()


def _without_file(name: str, path: Path, places: Places) -> Configuration:
    mark = places.mark(name)
    if mark.exists():
        raise SettingsError(
            f"{path.name} is missing, and {name} was configured by it before: put it back ({path}); if {name} is to be"
            f" served without one from now on, remove {mark}"
        )
    if name == EMBEDDED:
        return Configuration(name=name, path=None, settings=_completed(name, Settings(provider=EMBEDDED)), table={})
    if places.has_scripts(name):
        return Configuration(name=name, path=None, settings=_completed(name, Settings(provider="scripts")), table={})
    raise SettingsError(
        f"{path.name} does not exist: create {path}, or scripts in {places.scripts(name)}{did_you_mean(name, places)}"
    )


def known_names(places: Places) -> set[str]:
    """Return the NAMEs that have a file here: a configuration, or one that their drivers keep in OpenNebula's var.

    `simulated` needs none, and is among them only if it has one. Directories that this process may not read have none.
    """
    files = {path.name.removesuffix(".toml") for path in _files(places.conf, "*.toml")}
    kept = (_KEPT.fullmatch(path.name) for path in _files(places.var, "one_*"))
    found = {*files, *(match[1] or match[2] for match in kept if match)}
    return {name for name in found if NAME.fullmatch(name)}


def _files(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))
    except OSError:
        return []


def did_you_mean(name: str, places: Places) -> str:
    """Return `; did you mean …?` with the most similar of the NAMEs known here, "" where none is similar."""
    from difflib import get_close_matches  # only a mistyped NAME needs it

    similar = get_close_matches(name, {EMBEDDED, *known_names(places)} - {name}, n=1)
    return f"; did you mean {similar[0]}?" if similar else ""


def _parse(name: str, path: Path, status: os.stat_result, content: bytes, left_out: Sequence[KeyPath]) -> Configuration:
    if status.st_mode & stat.S_IWOTH:
        raise SettingsError(f"{path.name} can be written by all users: run chmod o-rw {path}")
    try:
        data = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path.name} is not TOML: {error} ({path})") from error
    if status.st_mode & stat.S_IROTH and (key := next(_secrets(data), None)):
        raise SettingsError(f"{path.name} holds the secret {key} and can be read by all users: run chmod 640 {path}")
    if left_out:
        _keep_secrets(data)  # those that are left out, too
        data = without_keys(data, left_out)
    return checked(name, path, data)


def checked(name: str, path: Path, data: dict[str, Any]) -> Configuration:
    """Check the content of a configuration file.

    Args:
        name: NAME, the positional argument.
        path: the file, for the messages.
        data: its tables, as TOML has them; the provider's own table is taken out of them.

    Raises:
        SettingsError: an unknown key, a missing key, or a value of the wrong kind.
    """
    _keep_secrets(data)
    kind = data.get("provider")
    table = data.pop(kind, {}) if isinstance(kind, str) and kind not in Settings.__struct_fields__ else {}
    if not isinstance(table, dict):
        raise SettingsError(f"{path.name}: {kind}: expected a table [{kind}] ({path})")
    settings = _completed(name, convert(data, Settings, path=path))
    if not settings.owner:
        raise SettingsError(f'{path.name}: owner is missing: add a name for this OpenNebula, owner = "…" ({path})')
    if not _OWNER.fullmatch(settings.owner):
        raise SettingsError(f"{path.name}: owner: expected up to 64 letters, digits, `_.:@-`, got {settings.owner!r}")
    if problem := problem_of(settings.tags):
        raise SettingsError(f"{path.name}: tags: {problem} ({path})")
    return Configuration(name=name, path=path, settings=settings, table=table)


def _completed(name: str, settings: Settings) -> Settings:
    owner = settings.owner or (settings.provider if settings.provider in (EMBEDDED, "scripts") else "")
    return msgspec.structs.replace(settings, owner=owner, hypervisor=settings.hypervisor or name)


def _secrets(data: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of secrets with a value."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _secrets(value, f"{prefix}{key}.")
        elif value and isinstance(value, str) and is_secret(key):
            yield f"{prefix}{key}"


def _keep_secrets(data: Mapping[str, Any]) -> None:
    """Mask the values of secret keys, and the passwords in URLs such as a proxy's, from now on."""
    for key, value in data.items():
        if isinstance(value, dict):
            _keep_secrets(value)
        elif isinstance(value, str):
            if is_secret(key) and not key.endswith("_id"):  # the id of an access key is not secret
                keep_secret(value)
            if "@" in value:
                keep_url_secret(value)


def convert(data: Mapping[str, Any], settings_type: type[_Struct], *, path: Path | None, prefix: str = "") -> _Struct:
    """Check a table against its type, and return it as a value of that type.

    Args:
        data: the table from the file.
        settings_type: the struct with the known keys.
        path: the file, for the message.
        prefix: the table's name and a dot, for the message.

    Raises:
        UnknownSetting: it has unknown keys.
        SettingsError: a missing key, or a value of the wrong kind.
    """
    where = f"{path.name}: " if path else ""
    whole = f" ({path})" if path else ""
    try:
        return msgspec.convert(dict(data), settings_type, strict=True)
    except msgspec.ValidationError as error:
        if not (unknown := unknown_keys(data, settings_type)):
            raise SettingsError(f"{where}{_explained(str(error), prefix)}{whole}") from error
    table = tuple(prefix.split(".")[:-1])
    paths = tuple((*table, *each) for each in unknown)
    keys = ", ".join(map(dotted, paths[:_MOST_NAMED])) + (", …" if len(paths) > _MOST_NAMED else "")
    one, several = "is no setting of this release; check the spelling", "are no settings of this release"
    raise UnknownSetting(f"{where}{keys} {one if len(paths) == 1 else several}{whole}", paths)


_MOST_NAMED = 3
"""Most unknown keys that a message names."""

_MISSING = re.compile(r"Object missing required field `(?P<key>[^`]*)`(?: - at `\$\.?(?P<at>[^`]*)`)?")
_WRONG = re.compile(r"(?P<what>.*?) - at `\$\.?(?P<at>[^`]*)`", re.DOTALL)


def _explained(text: str, prefix: str) -> str:
    """Return msgspec's message with the key first: `simulated.latency: expected `float`, got `str``."""
    if match := _MISSING.fullmatch(text):
        at = f"{match['at']}." if match["at"] else ""
        return f"{prefix}{at}{match['key']} is missing"
    if match := _WRONG.fullmatch(text):
        return f"{prefix}{match['at']}: {match['what'][:1].lower()}{match['what'][1:]}"
    return f"{prefix.rstrip('.')}: {text}"


def is_secret(key: str) -> bool:
    """Return True for the name of a key with a secret value."""
    return bool(_SECRET.search(key)) and not key.endswith("_file")


class SettingsSource:
    """The configuration of one NAME, read again after edits while the daemon runs (decision 3).

    Args:
        name: NAME, the positional argument.
        places: the directories.
        check: raises SettingsError for faults in the provider's own table.
        warn: called with one sentence when an edit is not applied.
    """

    def __init__(
        self,
        name: str,
        places: Places,
        *,
        check: Callable[[Configuration], None],
        warn: Callable[[str], None],
    ) -> None:
        self._check = check
        self._file = str(places.conf / f"{name}.toml")
        self._name = name
        self._places = places
        self._warn = warn
        self._in_force: Configuration | None = None
        self._latest: Configuration | SettingsError = SettingsError("the configuration was not read yet")
        self._seen: tuple[int, ...] | None = None
        self._warned_of: tuple[int, ...] | None = None
        self._try_again_at = math.inf

    def current(self) -> Configuration:
        """Return the file's configuration; while it cannot be used, the earlier one in force.

        Raises:
            SettingsError: the file cannot be used, and no earlier configuration is in force.
        """
        fingerprint = self._fingerprint()
        if fingerprint != self._seen or time.monotonic() >= self._try_again_at:
            self._seen = fingerprint
            self._try_again_at = math.inf
            self._reload()
        if isinstance(self._latest, SettingsError):
            raise self._latest
        return self._latest

    def put_in_force(self, configuration: Configuration) -> None:
        """Record a configuration as working: it stays in force after a bad edit, and no edit may change its cloud.

        One with unknown keys does neither: the next edit probably corrects them.
        """
        if not configuration.caution:
            self._in_force = configuration
        if configuration.path is not None:
            try:
                mark = self._places.mark(self._name)
                if not mark.exists():
                    os.close(open_file(mark, os.O_WRONLY))
            except OSError as error:
                self._warn(f"cannot remember that {self._name} has a configuration file: {error}")

    def fall_back(self, error: MadError) -> Configuration:
        """Keep the configuration in force, and return it, when the latest one does not work.

        Raises:
            MadError: the given error, when no configuration is in force.
        """
        if self._in_force is None:
            raise error
        if self._warned_of != self._seen:
            self._warned_of = self._seen
            self._warn(f"{error}; the settings from before stay in force")
        if not isinstance(error, SettingsError):
            self._try_again_at = time.monotonic() + TRY_AGAIN_SECONDS  # the cloud or the disk may be back by then
        self._latest = self._in_force
        return self._in_force

    def _fingerprint(self) -> tuple[int, ...]:
        try:
            status = os.stat(self._file)
        except OSError as error:
            # A NAME without a file may get scripts, or lose its mark, while the driver runs.
            places, name = self._places, self._name
            return (error.errno or 0, places.mark(name).exists(), places.has_scripts(name))
        return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_mode)

    def _reload(self) -> None:
        try:
            fresh = self._fresh()
        except SettingsError as error:
            self._latest = error
            if self._in_force is not None:
                self.fall_back(error)
            return
        if fresh != self._latest:
            self._latest = fresh

    def _fresh(self) -> Configuration:
        """Return the file's configuration; while none is in force, without the file's unknown keys."""
        left_out: list[KeyPath] = []
        caution = ""
        while True:
            try:
                fresh = load(self._name, self._places, left_out=left_out)
                if self._in_force is not None:
                    _refuse_other_cloud(self._in_force, fresh)
                self._check(fresh)
            except UnknownSetting as error:
                if self._in_force is not None:
                    raise
                caution = caution or str(error)
                left_out += error.paths
            else:
                return msgspec.structs.replace(fresh, caution=caution) if caution else fresh


def _refuse_other_cloud(good: Configuration, fresh: Configuration) -> None:
    for key in ("provider", "owner", "journal"):
        if getattr(good.settings, key) != getattr(fresh.settings, key):
            raise SettingsError(f"{fresh.name}.toml: {key} changes only when the driver is restarted")
    for key in _ONLY_AT_START:
        if good.table.get(key) != fresh.table.get(key):
            raise SettingsError(
                f"{fresh.name}.toml: {fresh.settings.provider}.{key} changes only when the driver is restarted"
            )

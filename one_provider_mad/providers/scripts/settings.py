"""The table `[scripts]` of the configuration."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class ScriptsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[scripts]`; without a configuration file all of it has its default."""

    transfer: Literal["run", "skip"] = "run"
    """Whether transfer steps run (`remotes/tm/<driver>/<command>`); `skip` if there is nothing to transfer."""

    remotes: str = ""
    """Directory with `vmm`, `tm` and `vnm`; empty: `remotes` in OpenNebula's var directory."""

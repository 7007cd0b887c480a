"""What can be set about a directory of scripts."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class ScriptsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[scripts]`; without a configuration file all of it has its default."""

    transfer: Literal["run", "skip"] = "run"
    """Whether transfer steps run (`remotes/tm/<driver>/<command>`); `skip` where there is nothing to transfer."""

    remotes: str = ""
    """Directory with `vmm`, `tm`, `vnm` in it; empty: `remotes` in OpenNebula's var directory."""

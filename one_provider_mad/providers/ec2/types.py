"""EC2's instance types: what DescribeInstanceTypes says of this region, else the table that ships with the package.

From docs.aws.amazon.com, API_DescribeInstanceTypes and API_InstanceTypeInfo.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from one_provider_mad.domain import whole_number
from one_provider_mad.errors import ProviderError
from one_provider_mad.providers.ec2.built_in import built_in_types
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.kept_lists import load, save
from one_provider_mad.providers.ec2.losses import pause_after
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.interface import InstanceType, Size
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of

DAY = 86_400.0
SOON = 60.0
"""Seconds after which a list is asked for again whose reading was broken off."""

PATIENCE = 50.0
"""Seconds that a list may take; a deploy that needs it waits `call_timeout` at most, 60 s."""


def is_due(now: float, due_at: float) -> bool:
    """Return True from `due_at` on, or when it is more than a day ahead, as after a clock that was set back."""
    return not due_at - DAY <= now < due_at


def read_types(root: Element) -> list[InstanceType]:
    """Return the types of an answer to DescribeInstanceTypes."""
    return list(_types(root))


def _types(root: Element) -> Iterator[InstanceType]:
    for item in elements_at(root, "instanceTypeSet/item"):
        name, cores = text_of(item.find("instanceType")), whole_number(_text(item, "vCpuInfo/defaultVCpus"))
        memory = whole_number(_text(item, "memoryInfo/sizeInMiB"))
        if not (name and cores and memory):
            continue
        gpus = list(_gpus(item))
        yield InstanceType(
            name=name,
            cpu=float(cores),
            memory=memory,
            gpus=sum(count for count, _ in gpus),
            gpu=" + ".join(gpu for _, gpu in gpus),
            architectures=tuple(
                text_of(each) for each in elements_at(item, "processorInfo/supportedArchitectures/item")
            ),
            family=name.partition(".")[0],
            is_current=text_of(item.find("currentGeneration")) != "false",
        )


def _gpus(item: Element) -> Iterator[tuple[int, str]]:
    """Yield number and model of each kind of GPU; a part of one that is shared counts as one, as in its guest."""
    for gpu in elements_at(item, "gpuInfo/gpus/item"):
        count = whole_number(text_of(gpu.find("logicalGpuCount"))) or whole_number(text_of(gpu.find("count"))) or 0
        yield count, f"{text_of(gpu.find('manufacturer'))} {text_of(gpu.find('name'))}".strip()


def _text(item: Element, path: str) -> str:
    return text_of(element_at(item, path))


class TypeList(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The types of one region; written to a file as JSON.

    Attributes:
        endpoint: of the cloud that was asked, "" for Amazon's.
        region: the region.
        types: all its types.
        read_at: when EC2 told them, seconds since the epoch.
    """

    endpoint: str
    region: str
    types: list[InstanceType]
    read_at: float


class Types:
    """The types that are known, and their sizes.

    Args:
        client: the connection to EC2.
        settings: the table `[ec2]`.
        path: the file for the region's types.
        clock: seconds since the epoch.
        warn: sends the operator one sentence.

    Attributes:
        sizes: the size of each type that is known, of the region or not; the same mapping for ever.
    """

    def __init__(
        self,
        client: Client,
        settings: Ec2Settings,
        *,
        path: Path,
        clock: Callable[[], float],
        warn: Callable[[str], None],
    ) -> None:
        self.sizes: Mapping[str, Size] = _Sizes(self)
        self._client = client
        self._settings = settings
        self._path = path
        self._clock = clock
        self._warn = warn
        self._own = {name: (kind.cpu, round(kind.memory * 1024)) for name, kind in settings.instance_types.items()}
        self._loaded: dict[str, InstanceType] | None = None
        self._region: dict[str, InstanceType] = {}
        self._read_at = 0.0
        self._next = 0.0
        self._failure = ""
        self._reading = asyncio.Lock()

    def load(self) -> None:
        """Read the table that ships with the package, and the file. Blocks."""
        if self._loaded is None:
            self._loaded = self._with_own(built_in_types())
        kept = load(self._path, TypeList)
        if kept is not None and self._is_ours(kept):
            self._take(kept)

    @property
    def every(self) -> Mapping[str, InstanceType]:
        """Return each type that is known, of this region or not."""
        if self._loaded is None:
            self.load()  # a command that has not opened the provider
        return {**(self._loaded or {}), **self._region}

    @property
    def offered(self) -> Mapping[str, InstanceType]:
        """Return the types of this region; those of the table while EC2 has not told."""
        return self._region or self.every

    def size(self, name: str) -> Size | None:
        """Return the size of a type, None for an unknown one."""
        if self._loaded is None:
            self.load()
        kind = self._region.get(name) or (self._loaded or {}).get(name)
        return None if kind is None else Size(cpu=kind.cpu, memory=kind.memory)

    async def read(self) -> None:
        """Read the region's types, at most once a day. Without the right to, those of the table count."""
        async with self._reading:
            if not self._is_due():
                return
            await asyncio.to_thread(self.load)
            if not self._is_due():  # the other driver has asked
                return
            self._next = self._clock() + SOON  # for one whose caller gives up
            try:
                async with asyncio.timeout(PATIENCE):
                    pages = self._client.pages("DescribeInstanceTypes", {"MaxResults": "100"}, read=read_types)
                    types = [each async for page in pages for each in page]
            except (ProviderError, TimeoutError) as error:
                self._report(error)
                return
            self._failure = ""
            if types:
                await self._keep(types)

    def _is_due(self) -> bool:
        return is_due(self._clock(), self._next)

    async def _keep(self, types: list[InstanceType]) -> None:
        kept = TypeList(
            endpoint=self._settings.endpoint_url,
            region=self._settings.region,
            types=types,
            read_at=self._clock(),
        )
        self._take(kept)
        with suppress(OSError):  # it is only a cache
            await asyncio.to_thread(save, self._path, kept)

    def _take(self, kept: TypeList) -> None:
        self._region = self._with_own({each.name: each for each in kept.types})
        self._read_at, self._next = kept.read_at, kept.read_at + DAY

    def _is_ours(self, kept: TypeList) -> bool:
        """Return True for the types of this region that are not from the future, nor older than those in use."""
        is_of_here = (kept.endpoint, kept.region) == (self._settings.endpoint_url, self._settings.region)
        return is_of_here and self._read_at < kept.read_at <= self._clock() + 1

    def _with_own(self, types: dict[str, InstanceType]) -> dict[str, InstanceType]:
        """Return the types with those of `[ec2.instance_types]`."""
        for name, (cpu, memory) in self._own.items():
            before = types.get(name, InstanceType(name=name, cpu=cpu, memory=memory, family=name.partition(".")[0]))
            types[name] = msgspec.structs.replace(before, cpu=cpu, memory=memory)
        return types

    def _report(self, error: Exception) -> None:
        self._next = self._clock() + pause_after(error)
        failure = str(error) or f"EC2 has not told them within {PATIENCE:g} s"
        if failure != self._failure:
            self._failure = failure
            self._warn(f"the instance types of {self._settings.region} are those of this release's table: {failure}")


class _Sizes(Mapping[str, Size]):
    """The sizes of a `Types`, as they are when they are asked for.

    Args:
        types: the types.
    """

    def __init__(self, types: Types) -> None:
        self._types = types

    def __getitem__(self, name: str) -> Size:
        size = self._types.size(name)
        if size is None:
            raise KeyError(name)
        return size

    def __iter__(self) -> Iterator[str]:
        return iter(self._types.every)

    def __len__(self) -> int:
        return len(self._types.every)

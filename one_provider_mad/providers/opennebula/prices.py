"""Prices VMs at a partner's: by its showback, and by the table `[prices]`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from one_provider_mad.domain import Instance, InstanceState, whole_number
from one_provider_mad.errors import NotSupported, PermissionDenied, ProviderError
from one_provider_mad.pricing.book import PriceBook
from one_provider_mad.pricing.settings import PriceSettings
from one_provider_mad.pricing.values import ON_DEMAND, UNKNOWN, Item, Kind, Price, UnitPrice, cheapest
from one_provider_mad.providers.opennebula.costs import (
    COSTS,
    OFF_HOST,
    Costs,
    ImageFacts,
    Rules,
    TemplateFacts,
    number,
    read_costs,
    read_image,
    read_rules,
    read_template,
    size_of,
    total,
)
from one_provider_mad.providers.opennebula.launch import Launch, merged_disks
from one_provider_mad.providers.opennebula.machine import DISK_SIZE, FACT
from one_provider_mad.providers.opennebula.remote import Remote
from one_provider_mad.safe_xml import text_of
from one_provider_mad.xmlrpc.pool import read_pool

SOURCE = "the partner's showback"

CPU, MEMORY, DISK = "CPU", "MEMORY", "disk"
"""Names of what a partner charges: a core, a GiB of memory, a GiB of disk."""

READ_SECONDS = 600.0
"""Seconds for which configuration, templates and images count; three or more calls, none of which asks each VM."""

_MB = 1024
"""MB in a GiB, as OpenNebula counts them."""

_VISIBLE, _MYSELF = -2, -1

_MOST_KEPT = 20_000
"""Most combinations of size, costs and state whose price is kept."""

_NAMES = (CPU, MEMORY, DISK_SIZE, *COSTS)
_FACTS = tuple(f"{FACT}{name}" for name in _NAMES)

_STANDING = (InstanceState.STOPPED, InstanceState.SUSPENDED)


class Prices:
    """Prices of VMs at a partner's.

    Args:
        remote: the partner.
        settings: the table `[prices]`.
        warn: called with a sentence when something could not be read, once until that changes.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        remote: Remote,
        settings: PriceSettings,
        *,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remote = remote
        # Each item brings its own price: each VM may have costs of its own.
        self._book = PriceBook(settings, lambda _: UnitPrice())
        self._warn = warn
        self._clock = clock
        self._due_at = 0.0
        self._warned: set[str] = set()
        self._user = ""
        self._rules = Rules()
        self._kept = lru_cache(_MOST_KEPT)(self._computed)
        self._templates: Mapping[int, TemplateFacts] = {}
        self._images: Mapping[int, ImageFacts] = {}

    # Reading

    async def read(self) -> None:
        """Read DEFAULT_COST, templates and images if they are old. Never raises for what cannot be read."""
        if self._clock() < self._due_at:
            return
        self._due_at = self._clock() + READ_SECONDS
        client, size = self._remote.client, self._remote.settings.page_size
        try:
            self._take(await self._read_rules())
            self._user = await client.read("one.user.info", _MYSELF, read=lambda user: text_of(user.find("NAME")))
            self._templates = await read_pool(
                client, "one.templatepool.info", before=(_VISIBLE,), page_size=size, read_row=read_template
            )
            self._images = await read_pool(
                client, "one.imagepool.info", before=(_VISIBLE,), page_size=size, read_row=read_image
            )
        except ProviderError as error:
            self._complain(f"the partner's costs cannot be read, so prices of its VMs may be unknown: {error}")
        else:
            self._warned.clear()

    def _take(self, rules: Rules) -> None:
        if rules != self._rules:
            self._rules, self._kept = rules, lru_cache(_MOST_KEPT)(self._computed)

    async def _read_rules(self) -> Rules:
        try:
            return await self._remote.client.read("one.system.config", read=read_rules)
        except (NotSupported, PermissionDenied):
            return Rules()

    def _complain(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            self._warn(sentence)

    # Prices

    def of_instance(self, instance: Instance, state: InstanceState | None) -> Price:
        """Return what a remote VM costs, or would cost in another state."""
        state = state or instance.state
        if state.is_gone:
            return self._book.price(())
        get = instance.attributes.get
        is_on_host = state is not instance.state or instance.raw_state not in OFF_HOST
        return self._kept(tuple([get(name, "") for name in _FACTS]), is_on_host, is_on_host and state not in _STANDING)

    def _computed(self, texts: tuple[str, ...], is_on_host: bool, is_running: bool) -> Price:  # noqa: FBT001 a key
        facts = dict(zip(_NAMES, texts, strict=True))
        if not facts[CPU]:  # a VM that the remote user may not see
            return UNKNOWN
        costs = self._rules.completed(read_costs(facts)) if is_on_host else Costs(cpu=0.0, memory=0.0, disk=0.0)
        size = number(facts[DISK_SIZE] or "0")
        return self._book.price((*self._compute(costs, facts, is_running=is_running), *_disk(costs, size)))

    def of_launch(self, launch: Launch) -> Price:
        """Return what a new VM costs while it runs."""
        template = self._template(launch.template)
        costs, facts = self._of_new(template, launch)
        return self._book.price((*self._compute(costs, facts), *_disk(costs, self.disk_size(launch))))

    def of_disk(self, size: float | None) -> Price:
        """Return what a further disk of so many MB costs, by DEFAULT_COST: which VM gets it is not known."""
        is_charging = self._rules.default.is_charged or any(each.costs.is_any for each in self._templates.values())
        costs = self._rules.default if is_charging else Costs()
        return self._book.price(tuple(_disk(costs, size)))

    def of_size(self, instance: Instance, wanted: Mapping[str, str]) -> Price:
        """Return what a running VM costs with another CPU and MEMORY."""
        facts = {f"{FACT}{name}": text for name, text in wanted.items() if text}
        attributes = {**instance.attributes, **facts}
        state = InstanceState.RUNNING
        resized = Instance(deploy_id=instance.deploy_id, state=state, raw_state=state.name, attributes=attributes)
        return self.of_instance(resized, None)

    def usual(self, template: str) -> Price:
        """Return what a VM of a template costs without its disks; without a template, of the cheapest one."""
        if template:
            return self._of_template(self._template(template))
        return cheapest(self._of_template(each) for each in self._templates.values())

    def disk_size(self, launch: Launch) -> float | None:
        """Return the MB of all disks of a new VM; None when unknown."""
        template = self._template(launch.template)
        if template is None:
            return None
        remote = [dict(each) for each in template.disks]
        sizes = [self._size_of(each) for each in remote]
        made = merged_disks(launch, remote, [f"{each:g}" if each is not None else "" for each in sizes])
        return total(self._size_of(each) for each in made) if made else total(sizes)

    def _of_template(self, template: TemplateFacts | None) -> Price:
        costs, facts = self._of_new(template, None)
        return self._book.price(tuple(self._compute(costs, facts)))

    def _of_new(self, template: TemplateFacts | None, launch: Launch | None) -> tuple[Costs, Mapping[str, str]]:
        """Return costs and size of a VM that has not been created yet."""
        if template is None:  # a text of its own, or templates that have not been read
            return Costs(), launch.capacity if launch else {}
        given = {} if launch is None else {**launch.attributes, **launch.capacity}
        facts = {**template.values, **given}
        own, ordered = template.costs, read_costs(facts)
        costs = Costs(
            cpu=own.cpu if ordered.cpu is None else ordered.cpu,
            memory=own.memory if ordered.memory is None else ordered.memory,
            disk=own.disk if ordered.disk is None else ordered.disk,
        )
        return self._rules.completed(costs), facts

    def _compute(self, costs: Costs, facts: Mapping[str, str], *, is_running: bool = True) -> Iterator[Item]:
        is_charged = is_running or not self._rules.is_only_running
        memory = number(facts.get(MEMORY, ""))
        gib = None if memory is None else memory / _MB
        for name, quantity, cost in ((CPU, number(facts.get(CPU, "")), costs.cpu), (MEMORY, gib, _gib(costs.memory))):
            amount = cost if is_charged or cost is None else 0.0
            unit = UnitPrice(amount=amount, source=SOURCE)
            yield Item(kind=Kind.COMPUTE, name=name, quantity=quantity, is_running=is_running, unit=unit)

    def _template(self, template: str) -> TemplateFacts | None:
        if (known := whole_number(template)) is not None:
            return self._templates.get(known)
        named = [each for each in self._templates.values() if each.name == template]
        return named[0] if len(named) == 1 else None

    def _size_of(self, disk: Mapping[str, str]) -> float | None:
        return size_of(disk, self._images, user=self._user)


def kind_of(instance: Instance) -> tuple[str, str]:
    """Return the remote template as the VM's type, and the one market."""
    template = instance.attributes.get(f"{FACT}TEMPLATE_ID", "")
    return (f"template-{template}" if template else ""), ON_DEMAND


def _gib(cost: float | None) -> float | None:
    return None if cost is None else cost * _MB


def _disk(costs: Costs, size: float | None) -> Iterator[Item]:
    """Yield all disks together as one item; nothing for none."""
    if size == 0:
        return
    unit = UnitPrice(amount=_gib(costs.disk), source=SOURCE)
    yield Item(kind=Kind.DISK, name=DISK, quantity=None if size is None else size / _MB, unit=unit)

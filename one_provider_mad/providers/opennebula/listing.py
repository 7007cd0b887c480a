"""Listings of remote VMs: callers that come while a listing is under way share the next one.

A listing leaves out terminated VMs, which a partner keeps for ever. VMs that were seen alive before, or are asked for
by number, are looked up one by one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice

from one_provider_mad.domain import Identity, Instance, InstanceState, VmId
from one_provider_mad.errors import InstanceNotFound, PermissionDenied, ProviderUnavailable
from one_provider_mad.providers.opennebula.machine import ListedVm, deploy_id_of, read_listed_vm
from one_provider_mad.providers.opennebula.remote import EXTENDED_POOL, Remote
from one_provider_mad.providers.opennebula.states import RemoteState
from one_provider_mad.safe_xml import Element
from one_provider_mad.xmlrpc.pool import check_page, read_pool

_NOT_DONE, _ANY_STATE = -1, -2

_WIDEST_GAP = 50
"""Remote VMs whose numbers differ by this at most are looked up in one call, with all VMs between them."""

_AT_ONCE = 8
"""Most VMs looked up one by one at the same time; others wait."""

_MOST_REMEMBERED = 50_000

_NOTED_AT_ONCE = 500

_MOST_WARNED = 1000

_HIDDEN = "NOT_AUTHORIZED"


class ListedVms:
    """All VMs of one listing.

    Attributes:
        vms: by number.
        tagged: by ONE_PROVIDER_OWNER and ONE_PROVIDER_VM_ID.
        ours: numbers of the VMs with this owner's tag.

    Args:
        vms: by number.
        owner: the owner in the tags of our VMs.
    """

    def __init__(self, vms: Mapping[int, ListedVm], *, owner: str) -> None:
        self.vms = vms
        self.ours = {number for number, seen in vms.items() if seen.owner == owner}
        self.tagged: dict[tuple[str, str], list[ListedVm]] = {}
        for seen in vms.values():
            if seen.owner:
                self.tagged.setdefault((seen.owner, seen.vm_id), []).append(seen)


class Remembered:
    """Identities of the remote VMs that this process has listed or made; the oldest are forgotten first."""

    def __init__(self) -> None:
        self._identities: OrderedDict[int, Identity] = OrderedDict()
        self._numbers: dict[tuple[str, VmId], set[int]] = {}

    def note(self, number: int, identity: Identity) -> None:
        """Remember a remote VM's identity."""
        if self._identities.get(number) == identity:
            return
        self._forget(number)
        self._identities[number] = identity
        self._numbers.setdefault((identity.owner, identity.vm_id), set()).add(number)
        if len(self._identities) > _MOST_REMEMBERED:
            self._forget(next(iter(self._identities)))

    def identity(self, number: int) -> Identity | None:
        """Return the identity that a remote VM had when this process last listed or made it."""
        return self._identities.get(number)

    def numbers(self, owner: str, vm_id: VmId) -> set[int]:
        """Return the numbers of the remote VMs whose identity is this owner's VM."""
        return self._numbers.get((owner, vm_id), set())

    def _forget(self, number: int) -> None:
        before = self._identities.pop(number, None)
        if before is not None:
            key = (before.owner, before.vm_id)
            self._numbers[key].discard(number)
            if not self._numbers[key]:
                del self._numbers[key]


class Listing:
    """Lists the VMs of one partner.

    Args:
        remote: the partner.
        owner: the owner in the tags of our VMs.
        warn: called once for each state unknown to this release, and for each VM that was given to another user.
    """

    def __init__(self, remote: Remote, *, owner: str, warn: Callable[[str], None]) -> None:
        self._remote = remote
        self._owner = owner
        self._warn = warn
        self._ours: set[int] = set()
        self._away: dict[int, str] = {}
        self._warned: set[str] = set()
        self._next: asyncio.Future[ListedVms] | None = None
        self._task: asyncio.Task[None] | None = None
        self._remembered = Remembered()

    async def close(self) -> None:
        """Cancel a listing that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def remember(self, number: int, identity: Identity) -> None:
        """Remember a VM's identity, so that `tagged` finds it after its termination."""
        self._remembered.note(number, identity)

    # Listings

    async def everything(self) -> ListedVms:
        """Return every VM but terminated ones, from a listing that began after this call."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._list_for_all(), name="list remote VMs")
        return await asyncio.shield(self._next)

    async def _list_for_all(self) -> None:
        answer: asyncio.Future[ListedVms] | None = None
        try:
            while self._next is not None:
                await asyncio.sleep(0)  # let other callers join this listing
                answer, self._next = self._next, None
                try:
                    found = await self._list()
                except Exception as error:  # noqa: BLE001 - the waiting callers handle it
                    answer.set_exception(error)
                    answer.exception()  # all callers may be cancelled
                else:
                    answer.set_result(found)
                    del found
                answer = None  # the error's traceback refers to this frame
        finally:
            self._task = None
            for waiting in (answer, self._next):
                if waiting is not None and not waiting.done():
                    waiting.cancel()
            self._next = None

    async def _list(self) -> ListedVms:
        method, after = await self._method(_NOT_DONE)
        settings = self._remote.settings
        try:
            found = await read_pool(
                self._remote.client,
                method,
                before=(settings.filter_flag,),
                after=after,
                page_size=settings.page_size,
                read_row=_read_whole,
            )
        except _HalfRowError:
            self._remote.forget_version()
            raise
        found = {**found, **await self._given_away(found)}
        snapshot = await asyncio.to_thread(partial(ListedVms, found, owner=self._owner))
        self._ours = snapshot.ours
        rows = iter(found.values())
        while chunk := list(islice(rows, _NOTED_AT_ONCE)):
            self._note(chunk)
            await asyncio.sleep(0)  # ten thousand in a row would block the loop
        return snapshot

    async def _given_away(self, found: Mapping[int, ListedVm]) -> Mapping[int, ListedVm]:
        """Return our VMs that an earlier listing had and `found` lacks, but that exist: another user owns them."""
        missing = (self._ours | self._away.keys()) - found.keys()
        answers = await self.by_number(missing) if missing else {}
        return {number: seen for number, seen in answers.items() if not seen.instance.state.is_gone}

    async def _method(self, state: int) -> tuple[str, tuple[int | str, ...]]:
        """Return the method with USER_TEMPLATE in this release, and its arguments after the range."""
        if await self._remote.version() >= EXTENDED_POOL:
            return "one.vmpool.infoextended", (state, "")
        return "one.vmpool.info", (state,)

    # By number

    async def by_number(self, numbers: Collection[int]) -> Mapping[int, ListedVm]:
        """Return the VMs with these numbers, terminated ones included; those unknown to the partner are absent."""
        found: dict[int, ListedVm] = {}
        try:
            for first, last in _ranges(sorted(numbers), longest=self._remote.settings.page_size):
                found.update(await self._range(first, last))
        except _HalfRowError:
            self._remote.forget_version()
            raise
        missing = [number for number in numbers if number not in found]
        gate = asyncio.Semaphore(_AT_ONCE)
        answers = await asyncio.gather(*(self._one(number, gate) for number in missing))
        found.update({seen.number: seen for seen in answers if seen is not None})
        self._note(answers)
        return {number: found[number] for number in numbers if number in found}

    async def _range(self, first: int, last: int) -> Mapping[int, ListedVm]:
        method, after = await self._method(_ANY_STATE)
        flag = self._remote.settings.filter_flag
        rows = await self._remote.client.read(
            method, flag, first, last, *after, read=lambda pool: [_read_whole(row) for row in pool]
        )
        pairs = [(seen.number, seen) for seen in rows]
        check_page(method, pairs)
        self._note(rows)
        return dict(pairs)

    async def _one(self, number: int, gate: asyncio.Semaphore) -> ListedVm | None:
        async with gate:
            try:
                return await self._remote.look_up(number)
            except InstanceNotFound:
                return None
            except PermissionDenied:
                return self._hidden(number)

    def _hidden(self, number: int) -> ListedVm:
        """Return a VM that exists and that we may not see: UNKNOWN, which is not absent."""
        identity = self._remembered.identity(number)
        state = RemoteState(meaning=InstanceState.UNKNOWN, word=_HIDDEN)
        instance = Instance(deploy_id=deploy_id_of(number), state=state.meaning, raw_state=_HIDDEN, identity=identity)
        owner, vm_id = (identity.owner, str(identity.vm_id)) if identity else ("", "")
        return ListedVm(number=number, instance=instance, owner=owner, vm_id=vm_id, state=state)

    # By tags

    async def tagged(self, *, owner: str, vm_id: VmId) -> list[ListedVm]:
        """Return every VM with tags of this owner and VM; of terminated ones those listed or made by this process."""
        alive = await self.everything()
        gone = self._remembered.numbers(owner, vm_id) - alive.vms.keys()
        found = [*alive.tagged.get((owner, str(vm_id)), ()), *(await self.by_number(gone)).values()]
        return [seen for seen in found if seen.owner == owner and seen.vm_id == str(vm_id)]

    def _note(self, found: Iterable[ListedVm | None]) -> None:
        for seen in found:
            if seen is None:
                continue
            self._note_owner(seen)
            if seen.instance.identity is not None:
                self._remembered.note(seen.number, seen.instance.identity)
            if not seen.state.is_known:
                self._warn_once(f"remote VMs are in {seen.state.word}, an unknown state, which counts as UNKNOWN")

    def warnings(self) -> list[str]:
        """Return warnings for VMs of ours that now belong to another remote user."""
        return [self._away[number] for number in sorted(self._away)]

    def _note_owner(self, seen: ListedVm) -> None:
        """Warn of a VM that was given to another user: it runs, and costs, and this driver cannot change or end it."""
        if not self._is_away(seen):
            self._away.pop(seen.number, None)
            return
        who = f"remote user {seen.user} ({seen.user_id})" if seen.user_id >= 0 else "another remote user"
        vm = f" of VM {seen.vm_id}" if seen.vm_id else ""
        sentence = f"remote VM {seen.number}{vm} was given to {who}: ask for it back, else it cannot be terminated"
        self._away[seen.number] = sentence
        self._warn_once(sentence)

    def _is_away(self, seen: ListedVm) -> bool:
        if seen.state.word == _HIDDEN:
            return True
        user_id = self._remote.user_id  # 0, oneadmin, may manage every VM
        is_foreign = user_id > 0 and seen.user_id not in (user_id, -1)
        return is_foreign and seen.owner == self._owner and not seen.instance.state.is_gone

    def _warn_once(self, sentence: str) -> None:
        if len(self._warned) >= _MOST_WARNED:
            self._warned.clear()  # rather a second warning than unlimited memory
        if sentence not in self._warned:
            self._warned.add(sentence)
            self._warn(sentence)


class _HalfRowError(ProviderUnavailable):
    """The rows of a listing lack the VMs' attributes, which rows of earlier listings had."""


def _read_whole(vm: Element) -> ListedVm:
    """Read a row of a pool. Without its tags a VM would not count as ours, and would be created once more."""
    if vm.find("PERMISSIONS") is None:
        raise _HalfRowError("the partner lists VMs without their attributes, as if it had just been upgraded")
    return read_listed_vm(vm)


def _ranges(numbers: list[int], *, longest: int) -> Iterator[tuple[int, int]]:
    """Yield runs of at least two numbers near to each other."""
    run: list[int] = []
    for number in numbers:
        if run and (number - run[-1] > _WIDEST_GAP or number - run[0] >= longest):
            if len(run) > 1:
                yield run[0], run[-1]
            run = []
        run.append(number)
    if len(run) > 1:
        yield run[0], run[-1]

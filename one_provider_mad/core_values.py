"""Asks the local core what a VM's request lacks: decrypted attributes, the token for OneGate, earlier hosts.

oned encrypts the attributes in VM_ENCRYPTED_ATTR, CONTEXT/PASSWORD as shipped from 5.12 on, and decrypts them only for
its own context disk: drivers get ciphertext. `one.vm.info` decrypts for the group oneadmin, and silently leaves the
values encrypted for other users (src/rm/RequestManagerInfo.cc; in 7.4 src/rm/api/SharedAPI.cc).
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from one_provider_mad.core_settings import encrypted_vm_attributes
from one_provider_mad.domain import EarlierHost, Template, Value, VmId, VmRequest, whole_number
from one_provider_mad.errors import MadError, ProviderUnavailable, RequestRefused
from one_provider_mad.masking import keep_vm_secret
from one_provider_mad.onegate import KEY_LENGTH, onegate_token
from one_provider_mad.protocol.payload import read_template
from one_provider_mad.safe_xml import Element, elements_at, text_of
from one_provider_mad.xmlrpc.local import LocalCore
from one_provider_mad.xmlrpc.local_endpoint import written_settings

log = structlog.get_logger()

_SHIPPED = frozenset({("CONTEXT", "PASSWORD")})
"""VM_ENCRYPTED_ATTR as shipped, for a core whose settings cannot be read."""

_MYSELF = -1
_ONEADMIN = "0"
"""Number of the user and of the group oneadmin."""

_BLOCK = 16
"""Bytes of an AES block: a ciphertext has a whole number of them."""

_TRIES = 3
_PAUSE = 1.0
"""Seconds between two tries. A core that answers none of them would read no answer of the driver either."""

_KEEPS_DISK, _DELETE_RECREATE = frozenset({5, 6, 9}), 14
"""ACTIONs that close a history record (include/VMActions.h): undeploy, undeploy --hard and stop; and recreate."""

_NOTHING_DONE = "nothing was sent to the cloud"

_Answer = TypeVar("_Answer")


class _Place(Value, frozen=True, kw_only=True):
    """Where an attribute is that may be encrypted.

    Attributes:
        part: "TEMPLATE" or "USER_TEMPLATE".
        name: of the attribute.
        number: which one of this name, from 0 on.
        inner: of the attribute within it; "" for a plain one.
    """

    part: str
    name: str
    number: int
    inner: str

    def __str__(self) -> str:
        return f"{self.name}/{self.inner}" if self.inner else self.name


class CoreValues:
    """Asks the OpenNebula on this machine, with the rights of the user in ONE_AUTH.

    Making one reads a file: not for the event loop. oned writes it before it starts its drivers.

    Args:
        environ: environment variables; ONE_XMLRPC, ONE_AUTH and ONE_LOCATION as for OpenNebula's own tools.
        core_is_up: set once the core answers calls.
    """

    def __init__(self, environ: Mapping[str, str], *, core_is_up: asyncio.Event) -> None:
        self._core = LocalCore(environ)
        self._core_is_up = core_is_up
        encrypted = encrypted_vm_attributes(str(written_settings(environ)))
        self._encrypted = _SHIPPED if encrypted is None else encrypted

    async def complete(self, request: VmRequest) -> VmRequest:
        """Return the request with its encrypted attributes decrypted, and with ONEGATE_TOKEN where it asks for one.

        The core is not asked for a request that has neither.

        Raises:
            RequestRefused: the core does not tell what the request needs; the sentence names the attribute, the reason
                and the remedy.
        """
        places = list(_encrypted_places(request, self._encrypted))
        if places:
            request = await self._decrypted(request, places)
        if _wants_token(request):
            request = await self._with_token(request)
        return request

    # Earlier hosts

    async def earlier_host(self, vm_id: VmId) -> EarlierHost | None:
        """Return the host of another driver that the VM was undeployed or stopped on, and so has its disk.

        A request has the latest record of the VM's history alone. None for none, for a VM that was recreated since, and
        where the core does not tell.
        """
        try:
            return await self._ask(_earlier_host, "one.vm.info", vm_id)
        except MadError as error:
            log.info("the core does not tell where a VM was", vm=vm_id, reason=str(error))
            return None

    # Encrypted attributes

    async def _decrypted(self, request: VmRequest, places: list[_Place]) -> VmRequest:
        names = " and ".join(sorted({str(place) for place in places}))
        try:
            parts = await self._ask(_templates, "one.vm.info", request.vm_id, True)  # noqa: FBT003 - as the API has it
            if any(_value(parts, place) == _value(_parts(request), place) for place in places):
                # A value that oned never encrypted may look so, but a user without the right sees all unchanged.
                await self._check_right()
        except MadError as error:
            sentence = f"{names} cannot be decrypted by the local OpenNebula: {error}; {_NOTHING_DONE}"
            raise RequestRefused(sentence) from error
        for place in places:
            keep_vm_secret(_value(parts, place))
        return msgspec.structs.replace(
            request,
            template=_replaced(request.template, parts, places, "TEMPLATE"),
            user_template=_replaced(request.user_template, parts, places, "USER_TEMPLATE"),
        )

    async def _check_right(self) -> None:
        name, is_admin = await self._ask(_myself, "one.user.info", _MYSELF)
        if not is_admin:
            raise RequestRefused(
                f"it decrypts for the group oneadmin only, and {name}, the user in ONE_AUTH, is not in it: run oneuser"
                f" addgroup {name} oneadmin"
            )

    # OneGate

    async def _with_token(self, request: VmRequest) -> VmRequest:
        try:
            password = await self._token_password(request)
        except MadError as error:
            raise RequestRefused(
                f"TOKEN = YES in CONTEXT asks for a OneGate token, which cannot be made: {error}; {_NOTHING_DONE}"
            ) from error
        make = partial(onegate_token, vm_id=request.vm_id, stime=request.stime, token_password=password)
        token = await asyncio.to_thread(make)
        keep_vm_secret(token)
        return msgspec.structs.replace(request, template=_with_onegate_token(request.template, token))

    async def _token_password(self, request: VmRequest) -> str:
        created_by = whole_number(request.template.text("CREATED_BY").strip())
        if created_by is None:
            raise RequestRefused("the VM has no CREATED_BY, create it again")
        password = await self._ask(_token_password, "one.user.info", created_by)
        if len(password.encode()) < KEY_LENGTH:
            size = f"shorter than {KEY_LENGTH} bytes" if password else "missing"
            raise RequestRefused(
                f"TOKEN_PASSWORD of user {created_by}, who created the VM, is {size}: set one of 64 hexadecimal digits"
                f" with oneuser update {created_by}"
            )
        return password

    # Asking

    async def _ask(self, read: Callable[[Element], _Answer], method: str, *arguments: int | bool) -> _Answer:
        await self._core_is_up.wait()
        for number in range(1, _TRIES + 1):
            try:
                return await asyncio.to_thread(lambda: read(self._core.document(method, *arguments)))
            except ProviderUnavailable:
                if number == _TRIES:
                    raise
            await asyncio.sleep(_PAUSE)
        raise AssertionError("the last try returns or raises")


def _earlier_host(vm: Element) -> EarlierHost | None:
    records = list(elements_at(vm, "HISTORY_RECORDS/HISTORY"))
    for record in reversed(records[:-1]):
        action, here = _number_at(record, "ACTION"), _driver(records[-1])
        if action == _DELETE_RECREATE:
            return None
        if _driver(record) != here:
            return _host(record) if action in _KEEPS_DISK and _driver(record) and here else None
    return None


def _host(record: Element) -> EarlierHost:
    name = text_of(record.find("HOSTNAME")).strip()
    return EarlierHost(name=name, driver=_driver(record), datastore_id=_number_at(record, "DS_ID"))


def _driver(record: Element) -> str:
    return text_of(record.find("VM_MAD")).strip()


def _number_at(record: Element, name: str) -> int:
    number = whole_number(text_of(record.find(name)).strip())
    return -1 if number is None else number


def _encrypted_places(request: VmRequest, encrypted: frozenset[tuple[str, str]]) -> Iterator[_Place]:
    for part, template in _parts(request).items():
        for name, inner in sorted(encrypted):
            for number, value in enumerate(template.values.get(name, ())):
                text = _text(value, inner)
                if text and _may_be_ciphertext(text):
                    yield _Place(part=part, name=name, number=number, inner=inner)


def _may_be_ciphertext(text: str) -> bool:
    """Return True for base64 of whole AES blocks; any other value was never encrypted."""
    try:
        length = len(binascii.a2b_base64("".join(text.split()), strict_mode=True))
    except ValueError:
        return False
    return length > 0 and length % _BLOCK == 0


def _parts(request: VmRequest) -> dict[str, Template]:
    return {"TEMPLATE": request.template, "USER_TEMPLATE": request.user_template}


def _templates(vm: Element) -> dict[str, Template]:
    return {part: read_template(vm, part) for part in ("TEMPLATE", "USER_TEMPLATE")}


def _text(value: str | Mapping[str, str], inner: str) -> str:
    """Return a plain attribute's text, or that of the `inner` one of a vector; "" where it is of the other kind."""
    if isinstance(value, str):
        return "" if inner else value
    return value.get(inner, "") if inner else ""


def _value(parts: Mapping[str, Template], place: _Place) -> str:
    """Return the text at a place. Raises RequestRefused when the VM has none there any more."""
    several = parts[place.part].values.get(place.name, ())
    text = _text(several[place.number], place.inner) if place.number < len(several) else ""
    if not text:
        raise RequestRefused("the VM was changed meanwhile, repeat the action")
    return text


def _replaced(template: Template, parts: Mapping[str, Template], places: list[_Place], part: str) -> Template:
    values = {name: list(several) for name, several in template.values.items()}
    for place in (each for each in places if each.part == part):
        before, text = values[place.name][place.number], _value(parts, place)
        values[place.name][place.number] = text if isinstance(before, str) else {**before, place.inner: text}
    return Template(values={name: tuple(several) for name, several in values.items()})


def _wants_token(request: VmRequest) -> bool:
    # OpenNebula takes YES in any case for true, and nothing else (src/common/Attribute.cc, vector_value).
    return any(context.get("TOKEN", "").upper() == "YES" for context in request.template.vectors("CONTEXT"))


def _with_onegate_token(template: Template, token: str) -> Template:
    contexts = tuple(
        value if isinstance(value, str) else {**value, "ONEGATE_TOKEN": token} for value in template.values["CONTEXT"]
    )
    return Template(values={**template.values, "CONTEXT": contexts})


def may_decrypt(core: LocalCore) -> tuple[str, bool]:
    """Return the name of the user in ONE_AUTH, and whether the core decrypts attributes for it. Blocks.

    Raises:
        SettingsError: the credentials, or the URL, cannot be used.
        ProviderError: the call was not answered, or refused.
    """
    return _myself(core.document("one.user.info", _MYSELF))


def _myself(user: Element) -> tuple[str, bool]:
    # include/RequestAttributes.h, is_admin
    numbers = [text_of(each).strip() for path in ("ID", "GID", "GROUPS/ID") for each in elements_at(user, path)]
    return text_of(user.find("NAME")), _ONEADMIN in numbers


def _token_password(user: Element) -> str:
    # Undecrypted, as OneGate reads it.
    return next((text_of(each) for each in elements_at(user, "TEMPLATE/TOKEN_PASSWORD")), "")

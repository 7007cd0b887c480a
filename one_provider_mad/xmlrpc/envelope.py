"""Encodes calls to bytes, and decodes answers to values. Pure.

Every method of OpenNebula answers with an array: [True, result, error code, ...] or [False, text, error code, ...],
always with HTTP 200; the answer to an unreadable call is an XML-RPC fault (src/rm/Request.cc, failure_response).
A document is one escaped string inside the envelope.
"""

from __future__ import annotations

import xmlrpc.client
from collections.abc import Iterator

from lxml import etree

from one_provider_mad.domain import Value, whole_number
from one_provider_mad.errors import BadParameter, ProviderUnavailable
from one_provider_mad.http_answers import TooLargeError
from one_provider_mad.safe_xml import (
    Element,
    TooManyElementsError,
    UnexpectedRootError,
    children_of,
    elements_at,
    parse_bounded,
    text_of,
)

Argument = str | int | bool
"""An argument of a method of OpenNebula."""

Result = str | int | bool
"""The result of a method of OpenNebula."""

DOCUMENTS = {
    "one.clusterpool.info": "CLUSTER_POOL",
    "one.datastorepool.info": "DATASTORE_POOL",
    "one.group.info": "GROUP",
    "one.grouppool.info": "GROUP_POOL",
    "one.hookpool.info": "HOOK_POOL",
    "one.host.info": "HOST",
    "one.hostpool.info": "HOST_POOL",
    "one.hostpool.monitoring": "MONITORING_DATA",
    "one.imagepool.info": "IMAGE_POOL",
    "one.system.config": "OPENNEBULA_CONFIGURATION",
    "one.template.info": "VMTEMPLATE",
    "one.templatepool.info": "VMTEMPLATE_POOL",
    "one.user.info": "USER",
    "one.vm.info": "VM",
    "one.vm.monitoring": "MONITORING_DATA",
    "one.vmpool.info": "VM_POOL",
    "one.vmpool.infoextended": "VM_POOL",
    "one.vmpool.monitoring": "MONITORING_DATA",
    "one.vnpool.info": "VNET_POOL",
    "one.zone.raftstatus": "RAFT",
    "one.zonepool.info": "ZONE_POOL",
}
"""Method to the root element of the XML document in its answer. One with another root is refused: a search in it would
find nothing, as in an empty pool."""

_OLDER_ROOTS = {"one.system.config": "TEMPLATE"}
"""The root's name in older releases (seen on 5.10.5)."""

_EXCERPT = 200


class Success(Value, frozen=True, kw_only=True):
    """The call was carried out.

    Attributes:
        result: an id, a document, or a version.
    """

    result: Result


class Failure(Value, frozen=True, kw_only=True):
    """The call was refused.

    Attributes:
        text: OpenNebula's sentence, `[one.vm.action] ...`.
        code: kind of error (include/Request.h, ErrorCode); negative for an XML-RPC fault.
    """

    text: str
    code: int


def encode_call(method: str, session: str, arguments: tuple[Argument, ...]) -> bytes:
    """Return a call as bytes. Raises BadParameter for values that XML-RPC cannot carry."""
    try:
        document = xmlrpc.client.dumps((session, *arguments), method)
    except OverflowError as error:
        raise BadParameter(f"{method} cannot be sent: a number in it has more than 32 bits") from error
    # The marshaller writes control characters unchanged, and no XML parser accepts them.
    if any(character < " " and character not in "\t\n\r" for character in document):
        raise BadParameter(f"{method} cannot be sent: a text in it holds control characters")
    try:
        return document.encode()
    except UnicodeEncodeError as error:
        raise BadParameter(f"{method} cannot be sent: a text in it is not valid Unicode") from error


def decode_answer(method: str, body: bytes) -> Success | Failure:
    """Return the values in the body of an answer; the caller has limited its size.

    Raises:
        ProviderUnavailable: it is not the answer of an OpenNebula; whether the call took effect is not known.
    """
    root = parse_foreign(body, what=f"the answer to {method}")
    if root.tag != "methodResponse":
        raise _no_answer(method, f"it begins with <{str(root.tag)[:_EXCERPT]}>")
    fault = root.find("fault")
    if fault is not None:
        return _fault(fault)
    values = [_scalar(method, value) for value in elements_at(root, "params/param/value/array/data/value")]
    if len(values) < 2 or not isinstance(values[0], bool):
        raise _no_answer(method, "it holds no result")
    if values[0]:
        return Success(result=values[1])
    code = values[2] if len(values) > 2 else 0
    return Failure(text=str(values[1]), code=code if isinstance(code, int) else 0)


def read_document(method: str, result: Result) -> Element:
    """Return the root of the document in the answer to a method of `DOCUMENTS`.

    Raises:
        ProviderUnavailable: the answer holds another document, or none.
    """
    if not isinstance(result, str):
        raise ProviderUnavailable(f"the answer to {method} is not a document")
    root = parse_foreign(result.encode(), what=f"the document in the answer to {method}")
    if root.tag not in (DOCUMENTS[method], _OLDER_ROOTS.get(method)):
        raise ProviderUnavailable(
            f"the answer to {method} is not <{DOCUMENTS[method]}>, it begins with <{str(root.tag)[:_EXCERPT]}>"
        )
    return root


def read_entries(method: str, result: Result, *, name: str) -> Iterator[Element]:
    """Yield the entries of the pool in the answer to a method of `DOCUMENTS`; each is freed afterwards.

    Raises:
        ProviderUnavailable: the answer holds another document, or none.
    """
    if not isinstance(result, str):
        raise ProviderUnavailable(f"the answer to {method} is not a document")
    try:
        yield from children_of(result.encode(), root=DOCUMENTS[method], name=name)
    except UnexpectedRootError as error:
        raise ProviderUnavailable(
            f"the answer to {method} is not <{DOCUMENTS[method]}>, it begins with <{str(error)[:_EXCERPT]}>"
        ) from error
    except etree.XMLSyntaxError as error:
        raise ProviderUnavailable(f"the document in the answer to {method} is no XML") from error


def parse_foreign(document: bytes, *, what: str) -> Element:
    """Parse an XML document from another machine; one with a DOCTYPE, which could define entities, is refused.

    Raises:
        ProviderUnavailable: it is not well-formed XML, or has a DOCTYPE.
    """
    try:
        root = parse_bounded(document)
    except TooManyElementsError as error:
        raise TooLargeError(f"{what} has too many elements: lower page_size") from error
    except etree.XMLSyntaxError as error:
        raise ProviderUnavailable(f"{what} is not XML: {(error.msg or 'not well formed')[:_EXCERPT]}") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise ProviderUnavailable(f"{what} was refused: it has a DOCTYPE, which OpenNebula never writes, check the URL")
    return root


def _fault(fault: Element) -> Failure:
    members = {
        text_of(member.find("name")): text_of(member.find("value")).strip()
        for member in elements_at(fault, "value/struct/member")
    }
    code = whole_number(members.get("faultCode", ""))
    return Failure(text=members.get("faultString", ""), code=-500 if code is None else code)


def _scalar(method: str, value: Element) -> Result:
    """Return one value: `<i4>`, `<int>`, `<i8>`, `<boolean>`, `<string>`, or a bare text, which is a string."""
    if not len(value):
        return value.text or ""
    kind, text = value[0].tag, text_of(value[0])
    if kind == "string":
        return text
    number = whole_number(text.strip())
    if kind in ("i4", "int", "i8", "boolean") and number is not None:
        return number == 1 if kind == "boolean" else number
    raise _no_answer(method, f"it holds a value <{str(kind)[:_EXCERPT]}>, which OpenNebula never sends")


def _no_answer(method: str, why: str) -> ProviderUnavailable:
    return ProviderUnavailable(f"the answer to {method} does not come from an OpenNebula: {why}")

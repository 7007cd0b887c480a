"""Writes answers in the Query API's XML, and errors in each service's form; no I/O."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from one_provider_mad.lab.ec2.refusals import Refusal

Answer = dict[str, Any]
"""Element to text, to elements, or to a list: of `item`s, or of `member`s for `Members`."""

NAMESPACES = {
    "ec2": "http://ec2.amazonaws.com/doc/2016-11-15/",
    "sts": "https://sts.amazonaws.com/doc/2011-06-15/",
    "monitoring": "http://monitoring.amazonaws.com/doc/2010-08-01/",
}


_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'


class Moment(float):
    """A timestamp in seconds since the epoch: XML has it as ISO 8601, JSON as a number."""


class Members(list[Any]):
    """A list as services other than EC2 write it, of elements `member`."""


def xml(value: object) -> str:
    """Return the content of an element."""
    if isinstance(value, dict):
        return "".join(f"<{name}>{xml(part)}</{name}>" for name, part in value.items())
    if isinstance(value, list):
        word = "member" if isinstance(value, Members) else "item"
        return "".join(f"<{word}>{xml(part)}</{word}>" for part in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Moment):
        return moment(value)
    return escape(str(value))


def answer(service: str, action: str, content: Answer, *, request_id: str) -> str:
    """Return a whole document; EC2 has no wrapper, the others have `ActionResult` and `ResponseMetadata`."""
    if service == "ec2":
        inner = f"<requestId>{request_id}</requestId>{xml(content)}"
    else:
        metadata = {"ResponseMetadata": {"RequestId": request_id}}
        inner = f"{xml({f'{action}Result': content})}{xml(metadata)}"
    return f'{_HEAD}<{action}Response xmlns="{NAMESPACES[service]}">{inner}</{action}Response>'


def error(service: str, refusal: Refusal, *, request_id: str) -> str:
    """Return an error document of the service."""
    content = {"Code": refusal.code, "Message": refusal.message}
    if service == "ec2":
        text = xml({"Response": {"Errors": {"Error": content}, "RequestID": request_id}})
    else:
        side = {"Type": "Sender" if refusal.status < 500 else "Receiver"}
        inner = xml({"Error": {**side, **content}, "RequestId": request_id})
        text = f'<ErrorResponse xmlns="{NAMESPACES.get(service, NAMESPACES["sts"])}">{inner}</ErrorResponse>'
    return f"{_HEAD}{text}"


def moment(seconds: float) -> str:
    """Return a timestamp in ISO 8601, to the millisecond."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds * 1000) % 1000:03d}Z"


def tag_set(tags: Mapping[str, str]) -> Sequence[Answer]:
    """Return the tags of one resource."""
    return [{"key": key, "value": value} for key, value in tags.items()]

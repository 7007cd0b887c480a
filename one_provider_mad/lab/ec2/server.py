"""Serves an account over HTTP, as EC2, STS, CloudWatch and AWS's price list do: signed requests in, XML out.

CloudWatch has two protocols here, because botocore's clients prefer the second: the Query API, and JSON
(docs.aws.amazon.com, "Amazon CloudWatch API Reference", "Making API requests"). The price list has JSON alone.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from one_provider_mad.lab.ec2 import answers
from one_provider_mad.lab.ec2.account import Account
from one_provider_mad.lab.ec2.answers import Answer
from one_provider_mad.lab.ec2.price_lists import SERVICE_REGION
from one_provider_mad.lab.ec2.refusals import AnswerLost, Refusal
from one_provider_mad.lab.ec2.signatures import Key, SignedRequest, check, service_of

log = structlog.get_logger()

TARGET = "x-amz-target"
"""Header with the action of a call in JSON."""

LARGEST_REQUEST = 1024 * 1024


class Call(NamedTuple):
    """One parsed request.

    Attributes:
        service: the service in its signature; "" for an unsigned one.
        action: `RunInstances`...
        form: its parameters.
        is_json: it came as JSON, and is answered as JSON.
    """

    service: str
    action: str
    form: Mapping[str, str]
    is_json: bool = False


class Server:
    """One account's endpoint, for all of its services.

    Args:
        account: the served account; its maker opens and closes it.
        keys: secret and session by access key id.
    """

    def __init__(self, account: Account, *, keys: Mapping[str, Key]) -> None:
        self.account = account
        self.keys = dict(keys)

    def application(self) -> web.Application:
        """Return the application with its routes."""
        application = web.Application(client_max_size=LARGEST_REQUEST)
        application.router.add_route("*", "/", self.handle)
        return application

    @asynccontextmanager
    async def served(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Serve within a `with` statement; return the URL."""
        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            yield f"http://{host}:{runner.addresses[0][1]}/"
        finally:
            await runner.cleanup()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request; for a lost answer close the connection."""
        body = await request.read()
        headers = {name.lower(): text for name, text in request.headers.items()}
        call = Call(service=service_of(headers) or "ec2", action="", form={}, is_json=_is_json(headers))
        try:
            self._check(request, headers, body)
            call = read_call(call.service, headers, request.query_string, body)
            return await self.respond(call, request)
        except Refusal as refusal:
            return refused(call, refusal)
        except AnswerLost:
            return abandoned(request)
        except Exception:
            log.exception("unexpected: a call that the endpoint failed to answer", action=call.action)
            return refused(call, Refusal("InternalError", "An internal error has occurred", 500))

    async def respond(self, call: Call, request: web.Request) -> web.StreamResponse:  # noqa: ARG002 - others may
        """Carry out a call and write its answer.

        Raises:
            Refusal: the error for the answer.
            AnswerLost: there is no answer.
        """
        return written(call, await self.perform(call))

    def key_of(self, key_id: str) -> Key | None:
        """Return secret and session of an access key id; None for an unknown one."""
        return self.keys.get(key_id)

    async def perform(self, call: Call) -> Answer:
        """Carry out a call. Raises Refusal and AnswerLost, as `respond`."""
        if self.account.service_of(call.action) not in ("", call.service):
            raise Refusal("InvalidAction", f"The action {call.action[:80]} is not valid for this web service.")
        return await self.account.perform(call.action, call.form)

    def _check(self, request: web.Request, headers: Mapping[str, str], body: bytes) -> None:
        signed = SignedRequest(
            method=request.method,
            path=request.rel_url.raw_path,
            query=tuple(parse_qsl(request.query_string, keep_blank_values=True)),
            headers=headers,
            body=body,
        )
        resources = self.account.resources
        region = SERVICE_REGION if service_of(headers) == "pricing" else resources.region
        check(signed, region=region, key_of=self.key_of, now=resources.clock())


def read_call(service: str, headers: Mapping[str, str], query: str, body: bytes) -> Call:
    """Return the parsed call. Raises Refusal when it cannot be read."""
    if _is_json(headers):
        try:
            form = dict(_flat("", json.loads(body or b"{}")))
        except ValueError:
            raise Refusal("SerializationException", "The request is no JSON") from None
        return Call(service=service, action=headers[TARGET].rpartition(".")[2], form=form, is_json=True)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Refusal("MalformedQueryString", "The request is not UTF-8", 404) from None
    form = dict(parse_qsl(f"{query}&{text}" if query and text else query or text, keep_blank_values=True))
    if "Action" not in form:
        raise Refusal("MissingAction", "The request must contain the parameter Action")
    return Call(service=service, action=form["Action"], form=form)


def _is_json(headers: Mapping[str, str]) -> bool:
    return TARGET in headers


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    """Return JSON in the form of the Query API: `A.member.1.B`."""
    if isinstance(value, dict):
        return [pair for name, part in value.items() for pair in _flat(f"{prefix}.{name}" if prefix else name, part)]
    if isinstance(value, list):
        return [pair for at, part in enumerate(value, 1) for pair in _flat(f"{prefix}.member.{at}", part)]
    return [(prefix, json.dumps(value) if isinstance(value, bool) else str(value))]


def written(call: Call, content: Answer) -> web.Response:
    """Return an answer in the protocol of its call."""
    request_id = str(uuid.uuid4())
    if call.is_json:
        text = json.dumps(content)
        return web.Response(text=text, content_type="application/x-amz-json-1.0", headers=_named(request_id))
    text = answers.answer(call.service, call.action, content, request_id=request_id)
    return web.Response(text=text, content_type="text/xml", headers=_named(request_id))


def refused(call: Call, refusal: Refusal, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error in the protocol of its call."""
    request_id = str(uuid.uuid4())
    named = {**_named(request_id), **(headers or {})}
    if call.is_json:
        text = json.dumps({"__type": refusal.code, "message": refusal.message})
        return web.Response(text=text, status=refusal.status, content_type="application/x-amz-json-1.0", headers=named)
    text = answers.error(call.service, refusal, request_id=request_id)
    return web.Response(text=text, status=refusal.status, content_type="text/xml", headers=named)


def abandoned(request: web.Request) -> web.Response:
    """Close the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _named(request_id: str) -> dict[str, str]:
    return {"x-amzn-RequestId": request_id}

"""Serves an account over HTTP as EC2 does: signed forms in, XML out, and what goes wrong by order.

As a program it serves an account of its own and writes its URL to stdout; `POST /_order` then sets what the tests
order, and `GET /_calls` shows what was asked.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.providers.ec2.account import Account, Refusal
from tests.providers.ec2.model import unknown_parameters

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
REGION = "eu-west-1"
NAMESPACES = {
    "ec2": "http://ec2.amazonaws.com/doc/2016-11-15/",
    "sts": "https://sts.amazonaws.com/doc/2011-06-15/",
}


@dataclass
class Order:
    """Something that goes wrong with calls.

    Attributes:
        action: whose calls; "" for all.
        times: how many of them.
        after: how many go well before.
        code, message, status: the error that is answered.
        body: answered instead of an error of ours, with the status.
        headers: added to the answer.
        is_done: the call takes effect first; False: it does not.
        drop: no answer at all, the connection ends.
        cut: bytes of the answer after which the connection ends.
        hold: wait until this is set.
    """

    action: str = ""
    times: int = 1
    after: int = 0
    code: str = "InternalError"
    message: str = "An internal error has occurred"
    status: int = 500
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    is_done: bool = False
    drop: bool = False
    cut: int = 0
    hold: asyncio.Event | None = None


@dataclass
class Face:
    """The account's web server.

    Attributes:
        account: what is served.
        keys: access key to secret; others are refused.
        tokens: session tokens that are accepted, by access key.
        orders: what goes wrong; the first that fits a call is met.
        role_seconds: how long credentials of an assumed role are good for.
        connections: those that were opened.
    """

    account: Account = field(default_factory=Account)
    keys: dict[str, str] = field(default_factory=lambda: {KEY: SECRET})
    tokens: dict[str, str] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    url: str = ""
    role_seconds: float = 3600.0
    refused: list[str] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)

    def order(self, action: str = "", **what: Any) -> Order:
        self.orders.append(Order(action=action, **what))
        return self.orders[-1]

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Face]:
        application = web.Application(client_max_size=2**24)
        application.router.add_post("/", self._answer)
        application.router.add_post("/_order", self._ordered)
        application.router.add_get("/_calls", self._shown)
        application.router.add_get("/container", self._given)
        application.router.add_put("/latest/api/token", self._session)
        application.router.add_get("/latest/meta-data/iam/security-credentials/", self._role)
        application.router.add_get("/latest/meta-data/iam/security-credentials/one", self._given)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        try:
            yield self
        finally:
            for order in self.orders:
                if order.hold:
                    order.hold.set()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.connections.add(request.transport)
        body = await request.read()
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        action = form.get("Action", "")
        service = "sts" if action in ("GetCallerIdentity", "AssumeRole") else "ec2"
        try:
            self._check_signature(request, body, service)
            order = self._met(action)
            if service == "ec2" and (strange := unknown_parameters(action, form)):
                raise Refusal("UnknownParameter", f"The parameter {strange[0]} is not recognized")
            self.account.calls.append((action, form))
            if order and order.hold:
                await order.hold.wait()
            if order and not order.is_done:
                return await self._fault(request, order)
            answer = self._assumed(form) if action == "AssumeRole" else self.account.act(action, form)
            text = f'<{action}Response xmlns="{NAMESPACES[service]}"><requestId>r</requestId>{xml(answer)}'
            text += f"</{action}Response>"
            if order:
                return await self._fault(request, order, text)
            return web.Response(text=text, content_type="text/xml")
        except Refusal as refusal:
            self.refused.append(refusal.code)
            return self._error(refusal.code, refusal.message, refusal.status)

    def _assumed(self, form: dict[str, str]) -> dict[str, Any]:
        user = {"Arn": form["RoleArn"], "AssumedRoleId": "AROA:x"}
        return {"AssumeRoleResult": {"Credentials": self._new_key(), "AssumedRoleUser": user}}

    def _new_key(self) -> dict[str, str]:
        """A key with a session, good for as long as `role_seconds` says."""
        key_id = f"ASIA{len(self.keys):016d}"
        self.keys[key_id], self.tokens[key_id] = f"secret of {key_id}", f"session of {key_id}"
        return {
            "AccessKeyId": key_id,
            "SecretAccessKey": self.keys[key_id],
            "SessionToken": self.tokens[key_id],
            "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.role_seconds)),
        }

    def _met(self, action: str) -> Order | None:
        for order in self.orders:
            if order.action not in ("", action) or order.times < 1:
                continue
            if order.after > 0:
                order.after -= 1
                continue
            order.times -= 1
            return order
        return None

    async def _fault(self, request: web.Request, order: Order, text: str = "") -> web.StreamResponse:
        if order.drop:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if order.cut:
            response = web.StreamResponse(headers={"Content-Length": str(len(text.encode()))})
            await response.prepare(request)
            await response.write(text.encode()[: order.cut])
            assert request.transport is not None
            request.transport.close()
            return response
        if order.body is not None:
            return web.Response(text=order.body, status=order.status, headers=order.headers)
        return self._error(order.code, order.message, order.status, order.headers)

    def _error(self, code: str, message: str, status: int, headers: dict[str, str] | None = None) -> web.Response:
        error = xml({"Errors": {"Error": {"Code": code, "Message": message}}, "RequestID": "r"})
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Response>{error}</Response>'
        return web.Response(text=text, status=status, headers=headers, content_type="text/xml")

    def _check_signature(self, request: web.Request, body: bytes, service: str) -> None:
        """Make the signature again with botocore, from the same headers, and compare."""
        authorization = request.headers.get("Authorization", "")
        if not authorization.startswith("AWS4-HMAC-SHA256 "):
            raise Refusal("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
        parts = dict(part.split("=", 1) for part in authorization.split(" ", 1)[1].split(", "))
        key_id, _, scope = parts["Credential"].partition("/")
        day, region, scoped_service, _ = scope.split("/")
        moment = request.headers["X-Amz-Date"]
        if key_id not in self.keys:
            raise Refusal("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
        if (region, scoped_service, day) != (REGION, service, moment[:8]):
            raise Refusal("SignatureDoesNotMatch", f"Credential should be scoped to {REGION}/{service}", 403)
        token = request.headers.get("X-Amz-Security-Token", "")
        if token != self.tokens.get(key_id, ""):
            raise Refusal("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
        headers = {name: request.headers[name] for name in parts["SignedHeaders"].split(";")}
        if not {"host", "x-amz-date", "content-type"} <= headers.keys():
            raise Refusal("SignatureDoesNotMatch", "host, x-amz-date and content-type must be signed", 403)
        same = AWSRequest(method="POST", url=str(request.url), data=body, headers=headers)
        same.context["timestamp"] = moment
        signer = SigV4Auth(Credentials(key_id, self.keys[key_id], token or None), service, REGION)
        signature = signer.signature(signer.string_to_sign(same, signer.canonical_request(same)), same)
        if signature != parts["Signature"]:
            text = "The request signature we calculated does not match the signature you provided.\n\nThe Canonical"
            raise Refusal("SignatureDoesNotMatch", text, 403)

    # What containers and instances ask for their credentials (docs.aws.amazon.com, "Container credential provider",
    # "Use the Instance Metadata Service")

    async def _given(self, _: web.Request) -> web.Response:
        key = self._new_key()
        given = {"Code": "Success", "Token": key["SessionToken"], **key}
        return web.json_response(given)

    async def _session(self, _: web.Request) -> web.Response:
        return web.Response(text="a session of the metadata service")

    async def _role(self, _: web.Request) -> web.Response:
        return web.Response(text="one")

    async def _ordered(self, request: web.Request) -> web.Response:
        for name, value in (await request.json()).items():
            if name == "reset":
                self.account = Account()
                self.orders.clear()
            elif name == "short":
                self.account.short = {(kind, place) for kind, place in value}
            elif name == "fault":
                self.order(**value)
            else:
                setattr(self.account, name, value)
        return web.Response()

    async def _shown(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "calls": [action for action, _ in self.account.calls],
                "alive": {each.id: each.tags for each in self.account.alive},
                "states": {each.id: each.word for each in self.account.instances.values()},
                "asked": {each.id: each.asked for each in self.account.instances.values()},
            }
        )


def xml(value: object) -> str:
    """Elements as the API writes them: lists have items."""
    if isinstance(value, dict):
        return "".join(f"<{name}>{xml(part)}</{name}>" for name, part in value.items())
    if isinstance(value, list):
        return "".join(f"<item>{xml(part)}</item>" for part in value)
    return escape(str(value))


async def main() -> None:
    async with Face().served() as face:
        sys.stdout.write(f"{face.url}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())

"""The embedded EC2 endpoint for tests, with faults on order for each call, and with sources of credentials.

As a program it serves an account of its own and writes its URL to stdout; `POST /_order` then sets the
faults that a test orders, and `GET /_calls` shows the calls received.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aiohttp import web

from one_provider_mad.domain import DeployId
from one_provider_mad.lab.ec2 import account as served
from one_provider_mad.lab.ec2.answers import Answer
from one_provider_mad.lab.ec2.background import Background
from one_provider_mad.lab.ec2.refusals import Refusal
from one_provider_mad.lab.ec2.server import Call, Server, abandoned, refused, written
from one_provider_mad.lab.ec2.signatures import Key
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.providers.ec2.account import REGION, SETTINGS, Account
from tests.providers.ec2.model import unknown_parameters
from tests.waiting import HANG

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

__all__ = ["KEY", "REGION", "SECRET", "FaultyEc2", "Order"]


@dataclass
class Order:
    """A fault of some calls.

    Attributes:
        action: the action of these calls; "" for all.
        times: number of calls that meet the fault.
        after: number of calls before them that succeed.
        code, message, status: of the error in the answer.
        body: sent instead of an error in EC2's form, with the status.
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


class OrderedServer(Server):
    """The endpoint with the faults that tests order.

    Args:
        ec2: holds the ordered faults.
        account: the account to serve.
    """

    def __init__(self, ec2: FaultyEc2, account: served.Account) -> None:
        super().__init__(account, keys={})
        self.ec2 = ec2

    def application(self) -> web.Application:
        application = super().application()
        application.router.add_post("/_order", self._ordered)
        application.router.add_get("/_calls", self._shown)
        application.router.add_get("/container", self._given)
        application.router.add_put("/latest/api/token", self._session)
        application.router.add_get("/latest/meta-data/iam/security-credentials/", self._role)
        application.router.add_get("/latest/meta-data/iam/security-credentials/one", self._given)
        return application

    def key_of(self, key_id: str) -> Key | None:
        if key_id not in self.ec2.keys:
            return None
        return Key(self.ec2.keys[key_id], self.ec2.tokens.get(key_id, ""))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.ec2.connections.add(request.transport)
        return await super().handle(request)

    async def respond(self, call: Call, request: web.Request) -> web.StreamResponse:
        order = self._met(call.action)
        account = self.ec2.account
        if call.service == "ec2" and (strange := unknown_parameters(call.action, call.form)):
            raise Refusal("UnknownParameter", f"The parameter {strange[0]} is not recognized")
        account.calls.append((call.action, dict(call.form)))
        if order and order.hold:
            await order.hold.wait()
        if order and not order.is_done:
            return await self._fault(request, call, order)
        response = written(call, await self.perform(call))
        return await self._fault(request, call, order, str(response.text)) if order else response

    async def perform(self, call: Call) -> Answer:
        if call.action == "AssumeRole":
            return self._assumed(call)
        if call.action == "RunInstances":
            self._check_capacity(call)
        try:
            return await self._performed(call)
        except Refusal as refusal:
            if refusal.code != "IdempotentInstanceTerminated" or not self.ec2.account.answers_spent_tokens:
                raise
        asked = {"Filter.1.Name": "client-token", "Filter.1.Value.1": call.form["ClientToken"]}
        found = await self.account.perform("DescribeInstances", asked)
        answer: Answer = found["reservationSet"][0]
        return answer

    async def _performed(self, call: Call) -> Answer:
        made = await super().perform(call)
        if call.action == "RunInstances" and call.form["InstanceType"] in self.ec2.account.ends:
            deploy_id = DeployId(made["instancesSet"][0]["instanceId"])
            await self.account.resources.cloud.terminate(deploy_id, reason="Server.InsufficientInstanceCapacity")
        return made

    def _check_capacity(self, call: Call) -> None:
        """Refuse a type without capacity in the requested zone or subnet, unless the token's instance exists."""
        account, form = self.ec2.account, call.form
        kind, token = form["InstanceType"], form.get("ClientToken", "")
        place = form.get("SubnetId") or form.get("Placement.AvailabilityZone", "")
        if not {(kind, place), (kind, "")} & account.short:
            return
        if token and any(each.asked.get("ClientToken") == token for each in account.instances.values()):
            return
        text = f"We currently do not have sufficient {kind} capacity in the Availability Zone you requested"
        raise Refusal("InsufficientInstanceCapacity", text, status=500)

    def _met(self, action: str) -> Order | None:
        for order in self.ec2.orders:
            if order.action not in ("", action) or order.times < 1:
                continue
            if order.after > 0:
                order.after -= 1
                continue
            order.times -= 1
            return order
        return None

    async def _fault(self, request: web.Request, call: Call, order: Order, text: str = "") -> web.StreamResponse:
        if order.drop:
            return abandoned(request)
        if order.cut:
            response = web.StreamResponse(headers={"Content-Length": str(len(text.encode()))})
            await response.prepare(request)
            await response.write(text.encode()[: order.cut])
            assert request.transport is not None
            request.transport.close()
            return response
        if order.body is not None:
            return web.Response(text=order.body, status=order.status, headers=order.headers)
        return refused(call, Refusal(order.code, order.message, order.status), order.headers)

    # Temporary keys, as STS, containers and instances give out (docs.aws.amazon.com, "Container
    # credential provider", "Use the Instance Metadata Service")

    def _assumed(self, call: Call) -> Answer:
        user = {"Arn": call.form["RoleArn"], "AssumedRoleId": "AROA:x"}
        return {"Credentials": self._new_key(), "AssumedRoleUser": user}

    def _new_key(self) -> dict[str, str]:
        ec2 = self.ec2
        key_id = f"ASIA{len(ec2.keys):016d}"
        ec2.keys[key_id], ec2.tokens[key_id] = f"secret of {key_id}", f"session of {key_id}"
        return {
            "AccessKeyId": key_id,
            "SecretAccessKey": ec2.keys[key_id],
            "SessionToken": ec2.tokens[key_id],
            "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + ec2.role_seconds)),
        }

    async def _given(self, _: web.Request) -> web.Response:
        key = self._new_key()
        return web.json_response({"Code": "Success", "Token": key["SessionToken"], **key})

    async def _session(self, _: web.Request) -> web.Response:
        return web.Response(text="a session of the metadata service")

    async def _role(self, _: web.Request) -> web.Response:
        return web.Response(text="one")

    # For tests in another process

    async def _ordered(self, request: web.Request) -> web.Response:
        account = self.ec2.account
        for name, value in (await request.json()).items():
            if name == "reset":
                account.reset()
                self.ec2.orders.clear()
                self.ec2.connections.clear()
            elif name == "short":
                account.short = {(kind, place) for kind, place in value}
            elif name == "fault":
                self.ec2.order(**value)
            elif name == "launch":
                await self.account.perform("RunInstances", value)
            else:
                setattr(account, name, value)
        return web.Response()

    async def _shown(self, _: web.Request) -> web.Response:
        account = self.ec2.account
        return web.json_response(
            {
                "calls": [action for action, _ in account.calls],
                "alive": {each.id: each.tags for each in account.alive},
                "states": {each.id: each.word for each in account.instances.values()},
                "asked": {each.id: dict(each.asked) for each in account.instances.values()},
            }
        )


@dataclass
class FaultyEc2:
    """An endpoint in a thread of its own, and its account.

    Attributes:
        keys: access key to secret; others are refused.
        tokens: session tokens that are accepted, by access key.
        orders: ordered faults; a call meets the first that fits.
        role_seconds: lifetime of the credentials of an assumed role.
        connections: the connections that were opened.
        path: the simulated cloud's file.
        settings: instance types, transition times and faults of the simulated cloud.
    """

    keys: dict[str, str] = field(default_factory=lambda: {KEY: SECRET})
    tokens: dict[str, str] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    url: str = ""
    role_seconds: float = 3600.0
    connections: set[object] = field(default_factory=set)
    settings: SimulatedSettings = SETTINGS
    account: Account = field(init=False)
    path: Path = field(init=False)

    def order(self, action: str = "", **what: Any) -> Order:
        self.orders.append(Order(action=action, **what))
        return self.orders[-1]

    @contextmanager
    def running(self) -> Iterator[FaultyEc2]:
        unknown_parameters("DescribeInstances", ())  # botocore reads its description now, not in the endpoint's loop
        with TemporaryDirectory(prefix="faulty-ec2-") as folder:
            self.path = path = Path(folder) / "cloud.db"
            account = served.Account(path, self.settings)
            with Background(OrderedServer(self, account)) as background:
                self.url = background.url
                self.account = Account(path, account, lambda work: background.submit(work).result(HANG))
                try:
                    yield self
                finally:
                    for order in self.orders:
                        if order.hold:
                            background.call(order.hold.set)
                    self.account.close()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[FaultyEc2]:
        with ExitStack() as stack:
            await asyncio.to_thread(stack.enter_context, self.running())
            yield self
            await asyncio.to_thread(stack.close)


def main() -> None:
    with FaultyEc2().running() as ec2:
        sys.stdout.write(f"{ec2.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()

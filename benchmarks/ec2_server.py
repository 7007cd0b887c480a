"""A loopback EC2 in a process of its own: so many instances that never change, answered as fast as can be.

`python -m benchmarks.ec2_server COUNT...` serves a fleet a number at `/COUNT/`, and writes its URL to stdout. Answers
are made beforehand, so that the client is measured and not the server. `GET /calls` returns the number of calls.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from urllib.parse import parse_qsl

from aiohttp import web

from one_provider_mad.domain import Identity, VmId

OWNER = "bench"
PAGE = 1000
NAMESPACE = 'xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"'


def deploy_id(number: int) -> str:
    """The id of the VM's instance."""
    return f"i-{number:017x}"


def item(number: int) -> str:
    """One reservation of a listing, about as long as Amazon's: 3 kB."""
    identity = Identity(owner=OWNER, vm_id=VmId(number), stime=1_760_000_000, seq=0, host_id=3)
    tags = "".join(f"<item><key>{key}</key><value>{value}</value></item>" for key, value in identity.tags().items())
    volume = (
        "<item><deviceName>/dev/xvda</deviceName><ebs><volumeId>vol-0123456789abcdef0</volumeId><status>attached</status>"
        "<attachTime>2026-11-22T10:00:00.000Z</attachTime><deleteOnTermination>true</deleteOnTermination></ebs></item>"
    )
    groups = "<item><groupId>sg-0123456789abcdef0</groupId><groupName>web</groupName></item>"
    interface = (
        "<item><networkInterfaceId>eni-0123456789abcdef0</networkInterfaceId><subnetId>subnet-0123456789abcdef0</subnetId>"
        "<vpcId>vpc-0123456789abcdef0</vpcId><ownerId>123456789012</ownerId><status>in-use</status>"
        "<macAddress>02:dd:2c:5e:01:69</macAddress><privateIpAddress>10.0.0.5</privateIpAddress>"
        f"<privateDnsName>ip-10-0-0-5.eu-west-1.compute.internal</privateDnsName><groupSet>{groups}</groupSet></item>"
    )
    return (
        f"<item><reservationId>r-{number:017x}</reservationId><ownerId>123456789012</ownerId><groupSet/><instancesSet>"
        f"<item><instanceId>{deploy_id(number)}</instanceId><imageId>ami-0123456789abcdef0</imageId>"
        "<instanceState><code>16</code><name>running</name></instanceState>"
        "<privateDnsName>ip-10-0-0-5.eu-west-1.compute.internal</privateDnsName>"
        "<dnsName>ec2-203-0-113-9.eu-west-1.compute.amazonaws.com</dnsName><reason/><keyName>one</keyName>"
        "<amiLaunchIndex>0</amiLaunchIndex><productCodes/><instanceType>t3.small</instanceType>"
        "<launchTime>2026-11-22T10:00:00.000Z</launchTime><placement><availabilityZone>eu-west-1a</availabilityZone>"
        "<groupName/><tenancy>default</tenancy></placement><monitoring><state>disabled</state></monitoring>"
        "<subnetId>subnet-0123456789abcdef0</subnetId><vpcId>vpc-0123456789abcdef0</vpcId>"
        "<privateIpAddress>10.0.0.5</privateIpAddress><ipAddress>203.0.113.9</ipAddress>"
        f"<sourceDestCheck>true</sourceDestCheck><groupSet>{groups}</groupSet><architecture>x86_64</architecture>"
        f"<rootDeviceType>ebs</rootDeviceType><rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping>{volume}"
        f"</blockDeviceMapping><virtualizationType>hvm</virtualizationType><clientToken>{number:064x}</clientToken>"
        f"<tagSet>{tags}</tagSet><hypervisor>xen</hypervisor><networkInterfaceSet>{interface}</networkInterfaceSet>"
        "<ebsOptimized>false</ebsOptimized><enaSupport>true</enaSupport><cpuOptions><coreCount>1</coreCount>"
        "<threadsPerCore>2</threadsPerCore></cpuOptions><capacityReservationSpecification>"
        "<capacityReservationPreference>open</capacityReservationPreference></capacityReservationSpecification>"
        "<metadataOptions><state>applied</state><httpTokens>required</httpTokens>"
        "<httpPutResponseHopLimit>1</httpPutResponseHopLimit><httpEndpoint>enabled</httpEndpoint></metadataOptions>"
        "</item></instancesSet></item>"
    )


class Fleet:
    """So many instances, in pages.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._items = {deploy_id(number): item(number) for number in range(count)}
        self._order = list(self._items)
        self._pages = [self._page(at) for at in range(0, count, PAGE)]

    def _page(self, at: int) -> bytes:
        token = f"<nextToken>{at + PAGE}</nextToken>" if at + PAGE < len(self._order) else ""
        return listing("".join(self._items[each] for each in self._order[at : at + PAGE]), token)

    def describe(self, form: dict[str, str]) -> bytes:
        """The page that is asked for, or these instances."""
        named = [value for name, value in form.items() if name.startswith("InstanceId.")]
        if form.get("Filter.1.Name") == "instance-id":
            named = [value for name, value in form.items() if name.startswith("Filter.1.Value.")]
        if named:
            return listing("".join(self._items[each] for each in named), "")
        return self._pages[int(form.get("NextToken", "0")) // PAGE]


def listing(items: str, token: str) -> bytes:
    """A whole answer."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<DescribeInstancesResponse {NAMESPACE}><requestId>r</requestId>'
        f"<reservationSet>{items}</reservationSet>{token}</DescribeInstancesResponse>"
    ).encode()


OTHERS = {
    "GetCallerIdentity": "<GetCallerIdentityResult><Account>123456789012</Account></GetCallerIdentityResult>",
    "DescribeInstanceStatus": "<instanceStatusSet/>",
    "GetMetricData": "<GetMetricDataResult><MetricDataResults/></GetMetricDataResult>",
}
"""Actions whose answers say that there is nothing."""


class Server:
    """The endpoint.

    Args:
        fleets: by number of instances.
    """

    def __init__(self, fleets: dict[int, Fleet]) -> None:
        self._fleets = fleets
        self._calls: Counter[str] = Counter()

    async def answer(self, request: web.Request) -> web.Response:
        """One action."""
        form = dict(parse_qsl((await request.read()).decode()))
        action = form["Action"]
        self._calls[action] += 1
        if action == "DescribeInstances":
            body = self._fleets[int(request.match_info["count"])].describe(form)
        else:
            body = f"<{action}Response>{OTHERS[action]}</{action}Response>".encode()
        return web.Response(body=body, content_type="text/xml")

    async def calls(self, _: web.Request) -> web.Response:
        """How often each action was asked for since it was last told."""
        told, self._calls = dict(self._calls), Counter()
        return web.json_response(told)


async def main() -> None:
    """Serve until stdin ends."""
    server = Server({count: Fleet(count) for count in map(int, sys.argv[1:])})
    application = web.Application(client_max_size=2**24)
    application.router.add_get("/calls", server.calls)
    application.router.add_post("/{count}/", server.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())

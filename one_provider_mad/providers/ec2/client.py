"""The Query API over HTTP: one signed POST a call, an XML answer or an error of our kinds.

From docs.aws.amazon.com, "Query requests for Amazon EC2": a form with Action and Version, lists numbered from 1.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
import structlog
from lxml import etree

from one_provider_mad.errors import AuthenticationRefused, NotReached, ProviderError, ProviderUnavailable
from one_provider_mad.http_answers import Answers, TooLargeError, seconds_asked
from one_provider_mad.masking import masked
from one_provider_mad.providers.ec2.credentials import Credentials, Sign, Signed
from one_provider_mad.providers.ec2.pace import Pace
from one_provider_mad.providers.ec2.refusals import RELOAD_CREDENTIALS, encoded_message, refusal
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.safe_xml import Element, TooManyElementsError, element_at, parse_bounded, text_of
from one_provider_mad.unreached import says_not_carried_out, unreached

if TYPE_CHECKING:
    import ssl

    import aiohttp

log = structlog.get_logger()

_Read = TypeVar("_Read")

VERSIONS = {"ec2": "2016-11-15", "sts": "2011-06-15", "monitoring": "2010-08-01"}
"""The API versions in use; `monitoring` is CloudWatch."""

SERVICES = {"GetCallerIdentity": "sts", "GetMetricData": "monitoring"}
"""The services of actions that are not EC2's."""

MANY_PARAMETERS = 300
"""A form with so many parameters or more is encoded in a thread, since that takes a millisecond."""

MOST_VALUES = 200
"""Limit of filter values in one call (docs.aws.amazon.com, API_DescribeInstances)."""

MOST_PAGES = 1000
"""Most pages of one listing, else it fails: a cloud with more repeats its pages endlessly."""

_HEADERS = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}

_JSON_HEADERS = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AWSPriceListService.GetProducts"}
"""Headers of a call to the price list service, whose protocol is JSON 1.1 (botocore's service model `pricing`)."""

_PRICING_HOST = re.compile(r"[/.]api\.pricing\.([a-z]+(?:-[a-z]+)+-\d+)\.")
"""The service's region in the name of an endpoint of Amazon's, which takes no signature for another one."""

_NAMESPACE = re.compile(rb'\sxmlns="[^"]*"')

_DOMAINS = {"cn-": "amazonaws.com.cn", "eusc-": "amazonaws.eu"}


def endpoint(service: str, settings: Ec2Settings) -> str:
    """Return the URL of a service, with a path."""
    special = {"sts": settings.sts_endpoint_url, "monitoring": settings.cloudwatch_endpoint_url}
    own = special.get(service) or settings.endpoint_url
    domain = next((name for start, name in _DOMAINS.items() if settings.region.startswith(start)), "amazonaws.com")
    url = own or f"https://{service}.{settings.region}.{domain}"
    return url if "/" in url.partition("://")[2] else f"{url}/"


def price_region(settings: Ec2Settings) -> str:
    """Return the region whose price list service tells the prices of the account's region; "" for none.

    docs.aws.amazon.com, "AWS Price List service endpoints": the service is in a few regions, and in none of GovCloud.
    A compatible cloud has no prices there.
    """
    region = settings.region
    if named := _PRICING_HOST.search(settings.pricing_endpoint_url):
        return named[1]
    if settings.pricing_endpoint_url or not settings.endpoint_url:
        if region.startswith("cn-"):
            return "cn-northwest-1"
        if settings.pricing_endpoint_url or not region.startswith(("us-gov-", "eusc-", "us-iso")):
            return "us-east-1"
    return ""


def price_endpoint(settings: Ec2Settings) -> str:
    """Return the URL of the price list service, with a path."""
    region = price_region(settings)
    domain = _DOMAINS["cn-"] if region.startswith("cn-") else "amazonaws.com"
    url = settings.pricing_endpoint_url or f"https://api.pricing.{region}.{domain}"
    return url if "/" in url.partition("://")[2] else f"{url}/"


def read_account(root: Element) -> str:
    """Return the account number in an answer to GetCallerIdentity, "" for none."""
    return text_of(element_at(root, "GetCallerIdentityResult/Account"))


class Refused(NamedTuple):
    """An answer with an error.

    Attributes:
        code: EC2's.
        error: the `ProviderError` for it.
    """

    code: str
    error: ProviderError


class _Post(NamedTuple):
    """A call before it is signed."""

    url: str
    service: str
    region: str
    action: str
    headers: Mapping[str, str]
    body: bytes


def _peer(post: _Post) -> tuple[str, str]:
    """Return who does not answer, and the settings that lead there."""
    if post.service == "pricing":
        return f"AWS's price list at {urlsplit(post.url).netloc}", "pricing_endpoint_url of [ec2]"
    return f"EC2 at {urlsplit(post.url).netloc}", "endpoint_url and region of [ec2]"


class Client:
    """The connection to one account.

    Args:
        settings: the table `[ec2]`.
        warn: sends the operator one sentence.

    Attributes:
        account: number of the account; once it is known, credentials of another account are refused.
        answered: header `Date` of the last answer, and when it was read, in seconds since the epoch.
    """

    def __init__(self, settings: Ec2Settings, *, warn: Callable[[str], None] = lambda _: None) -> None:
        self.account = ""
        self.answered: tuple[str, float] = ("", 0.0)
        self._settings = settings
        self._credentials = Credentials(
            settings,
            sts_url=settings.sts_endpoint_url or settings.endpoint_url,
            confirm=self._confirm_account,
            warn=warn,
        )
        self._session: aiohttp.ClientSession | None = None
        self._reached: set[str] = set()
        self._pace = Pace(
            share=settings.share_of_budget, budgets=settings.budgets, is_usual=settings.has_amazons_limits
        )
        self._answers = Answers(limit=settings.max_answer, setting="max_answer")
        self._logged: set[str] = set()

    async def open(self) -> None:
        """Load libraries and certificates in a thread; nothing is sent.

        Raises:
            AuthenticationRefused: `ca_bundle` cannot be used.
        """
        context = await asyncio.to_thread(self._load)
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._settings.max_connections, ttl_dns_cache=60, ssl=True if context is None else context
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout),
        )

    def _load(self) -> ssl.SSLContext | None:
        import ssl

        import aiohttp  # noqa: F401 - takes a tenth of a second, which must not block the loop

        if not self._settings.ca_bundle:
            return None
        try:
            return ssl.create_default_context(cafile=self._settings.ca_bundle)
        except OSError as error:
            raise AuthenticationRefused(f"ca_bundle of [ec2] cannot be used: {error}") from error

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self, action: str, parameters: Mapping[str, str] | None = None, *, read: Callable[[Element], _Read]
    ) -> _Read:
        """Send one call and read its answer; a large one in a thread.

        Args:
            action: `RunInstances`...
            parameters: in the words of the Query API.
            read: converts the answer's root, whose elements have no namespace, into the result.

        Raises:
            ProviderError: EC2 refused, or did not answer.
        """
        service = SERVICES.get(action, "ec2")
        async with self._pace.turn(action):
            return await self._post(service, action, parameters or {}, read)

    async def pages(
        self, action: str, parameters: Mapping[str, str], *, read: Callable[[Element], _Read]
    ) -> AsyncIterator[_Read]:
        """Yield every page of a listing; raises rather than end early.

        Raises:
            ProviderError: EC2 refused a page, or did not answer.
        """

        def read_page(root: Element) -> tuple[_Read, str]:
            return read(root), text_of(root.find("nextToken")) or text_of(element_at(root, f"{action}Result/NextToken"))

        seen: set[str] = set()
        token = ""
        while True:
            requested = {**parameters, **({"NextToken": token} if token else {})}
            page, token = await self.call(action, requested, read=read_page)
            yield page
            if not token:
                return
            if token in seen or len(seen) >= MOST_PAGES:
                raise ProviderUnavailable(f"EC2: the pages of {action} do not come to an end: the list is incomplete")
            seen.add(token)

    async def products(self, query: Mapping[str, Any], *, read: Callable[[bytes], _Read]) -> _Read:
        """Send one call of GetProducts to the price list service and read its answer.

        Args:
            query: its parameters.
            read: converts the answer's body into the result.

        Raises:
            ProviderError: the service refused, or did not answer.
        """
        action = "GetProducts"
        async with self._pace.turn(action):
            return await self._send(
                _Post(
                    url=price_endpoint(self._settings),
                    service="pricing",
                    region=price_region(self._settings),
                    action=action,
                    headers=_JSON_HEADERS,
                    body=msgspec.json.encode(query),
                ),
                read,
            )

    async def _post(
        self, service: str, action: str, parameters: Mapping[str, str], read: Callable[[Element], _Read]
    ) -> _Read:
        form = {"Action": action, "Version": VERSIONS[service], **parameters}
        written = urlencode(form) if len(form) < MANY_PARAMETERS else await asyncio.to_thread(urlencode, form)
        post = _Post(
            url=endpoint(service, self._settings),
            service=service,
            region=self._settings.region,
            action=action,
            headers=_HEADERS,
            body=written.encode(),
        )
        return await self._send(post, partial(_interpreted, action, read))

    async def _send(self, post: _Post, read: Callable[[bytes], _Read]) -> _Read:
        signed = await self._signed(post)
        outcome = await self._exchange(post, signed.headers, read)
        if isinstance(outcome, Refused):
            if outcome.code not in RELOAD_CREDENTIALS or not await self._credentials.reload(signed.key_id):
                raise outcome.error
            # The call was certainly not carried out, and there are new credentials now.
            outcome = await self._exchange(post, (await self._signed(post)).headers, read)
        if isinstance(outcome, Refused):
            raise outcome.error
        return outcome

    async def _signed(self, post: _Post) -> Signed:
        return await self._credentials.sign(post.url, post.headers, post.body, service=post.service, region=post.region)

    async def _confirm_account(self, sign: Sign) -> None:
        """Check that new credentials are the same account's: in another, all our instances would seem gone.

        Raises:
            AuthenticationRefused: they are another account's.
            ProviderUnavailable: STS does not name their account.
        """
        if not self.account:
            return
        action = "GetCallerIdentity"
        post = _Post(
            url=endpoint("sts", self._settings),
            service="sts",
            region=self._settings.region,
            action=action,
            headers=_HEADERS,
            body=urlencode({"Action": action, "Version": VERSIONS["sts"]}).encode(),
        )
        signed = sign(post.url, post.headers, post.body, post.service)
        number = await self._exchange(post, signed.headers, partial(_interpreted, action, read_account))
        if isinstance(number, Refused):
            raise number.error
        if number != self.account:
            raise AuthenticationRefused(
                f"the AWS credentials now belong to account {number}, expected {self.account}: restore the earlier"
                " ones, or restart the driver if the change is meant"
            )

    async def _exchange(
        self, post: _Post, headers: Mapping[str, str], read: Callable[[bytes], _Read]
    ) -> _Read | Refused:
        import aiohttp

        url, action = post.url, post.action
        if self._session is None:
            raise ProviderUnavailable(f"EC2 was not asked for {action}: the driver is shutting down")
        async with self._answers.next() as answer:
            try:
                async with self._session.post(
                    url,
                    data=post.body,
                    headers={**headers, "Accept-Encoding": "identity"},
                    allow_redirects=False,
                    proxy=self._settings.proxy or None,
                ) as response:
                    self.answered = (response.headers.get("Date", ""), time.time())
                    self._reached.add(url)
                    if response.status != 200:
                        return self._refused(action, response, await answer.take_refusal(response))
                    await answer.take(response, what=f"EC2: the answer to {action}")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                who, setting = _peer(post)
                if not_sent := unreached(error, who=who, setting=setting, was_reached=url in self._reached):
                    raise not_sent from error
                what = masked(" ".join(str(error).split())) or type(error).__name__
                raise ProviderUnavailable(f"EC2 did not answer {action}: {what[:200]} ({url})") from error
            return await answer.read(read)

    def _refused(self, action: str, response: aiohttp.ClientResponse, body: bytes) -> Refused:
        """Return the error in an answer; log its encoded message, too long for a reply, once a listing action."""
        code, message = _error_in(body)
        is_listing = action.startswith("Describe")
        if (encoded := encoded_message(message)) and not (is_listing and action in self._logged):
            self._logged.add(action)
            log.warning("EC2's encoded authorization message", action=action, code=code, encoded_message=encoded)
        wait = seconds_asked(response.headers)
        refused = refusal(action, code=code, message=message, status=response.status, retry_after=wait)
        is_unclear = type(refused) is ProviderUnavailable
        if is_unclear and says_not_carried_out(response.status, body, retry_after=wait):
            refused = NotReached(str(refused), retry_after=wait)
        return Refused(code=code, error=refused)


def _interpreted(action: str, read: Callable[[Element], _Read], body: bytes) -> _Read:
    try:
        root = _parsed(body)
    except etree.XMLSyntaxError as error:
        raise ProviderUnavailable(f"EC2: the answer to {action} is incomplete or no XML: {error}") from error
    except TooManyElementsError as error:
        raise TooLargeError(f"EC2: the answer to {action} has too many elements: lower page_size") from error
    if root.tag != f"{action}Response":
        # A portal's or proxy's page must not count as an empty cloud.
        raise ProviderUnavailable(f"EC2: the answer to {action} is another document: {str(root.tag)[:40]}")
    return read(root)


def _parsed(body: bytes) -> Element:
    """Return the answer's root without its default namespace, which differs between services and versions."""
    head = _NAMESPACE.sub(b"", body[:1024], count=1)
    return parse_bounded(head + body[1024:])


def _error_in(body: bytes) -> tuple[str, str]:
    """Return code and message of an error, "" for a missing one.

    EC2 has `Response/Errors/Error`, STS `ErrorResponse/Error`, a service with JSON `__type`, and a proxy another
    document.
    """
    if body.lstrip()[:1] == b"{":
        return _json_error_in(body)
    try:
        error = _parsed(body).find(".//Error")
    except etree.XMLSyntaxError:
        error = None
    if error is None:
        return "", ""
    return text_of(error.find("Code")).strip(), text_of(error.find("Message"))


def _json_error_in(body: bytes) -> tuple[str, str]:
    try:
        error = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return "", ""
    code = str(error.get("__type", "")).rpartition("#")[2]
    return code, str(error.get("message") or error.get("Message") or "")

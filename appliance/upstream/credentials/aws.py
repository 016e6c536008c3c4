"""
Asking AWS for an authorization token, with botocore.

botocore blocks, and it takes its own credentials from wherever AWS's tools take theirs (environment, profile, web
identity, instance metadata): each question reads them again. It is imported only when a token is needed.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote

from appliance.errors import UpstreamDenied, UpstreamError, UpstreamRateLimited, UpstreamTimeout, UpstreamUnavailable
from appliance.interfaces import Secret
from appliance.settings import UpstreamSettings
from appliance.upstream.credentials.leases import Lease, LeasedCredentials
from appliance.upstream.faults import cleaned
from appliance.upstream.http.proxy import proxies_for
from appliance.upstream.means import Means

#: Seconds for a connection and for an answer, and attempts: together less than L{leases.PATIENCE}.
_CONNECT, _READ, _ATTEMPTS = 10, 20, 2
#: How long a token lives (Amazon ECR, "Private registry authentication"), and the least that is believed, in seconds.
LIFE = 12 * 3600.0
_LEAST_LIFE = 60.0
#: What AWS's error codes begin with when it wants fewer requests.
_THROTTLED = ("Throttl", "TooManyRequests", "RequestLimitExceeded", "SlowDown")


@dataclass(frozen=True)
class Api:
    """
    Whom to ask.

    @ivar service: C{"ecr"} or C{"ecr-public"}.
    @ivar fips: whether FIPS endpoints are to be used, C{dual_stack}: those with IPv6; C{None} leaves it to AWS's own
        configuration.
    """

    service: str
    region: str
    fips: bool | None = None
    dual_stack: bool | None = None


@dataclass(frozen=True)
class Authorization:
    """
    What AWS gave.

    @ivar danger_token: user name and password in base64.
    @ivar life: seconds.
    """

    danger_token: str = field(repr=False)
    life: float = LIFE


#: Asks AWS, blocking. Raises L{UpstreamError}s.
Ask = Callable[[Api], Authorization]


def is_installed() -> bool:
    """Whether botocore is there."""
    return find_spec("botocore") is not None


def credentials_from(api: Api, settings: UpstreamSettings, means: Means, ask: Ask | None = None) -> LeasedCredentials:
    """
    Credentials that AWS gives for a time.

    @param ask: stands in for botocore.
    @raise ConfigError: as L{Botocore} does.
    """
    name = settings.name
    asked = ask or Botocore(settings, means.environ)

    async def obtain() -> Lease:
        given = await means.threads.call(asked, api)
        username, password = _pair(name, given.danger_token)
        return Lease(username, password, Secret.Use.PASSWORD, given.life)

    return LeasedCredentials(name, f"AWS {api.service} in {api.region}", means.clock, obtain)


def _pair(upstream: str, token: str) -> tuple[str, str]:
    """User name and password. Raises L{UpstreamDenied}."""
    try:
        username, colon, password = binascii.a2b_base64(token).decode("utf-8").partition(":")
    except ValueError:
        colon = ""
    if not colon:
        raise UpstreamDenied(upstream, "AWS answered no user name and password in its authorization token")
    return username, password


class Botocore:
    """Asks with botocore, the way that is configured for the upstream itself, and with its authorities."""

    def __init__(self, settings: UpstreamSettings, environ: Mapping[str, str]) -> None:
        """Raises L{ConfigError} as L{proxies_for} does."""
        self._settings = settings
        self._proxies = proxies_for(settings, environ)

    def __call__(self, api: Api) -> Authorization:
        """See L{Ask}; takes a minute at most, when AWS's own sources of credentials do not hang."""
        try:
            return _authorization(self._answer(api))
        except Exception as reason:
            # Of its own kinds and of others: a file that cannot be read, an endpoint of the environment that is none.
            raise fault_of(self._settings.name, reason) from None

    def _answer(self, api: Api) -> Mapping[str, Any]:
        from botocore.config import Config
        from botocore.session import Session

        config = Config(
            connect_timeout=_CONNECT,
            read_timeout=_READ,
            retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
            use_fips_endpoint=api.fips,
            use_dualstack_endpoint=api.dual_stack,
            proxies=self.danger_proxies(),
        )
        trusted = None if self._settings.ca_file is None else str(self._settings.ca_file)
        client = Session().create_client(api.service, region_name=api.region, config=config, verify=trusted)
        answer: Mapping[str, Any] = client.get_authorization_token()
        return answer

    def danger_proxies(self) -> dict[str, str] | None:
        """As botocore wants them, passwords and all; C{None}: those of the environment, which it reads by itself."""
        if self._settings.proxy is None:
            return None
        proxy = self._proxies.https
        if proxy is None:
            return {}
        userinfo = ""
        if proxy.danger_pair is not None:
            username, _, password = proxy.danger_pair().partition(b":")
            userinfo = f"{quote(username, safe='')}:{quote(password, safe='')}@"
        return dict.fromkeys(("http", "https"), f"{proxy.url.scheme}://{userinfo}{proxy.url.authority}")


def _authorization(answer: Mapping[str, Any]) -> Authorization:
    data = answer.get("authorizationData") or {}
    given = data[0] if isinstance(data, list) else data
    return Authorization(given.get("authorizationToken", ""), _life(given.get("expiresAt"), answer))


def _life(ends: datetime | None, answer: Mapping[str, Any]) -> float:
    """Seconds from the answer's own date, so that this machine's clock does not have to be right."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        seconds = (ends - parsedate_to_datetime(date)).total_seconds() if ends is not None else LIFE
    except (ValueError, TypeError, OverflowError):
        return LIFE
    return min(max(seconds, _LEAST_LIFE), LIFE)


def fault_of(upstream: str, reason: Exception) -> UpstreamError:
    """
    A failure of botocore in our words.

    Its own may hold secrets: the canonical string of a wrong signature, what a credential process printed.
    """
    from botocore import exceptions

    if isinstance(reason, exceptions.ClientError):
        return _refusal(upstream, reason)
    what = f"AWS gave no authorization token ({type(reason).__name__})"
    if isinstance(reason, (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError)):
        return UpstreamTimeout(upstream, what)
    if isinstance(reason, (exceptions.ConnectionError, exceptions.HTTPClientError)):
        return UpstreamUnavailable(upstream, what)
    if isinstance(reason, exceptions.NoCredentialsError):
        what += ": there are no AWS credentials; set them up as for the aws command, for the user pullcache runs as"
    return UpstreamDenied(upstream, what)


def _refusal(upstream: str, reason: Any) -> UpstreamError:
    error = reason.response.get("Error", {})
    status = reason.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = cleaned(str(error.get("Code", "")))
    what = f"AWS answered {status} {code}".rstrip()
    if status == 429 or code.startswith(_THROTTLED):
        return UpstreamRateLimited(upstream, what)
    if status >= 500:
        return UpstreamUnavailable(upstream, what)
    if code.startswith("AccessDenied"):
        # Names who may not do what, which is what an operator has to know; nothing in it is secret.
        what += f": {cleaned(str(error.get('Message', '')))}"
    return UpstreamDenied(upstream, what)

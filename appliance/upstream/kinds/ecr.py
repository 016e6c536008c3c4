"""
Amazon ECR and ECR Public: passwords that AWS gives for twelve hours, asked for with botocore.

botocore blocks, and it takes its own credentials from wherever AWS's tools take theirs (environment, profile, web
identity, instance metadata), which each request reads again. It is imported only when a token is needed.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from importlib.util import find_spec
from typing import Any

from twisted.internet.interfaces import IReactorTime

from appliance.errors import (
    ConfigError,
    UpstreamDenied,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from appliance.interfaces import IThreads
from appliance.settings import AWS, UpstreamSettings
from appliance.upstream.credentials.configured import CredentialArguments
from appliance.upstream.credentials.renewing import LeasedSecret, RenewingCredential, SecretLease
from appliance.upstream.faults import cleaned
from appliance.upstream.interfaces import ICredentials, Secret
from appliance.upstream.kinds.standard import Standard
from appliance.upstream.url import Url

#: Hosts of registries in every partition, as amazon-ecr-credential-helper knows them; C{dkr-ecr} and C{on.aws} are the
#: dual-stack ones (Amazon ECR, "Making requests to Amazon ECR registries").
_HOST = re.compile(
    r"(?P<account>[0-9]{12})\.dkr(?P<dual>[.-])ecr(?P<fips>-fips)?\.(?P<region>[a-z0-9][a-z0-9-]*)\."
    r"(?:amazonaws\.(?:com(?:\.cn)?|eu)|on\.(?:aws|amazonwebservices\.com\.cn)"
    r"|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
)
#: What ECR says, with a 403, when its token is too old (bazel-contrib/rules_img#715).
_EXPIRED = b"authorization token has expired"


@dataclass(frozen=True)
class EcrApi:
    """
    Which API of AWS gives the token.

    @ivar service: C{"ecr"} or C{"ecr-public"}.
    @ivar fips: whether FIPS endpoints are to be used, C{dual_stack}: those with IPv6; C{None} leaves it to AWS's own
        configuration.
    """

    service: str
    region: str
    fips: bool | None = None
    dual_stack: bool | None = None


#: The API is in one region only (Amazon ECR Public, "Registry authentication").
_PUBLIC = EcrApi("ecr-public", "us-east-1")


def has_own(settings: UpstreamSettings) -> bool:
    """Whether the settings name a secret of their own, which then is the one that is shown."""
    return any(each is not None for each in (settings.username, settings.token_file, settings.auth_file))


def check_botocore(settings: UpstreamSettings) -> None:
    """Raises L{ConfigError} when AWS cannot be asked."""
    if find_spec("botocore") is None:
        raise ConfigError(
            f"upstreams.{settings.name}.kind: {settings.kind} asks AWS for its credentials with botocore, which is not "
            "installed; run pip install 'pullcache[ecr]', or give username and password_file"
        )


def api_of(host: str) -> EcrApi | None:
    """Whom to ask for a token for the registry at C{host}, C{None} when it is none of ECR's."""
    match = _HOST.fullmatch(host)
    if match is None:
        return None
    return EcrApi("ecr", match["region"], True if match["fips"] else None, True if match["dual"] == "-" else None)


class Ecr(Standard):
    """
    See L{appliance.upstream.interfaces.IAdapter}.

    C{token_file} holds what C{aws ecr get-login-password} prints. Blobs come from S3 buckets of the region.
    """

    kind = "ecr"
    redirect_hosts = ("*.amazonaws.com", "*.amazonaws.com.cn")
    has_referrers = True
    token_username = "AWS"

    def check(self, settings: UpstreamSettings) -> None:
        """Region and account stand in the host's name; every URL has to be of one region, since it gets one secret."""
        if settings.credentials not in (None, AWS):
            super().check(settings)
        if has_own(settings):
            return
        check_botocore(settings)
        for url in settings.urls:
            if api_of(_host(url)) is None:
                raise ConfigError(
                    f"upstreams.{settings.name}.url: {_host(url)} is no host of ECR such as "
                    "123456789012.dkr.ecr.eu-west-1.amazonaws.com, so its region is not known; write that, or give "
                    "username and password_file"
                )
        if len({each.region for each in map(api_of, map(_host, settings.urls)) if each is not None}) > 1:
            raise ConfigError(
                f"upstreams.{settings.name}.url: the URLs are of different regions, which take different credentials; "
                "make an upstream of each"
            )

    def has_expired(self, status: int, problem: bytes, bearer: bool, challenged: bool) -> bool:
        """A 403 that says so."""
        return status == 403 and _EXPIRED in problem.lower()

    def credentials(self, settings: UpstreamSettings, given: CredentialArguments) -> ICredentials | None:
        """From AWS, unless the settings name others."""
        if has_own(settings):
            return super().credentials(settings, given)
        api = api_of(given.host)
        if api is None:
            return None
        return aws_credentials(api, settings, given.clock, given.threads, given.danger_proxy)


class EcrPublic(Standard):
    """
    Amazon ECR Public, from which anonymous clients may pull; those with credentials may pull more often.

    C{token_file} holds what C{aws ecr-public get-login-password} prints.
    """

    kind = "ecr-public"
    redirect_hosts = ("*.cloudfront.net",)
    has_referrers = True
    token_username = "AWS"

    def check(self, settings: UpstreamSettings) -> None:
        """AWS is asked when C{credentials} says so."""
        if settings.credentials != AWS:
            super().check(settings)
        elif not has_own(settings):
            check_botocore(settings)

    def has_expired(self, status: int, problem: bytes, bearer: bool, challenged: bool) -> bool:
        """A 400 without a challenge (aws/containers-roadmap#2835)."""
        return status == 400 and bearer and not challenged

    def credentials(self, settings: UpstreamSettings, given: CredentialArguments) -> ICredentials | None:
        """From AWS when the settings say so and name no others."""
        if settings.credentials == AWS and not has_own(settings):
            return aws_credentials(_PUBLIC, settings, given.clock, given.threads, given.danger_proxy)
        return super().credentials(settings, given)


def _host(url: str) -> str:
    try:
        return Url.parse(url).host
    except ValueError:
        return url


# -- asking AWS -------------------------------------------------------------------------------------------------------

#: Seconds for a connection and for an answer, and attempts: together less than C{renewing.TIMEOUT}.
_CONNECT, _READ, _ATTEMPTS = 10, 20, 2
#: How long a token lives (Amazon ECR, "Private registry authentication"), and the least that is believed, in seconds.
LIFE = 12 * 3600.0
_LEAST_LIFE = 60.0
#: What AWS's error codes begin with when it wants fewer requests.
_THROTTLED = ("Throttl", "TooManyRequests", "RequestLimitExceeded", "SlowDown")


def aws_credentials(
    api: EcrApi,
    settings: UpstreamSettings,
    clock: IReactorTime,
    threads: IThreads,
    danger_proxy: Callable[[], str | None],
    ask: Callable[[EcrApi], Mapping[str, Any]] | None = None,
) -> RenewingCredential:
    """
    Credentials that AWS gives for a time.

    @param danger_proxy: see L{ask_botocore}.
    @param ask: in place of L{ask_botocore}.
    """
    asked = ask or partial(ask_botocore, settings, danger_proxy)

    async def obtain() -> SecretLease:
        return lease_of(settings.name, await threads.call(asked, api))

    leased = LeasedSecret(settings.name, f"AWS {api.service} in {api.region}", clock, obtain)
    return RenewingCredential(leased, clock)


def ask_botocore(settings: UpstreamSettings, danger_proxy: Callable[[], str | None], api: EcrApi) -> Mapping[str, Any]:
    """
    What C{GetAuthorizationToken} answers, asked with botocore the way that is configured for the upstream itself, and
    with its authorities. Blocks; a minute at most, when AWS's own sources of credentials do not hang.

    @param danger_proxy: gives the URL, user and password included, of the proxy that the settings name; C{None}: there
        is none to go through. When the settings say nothing botocore reads the environment by itself.
    @raise UpstreamError: see L{fault_of}.
    """
    try:
        from botocore.config import Config
        from botocore.session import Session

        config = Config(
            connect_timeout=_CONNECT,
            read_timeout=_READ,
            retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
            use_fips_endpoint=api.fips,
            use_dualstack_endpoint=api.dual_stack,
            proxies=danger_proxies(settings, danger_proxy),
        )
        trusted = None if settings.ca_file is None else str(settings.ca_file)
        client = Session().create_client(api.service, region_name=api.region, config=config, verify=trusted)
        answer: Mapping[str, Any] = client.get_authorization_token()
        return answer
    except Exception as reason:
        # Of its own kinds and of others: a file that cannot be read, an endpoint of the environment that is none.
        raise fault_of(settings.name, reason) from None


def danger_proxies(settings: UpstreamSettings, danger_proxy: Callable[[], str | None]) -> dict[str, str] | None:
    """As botocore wants them, passwords and all; C{None}: those of the environment, which it reads by itself."""
    if settings.proxy is None:
        return None
    url = danger_proxy()
    return {} if url is None else {"http": url, "https": url}


def lease_of(upstream: str, answer: Mapping[str, Any]) -> SecretLease:
    """
    User name and password of an answer of C{GetAuthorizationToken}.

    Their life is counted from the answer's own date, so that this machine's clock does not have to be right.

    @raise UpstreamDenied: there are none in it.
    """
    data = answer.get("authorizationData") or {}
    try:
        # ECR gives a list of one, ECR Public the one.
        given = data[0] if isinstance(data, list) else data
        username, colon, password = binascii.a2b_base64(given["authorizationToken"]).decode("utf-8").partition(":")
    except (ValueError, LookupError, TypeError):
        colon = ""
    if not colon:
        raise UpstreamDenied(upstream, "AWS answered no user name and password in its authorization token")
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        life = (given["expiresAt"] - parsedate_to_datetime(date)).total_seconds()
    except (ValueError, LookupError, TypeError, OverflowError):
        life = LIFE
    return SecretLease(Secret("", username, password), min(max(life, _LEAST_LIFE), LIFE))


def fault_of(upstream: str, reason: Exception) -> UpstreamError:
    """
    A failure of botocore as one of ours.

    Its own message may hold secrets: the canonical string of a wrong signature, what a credential process printed.
    """
    from botocore import exceptions

    if isinstance(reason, exceptions.ClientError):
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
    what = f"AWS gave no authorization token ({type(reason).__name__})"
    if isinstance(reason, (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError)):
        return UpstreamTimeout(upstream, what)
    if isinstance(reason, (exceptions.ConnectionError, exceptions.HTTPClientError)):
        return UpstreamUnavailable(upstream, what)
    if isinstance(reason, exceptions.NoCredentialsError):
        what += ": there are no AWS credentials; set them up as for the aws command, for the user pullcache runs as"
    return UpstreamDenied(upstream, what)

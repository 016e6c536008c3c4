"""Amazon ECR and ECR Public: passwords that AWS gives for twelve hours."""

from __future__ import annotations

import re

from appliance.errors import ConfigError
from appliance.settings import AWS, UpstreamSettings
from appliance.upstream.credentials.aws import EcrApi, aws_credentials, is_installed
from appliance.upstream.credentials.configured import CredentialArguments
from appliance.upstream.interfaces import ICredentials
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
#: The API is in one region only (Amazon ECR Public, "Registry authentication").
_PUBLIC = EcrApi("ecr-public", "us-east-1")


def has_own(settings: UpstreamSettings) -> bool:
    """Whether the settings name a secret of their own, which then is the one that is shown."""
    return any(each is not None for each in (settings.username, settings.token_file, settings.auth_file))


def check_botocore(settings: UpstreamSettings) -> None:
    """Raises L{ConfigError} when AWS cannot be asked."""
    if not is_installed():
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

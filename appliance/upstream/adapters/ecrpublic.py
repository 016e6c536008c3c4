"""Amazon ECR Public: anybody may pull, whoever logs in more often."""

from __future__ import annotations

from typing import Any

from appliance.interfaces import ICredentials
from appliance.settings import AWS, UpstreamSettings
from appliance.upstream.adapters.aws import Api, credentials_from
from appliance.upstream.adapters.ecr import check_botocore, has_own
from appliance.upstream.adapters.standard import Standard

#: The API is in one region only (Amazon ECR Public, "Registry authentication").
_API = Api("ecr-public", "us-east-1")


class EcrPublic(Standard):
    """
    See L{appliance.interfaces.IAdapter}.

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

    def credentials(self, settings: UpstreamSettings, means: Any) -> ICredentials | None:
        """From AWS when the settings say so and name no others."""
        if settings.credentials == AWS and not has_own(settings):
            return credentials_from(_API, settings, means)
        return super().credentials(settings, means)

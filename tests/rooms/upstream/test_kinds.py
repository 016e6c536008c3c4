"""What holds for every kind of registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from appliance.errors import (
    ConfigError,
)
from appliance.settings import UpstreamSettings
from appliance.upstream.interfaces import IAdapter
from appliance.upstream.kinds.dockerhub import DockerHub
from appliance.upstream.kinds.ecr import Ecr, EcrPublic
from appliance.upstream.kinds.standard import Standard
from appliance.upstream.kinds.wellknown import Harbor
from tests.rooms.upstream.registries import ADAPTERS, ECR


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_says_all_that_is_asked_of_one(adapter: type[Standard]) -> None:
    """And says it of a plain upstream without objection."""
    made = adapter()
    assert verifyObject(IAdapter, made)
    url = ECR if made.kind == "ecr" else "https://registry.example"
    made.check(UpstreamSettings(name="x", urls=(url,), kind=made.kind))
    assert made.scope("a/b") == "repository:a/b:pull"


@pytest.mark.parametrize("adapter", [each for each in ADAPTERS if each not in (Ecr, EcrPublic)])
def test_credentials_of_aws_are_for_awss_registries(adapter: type[Standard]) -> None:
    """A setting that would do nothing is refused."""
    made = adapter()
    with pytest.raises(ConfigError, match=r"upstreams\.x\.credentials: 'aws' is not for the kind"):
        made.check(UpstreamSettings(name="x", urls=("https://registry.example",), credentials="aws"))


@pytest.mark.parametrize("adapter", [DockerHub, Harbor])
def test_a_token_without_a_name_is_refused_where_it_needs_one(adapter: type[Standard]) -> None:
    """The message says what to write instead."""
    made = adapter()
    with pytest.raises(ConfigError, match=r"upstreams\.x\.token_file: .* give username .*and password_file instead"):
        made.check(UpstreamSettings(name="x", urls=("https://registry.example",), token_file=Path("/t")))


EXPIRED = b'{"errors":[{"code":"DENIED","message":"Your Authorization Token has expired."}]}'


@pytest.mark.parametrize(
    ("status", "said", "bearer", "challenged", "kinds"),
    [
        (403, EXPIRED, False, False, ["ecr"]),
        (403, b"User is not authorized", False, False, []),
        (400, EXPIRED, False, False, []),
        (400, b"", True, False, ["ecr-public"]),
        (400, b"", True, True, []),
        (400, b"", False, False, []),
        (404, b"", True, False, []),
    ],
)
def test_a_refusal_that_means_too_old_is_one_of_its_registry(
    status: int, said: bytes, bearer: bool, challenged: bool, kinds: list[str]
) -> None:
    """Those of all other kinds mean what they say."""
    assert [each.kind for each in ADAPTERS if each().has_expired(status, said, bearer, challenged)] == kinds


def test_what_is_known_of_referrers() -> None:
    """GHCR and GitLab have none, so they are not asked for it; where reports differ it is found out."""
    known = {adapter.kind: adapter().has_referrers for adapter in ADAPTERS}
    assert [kind for kind, has in known.items() if has is False] == ["ghcr", "gitlab"]
    assert {known[kind] for kind in ("distribution", "dockerhub", "gcr", "k8s", "quay", "harbor")} == {None}

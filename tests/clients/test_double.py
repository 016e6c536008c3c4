"""The simulated registry is good enough for real clients: they pull straight from it."""

from __future__ import annotations

import pytest

from tests.clients.conftest import HELD, Upstream
from tests.clients.plain import pull
from tests.clients.tools import Skopeo

pytestmark = pytest.mark.real_client


def test_skopeo_pulls_straight_from_every_upstream(skopeo: Skopeo, upstream: Upstream) -> None:
    """Both registries of these tests hold the same digests, and skopeo copies them with all their layers."""
    for (repository, tag), content in HELD.items():
        name = f"docker://{upstream.authority}/{repository}:{tag}"
        assert skopeo.raw(name, "--tls-verify=false") == content.digest
        skopeo.run("copy", "--quiet", "--all", "--src-tls-verify=false", name, f"dir:{skopeo.fresh()}")


def test_the_plain_client_sees_what_real_clients_see(upstream: Upstream) -> None:
    """Tests without real clients check the same digests."""
    for (repository, tag), content in HELD.items():
        assert pull(upstream.authority, repository, tag).digest == content.digest

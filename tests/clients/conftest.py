"""Fixtures for tests with real clients."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.clients import sides, tools
from tests.clients.olareg import Olareg
from tests.clients.signing import IMAGE, REPOSITORY, TAG, Cosign, Cosign3, Oras, Regctl
from tests.clients.tools import Containerd, DockerRegistry, Podman, Skopeo
from tests.doubles import images
from tests.doubles.images import Content
from tests.doubles.remote import RemoteRegistry
from tests.process.service import Appliance

HELD: dict[tuple[str, str], Content] = {
    ("library/tiny", "latest"): images.image("library/tiny"),
    ("library/multi", "latest"): images.multi_arch("library/multi"),
    ("library/docker", "v1.0_rc-1"): images.multi_arch("library/docker", flavour=images.DOCKER),
}
"""What every upstream of these tests holds, by repository and tag."""


class Upstream(Protocol):
    """A registry that can be killed."""

    @property
    def url(self) -> str: ...

    @property
    def authority(self) -> str: ...

    def kill(self) -> None: ...


def _simulated(folder: Path) -> RemoteRegistry:
    registry = RemoteRegistry().start()
    # docker-registry's idea of Accept is the one that clients have to live with.
    registry.set(strict_accept=True)
    registry.add("library/tiny", "latest")
    registry.add("library/multi", "latest", "index")
    registry.add("library/docker", "v1.0_rc-1", "docker-index")
    return registry


def _real(kind: type[DockerRegistry], folder: Path) -> DockerRegistry:
    tools.need(*kind.programs)
    registry = kind(folder).start()
    for (repository, tag), content in HELD.items():
        registry.add(repository, tag, content)
    return registry


@pytest.fixture(
    params=[_simulated, partial(_real, DockerRegistry), partial(_real, Olareg)],
    ids=["simulated", "docker-registry", "olareg"],
)
def upstream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Upstream]:
    """A registry that holds L{HELD}: the project's own, and each other one that is installed."""
    registry = request.param(tmp_path)
    yield registry
    registry.kill()


@pytest.fixture
def appliance(tmp_path: Path, upstream: Upstream) -> Iterator[Appliance]:
    """A running appliance in front of C{upstream}."""
    made = Appliance(tmp_path / "appliance", upstream.url).start()
    yield made
    made.kill()


def _client(kind: Any, folder: Path) -> Iterator[Any]:
    tools.need(*kind.programs)
    yield from tools.opened(kind(folder))


def _fixture(kind: type[Any]) -> Any:
    """A fixture that gives this client, where it is installed."""

    @pytest.fixture
    def client_of_kind(tmp_path: Path) -> Iterator[Any]:
        yield from _client(kind, tmp_path)

    return client_of_kind


@pytest.fixture(params=[Skopeo, Podman, Containerd], ids=["skopeo", "podman", "containerd"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Each real client that is installed."""
    yield from _client(request.param, tmp_path)


skopeo = _fixture(Skopeo)


# -- what refers to an image ----------------------------------------------------------------------------------------


def _registry(kind: type[DockerRegistry], folder: Path) -> Iterator[DockerRegistry]:
    for made in _client(kind, folder):
        made.start().add(REPOSITORY, TAG, IMAGE)
        yield made
        made.kill()


@pytest.fixture(params=[DockerRegistry, Olareg], ids=["docker-registry", "olareg"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DockerRegistry]:
    """A registry without the referrers API, and one with it; each holds L{IMAGE}."""
    yield from _registry(request.param, tmp_path)


@pytest.fixture
def docker_registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    """The one without the API."""
    yield from _registry(DockerRegistry, tmp_path)


@pytest.fixture
def olareg(tmp_path: Path) -> Iterator[DockerRegistry]:
    """The one with the API."""
    yield from _registry(Olareg, tmp_path)


@pytest.fixture(params=[Cosign, Cosign3], ids=["cosign-2", "cosign-3"])
def cosign(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cosign]:
    """Both ways in which signatures are stored."""
    yield from _client(request.param, tmp_path)


#: Cosign 2 leaves tags, cosign 3 referrers.
cosign_2, cosign_3 = _fixture(Cosign), _fixture(Cosign3)
oras, regctl = _fixture(Oras), _fixture(Regctl)


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Appliance]:
    """A running appliance where there is no network."""
    with sides.sealed(tmp_path) as made:
        yield made

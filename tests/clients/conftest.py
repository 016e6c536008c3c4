"""Fixtures for tests with real clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.clients import tools
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


def _real(folder: Path) -> DockerRegistry:
    reason = tools.missing(*DockerRegistry.programs)
    if reason:
        pytest.skip(reason)
    registry = DockerRegistry(folder).start()
    for (repository, tag), content in HELD.items():
        registry.add(repository, tag, content)
    return registry


@pytest.fixture(params=[_simulated, _real], ids=["simulated", "docker-registry"])
def upstream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Upstream]:
    """A registry that holds L{HELD}: the project's own, and Debian's where it is installed."""
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
    reason = tools.missing(*kind.programs)
    if reason:
        pytest.skip(reason)
    yield from tools.opened(kind(folder))


@pytest.fixture(params=[Skopeo, Podman, Containerd], ids=["skopeo", "podman", "containerd"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Each real client that is installed."""
    yield from _client(request.param, tmp_path)


@pytest.fixture
def skopeo(tmp_path: Path) -> Iterator[Skopeo]:
    """skopeo, where it is installed."""
    yield from _client(Skopeo, tmp_path)

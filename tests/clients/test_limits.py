"""Real clients at an appliance that lets each have so many requests and bytes a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients import tools
from tests.clients.engine import Dockerd, DockerVisitor
from tests.clients.test_doors import CLIENTS
from tests.clients.visitors import Door, Visitor
from tests.doubles.remote import RemoteRegistry
from tests.process.service import Appliance

pytestmark = [pytest.mark.real_client, pytest.mark.process]

LAYERS = 25
"""Many more than there are requests in a second."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[RemoteRegistry]:
    """A registry with an image of many layers."""
    registry = RemoteRegistry().start()
    yield registry
    registry.kill()


@pytest.fixture(scope="module")
def digest(upstream: RemoteRegistry) -> str:
    """The image's."""
    return str(upstream.add("library/many", "1", sizes=[20_000] * LAYERS)["digest"])


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory, upstream: RemoteRegistry) -> Iterator[Appliance]:
    """Lets each client have ten requests and 200 kB a second."""
    folder = tmp_path_factory.mktemp("limited")
    made = Appliance(folder, upstream.url, client_rate={"requests": 10, "bytes": "200KB"})
    yield made.start()
    made.kill()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_is_held_back_pulls_all_the_same(
    client: str, appliance: Appliance, digest: str, tmp_path: Path
) -> None:
    """More requests than it may have in a second, and more bytes: it takes longer, and nothing fails."""
    tools.need(*CLIENTS[client].programs)
    with ExitStack() as running:
        if client == "docker":
            dockerd = Dockerd(tmp_path)
            running.callback(dockerd.close)
            visitor: Visitor = DockerVisitor(tmp_path, dockerd.start())
        else:
            visitor = CLIENTS[client](tmp_path)
            running.callback(getattr(visitor, "close", lambda: None))
        assert digest in visitor.pull(Door(appliance.bare), "library/many:1")

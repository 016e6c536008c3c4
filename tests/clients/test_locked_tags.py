"""A tag that its upstream moves: a locked one stays for real clients, and the command tells of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.tools import DockerRegistry, Skopeo, Source, run
from tests.doubles.images import image
from tests.process.service import CHECKOUT, UPSTREAM, Appliance, until

pytestmark = [pytest.mark.real_client, pytest.mark.process]

FIRST, SECOND = image("first"), image("second")
NAME = f"{UPSTREAM}/library/app:1"


def pullcache(appliance: Appliance, *arguments: str) -> Any:
    """The document that a command prints."""
    command = [sys.executable, "-m", "appliance.cli.main", "--json", "--admin", f"http://{appliance.admin}"]
    return json.loads(run(*command, *arguments, PYTHONPATH=str(CHECKOUT)))


def pulled(skopeo: Skopeo, appliance: Appliance) -> set[str]:
    return skopeo.pull(Source(appliance, "library/app", "1"))


@pytest.fixture
def appliance(tmp_path: Path, docker_registry: DockerRegistry) -> Iterator[Appliance]:
    """A running appliance in front of a registry that holds L{FIRST}."""
    docker_registry.add("library/app", "1", FIRST)
    made = Appliance(tmp_path / "appliance", docker_registry.url).start()
    yield made
    made.kill()


def test_a_locked_tag_stays_when_its_upstream_moves_it(
    skopeo: Skopeo, appliance: Appliance, docker_registry: DockerRegistry
) -> None:
    """Over a restart too; show tells what the upstream says, and unpin lets it move, which show tells as well."""
    assert pulled(skopeo, appliance) == {FIRST.digest}
    [pin] = pullcache(appliance, "pin", "--digest", NAME)["pins"]
    assert (pin["digest"], pin["locked"]) == (FIRST.digest, True)
    docker_registry.add("library/app", "1", SECOND)

    def refused() -> bool:
        assert pulled(skopeo, appliance) == {FIRST.digest}
        return bool(pullcache(appliance, "show", NAME)["upstreamDigest"] == SECOND.digest)

    until(refused, "the upstream is asked again")
    assert [each["name"] for each in pullcache(appliance, "status")["refused"]] == [NAME]
    assert not appliance.blob(SECOND.digest).exists()
    appliance.restart()
    assert refused()
    pullcache(appliance, "unpin", NAME)
    until(lambda: pulled(skopeo, appliance) == {SECOND.digest}, "the tag moves")
    shown = pullcache(appliance, "show", NAME)
    assert [(each["from"], each["to"], each["by"], each["refused"]) for each in shown["moves"]] == [
        (FIRST.digest, SECOND.digest, "upstream", False),
        (FIRST.digest, SECOND.digest, "upstream", True),
    ]
    assert shown["upstreamDigest"] is None


def test_what_is_removed_is_gone_and_can_be_pulled_again(
    skopeo: Skopeo, appliance: Appliance, docker_registry: DockerRegistry
) -> None:
    """The bytes are free at once, and the other image stays whole."""
    docker_registry.add("library/app", "2", SECOND)
    for tag in ("1", "2"):
        skopeo.pull(Source(appliance, "library/app", tag))
    total = size(appliance)
    done = pullcache(appliance, "remove", NAME)
    assert total - size(appliance) == sum(each["bytes"] for each in done["blobs"]) > 0
    assert not appliance.blob(FIRST.digest).exists()
    assert skopeo.pull(Source(appliance, "library/app", "2")) == {SECOND.digest}
    assert pulled(skopeo, appliance) == {FIRST.digest}


def size(appliance: Appliance) -> int:
    """Bytes of all files of blobs."""
    return sum(path.stat().st_size for path in (appliance.store / "blobs").rglob("*") if path.is_file())

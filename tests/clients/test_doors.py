"""Who may pull what: each real client at each kind of door, and what its user reads where nothing is to be had."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from tests.clients import tools
from tests.clients.doors import ANA, BOB, MISTYPED, Doors
from tests.clients.engine import Dockerd, DockerVisitor
from tests.clients.tools import Failed
from tests.clients.visitors import (
    ANYONE,
    ContainerdVisitor,
    CraneVisitor,
    Door,
    K3sVisitor,
    OrasVisitor,
    PodmanVisitor,
    RegctlVisitor,
    SkopeoVisitor,
    Visitor,
    Who,
)
from tests.doubles.remote import RemoteRegistry

pytestmark = [pytest.mark.real_client, pytest.mark.process]

TEAMS, OPEN, NODES, QUIET = "team/app", "library/tiny", "nodes/agent", "quiet/app"


class Outcome(Enum):
    """What comes of a pull."""

    PULLED = "the image"
    UNKNOWN = "such a thing does not exist"
    LOGIN = "a login is needed"
    WRONG = "the login is wrong"
    STOPPED = "no connection"


PULLED, UNKNOWN, LOGIN, WRONG, STOPPED = Outcome


@dataclass(frozen=True)
class Row:
    """One visit: by C{door}, as one of L{WHO}, to one repository."""

    door: str
    who: str
    repository: str
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.door}-{self.who}-{self.repository.partition('/')[0]}"


ROWS = [
    Row("mirror", "anyone", OPEN, PULLED),
    Row("mirror", "anyone", TEAMS, UNKNOWN),
    Row("mirror", "anyone", NODES, PULLED),
    Row("offered", "anyone", NODES, LOGIN),
    Row("offered", "anyone", OPEN, PULLED),
    Row("offered", "anyone", TEAMS, LOGIN),
    Row("offered", "ana", TEAMS, PULLED),
    Row("offered", "bob", TEAMS, UNKNOWN),
    Row("offered", "bob", OPEN, PULLED),
    Row("offered", "mistyped", TEAMS, WRONG),
    Row("required", "anyone", OPEN, LOGIN),
    Row("required", "ana", TEAMS, PULLED),
    Row("required", "ana", OPEN, PULLED),
    Row("required", "ana", NODES, UNKNOWN),
    Row("required", "bob", TEAMS, UNKNOWN),
    Row("required", "mistyped", TEAMS, WRONG),
    Row("certificates", "anyone", OPEN, STOPPED),
    Row("certificates", "node", TEAMS, PULLED),
    Row("certificates", "other", TEAMS, UNKNOWN),
    Row("certificates", "other", OPEN, PULLED),
    Row("certificates", "stranger", TEAMS, STOPPED),
    Row("certificates", "former", TEAMS, STOPPED),
]

CLIENTS: dict[str, type[Visitor]] = {
    "skopeo": SkopeoVisitor,
    "podman": PodmanVisitor,
    "containerd": ContainerdVisitor,
    "k3s": K3sVisitor,
    "crane": CraneVisitor,
    "regctl": RegctlVisitor,
    "oras": OrasVisitor,
    "docker": DockerVisitor,
}

_SAID = r"does not exist, or .*may not (be read|read it)"
_NO_TLS = "certificate required|unknown certificate authority|unknown ca|bad certificate|revoked"

WORDS: dict[str, dict[Outcome, str]] = {
    "skopeo": {UNKNOWN: _SAID, LOGIN: "docker login", WRONG: "password is wrong", STOPPED: _NO_TLS},
    "podman": {UNKNOWN: _SAID, LOGIN: "docker login", WRONG: "password is wrong", STOPPED: _NO_TLS},
    "containerd": {UNKNOWN: "not found", LOGIN: "401 Unauthorized", WRONG: "401 Unauthorized", STOPPED: _NO_TLS},
    "k3s": {UNKNOWN: "not found", LOGIN: "401 Unauthorized", WRONG: "401 Unauthorized", STOPPED: _NO_TLS},
    "crane": {UNKNOWN: _SAID, LOGIN: "docker login", WRONG: "password is wrong"},
    "regctl": {UNKNOWN: _SAID, LOGIN: "no credentials available", WRONG: "unauthorized", STOPPED: _NO_TLS},
    "oras": {UNKNOWN: "not found", LOGIN: "credential not found", WRONG: "password is wrong", STOPPED: _NO_TLS},
    "docker": {
        UNKNOWN: _SAID,
        LOGIN: "docker login|no basic auth credentials",
        WRONG: "login attempt to .* failed with status: 401",
        STOPPED: _NO_TLS,
    },
}
"""What the user reads, as a pattern."""


def can(client: str, row: Row) -> bool:
    """Whether this client is able to come like that."""
    if client == "crane":
        return row.door != "certificates"
    # dockerd shows a login only where everybody is asked for one.
    return client != "docker" or row.door != "offered" or row.who == "anyone"


VISITS = [(client, client, row) for client in CLIENTS for row in ROWS if can(client, row)]


@pytest.fixture(scope="module")
def upstream() -> Iterator[RemoteRegistry]:
    """A registry with an image of the team's and one for anyone."""
    registry = RemoteRegistry().start()
    yield registry
    registry.kill()


@pytest.fixture(scope="module")
def digests(upstream: RemoteRegistry) -> dict[str, str]:
    """The images by repository; each has the tag 1."""
    return {name: upstream.add(name, "1", "index")["digest"] for name in (TEAMS, OPEN, NODES, QUIET)}


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory, upstream: RemoteRegistry, digests: Any) -> Iterator[Doors]:
    """The appliance with its doors, open."""
    made = Doors(tmp_path_factory.mktemp("doors"), upstream.url)
    made.appliance.start()
    yield made
    made.appliance.kill()


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory: pytest.TempPathFactory, doors: Doors) -> Iterator[Dockerd]:
    """dockerd, whose mirror of Docker Hub is the door without a login."""
    made = Dockerd(tmp_path_factory.mktemp("docker"))
    yield from tools.opened(made.start(doors.mirror.url))


@pytest.fixture(scope="module")
def visitor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    """The real client of this name, where it is installed."""
    name: str = request.param
    tools.need(*CLIENTS[name].programs)
    folder = tmp_path_factory.mktemp(name)
    if name == "docker":
        made: Visitor = DockerVisitor(folder, request.getfixturevalue("dockerd"))
    else:
        made = CLIENTS[name](folder)
    yield from tools.opened(made)


def those(doors: Doors) -> dict[str, Who]:
    """Who comes, by the names in the rows."""
    by_certificate = {name: getattr(doors, name) for name in ("node", "other", "stranger", "former")}
    return {"anyone": ANYONE, "ana": ANA, "bob": BOB, "mistyped": MISTYPED, **by_certificate}


@pytest.mark.parametrize(
    ("visitor", "name", "row"),
    VISITS,
    indirect=["visitor"],
    scope="module",
    ids=[f"{name}-{row}" for name, _, row in VISITS],
)
def test_each_client_gets_what_it_may_and_its_user_reads_why_not(
    visitor: Visitor, name: str, row: Row, doors: Doors, digests: dict[str, str]
) -> None:
    """The image with its own digest, or words that name what to do."""
    door: Door = getattr(doors, row.door)
    who = those(doors)[row.who]
    if row.outcome is PULLED:
        assert digests[row.repository] in visitor.pull(door, f"{row.repository}:1", who)
        return
    with pytest.raises(Failed) as failed:
        visitor.pull(door, f"{row.repository}:1", who)
    read = str(failed.value)
    assert re.search(WORDS[name][row.outcome], read), read
    assert who.password not in read or not who.password


def test_who_may_pull_and_not_list_reads_of_no_tags(doors: Doors, digests: dict[str, str], tmp_path: Path) -> None:
    """The action is part of the rule: the image is there for her, the list of its tags is not."""
    tools.need(*SkopeoVisitor.programs)
    skopeo = SkopeoVisitor(tmp_path)
    assert skopeo.tags(doors.required, TEAMS, ANA) == ["1"]
    assert skopeo.pull(doors.required, f"{QUIET}:1", ANA) == {digests[QUIET]}
    with pytest.raises(Failed, match="tags list: .* 404"):
        skopeo.tags(doors.required, QUIET, ANA)


def test_dockers_mirror_gives_what_is_for_anyone_and_hides_the_rest(
    dockerd: Dockerd, digests: dict[str, str], tmp_path: Path
) -> None:
    """dockerd sends no login to a mirror, and asks Docker Hub for what is not there, as for anything."""
    assert digests[OPEN] in dockerd.docker("pull", f"{OPEN}:1", config=tmp_path)
    with pytest.raises(Failed, match="registry-1.docker.io"):
        dockerd.docker("pull", f"{TEAMS}:1", config=tmp_path)


def test_docker_engines_with_a_certificate_get_what_is_theirs_from_a_mirror(
    doors: Doors, digests: dict[str, str], tmp_path: Path
) -> None:
    """A mirror is shown no login, but the certificate of the machine."""
    docker = Dockerd(tmp_path)
    try:
        mirror = DockerVisitor(tmp_path, docker).introduce(doors.certificates, doors.node)
        docker.start(f"https://{mirror}")
        assert digests[TEAMS] in docker.docker("pull", f"{TEAMS}:1", config=tmp_path)
    finally:
        docker.close()

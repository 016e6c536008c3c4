"""A private image that the appliance holds: what is asked for it, by every way there is to ask, and who gets it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest

from tests.clients import tools
from tests.clients.doors import ANA, BOB, MISTYPED, Doors
from tests.clients.logins import Htpasswd, replace
from tests.clients.plain import ACCEPT
from tests.clients.tools import DockerRegistry
from tests.clients.visitors import ANYONE, Door, Who
from tests.doubles import images
from tests.process.service import PATIENCE, UPSTREAM

pytestmark = [pytest.mark.real_client, pytest.mark.process]

SITE_USER, SITE_PASSWORD = "site", "Danger-site-2718"
TEAMS, OPEN, ABSENT = "team/app", "library/tiny", "team/absent"
IMAGE = images.multi_arch(TEAMS)
SBOM = images.artifact(IMAGE)
CHILD, BLOB = IMAGE.children[0], IMAGE.children[0].blobs[1]

PATHS = {
    "tag": "manifests/1",
    "digest": f"manifests/{IMAGE.digest}",
    "child": f"manifests/{CHILD.digest}",
    "config": f"blobs/{CHILD.blobs[0].digest}",
    "layer": f"blobs/{BLOB.digest}",
    "referrers": f"referrers/{IMAGE.digest}",
    "referrer": f"manifests/{SBOM.digest}",
    "tags": "tags/list",
}
"""Every way to ask for a part of L{IMAGE}, or for what there is of it."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """Debian's docker-registry with L{IMAGE} and what refers to it; only the site's login is good there."""
    tools.need(*Htpasswd.programs)
    folder = tmp_path_factory.mktemp("registry")
    made = DockerRegistry(folder)
    made.start()
    made.add(TEAMS, "1", IMAGE)
    made.add(TEAMS, IMAGE.digest.replace(":", "-"), images.index(SBOM))
    made.add(OPEN, "1", images.image(OPEN))
    made.kill()
    login = Htpasswd(folder, made)
    login.allow(SITE_USER, SITE_PASSWORD)
    made.start(auth=login.section())
    yield made
    made.kill()


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory, registry: DockerRegistry) -> Iterator[Doors]:
    """The appliance in front of it, which holds all of L{IMAGE}: one who may has pulled it."""
    folder = tmp_path_factory.mktemp("private")
    replace(folder / "password", SITE_PASSWORD)
    upstream = {"username": SITE_USER, "password_file": str(folder / "password")}
    made = Doors(folder / "doors", registry.url, upstream=upstream)
    made.appliance.start()
    for child in IMAGE.children:
        for path in (f"manifests/{child.digest}", *(f"blobs/{blob.digest}" for blob in child.blobs)):
            assert status(made.offered, ANA, "GET", TEAMS, path) == 200
    for path in PATHS.values():
        assert status(made.offered, ANA, "GET", TEAMS, path) == 200
    yield made
    made.appliance.kill()


def answer(door: Door, who: Who, method: str, repository: str, path: str) -> tuple[int, bytes]:
    """Status and body, on a connection of its own."""
    prefix = "" if door.ca is None else f"{UPSTREAM}/"
    connection = HTTPConnection(door.authority, timeout=PATIENCE)
    if door.ca is not None:
        context = ssl.create_default_context(cafile=str(door.ca))
        connection = HTTPSConnection(door.authority, timeout=PATIENCE, context=context)
    headers = {"Accept": ACCEPT, **({"Authorization": who.basic} if who.user else {})}
    try:
        connection.request(method, f"/v2/{prefix}{repository}/{path}", headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def status(door: Door, who: Who, method: str, repository: str, path: str) -> int:
    """See L{answer}."""
    return answer(door, who, method, repository, path)[0]


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_what_is_held_is_for_those_who_may_read_it(doors: Doors, path: str) -> None:
    """200 for the right user, 404 for the wrong one, 401 for who could log in; asked twice, for what is remembered."""
    for method in ("HEAD", "GET", "GET", "HEAD"):
        for door in (doors.offered, doors.required):
            assert status(door, ANA, method, TEAMS, path) == 200
            assert status(door, BOB, method, TEAMS, path) == 404
            assert status(door, ANYONE, method, TEAMS, path) == 401
            assert status(door, MISTYPED, method, TEAMS, path) == 401
        assert status(doors.mirror, ANYONE, method, TEAMS, path) == 404
        assert status(doors.mirror, ANA, method, TEAMS, path) == 404


@pytest.mark.parametrize("path", [path for name, path in PATHS.items() if name not in ("tag", "tags", "referrers")])
def test_it_is_not_lent_to_a_repository_that_anyone_may_read(doors: Doors, path: str) -> None:
    """By its digest it is held, but not there."""
    for method in ("HEAD", "GET"):
        for door in (doors.mirror, doors.offered):
            assert status(door, ANYONE, method, OPEN, path) == 404


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_what_may_not_be_read_is_answered_as_what_does_not_exist(doors: Doors, path: str) -> None:
    """The same text but for the name, so that no answer tells which private images there are."""
    for door, who in ((doors.offered, BOB), (doors.offered, ANYONE), (doors.mirror, ANYONE)):
        held, absent = (answer(door, who, "GET", name, path) for name in (TEAMS, ABSENT))
        assert held == (absent[0], absent[1].replace(ABSENT.encode(), TEAMS.encode()))


def test_a_start_without_rules_is_refused_with_the_lines_that_are_missing(
    doors: Doors, registry: DockerRegistry, tmp_path: Path
) -> None:
    """An upstream with credentials is nobody's by default, and the message is what to write."""
    upstream = doors.appliance.settings["upstreams"][UPSTREAM]
    bare = Doors(tmp_path / "bare", registry.url, upstream=upstream, access=[], groups={})
    refused = bare.appliance.run("--check")
    assert refused.returncode != 0
    assert f"repositories: ['{UPSTREAM}/**']" in refused.stderr + refused.stdout
    assert SITE_PASSWORD not in refused.stderr + refused.stdout

"""Certificate, passwords and rules are replaced under clients that pull: none of them notices."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.doors import ANA, BOB, Doors
from tests.clients.visitors import Who
from tests.doubles.remote import RemoteRegistry
from tests.process.service import PATIENCE, UPSTREAM, until

pytestmark = pytest.mark.process

CLIENTS = 200
REPOSITORY, OTHERS = "team/app", "other/app"
LARGE = 30_000_000
PIECE = 1_000_000
NEXT = Who("carla", "Danger-carla-1234")
"""Who comes later, as another goes."""


class Puller(threading.Thread):
    """
    Pulls one image again and again, on one connection all the time, which is not opened a second time.

    @ivar pulls: how many so far.
    @ivar failure: what ended it, if anything did.
    """

    def __init__(self, doors: Doors, blobs: dict[str, str], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._connection = connected(doors)
        self._paths = blobs
        self._stop_asked = stop
        self.pulls = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        """See L{threading.Thread.run}."""
        try:
            while not self._stop_asked.is_set():
                for path, digest in self._paths.items():
                    self._connection.request("GET", path, headers={"Authorization": ANA.basic})
                    response = self._connection.getresponse()
                    body = response.read()
                    assert response.status == 200, (response.status, body)
                    assert "sha256:" + hashlib.sha256(body).hexdigest() == digest
                self.pulls += 1
        except BaseException as failure:
            self.failure = failure
        finally:
            self._connection.close()


def connected(doors: Doors) -> http.client.HTTPSConnection:
    """An open connection to the door where a login is required; when it is closed, it stays closed."""
    host, port = doors.required.authority.split(":")
    context = ssl.create_default_context(cafile=str(doors.required.ca))
    connection = http.client.HTTPSConnection(host, int(port), timeout=PATIENCE, context=context)
    connection.connect()
    connection.auto_open = 0
    return connection


def status(doors: Doors, who: Who, path: str) -> int:
    """What this user is answered on a new connection."""
    connection = connected(doors)
    try:
        connection.request("HEAD", path, headers={"Authorization": who.basic})
        return connection.getresponse().status
    finally:
        connection.close()


def serial(doors: Doors) -> int:
    """The number of the certificate that a new connection is shown."""
    connection = connected(doors)
    try:
        shown: Any = connection.sock.getpeercert()
        return int(shown["serialNumber"], 16)
    finally:
        connection.close()


@pytest.fixture
def doors(tmp_path: Path, upstream: RemoteRegistry) -> Iterator[Doors]:
    """The appliance with its doors, not started."""
    made = Doors(tmp_path / "doors", upstream.url)
    yield made
    made.appliance.kill()


def test_200_clients_pull_on_while_certificate_passwords_and_rules_are_replaced(
    doors: Doors, upstream: RemoteRegistry
) -> None:
    """No connection is dropped and no pull fails, a slow one neither; and then all that is new is in force."""
    app = upstream.add(REPOSITORY, "1", sizes=[20_000, 3_000])
    large = upstream.add(f"{REPOSITORY}/large", "1", sizes=[LARGE])["blobs"][1][0]
    upstream.add(OTHERS, "1")
    at = f"/v2/{UPSTREAM}/{REPOSITORY}"
    others, slowly = f"/v2/{UPSTREAM}/{OTHERS}/manifests/1", f"{at}/large/blobs/{large}"
    paths = {f"{at}/manifests/1": app["digest"], **{f"{at}/blobs/{digest}": digest for digest, _ in app["blobs"]}}
    doors.appliance.start()
    assert status(doors, ANA, slowly) == 200
    assert status(doors, ANA, others) == status(doors, BOB, others) == 404
    slow = connected(doors)
    slow.request("GET", slowly, headers={"Authorization": ANA.basic})
    transfer = slow.getresponse()
    received = hashlib.sha256(transfer.read(PIECE))

    stop = threading.Event()
    pullers = [Puller(doors, paths, stop) for _ in range(CLIENTS)]
    try:
        for puller in pullers:
            puller.start()
        until(lambda: all(puller.pulls or puller.failure for puller in pullers), "each has pulled once")

        renewed = doors.ca.issue("127.0.0.1")
        doors.serve_with(renewed)
        until(lambda: serial(doors) == renewed.certificate.serial_number, "the new certificate is shown")
        received.update(transfer.read(PIECE))

        doors.write_logins(ANA, NEXT)
        until(lambda: status(doors, NEXT, "/v2/") == 200, "the new user is known")
        until(lambda: status(doors, BOB, "/v2/") == 401, "the old one no longer is")
        received.update(transfer.read(PIECE))

        doors.appliance.settings["access"].insert(0, {"allow": {"users": [NEXT.user], "repositories": ["**"]}})
        doors.appliance.reload()
        assert (status(doors, NEXT, others), status(doors, ANA, others)) == (200, 404)

        done = {puller: puller.pulls for puller in pullers}
        until(lambda: all(puller.pulls > done[puller] or puller.failure for puller in pullers), "all go on")
    finally:
        stop.set()
        for puller in pullers:
            if puller.ident is not None:
                puller.join(PATIENCE)
    assert [puller.failure for puller in pullers if puller.failure] == []
    while piece := transfer.read(PIECE):
        received.update(piece)
    slow.close()
    assert "sha256:" + received.hexdigest() == large

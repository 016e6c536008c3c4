"""The service while its clock is set a year back and forth, and clients go on pulling."""

from __future__ import annotations

import contextlib
import email.utils
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.plain import ask, get, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.service import PATIENCE, Appliance, until

YEAR = 365 * 24 * 3600.0
PATH = "/v2/team/app/manifests/latest"
SETCLOCK = Path(__file__).parent / "setclock"

pytestmark = pytest.mark.process


class Wall:
    """The clock of a service, which may be set."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "off"
        self.set(0.0)

    def set(self, seconds: float) -> None:
        """Let it be off by so much."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("<d", seconds))


@pytest.fixture
def wall(tmp_path: Path, idle: Appliance) -> Wall:
    """The clock of C{idle}."""
    made = Wall(tmp_path)
    idle.environment = {"PYTHONPATH": str(SETCLOCK), "SETCLOCK": str(made.file)}
    return made


class Load:
    """Clients that pull without a pause, and what they were given."""

    def __init__(self, authority: str, blob: str) -> None:
        self.wrong: list[str] = []
        self.pulls = 0
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._pull, args=(authority, blob)) for _ in range(4)]

    def _pull(self, authority: str, blob: str) -> None:
        while not self._stopped.wait(0.005):
            for path in (PATH, f"/v2/team/app/blobs/{blob}"):
                try:
                    reply = ask(authority, path)
                except OSError as error:
                    self.wrong.append(repr(error))
                    continue
                if reply.status != 200:
                    self.wrong.append(f"{reply.status} {reply.body!r}")
                self.pulls += 1

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join()


def meant(appliance: Appliance) -> str:
    """The digest that the tag is served with."""
    return get(appliance.authority, PATH).headers["docker-content-digest"]


def closes_in_its_time(authority: str) -> bool:
    """Whether a connection on which no request comes is closed by its timer, two seconds after it was opened."""
    host, port = authority.split(":")
    with socket.create_connection((host, int(port))) as silent:
        silent.settimeout(PATIENCE)
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""
        return 1.5 < time.monotonic() - began


@pytest.mark.parametrize("by", [-YEAR, YEAR], ids=["back", "forth"])
def test_setting_the_clock_changes_nothing_for_those_who_pull(
    idle: Appliance, upstream: RemoteRegistry, wall: Wall, by: float
) -> None:
    """What is fresh stays fresh for its time and no longer, timers come, responses have the date that is shown."""
    idle.settings["upstreams"]["up.test"]["fresh_for"] = "1h"
    idle.settings["connections"] = {"head_timeout": "2s"}
    idle.write()
    first = upstream.add("team/app", sizes=[10_000])
    idle.start()
    blob = first["blobs"][1][0]
    # All of it: what a client leaves out is fetched behind it.
    assert pull(idle.authority, "team/app", "latest").digest == first["digest"]
    asked = len(upstream.seen())
    with Load(idle.authority, blob).running() as load:
        for off in (by, 0.0, by):
            wall.set(off)
            before = load.pulls
            until(lambda before=before: load.pulls > before + 100, "pulls go on")
            date = email.utils.parsedate_to_datetime(get(idle.authority, PATH).headers["date"])
            assert abs(date.timestamp() - time.time() - off) < 60
            assert closes_in_its_time(idle.authority)
    assert load.wrong == []
    assert len(upstream.seen()) == asked


def test_a_tag_that_moves_is_noticed_after_the_clock_was_set_back(
    idle: Appliance, upstream: RemoteRegistry, wall: Wall
) -> None:
    """An answer that was good for two seconds is not good for a year."""
    idle.settings["upstreams"]["up.test"]["fresh_for"] = "2s"
    idle.write()
    first = upstream.add("team/app", sizes=[10_000])
    second = upstream.add("team/app", tag="next", sizes=[20_000])
    idle.start()
    get(idle.authority, PATH), get(idle.authority, PATH)
    with Load(idle.authority, first["blobs"][0][0]).running() as load:
        wall.set(-YEAR)
        upstream.tag("team/app", "latest", second["digest"])
        until(lambda: meant(idle) == second["digest"], "it is noticed")
    assert load.wrong == []
    idle.stop()
    wall.set(-2 * YEAR)
    upstream.tag("team/app", "latest", first["digest"])
    idle.start()
    until(lambda: meant(idle) == first["digest"], "it is asked for")

"""Passwords and the running service: a file of users that changes, and somebody who guesses as fast as he can."""

from __future__ import annotations

import http.client
import json
import os
import threading
from base64 import b64encode
from pathlib import Path

import pytest

from tests.clients.plain import PATIENCE
from tests.doubles.passwords import hashed, write_users
from tests.doubles.remote import RemoteRegistry
from tests.process.service import UPSTREAM, Appliance, until

pytestmark = pytest.mark.process

APP = "/v2/team/app/manifests/latest"
IN_FORCE = 10.0
"""Seconds within which a file of users that was replaced is."""
GUESSERS = 64


@pytest.fixture
def asking(idle: Appliance, upstream: RemoteRegistry, tmp_path: Path) -> Appliance:
    """An appliance that lets ann and bob in, and nobody else."""
    upstream.add("team/app", sizes=[1000])
    users = write_users(tmp_path / "htpasswd", {"ann": "one", "bob": "two"})
    idle.settings["listen"][0].update(name="door", login="required", checkers=[f"htpasswd:{users}"])
    idle.settings["access"] = [{"allow": {"users": ["ann", "bob"], "repositories": [f"{UPSTREAM}/**"]}}]
    idle.write()
    return idle


class Visitor:
    """A client with one connection, which it keeps."""

    def __init__(self, appliance: Appliance, user: str, password: str, address: str = "127.0.0.1") -> None:
        self._connection = http.client.HTTPConnection(
            appliance.authority, timeout=PATIENCE, source_address=(address, 0)
        )
        self._connection.connect()
        self.user, self.password = user, password

    def status(self, path: str = APP, password: str | None = None) -> int:
        shown = b64encode(f"{self.user}:{password or self.password}".encode()).decode()
        # A connection that was closed would raise here.
        self._connection.auto_open = 0
        self._connection.request("GET", path, headers={"Authorization": f"Basic {shown}"})
        response = self._connection.getresponse()
        response.read()
        return response.status

    def close(self) -> None:
        self._connection.close()


@pytest.mark.parametrize("told", [True, False], ids=["SIGHUP", "not told"])
def test_a_file_that_is_replaced_is_in_force_in_seconds(asking: Appliance, tmp_path: Path, told: bool) -> None:
    """On the connections that are open, for passwords that are remembered; a bad one changes nothing."""
    asking.start()
    ann, bob, eve = (Visitor(asking, *who) for who in (("ann", "one"), ("bob", "two"), ("eve", "three")))
    assert [each.status() for each in (ann, bob, eve)] == [200, 200, 401]

    users = tmp_path / "htpasswd"

    def replace(text: str) -> None:
        users.write_text(text)
        if told:
            os.kill(asking.process.pid, 1)

    replace("ann:hunter2\n")
    until(lambda: "the user ann has no hash" in asking.log() or ann.status() != 200, "it was looked at", IN_FORCE)
    assert [each.status() for each in (ann, bob, eve)] == [200, 200, 401]
    assert "hunter2" not in asking.log()

    replace(f"bob:{hashed('two')}\neve:{hashed('three')}\n")
    until(lambda: ann.status() == 401, "who was removed is out", IN_FORCE)
    # What was wrong a moment ago is believed to be for some seconds, unless the file has changed.
    assert [each.status() for each in (ann, bob)] == [401, 200]
    assert eve.status() in (200, 404)
    for each in (ann, bob, eve):
        each.close()


def test_a_file_with_another_hash_is_refused_at_the_start(asking: Appliance, tmp_path: Path) -> None:
    """With the line at fault and what to do, by --check too."""
    with (tmp_path / "htpasswd").open("a") as file:
        file.write("eve:$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00\n")
    for options in ((), ("--check",)):
        ended = asking.run(*options)
        assert ended.returncode == 1
        assert "checkers[0]" in ended.stderr and "line 3: the user eve has an MD5 hash" in ended.stderr
        assert "htpasswd -B" in ended.stderr


def test_guessing_as_fast_as_one_can_keeps_nobody_out(asking: Appliance, tmp_path: Path) -> None:
    """
    Some dozens of connections send wrong passwords without a pause. Who is logged in goes on pulling, another one, from
    another address, gets in, and so does a user from the very address of the guesses. Nothing of what is guessed is in
    a log.
    """
    users = {"ann": "one", "bob": "two", "carl": "three"}
    (tmp_path / "htpasswd").write_text("".join(f"{user}:{hashed(users[user], 10)}\n" for user in users))
    asking.settings["access"][0]["allow"]["users"].append("carl")
    asking.write()
    asking.start()
    ann = Visitor(asking, "ann", "one")
    assert ann.status() == 200
    over = threading.Event()
    seen: dict[int, int] = {}

    def guess(number: int) -> None:
        visitor = Visitor(asking, ("ann", "nobody")[number % 2], "")
        tries = 0
        while not over.is_set():
            status = visitor.status(password=f"guess-{number}-{tries}")
            seen[status] = seen.get(status, 0) + 1
            tries += 1
        visitor.close()

    guessers = [threading.Thread(target=guess, args=(number,)) for number in range(GUESSERS)]
    for each in guessers:
        each.start()
    try:
        until(lambda: sum(seen.values()) > 50, "guesses are answered")
        before = asking.rss()
        for _ in range(50):
            assert ann.status() == 200
        for who in (("bob", "two", "127.0.0.2"), ("carl", "three", "127.0.0.1")):
            visitor = Visitor(asking, *who)
            assert visitor.status() == 200
            visitor.close()
        assert asking.rss() - before < 32 * 2**20
    finally:
        over.set()
        for each in guessers:
            each.join(PATIENCE)
    assert set(seen) <= {401, 429}
    ann.close()
    asking.stop()
    written = asking.log() + (asking.store / "audit" / "audit.jsonl").read_text()
    assert "guess-" not in written and "nobody" not in written
    lines = [json.loads(line) for line in (asking.store / "audit" / "audit.jsonl").read_text().splitlines()]
    refused = [line for line in lines if line["action"] == "login"]
    assert refused and {line.get("user") for line in refused} == {"ann", None}

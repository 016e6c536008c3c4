"""A password that is replaced while clients pull."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.python.failure import Failure

from appliance import errors
from appliance.oci.digest import Digest
from appliance.upstream.client import RegistryClient
from tests.doubles.deferreds import pending
from tests.rooms.upstream.guarded import (
    MANIFEST,
    OK,
    basic_of,
    bearer,
    password,
    token,
    write,
)
from tests.rooms.upstream.net import REGISTRY, Asked, Net, Reply, Server, upstream


class Rotated:
    """
    A registry whose password is replaced while clients pull.

    @ivar password: what it accepts.
    @ivar wrong: how often another one was shown.
    """

    def __init__(self, net: Net, bearer: bool) -> None:
        self.password = "old"
        self.wrong = 0
        self.tokens: set[str] = set()
        self._bearer = bearer
        net.servers[REGISTRY] = self.registry

    def switch(self, text: str) -> None:
        """Its tokens of before are worth nothing any more."""
        self.password = text
        self.tokens.clear()

    def registry(self, asked: Asked) -> Reply:
        shown = asked.one("authorization") or ""
        right = shown == basic_of(self.password)
        self.wrong += shown.startswith("Basic ") and not right
        if asked.target.startswith("/token"):
            if not right:
                return Reply(401)
            text = f"{self.password}{len(self.tokens)}"
            self.tokens.add("Bearer " + text)
            return token(text, expires_in=300)
        if self._bearer:
            return OK if shown in self.tokens else bearer()
        return OK if right else Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})


def pull_on(net: Net, asking: RegistryClient, clients: int, seconds: float) -> tuple[int, list[Failure]]:
    """So many clients ask one question after the other; how many were answered, and what failed."""
    answered: list[object] = []
    failed: list[Failure] = []
    end = net.clock.seconds() + seconds

    def ask(client: int) -> None:
        if net.clock.seconds() < end:
            asking.manifest(f"repository{client}", "t").addCallbacks(answered.append, failed.append).addBoth(
                lambda _: net.clock.callLater(0.1, ask, client)
            )

    for client in range(clients):
        net.clock.callLater(client / 1000, ask, client)
    while net.clock.seconds() < end + 5:
        net.clock.advance(0.02)
        for _ in range(10):
            net.clock.advance(0)
    return len(answered), failed


@pytest.mark.parametrize("bearer", [False, True], ids=["basic", "token server"])
@pytest.mark.parametrize("first", ["registry", "file"])
def test_a_password_replaced_under_load_fails_no_pull(tmp_path: Path, first: str, bearer: bool) -> None:
    """Twenty clients pull, and a second lies between the registry's change and the file's, whichever comes first."""
    net = Net()
    path = password(tmp_path, "old\n")
    rotated = Rotated(net, bearer)
    changes = [lambda: rotated.switch("new"), lambda: write(path, "new\n")]
    for at, change in zip((2.0, 3.0), changes if first == "registry" else reversed(changes), strict=True):
        net.clock.callLater(at, change)
    asking = upstream(net, username="user", password_file=path)
    answered, failed = pull_on(net, asking, clients=20, seconds=8)
    assert failed == []
    assert answered > 500
    # Each client may have had one question under way when the password it showed became wrong, which happens twice when
    # the file comes first; one more try tells a forbidden repository from a wrong password.
    assert 0 < rotated.wrong <= (21 if first == "registry" else 41)
    assert basic_of("new") in {asked.one("authorization") for asked in net.asked}


def changed_at_the_registry_first(net: Net, asking: RegistryClient, path: Path, rotated: Rotated) -> None:
    """The question that meets the change waits for the file's."""
    rotated.switch("new")
    question = asking.manifest("a", "t")
    net.settle()
    assert pending(question)
    write(path, "new")
    net.clock.advance(0.25)
    assert net.result(question).data == MANIFEST


def test_a_registry_whose_front_door_is_open_proves_no_password(tmp_path: Path) -> None:
    """Every client gets 200 at /v2/ there, so a wrong password is not taken for a good one."""
    net = Net()
    rotated = Rotated(net, bearer=False)
    registry: Server = rotated.registry
    net.servers[REGISTRY] = lambda asked: Reply(200) if asked.target == "/v2/" else registry(asked)
    path = password(tmp_path, "old")
    asking = upstream(net, username="user", password_file=path)
    net.result(asking.manifest("a", "t"))
    changed_at_the_registry_first(net, asking, path, rotated)


def test_a_redirect_is_an_acceptance(tmp_path: Path) -> None:
    """Only blobs were pulled, and they come from elsewhere."""
    net = Net()
    rotated = Rotated(net, bearer=False)
    registry: Server = rotated.registry

    def blobs_elsewhere(asked: Asked) -> Reply | None:
        reply = registry(asked)
        is_redirected = reply is not None and reply.status == 200 and "/blobs/" in asked.target
        return Reply(307, {"Location": "https://cdn.example/x"}) if is_redirected else reply

    net.servers[REGISTRY] = blobs_elsewhere
    net.servers["https://cdn.example"] = lambda asked: OK
    path = password(tmp_path, "old")
    asking = upstream(net, username="user", password_file=path)
    net.result(asking.blob("a", Digest.of(MANIFEST))).abandon()
    changed_at_the_registry_first(net, asking, path, rotated)


def test_a_password_taken_away_under_load_is_not_shown_on(tmp_path: Path) -> None:
    """No new one is written: after three seconds every pull is denied at once, and the registry has peace."""
    net = Net()
    rotated = Rotated(net, bearer=False)
    asking = upstream(net, username="user", password_file=password(tmp_path, "old"))
    net.clock.callLater(2.0, rotated.switch, "new")
    _, failed = pull_on(net, asking, clients=20, seconds=8)
    assert len(failed) > 100
    assert {failure.type for failure in failed} == {errors.UpstreamDenied}
    assert rotated.wrong <= 21


def test_tokens_of_the_old_password_are_not_used_with_the_new_one(tmp_path: Path) -> None:
    """The new one may be another user's, who may see less."""
    net = Net()
    rotated = Rotated(net, bearer=True)
    path = password(tmp_path, "old")
    asking = upstream(net, username="user", password_file=path)
    net.result(asking.manifest("a", "t"))
    rotated.password = "new"
    write(path, "new")
    net.asked.clear()
    net.result(asking.manifest("a", "t"))
    assert "Bearer old0" not in {asked.one("authorization") for asked in net.asked}


def test_a_late_refusal_of_the_old_password_is_not_the_new_ones(tmp_path: Path) -> None:
    """An answer that was under way for long comes when the new password is long in use."""
    net = Net()
    path = password(tmp_path, "old")
    rotated = Rotated(net, bearer=False)
    asking = upstream(net, username="user", password_file=path)
    net.result(asking.manifest("a", "t"))
    registry: Server = rotated.registry
    net.servers[REGISTRY] = lambda asked: None if "/slow/" in asked.target else registry(asked)
    slow = asking.manifest("slow", "t")
    net.settle()
    rotated.switch("new")
    write(path, "new")
    net.result(asking.manifest("a", "t"))
    net.servers[REGISTRY] = registry
    (waiting,) = [wire for wire in net.wires if getattr(wire.protocol, "state", "") == "WAITING"]
    refusal = Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})
    waiting.send(refusal.head("GET"))
    assert net.result(slow).data == MANIFEST
    net.asked.clear()
    assert net.result(asking.manifest("a", "t")).data == MANIFEST
    assert [asked.one("authorization") for asked in net.asked] == [basic_of("new")]

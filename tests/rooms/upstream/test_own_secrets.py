"""Each host is shown its own secret, and tokens of its own."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from appliance import errors
from appliance.oci.digest import Digest
from appliance.upstream.interfaces import FetchedManifest
from tests.rooms.upstream.guarded import (
    MANIFEST,
    OK,
    Guarded,
    basic_of,
    token,
    write,
)
from tests.rooms.upstream.net import (
    AUTH,
    REGISTRY,
    Net,
    Reply,
    upstream,
)


def test_the_second_url_is_not_shown_the_tokens_of_the_first() -> None:
    """Tokens are kept by realm; another URL has another."""
    second = "https://second.example"
    net = Net()
    Guarded(net)
    asking = upstream(net, [REGISTRY, second])
    net.result(asking.manifest("a", "t"))
    net.servers[REGISTRY] = lambda asked: Reply(500)
    net.servers[second] = lambda asked: OK
    net.asked.clear()
    fetching: Deferred[FetchedManifest] = asking.manifest("a", str(Digest.of(MANIFEST)))
    net.result(fetching)
    assert [asked.one("authorization") for asked in net.asked if asked.origin == second] == [None]


SECOND = "https://second.example"


def docker_config(folder: Path, **passwords: str) -> Path:
    """A config.json with a password for each host; C{_} in a name stands for its dot."""
    entries = {
        host.replace("_", "."): {"auth": base64.b64encode(f"user:{secret}".encode()).decode()}
        for host, secret in passwords.items()
    }
    return write(folder / "config.json", json.dumps({"auths": entries}))


def shown_to(net: Net, origin: str) -> set[str | None]:
    """The Authorizations that C{origin} was ever shown."""
    return {asked.one("authorization") for asked in net.asked if asked.origin == origin} - {None}


def guard(net: Net, origin: str, *accepted: str, challenge: str = 'Basic realm="x"') -> None:
    refusal = Reply(401, {"WWW-Authenticate": challenge})
    net.servers[origin] = lambda asked: OK if asked.one("authorization") in accepted else refusal


def test_each_url_is_shown_the_secret_of_its_own_host(tmp_path: Path) -> None:
    """A mirror is not given the registry's password, nor the registry the mirror's."""
    net = Net()
    guard(net, REGISTRY, basic_of("one"))
    guard(net, SECOND, basic_of("two"))
    file = docker_config(tmp_path, registry_example="one", second_example="two")
    asking = upstream(net, [SECOND, REGISTRY], auth_file=file)
    net.result(asking.manifest("a", "t"))
    net.refusing.add(SECOND)
    for wire in net.wires:
        wire.cut()
    net.result(asking.manifest("a", "u"))
    assert (shown_to(net, SECOND), shown_to(net, REGISTRY)) == ({basic_of("two")}, {basic_of("one")})


@pytest.mark.parametrize("order", [(REGISTRY, SECOND), (SECOND, REGISTRY)])
def test_a_host_that_the_file_does_not_know_is_asked_anonymously(tmp_path: Path, order: tuple[str, str]) -> None:
    """A mirror that gives tokens to all comes without a login, wherever it stands in the list."""
    net = Net()
    guard(net, REGISTRY, basic_of("one"))
    guard(net, SECOND, "Bearer t1", challenge=f'Bearer realm="{SECOND}/token"')
    guarded = net.servers[SECOND]
    net.servers[SECOND] = lambda asked: token("t1") if asked.target.startswith("/token") else guarded(asked)
    asking = upstream(net, order, auth_file=docker_config(tmp_path, registry_example="one"))
    net.result(asking.manifest("a", "t"))
    net.refusing.add(order[0])
    for wire in net.wires:
        wire.cut()
    net.result(asking.manifest("a", "u"))
    assert (shown_to(net, SECOND), shown_to(net, REGISTRY)) == ({"Bearer t1"}, {basic_of("one")})


def test_a_login_that_is_written_later_is_taken(tmp_path: Path) -> None:
    """No restart is needed for it."""
    net = Net()
    guard(net, REGISTRY, basic_of("one"))
    file = docker_config(tmp_path, second_example="two")
    asking = upstream(net, [REGISTRY, SECOND], auth_file=file)
    assert isinstance(net.fault(asking.manifest("a", "t")), errors.UpstreamDenied)
    docker_config(tmp_path, registry_example="one", second_example="two")
    assert net.result(asking.manifest("a", "t")).data == MANIFEST


def test_a_token_of_one_url_is_not_shown_to_another_that_names_the_same_realm() -> None:
    """Two registries share a token server; the second says that it is the first, and learns nothing of its tokens."""
    net = Net()
    guarded = Guarded(net, AUTH + "/token")
    guard(net, SECOND, "Bearer t2", challenge=f'Bearer realm="{AUTH}/token",service="reg"')
    asking = upstream(net, [REGISTRY, SECOND], auth_hosts=("auth.example",))
    net.result(asking.manifest("a", "t"))
    net.refusing.add(REGISTRY)
    for wire in net.wires:
        wire.cut()
    net.result(asking.manifest("a", "t"))
    assert (shown_to(net, REGISTRY), shown_to(net, SECOND), guarded.given) == ({"Bearer t1"}, {"Bearer t2"}, 2)

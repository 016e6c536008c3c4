"""Tokens that the configuration gives: for the registry itself, and for its token server."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from appliance import errors
from tests.rooms.upstream.guarded import (
    MANIFEST,
    OK,
    Guarded,
    identity,
    write,
)
from tests.rooms.upstream.net import (
    AUTH,
    REGISTRY,
    Asked,
    Net,
    Reply,
    upstream,
)


@pytest.mark.parametrize("challenge", [f'Bearer realm="{REGISTRY}/token"', 'Basic realm="x"'])
def test_a_token_file_is_shown_to_the_registry_as_it_is(tmp_path: Path, challenge: str) -> None:
    """No token server is asked: this is the token."""
    net = Net()
    net.servers[REGISTRY] = lambda asked: (
        OK if asked.one("authorization") == "Bearer abc.def" else Reply(401, {"WWW-Authenticate": challenge})
    )
    asking = upstream(net, token_file=write(tmp_path / "token", "abc.def\n"))
    assert net.result(asking.manifest("a", "t")).data == MANIFEST
    assert [asked.one("authorization") for asked in net.asked] == [None, "Bearer abc.def"]


@pytest.mark.parametrize("text", ["", " \n", "a b", "a\nX-Evil: 1", "tökén"])
def test_what_cannot_be_a_token_is_not_sent(tmp_path: Path, text: str) -> None:
    """The file holds something else by now."""
    net = Net()
    Guarded(net)
    fault = net.fault(upstream(net, token_file=write(tmp_path / "token", text)).manifest("a", "t"))
    assert type(fault) is errors.UpstreamDenied
    assert "Evil" not in str(fault)
    assert {asked.one("authorization") for asked in net.asked} == {None}


def form(asked: Asked) -> dict[str, list[str]]:
    return parse_qs(asked.body.decode("ascii"), strict_parsing=True)


def test_an_identity_token_is_exchanged_with_a_post(tmp_path: Path) -> None:
    """What docker login leaves at Docker Hub with a browser, and az acr login: a refresh token."""
    net = Net()
    guarded = Guarded(net)
    asking = upstream(net, auth_file=identity(tmp_path))
    assert net.result(asking.manifest("a/b", "t")).data == MANIFEST
    (asked,) = guarded.token_requests()
    assert (asked.method, asked.target, asked.one("authorization")) == ("POST", "/token", None)
    assert asked.one("content-type") == "application/x-www-form-urlencoded"
    assert form(asked) == {
        "grant_type": ["refresh_token"],
        "service": ["reg"],
        "client_id": ["pullcache"],
        "scope": ["repository:a/b:pull"],
        "refresh_token": ["re+fr$sh &="],
    }


@pytest.mark.parametrize("status", [400, 401, 404, 405])
def test_a_token_server_that_takes_no_post_is_asked_with_get(tmp_path: Path, status: int) -> None:
    """GCR says 404, Artifactory 401, ACR 400, others 405; that is learnt once."""
    net = Net()
    guarded = Guarded(net)
    guarded.grant = lambda asked: Reply(status) if asked.method == "POST" else guarded.give(asked)
    asking = upstream(net, auth_file=identity(tmp_path))
    net.result(asking.manifest("a", "t"))
    net.result(asking.manifest("b", "t"))
    assert [asked.method for asked in guarded.token_requests()] == ["POST", "GET", "GET"]
    basic = "Basic " + base64.b64encode(b"00000000-0000:re+fr$sh &=").decode()
    assert guarded.token_requests()[1].one("authorization") == basic


def test_a_token_server_that_took_post_before_is_not_asked_with_get(tmp_path: Path) -> None:
    """Its 401 is about the secret then, which need not be shown twice."""
    net = Net()
    guarded = Guarded(net)
    asking = upstream(net, auth_file=identity(tmp_path))
    net.result(asking.manifest("a", "t"))
    guarded.grant = lambda asked: Reply(401)
    net.fault(asking.manifest("b", "t"))
    assert {asked.method for asked in guarded.token_requests()} == {"POST"}


def test_an_identity_token_follows_no_redirect(tmp_path: Path) -> None:
    """It would be sent again, whole, to wherever that leads."""
    net = Net()
    guarded = Guarded(net, AUTH + "/token")
    guarded.grant = lambda asked: Reply(307, {"Location": "/token2"})
    fault = net.fault(upstream(net, auth_file=identity(tmp_path), auth_hosts=("auth.example",)).manifest("a", "t"))
    assert isinstance(fault, errors.UpstreamError)
    assert len(guarded.token_requests()) == 1

"""Tokens and passwords: who gets to see which, and when one is asked for."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from twisted.internet.defer import CancelledError, Deferred

from appliance import errors
from appliance.interfaces import FetchedManifest
from appliance.oci.digest import Digest
from appliance.upstream.credentials import Credentials
from appliance.upstream.dockerhub import DOCKERHUB
from tests.rooms.upstream.net import AUTH, REGISTRY, Asked, Net, Reply, Server, pending, upstream

MANIFEST = b"{}"
OK = Reply(body=MANIFEST)


def bearer(realm: str = REGISTRY + "/token", extra: str = ',service="reg"') -> Reply:
    return Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}"{extra}'})


def token(text: str = "t1", **more: object) -> Reply:
    return Reply(200, {"Content-Type": "application/json"}, json.dumps({"token": text, **more}).encode())


class Guarded:
    """A registry that wants a token, and its token server; counts the tokens it gives: t1, t2 and so on."""

    def __init__(self, net: Net, realm: str = REGISTRY + "/token", life: int | None = 300) -> None:
        self.net = net
        self.realm = realm
        self.life = life
        self.given = 0
        self.good: set[str] = set()
        self.grant: Callable[[Asked], Reply | None] = self.give
        net.servers[REGISTRY] = self.registry
        net.servers.setdefault(AUTH, self.registry)

    def registry(self, asked: Asked) -> Reply | None:
        if asked.target.startswith("/token"):
            return self.grant(asked)
        return OK if asked.one("authorization") in self.good else bearer(self.realm)

    def give(self, asked: Asked) -> Reply:
        self.given += 1
        text = f"t{self.given}"
        self.good.add(f"Bearer {text}")
        return token(text) if self.life is None else token(text, expires_in=self.life)

    def token_requests(self) -> list[Asked]:
        return [asked for asked in self.net.asked if asked.target.startswith("/token")]


def test_a_token_is_fetched_when_the_registry_asks_for_one() -> None:
    """Anonymous pulls need a token nearly everywhere."""
    net = Net()
    guarded = Guarded(net)
    assert net.result(upstream(net).manifest("library/nginx", "t")).data == MANIFEST
    asked = guarded.token_requests()[0]
    query = parse_qs(asked.target.partition("?")[2])
    assert query == {"service": ["reg"], "scope": ["repository:library/nginx:pull"]}
    assert asked.one("authorization") is None
    assert asked.one("accept-encoding") == "identity"
    assert [asked.one("authorization") for asked in net.asked] == [None, None, "Bearer t1"]


def test_the_scope_is_ours_whatever_the_challenge_says() -> None:
    """GHCR advertises a placeholder scope that it then denies."""
    net = Net()
    guarded = Guarded(net)
    guarded.realm = REGISTRY + '/token",scope="repository:user/image:pull,push'
    net.result(upstream(net).manifest("a/b", "t"))
    assert "scope=repository%3Aa%2Fb%3Apull" in guarded.token_requests()[0].target


def test_a_challenge_without_service_gives_a_question_without_service() -> None:
    """The parameter is left out, not sent empty."""
    net = Net()
    net.servers[REGISTRY] = lambda asked: (
        token() if "/token" in asked.target else OK if asked.one("authorization") else bearer(extra="")
    )
    net.result(upstream(net).manifest("a", "t"))
    assert net.asked[1].target == "/token?scope=repository%3Aa%3Apull"


def test_a_realms_own_query_stays() -> None:
    """Artifactory's realms have one."""
    net = Net()
    guarded = Guarded(net, REGISTRY + "/token?account=x")
    net.result(upstream(net).manifest("a", "t"))
    assert guarded.token_requests()[0].target.startswith("/token?account=x&service=reg&scope=")


def test_the_next_request_carries_the_token_at_once() -> None:
    """One token serves until it is old."""
    net = Net()
    guarded = Guarded(net)
    asking = upstream(net)
    net.result(asking.manifest("a", "t"))
    net.asked.clear()
    net.result(asking.manifest("a", "t"))
    assert [asked.one("authorization") for asked in net.asked] == ["Bearer t1"]
    assert guarded.given == 1


def test_the_next_repository_needs_no_refusal_first() -> None:
    """The challenge is remembered: token, then manifest, and no 401 between."""
    net = Net()
    Guarded(net)
    asking = upstream(net)
    net.result(asking.manifest("a", "t"))
    net.asked.clear()
    net.result(asking.manifest("b", "t"))
    assert [asked.target.partition("?")[0] for asked in net.asked] == ["/token", "/v2/b/manifests/t"]


@pytest.mark.parametrize(
    ("life", "good_until"), [(300, 270), (None, 54), (60, 54), (10, 9), (0, 54), (-1, 54), (1_000_000, 3570)]
)
def test_a_token_is_renewed_before_it_dies(life: int | None, good_until: int) -> None:
    """30 seconds or a tenth before; 60 seconds when the server does not say; an hour at most."""
    net = Net()
    guarded = Guarded(net, life=life)
    asking = upstream(net)
    net.result(asking.manifest("a", "t"))
    net.clock.advance(good_until - 1)
    net.result(asking.manifest("a", "t"))
    assert guarded.given == 1
    net.clock.advance(1)
    net.asked.clear()
    net.result(asking.manifest("a", "t"))
    assert guarded.given == 2
    assert [asked.one("authorization") for asked in net.asked] == [None, "Bearer t2"]


def test_a_token_the_registry_refuses_is_replaced_once() -> None:
    """Revoked before its time: evicted, fetched, tried again."""
    net = Net()
    guarded = Guarded(net)
    asking = upstream(net)
    net.result(asking.manifest("a", "t"))
    guarded.good.clear()
    assert net.result(asking.manifest("a", "t")).data == MANIFEST
    assert guarded.given == 2


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(403, {}, b'{"errors":[{"code":"DENIED","message":"Your authorization token has expired."}]}'),
        Reply(400, {}, b"bad"),
    ],
    ids=["ECR", "public ECR"],
)
def test_an_old_token_refused_in_the_registrys_own_way_is_replaced(refusal: Reply) -> None:
    """ECR says 403, public.ecr.aws says 400, both mean 401."""
    net = Net()
    guarded = Guarded(net)
    asking = upstream(net)
    net.result(asking.manifest("a", "t"))
    registry: Server = guarded.registry
    net.servers[REGISTRY] = lambda asked: (
        refusal if asked.one("authorization") == "Bearer t1" else registry(asked)
    )
    assert net.result(asking.manifest("a", "t")).data == MANIFEST
    assert guarded.given == 2


def test_a_refusal_of_a_fresh_token_is_final() -> None:
    """Docker Hub's 401 for what does not exist costs two requests and a token, not more."""
    net = Net()
    guarded = Guarded(net)
    net.servers[REGISTRY] = lambda asked: guarded.give(asked) if "/token" in asked.target else bearer()
    asking = upstream(net)
    assert type(net.fault(asking.manifest("nope", "t"))) is errors.UpstreamDenied
    assert len(net.asked) == 3
    net.asked.clear()
    assert type(net.fault(asking.manifest("nope", "t"))) is errors.UpstreamDenied
    assert len(net.asked) == 2


def test_forbidden_is_forbidden() -> None:
    """403 to a token that is good is no reason for another."""
    net = Net()
    guarded = Guarded(net)
    asking = upstream(net)
    net.result(asking.manifest("a", "t"))
    net.servers[REGISTRY] = lambda asked: Reply(403, {}, b"no")
    assert type(net.fault(asking.manifest("a", "t"))) is errors.UpstreamDenied
    assert guarded.given == 1


def test_a_refusal_without_a_challenge_is_looked_up_at_the_front_door() -> None:
    """gcr.io once sent 401 without a challenge; /v2/ has it."""
    net = Net()
    guarded = Guarded(net)
    registry: Server = guarded.registry

    def mute(asked: Asked) -> Reply | None:
        reply = registry(asked)
        return Reply(401) if reply is not None and reply.status == 401 and asked.target != "/v2/" else reply

    net.servers[REGISTRY] = mute
    assert net.result(upstream(net).manifest("a", "t")).data == MANIFEST
    assert [asked.target.partition("?")[0] for asked in net.asked] == [
        "/v2/a/manifests/t",
        "/v2/",
        "/token",
        "/v2/a/manifests/t",
    ]


def test_a_refusal_without_any_challenge_is_a_refusal() -> None:
    """There is nothing to answer."""
    net = Net()
    net.servers[REGISTRY] = lambda asked: Reply(401)
    assert type(net.fault(upstream(net).manifest("a", "t"))) is errors.UpstreamDenied


def test_head_is_authenticated_too() -> None:
    """The challenge stands in the header, a HEAD has no body."""
    net = Net()
    guarded = Guarded(net)
    guarded.good.add("Bearer t1")
    net.result(upstream(net).head("a", "t"))
    assert [asked.method for asked in net.asked] == ["HEAD", "GET", "HEAD"]


# -- one token for all who wait -------------------------------------------------------------------------------------


def test_many_requests_share_one_token_request() -> None:
    """A node that pulls twenty layers asks once."""
    net = Net()
    guarded = Guarded(net)
    asking = upstream(net)
    fetching = [asking.manifest("a", f"t{number}") for number in range(20)]
    assert {net.result(each).data for each in fetching} == {MANIFEST}
    assert guarded.given == 1


def test_who_leaves_takes_no_token_from_the_others() -> None:
    """The first of those who wait is cancelled; the second gets the token of the same request."""
    net = Net()
    guarded = Guarded(net)
    guarded.grant = lambda asked: None
    asking = upstream(net)
    first, second = asking.manifest("a", "t"), asking.manifest("a", "u")
    net.settle()
    first.cancel()
    assert type(net.fault(first)) is CancelledError
    assert pending(second)
    given = guarded.give(guarded.token_requests()[0])
    answered = [wire for wire in net.wires if getattr(wire.protocol, "state", "") == "WAITING"]
    assert len(answered) == 1
    answered[0].send(given.head("GET") + given.rest())
    assert net.result(second).data == MANIFEST
    assert len(guarded.token_requests()) == 1


def test_a_failed_token_request_fails_all_who_waited_and_none_after() -> None:
    """A failure is not kept."""
    net = Net()
    guarded = Guarded(net)
    guarded.grant = lambda asked: Reply(503)
    asking = upstream(net)
    fetching = [asking.manifest("a", "t"), asking.manifest("a", "u")]
    assert {type(net.fault(each)) for each in fetching} == {errors.UpstreamUnavailable}
    guarded.grant = guarded.give
    assert net.result(asking.manifest("a", "t")).data == MANIFEST


# -- what token servers say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"token": "abc"},
        {"access_token": "abc"},
        {"token": "", "access_token": "abc"},
        {"token": "abc", "expires_in": "300"},
        {"token": "abc", "expires_in": None, "issued_at": "1999-01-01T00:00:00Z", "more": [1]},
        {"token": "abc", "expires_in": 299.5},
    ],
)
def test_a_token_is_found_whatever_it_is_called(body: dict[str, object]) -> None:
    """C{token} or C{access_token}; C{issued_at} is some other clock's."""
    net = Net()
    guarded = Guarded(net)
    guarded.grant = lambda asked: Reply(body=json.dumps(body).encode())
    guarded.good.add("Bearer abc")
    assert net.result(upstream(net).manifest("a", "t")).data == MANIFEST


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(401, {}, b'{"details":"incorrect username or password"}'), errors.UpstreamDenied),
        (Reply(403), errors.UpstreamDenied),
        (Reply(400), errors.UpstreamDenied),
        (Reply(404), errors.UpstreamDenied),
        (Reply(429, {"Retry-After": "5"}), errors.UpstreamRateLimited),
        (Reply(500), errors.UpstreamUnavailable),
        (Reply(200, {}, b"<html>"), errors.UpstreamInvalid),
        (Reply(200, {}, b"{}"), errors.UpstreamInvalid),
        (Reply(200, {}, b"[]"), errors.UpstreamInvalid),
        (Reply(200, {}, b'{"token": 7}'), errors.UpstreamInvalid),
        (token("a\r\nX-Evil: 1"), errors.UpstreamInvalid),
        (token("a b"), errors.UpstreamInvalid),
        (token("tökén"), errors.UpstreamInvalid),
        (Reply(200, {}, b'{"token": "' + b"x" * 1_100_000 + b'"}'), errors.UpstreamInvalid),
        (Reply(200, {"Content-Encoding": "gzip"}, b"{}"), errors.UpstreamInvalid),
        (Reply(200, {}, b"[" * 100_000), errors.UpstreamInvalid),
        (Reply(200, {}, b'{"token":', claim=10), errors.UpstreamUnavailable),
    ],
)
def test_a_token_server_in_trouble_is_named(reply: Reply, expected: type[errors.UpstreamError]) -> None:
    """Never "manifest unknown": the error is the token server's, and says which URL, without the query."""
    net = Net()
    guarded = Guarded(net)
    guarded.grant = lambda asked: reply
    fault = net.fault(upstream(net).manifest("a", "t"))
    assert type(fault) is expected
    assert "https://registry.example/token" in str(fault) or "body was cut" in str(fault)
    assert "scope=" not in str(fault)
    assert "Evil" not in str(fault)


# -- the realm rule -------------------------------------------------------------------------------------------------

REALMS = [
    ("https://registry.example/token", (), None),
    ("https://REGISTRY.example:443/token", (), None),
    ("https://auth.example/token", ("auth.example",), None),
    ("https://auth.example:8443/token", ("auth.example",), None),
    ("https://auth.example:8443/token", ("auth.example:8443",), None),
    ("https://auth.example/token", ("auth.example:443",), None),
    ("https://auth.example/token", ("Auth.Example",), None),
    ("https://auth.example/token", ("auth.example:8443",), errors.UpstreamRefused),
    ("https://auth.example/token", (), errors.UpstreamRefused),
    ("https://evil.example/token", ("auth.example",), errors.UpstreamRefused),
    ("https://registry.example:8443/token", (), errors.UpstreamRefused),
    ("http://registry.example/token", (), errors.UpstreamRefused),
    ("http://auth.example/token", ("auth.example",), errors.UpstreamRefused),
    ("https://auth.registry.example/token", (), errors.UpstreamRefused),
    ("https://registry.example.evil.example/token", (), errors.UpstreamRefused),
    ("https://registry.example@evil.example/token", (), errors.UpstreamInvalid),
    ("https://evil.example\\\\@registry.example/token", (), errors.UpstreamInvalid),
    ("https://169.254.169.254/token", (), errors.UpstreamRefused),
    ("https://[::1]/token", (), errors.UpstreamRefused),
    ("/token", (), errors.UpstreamInvalid),
    ("//registry.example/token", (), errors.UpstreamInvalid),
    ("file:///etc/passwd", (), errors.UpstreamInvalid),
    ("", (), errors.UpstreamInvalid),
]


@pytest.mark.parametrize(("realm", "auth_hosts", "expected"), REALMS)
def test_credentials_go_only_where_it_was_agreed(
    tmp_path: Path, realm: str, auth_hosts: tuple[str, ...], expected: type[errors.UpstreamError] | None
) -> None:
    """Whoever answers for a registry must not be able to send our password elsewhere (CVE-2026-33540)."""
    net = Net()
    guarded = Guarded(net, realm)
    for origin in ("https://auth.example:8443", "https://evil.example", "http://registry.example", "http://auth.example"):
        net.servers[origin] = guarded.registry
    asking = upstream(net, auth_hosts=auth_hosts, username="user", password_file=password(tmp_path))
    if expected is None:
        assert net.result(asking.manifest("a", "t")).data == MANIFEST
        assert guarded.token_requests()[0].one("authorization") == BASIC
        return
    fault = net.fault(asking.manifest("a", "t"))
    assert type(fault) is expected
    assert net.urls() == [REGISTRY + "/v2/a/manifests/t"]
    if expected is errors.UpstreamRefused:
        assert "token realm" in str(fault)


def test_an_http_upstream_may_have_an_http_token_server() -> None:
    """A registry on the site's own network without TLS."""
    net = Net()
    guarded = Guarded(net, "http://auth.example/token")
    net.servers["http://registry.example"] = net.servers["http://auth.example"] = guarded.registry
    asking = upstream(net, ["http://registry.example"], auth_hosts=("auth.example",))
    assert net.result(asking.manifest("a", "t")).data == MANIFEST


def test_docker_hub_knows_its_token_server() -> None:
    """auth.docker.io needs no configuration."""
    net = Net()
    guarded = Guarded(net, "https://auth.docker.io/token")
    net.servers["https://auth.docker.io"] = guarded.registry
    assert net.result(upstream(net, kind=DOCKERHUB).manifest("library/nginx", "t")).data == MANIFEST


def test_other_hosts_are_asked_through_the_guarded_agent() -> None:
    """Only the configured origin is reached without the address rules."""
    net = Net()
    Guarded(net, AUTH + "/token")
    net.result(upstream(net, auth_hosts=("auth.example",)).manifest("a", "t"))
    assert [(asked.origin, asked.agent) for asked in net.asked] == [(REGISTRY, "own"), (AUTH, "led"), (REGISTRY, "own")]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/token2", None),
        ("https://auth.example/token2", None),
        ("https://evil.example/token", errors.UpstreamRefused),
        ("http://registry.example/token", errors.UpstreamRefused),
        ("/token", errors.UpstreamInvalid),
    ],
    ids=["same host", "agreed host", "elsewhere", "http", "loop"],
)
def test_a_token_servers_redirects_are_under_the_same_rule(
    tmp_path: Path, location: str, expected: type[errors.UpstreamError] | None
) -> None:
    """And the password stays on the host it was meant for."""
    net = Net()
    guarded = Guarded(net)
    guarded.grant = lambda asked: (
        guarded.give(asked) if "token2" in asked.target else Reply(307, {"Location": location})
    )
    asking = upstream(net, auth_hosts=("auth.example",), username="user", password_file=password(tmp_path))
    if expected is None:
        assert net.result(asking.manifest("a", "t")).data == MANIFEST
        assert guarded.token_requests()[1].one("authorization") == (BASIC if location == "/token2" else None)
    else:
        assert type(net.fault(asking.manifest("a", "t"))) is expected
        assert {asked.origin for asked in net.asked} == {REGISTRY}


# -- passwords ------------------------------------------------------------------------------------------------------

BASIC = "Basic " + base64.b64encode(b"user:pa ss").decode()


def password(folder: Path, text: str = "pa ss\n") -> Path:
    path = folder / "password"
    path.write_text(text, newline="")
    return path


def basic_registry(net: Net, accepted: list[str]) -> None:
    net.servers[REGISTRY] = lambda asked: (
        OK if asked.one("authorization") in accepted else Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})
    )


def test_basic_is_answered_with_the_password(tmp_path: Path) -> None:
    """Private registries, and ECR."""
    net = Net()
    basic_registry(net, [BASIC])
    asking = upstream(net, username="user", password_file=password(tmp_path))
    assert net.result(asking.manifest("a", "t")).data == MANIFEST
    net.asked.clear()
    net.result(asking.manifest("a", "t"))
    assert [asked.one("authorization") for asked in net.asked] == [BASIC]


def test_a_token_is_preferred_to_the_password(tmp_path: Path) -> None:
    """A registry that offers both does not get the password."""
    net = Net()
    guarded = Guarded(net, AUTH + "/token")
    registry: Server = guarded.registry

    def both(asked: Asked) -> Reply | None:
        reply = registry(asked)
        if reply is not None and reply.status == 401:
            reply.fields["WWW-Authenticate"] = [
                'Negotiate, Basic realm="a, b"',
                f'bEaReR realm="{AUTH}/token", service="reg"',
            ]
        return reply

    net.servers[REGISTRY] = both
    asking = upstream(net, auth_hosts=("auth.example",), username="user", password_file=password(tmp_path))
    assert net.result(asking.manifest("a", "t")).data == MANIFEST
    assert [asked.origin for asked in net.asked if asked.one("authorization") == BASIC] == [AUTH]


def test_no_password_no_basic() -> None:
    """Nothing is sent when there is nothing to send."""
    net = Net()
    basic_registry(net, [])
    assert type(net.fault(upstream(net).manifest("a", "t"))) is errors.UpstreamDenied
    assert len(net.asked) == 1


def test_a_wrong_password_is_not_sent_again_for_one_question(tmp_path: Path) -> None:
    """Registries lock accounts."""
    net = Net()
    basic_registry(net, [])
    asking = upstream(net, username="user", password_file=password(tmp_path))
    assert type(net.fault(asking.manifest("a", "t"))) is errors.UpstreamDenied
    assert [asked.one("authorization") for asked in net.asked] == [None, BASIC]
    net.asked.clear()
    net.fault(asking.manifest("a", "t"))
    assert [asked.one("authorization") for asked in net.asked] == [BASIC]


def test_a_new_password_is_taken_up_without_a_restart(tmp_path: Path) -> None:
    """ECR's passwords live twelve hours; a timer writes the next one into the file."""
    net = Net()
    path = password(tmp_path, "old")
    new = "Basic " + base64.b64encode(b"user:new").decode()
    basic_registry(net, ["Basic " + base64.b64encode(b"user:old").decode()])
    asking = upstream(net, username="user", password_file=path)
    net.result(asking.manifest("a", "t"))
    basic_registry(net, [new])
    path.write_text("new\n")
    os.utime(path, ns=(1, 1))
    assert net.result(asking.manifest("a", "t")).data == MANIFEST


def test_a_new_password_gets_a_token_of_its_own(tmp_path: Path) -> None:
    """A token belongs to the credentials it was asked with."""
    net = Net()
    guarded = Guarded(net)
    path = password(tmp_path, "old")
    asking = upstream(net, username="user", password_file=path)
    net.result(asking.manifest("a", "t"))
    path.write_text("new")
    os.utime(path, ns=(1, 1))
    net.result(asking.manifest("a", "t"))
    assert guarded.given == 2


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    """Said as what it is, not as the registry's refusal."""
    net = Net()
    basic_registry(net, [BASIC])
    fault = net.fault(upstream(net, username="user", password_file=tmp_path / "gone").manifest("a", "t"))
    assert type(fault) is errors.UpstreamDenied
    assert "password_file" in str(fault) and "No such file" in str(fault)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("x", "x"), ("x\n", "x"), ("x\r\n", "x"), ("x\n\n", "x\n"), (" x ", " x "), ("", ""), ("x\r", "x\r")],
)
def test_one_newline_at_the_end_is_not_part_of_the_password(tmp_path: Path, written: str, meant: str) -> None:
    """Editors and echo put one there; everything else may be meant."""
    assert Credentials("u", "user", password(tmp_path, written)).danger_real_password() == meant


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """Neither by repr nor by the identity that goes into keys."""
    credentials = Credentials("u", "user", password(tmp_path, "hunter2"))
    assert credentials.danger_real_password() == "hunter2"
    shown = repr(credentials) + str(credentials) + credentials.identity + repr(vars(credentials)["_file"])
    assert "hunter2" not in shown


# -- the answer's URL -----------------------------------------------------------------------------------------------


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

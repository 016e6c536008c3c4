"""Bearer tokens: when one is asked for, how long it serves, and what token servers say."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from appliance import errors
from appliance.flow.disk import InlineThreads
from appliance.upstream.credentials.configured import PasswordFile
from appliance.upstream.credentials.renewing import RenewingCredential
from appliance.upstream.http.tokens import MOST, Token, TokenKey, Tokens
from appliance.upstream.interfaces import Health, IAdapter
from appliance.upstream.kinds.ecr import Ecr, EcrPublic
from appliance.upstream.kinds.standard import Standard
from tests.doubles.deferreds import pending
from tests.rooms.upstream.guarded import (
    MANIFEST,
    OK,
    Guarded,
    bearer,
    password,
    token,
)
from tests.rooms.upstream.net import REGISTRY, Asked, Net, Reply, Server, upstream


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


EXPIRED_AT_ECR = Reply(403, {}, b'{"errors":[{"code":"DENIED","message":"Your authorization token has expired."}]}')


@pytest.mark.parametrize(
    ("adapter", "refusal"),
    [(Ecr(), EXPIRED_AT_ECR), (EcrPublic(), Reply(400, {}, b"bad"))],
    ids=["ECR", "public ECR"],
)
def test_an_old_token_refused_in_the_registrys_own_way_is_replaced(adapter: IAdapter, refusal: Reply) -> None:
    """ECR says 403, public.ecr.aws says 400, both mean 401."""
    net = Net()
    guarded = Guarded(net)
    asking = upstream(net, adapter=adapter)
    net.result(asking.manifest("a", "t"))
    registry: Server = guarded.registry
    net.servers[REGISTRY] = lambda asked: refusal if asked.one("authorization") == "Bearer t1" else registry(asked)
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


@pytest.mark.parametrize("status", [400, 403])
def test_what_one_kind_of_registry_means_by_a_status_others_do_not(status: int) -> None:
    """At a standard registry a 403 with ECR's words is a 403."""
    net = Net()
    guarded = Guarded(net)
    asking = upstream(net)
    net.result(asking.manifest("a", "t"))
    net.servers[REGISTRY] = lambda asked: Reply(status, {}, EXPIRED_AT_ECR.body)
    net.fault(asking.manifest("a", "t"))
    assert guarded.given == 1


class _Classed(Standard):
    """A kind of registry with scopes of its own."""

    def scope(self, repository: str) -> str:
        return f"repository(plugin):{repository}:pull"


def test_the_scope_is_the_adapters_to_say() -> None:
    """A site's own adapter may know a registry that wants another one."""
    net = Net()
    guarded = Guarded(net)
    net.result(upstream(net, adapter=_Classed()).manifest("a/b", "t"))
    assert "scope=repository%28plugin%29%3Aa%2Fb%3Apull" in guarded.token_requests()[0].target


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


@pytest.mark.parametrize("status", [200, 302, 401, 404, 503])
def test_a_probe_shows_nothing_and_asks_once(tmp_path: Path, status: int) -> None:
    """Whether a URL is back is found out as any client could: one request, no redirect, no token, no password."""
    net = Net()
    net.servers[REGISTRY] = lambda asked: Reply(
        status, {"Location": "/x", "WWW-Authenticate": 'Basic realm="x"'}, b"no"
    )
    credentials = RenewingCredential(PasswordFile("user", password(tmp_path), "up.example", InlineThreads()), net.clock)
    asking = upstream(net, [REGISTRY + "/prefix"], credentials=credentials)
    net.holes.add(REGISTRY)
    unanswered = asking.manifest("a", "t")
    net.clock.advance(30)
    assert type(net.fault(unanswered)) is errors.UpstreamTimeout
    net.holes.clear()
    net.clock.advance(2)
    net.settle()
    assert net.urls() == [REGISTRY + "/prefix/v2/"]
    assert net.asked[0].one("authorization") is None
    assert asking.condition().urls[0].health is (Health.SUSPECT if status == 503 else Health.UP)


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


def test_tokens_for_names_that_clients_make_up_are_bounded() -> None:
    """A token server that has one for every name does not fill the memory; the oldest makes room."""
    tokens = Tokens(Clock())
    asked: list[str] = []

    def use(name: str) -> None:
        async def fetch() -> Token:
            asked.append(name)
            return Token("t", 3600.0)

        tokens.get(TokenKey("docker.io", REGISTRY, "", "https://auth.example", None, name), fetch)

    names = [f"repository:made/up-{number}:pull" for number in range(MOST + 1)]
    for name in names:
        use(name)
    asked.clear()
    for name in (names[-1], names[1], names[0]):
        use(name)
    assert asked == [names[0]]

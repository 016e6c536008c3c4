"""Tokens and passwords: who gets to see which, and when one is asked for."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, unquote_plus

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure

from appliance import errors
from appliance.flow.threads import InlineThreads
from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings
from appliance.upstream.client import RegistryClient
from appliance.upstream.credentials.configured import credentials_for
from appliance.upstream.credentials.file import PasswordFile
from appliance.upstream.credentials.renewing import RenewingCredential
from appliance.upstream.http.auth import Presented
from appliance.upstream.http.tokens import MOST, Token, TokenKey, Tokens
from appliance.upstream.interfaces import FetchedManifest, Health, IAdapter, Secret
from appliance.upstream.kinds.dockerhub import DockerHub
from appliance.upstream.kinds.ecr import Ecr, EcrPublic
from appliance.upstream.kinds.standard import Standard
from appliance.upstream.url import Url
from tests.rooms.upstream.net import (
    AUTH,
    REGISTRY,
    Asked,
    Net,
    Reply,
    Server,
    arguments,
    failure_of,
    now,
    pending,
    upstream,
)

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
    """Whether a URL is back is found out as anybody could: one request, no redirect, no token, no password."""
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


# -- the realm rule -------------------------------------------------------------------------------------------------

REALMS = [
    ("https://registry.example/token", (), None),
    ("https://REGISTRY.example:443/token", (), None),
    ("https://auth.example/token", ("auth.example",), None),
    ("https://auth.example:8443/token", ("auth.example",), None),
    ("https://auth.example:8443/token", ("auth.example:8443",), None),
    ("https://auth.example/token", ("auth.example:443",), None),
    ("https://auth.example/token", ("Auth.Example",), None),
    ("https://auth.example/token", ("*.example",), None),
    ("https://auth.example/token", ("auth.example:8443",), errors.UpstreamRefused),
    ("https://auth.example/token", ("*.auth.example",), errors.UpstreamRefused),
    ("https://evilexample/token", ("*.example",), errors.UpstreamRefused),
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
    for origin in (
        "https://auth.example:8443",
        "https://evil.example",
        "http://registry.example",
        "http://auth.example",
    ):
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
    assert net.result(upstream(net, adapter=DockerHub()).manifest("library/nginx", "t")).data == MANIFEST


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
        (REGISTRY + ":8443/token2", None),
        ("https://evil.example/token", errors.UpstreamRefused),
        ("http://registry.example/token", errors.UpstreamRefused),
        ("/token", errors.UpstreamInvalid),
    ],
    ids=["same host", "agreed host", "same host, other port", "elsewhere", "http", "loop"],
)
def test_a_token_servers_redirects_are_under_the_same_rule(
    tmp_path: Path, location: str, expected: type[errors.UpstreamError] | None
) -> None:
    """And the password stays at the origin it was meant for: another port is another server."""
    net = Net()
    guarded = Guarded(net)
    net.servers[REGISTRY + ":8443"] = guarded.registry
    guarded.grant = lambda asked: (
        guarded.give(asked) if "token2" in asked.target else Reply(307, {"Location": location})
    )
    agreed = ("auth.example", "registry.example:8443")
    asking = upstream(net, auth_hosts=agreed, username="user", password_file=password(tmp_path))
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
    """Registries lock accounts. The error says which file is to be put right."""
    net = Net()
    basic_registry(net, [])
    asking = upstream(net, username="user", password_file=password(tmp_path))
    fault = net.fault(asking.manifest("a", "t"))
    assert type(fault) is errors.UpstreamDenied
    assert [asked.one("authorization") for asked in net.asked] == [None, BASIC]
    assert f"password_file {tmp_path}/password" in str(fault)
    assert "pa ss" not in str(fault)


def test_a_wrong_password_is_not_sent_for_the_next_hundred_questions_either(tmp_path: Path) -> None:
    """A cluster that pulls on gets no account locked: nothing is sent at all, and the answer comes at once."""
    net = Net()
    basic_registry(net, [])
    asking = upstream(net, username="user", password_file=password(tmp_path))
    net.fault(asking.manifest("a", "t"))
    net.asked.clear()
    for number in range(100):
        net.clock.advance(0.5)
        fault = failure_of(asking.manifest(f"repository{number}", "t"))
        assert type(fault) is errors.UpstreamDenied
        assert f"password_file {tmp_path}/password" in str(fault)
    assert net.asked == []


def test_a_refused_password_is_tried_by_one_question_a_minute_later(tmp_path: Path) -> None:
    """The registry may have been put right; if not, it sees one try, not a hundred."""
    net = Net()
    basic_registry(net, [])
    asking = upstream(net, username="user", password_file=password(tmp_path))
    net.fault(asking.manifest("a", "t"))
    net.asked.clear()
    net.clock.advance(60)
    asked = [asking.manifest("a", f"t{number}") for number in range(100)]
    assert {type(net.fault(each)) for each in asked} == {errors.UpstreamDenied}
    assert [each.one("authorization") for each in net.asked] == [BASIC]
    basic_registry(net, [BASIC])
    net.clock.advance(60)
    assert net.result(asking.manifest("a", "t")).data == MANIFEST
    assert net.result(asking.manifest("a", "t")).data == MANIFEST


def test_a_refused_password_is_shown_again_as_soon_as_its_file_changes(tmp_path: Path) -> None:
    """Who corrects it does not have to wait or to restart anything."""
    net = Net()
    path = password(tmp_path, "wrong")
    basic_registry(net, [BASIC])
    asking = upstream(net, username="user", password_file=path)
    net.fault(asking.manifest("a", "t"))
    password(tmp_path)
    assert net.result(asking.manifest("a", "t")).data == MANIFEST


def test_a_password_the_token_server_refuses_is_not_sent_to_it_again(tmp_path: Path) -> None:
    """Docker Hub bans who tries too often; what is asked for another repository is the same login."""
    net = Net()
    guarded = Guarded(net)
    guarded.grant = lambda asked: Reply(401, {}, b'{"details":"incorrect username or password"}')
    asking = upstream(net, username="user", password_file=password(tmp_path))
    assert type(net.fault(asking.manifest("a", "t"))) is errors.UpstreamDenied
    net.asked.clear()
    for number in range(100):
        fault = failure_of(asking.manifest(f"repository{number}", "t"))
        assert type(fault) is errors.UpstreamDenied
        assert "password_file" in str(fault)
    assert net.asked == []


@pytest.mark.parametrize("status", [401, 403])
def test_one_forbidden_repository_does_not_keep_us_from_the_others(tmp_path: Path, status: int) -> None:
    """GitLab and GHCR refuse a token for what one may not have just as they refuse a wrong password."""
    net = Net()
    guarded = Guarded(net)
    guarded.grant = lambda asked: Reply(status) if "secret" in asked.target else guarded.give(asked)
    asking = upstream(net, username="user", password_file=password(tmp_path))
    net.result(asking.manifest("a", "t"))
    assert type(net.fault(asking.manifest("secret", "t"))) is errors.UpstreamDenied
    net.asked.clear()
    assert net.result(asking.manifest("b", "t")).data == MANIFEST
    assert [asked.one("authorization") for asked in net.asked] == [BASIC, "Bearer t3"]


def test_a_forbidden_repository_may_be_the_first_one_that_is_asked_for(tmp_path: Path) -> None:
    """Before the password has been accepted once, a 403 says nothing of it."""
    net = Net()
    guarded = Guarded(net)
    guarded.grant = lambda asked: Reply(403) if "secret" in asked.target else guarded.give(asked)
    asking = upstream(net, username="user", password_file=password(tmp_path))
    assert type(net.fault(asking.manifest("secret", "t"))) is errors.UpstreamDenied
    assert net.result(asking.manifest("b", "t")).data == MANIFEST


def test_one_repository_forbidden_by_a_registry_with_passwords_does_not_either(tmp_path: Path) -> None:
    """Nexus answers 401 to somebody it knows; /v2/ tells whether it does."""
    net = Net()

    def registry(asked: Asked) -> Reply:
        known = asked.one("authorization") == BASIC and "/secret/" not in asked.target
        return OK if known else Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})

    net.servers[REGISTRY] = registry
    asking = upstream(net, username="user", password_file=password(tmp_path))
    net.result(asking.manifest("a", "t"))
    assert type(net.fault(asking.manifest("secret", "t"))) is errors.UpstreamDenied
    assert net.result(asking.manifest("b", "t")).data == MANIFEST


@pytest.mark.parametrize(
    ("username", "secret"),
    [("robot$project+name", "p+a:s$s"), ("üser", "pässwörd €"), ("u", "a b\tc"), ("", "x"), ("u", "%41&=+;")],
)
def test_any_password_arrives_as_it_is(tmp_path: Path, username: str, secret: str) -> None:
    """Harbor's robots are called robot$project+name, and passwords hold what people put into them (RFC 7617, UTF-8)."""
    net = Net()
    basic_registry(net, ["Basic " + base64.b64encode(f"{username}:{secret}".encode()).decode()])
    path = tmp_path / "password"
    path.write_text(secret, encoding="utf-8")
    assert net.result(upstream(net, username=username, password_file=path).manifest("a", "t")).data == MANIFEST


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
    source = PasswordFile("user", password(tmp_path, written), "up.example", InlineThreads())
    assert now(Deferred.fromCoroutine(source.read(again=False))) == Secret("", "user", meant)


# -- tokens that are given to us -----------------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


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
    """Somebody wrote something else into the file."""
    net = Net()
    Guarded(net)
    fault = net.fault(upstream(net, token_file=write(tmp_path / "token", text)).manifest("a", "t"))
    assert type(fault) is errors.UpstreamDenied
    assert "Evil" not in str(fault)
    assert {asked.one("authorization") for asked in net.asked} == {None}


def identity(folder: Path, text: str = "re+fr$sh &=") -> Path:
    entry = {"auth": base64.b64encode(b"00000000-0000:").decode(), "identitytoken": text}
    return write(folder / "config.json", json.dumps({"auths": {"registry.example": entry}}))


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


# -- rotation -------------------------------------------------------------------------------------------------------


def basic_of(text: str) -> str:
    return "Basic " + base64.b64encode(f"user:{text}".encode()).decode()


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
    """Everybody gets 200 at /v2/ there, so a wrong password is not taken for a good one."""
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
        led = reply is not None and reply.status == 200 and "/blobs/" in asked.target
        return Reply(307, {"Location": "https://cdn.example/x"}) if led else reply

    net.servers[REGISTRY] = blobs_elsewhere
    net.servers["https://cdn.example"] = lambda asked: OK
    path = password(tmp_path, "old")
    asking = upstream(net, username="user", password_file=path)
    net.result(asking.blob("a", Digest.of(MANIFEST))).abandon()
    changed_at_the_registry_first(net, asking, path, rotated)


def test_a_password_taken_away_under_load_is_not_shown_on(tmp_path: Path) -> None:
    """Nobody writes a new one: after three seconds every pull is denied at once, and the registry has peace."""
    net = Net()
    rotated = Rotated(net, bearer=False)
    asking = upstream(net, username="user", password_file=password(tmp_path, "old"))
    net.clock.callLater(2.0, rotated.switch, "new")
    _, failed = pull_on(net, asking, clients=20, seconds=8)
    assert len(failed) > 100
    assert {failure.type for failure in failed} == {errors.UpstreamDenied}
    assert rotated.wrong <= 21


def test_tokens_of_the_old_password_are_not_used_with_the_new_one(tmp_path: Path) -> None:
    """The new one may be somebody else's, who may see less."""
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


# -- what nobody may see --------------------------------------------------------------------------------------------

CANARY = "c4n4ry-h0-h0"


def repeating(asked: Asked, status: int = 500, **fields: str) -> Reply:
    """A refusal that repeats whatever it was sent, as Artifactory repeats tokens it does not know."""
    said = f"{asked.one('authorization') or ''} {unquote_plus(asked.body.decode())}"
    if said.startswith("Basic "):
        said += base64.b64decode(said.split()[1]).decode()
    error = json.dumps({"errors": [{"code": "DENIED", "message": f"bad token: {said}"}]})
    return Reply(status, {name.replace("_", "-"): value for name, value in fields.items()}, error.encode())


@pytest.mark.parametrize("way", ["password_file", "token_file", "auth_file"])
@pytest.mark.parametrize(
    "scheme",
    [f'Bearer realm="{REGISTRY}/token",service="s"', 'Basic realm="x"', 'Bearer realm="https://evil.example/"'],
)
@pytest.mark.parametrize(
    "reply", [Reply(401), Reply(403), Reply(500), Reply(200, {}, b"<"), token(), token(CANARY), repeating, None]
)
@pytest.mark.parametrize("refused", [401, 403, 500])
def test_secrets_are_not_shown(
    tmp_path: Path, way: str, scheme: str, reply: Reply | Callable[[Asked], Reply] | None, refused: int
) -> None:
    """Whatever the registry and its token server answer: no error, repr or log line holds the secret."""
    net = Net()

    def answer(asked: Asked) -> Reply | None:
        if "/token" not in asked.target:
            status = 401 if asked.one("authorization") is None else refused
            return repeating(asked, status, WWW_Authenticate=scheme)
        return reply(asked) if callable(reply) else reply

    net.servers[REGISTRY] = answer
    events: list[LogEvent] = []
    observer: ILogObserver = events.append  # type: ignore[assignment]
    globalLogPublisher.addObserver(observer)
    try:
        path = identity(tmp_path, CANARY) if way == "auth_file" else write(tmp_path / "file", CANARY)
        files = {way: path, "username": "user"} if way == "password_file" else {way: path}
        named = UpstreamSettings(name="u", urls=(REGISTRY,), **files)
        credentials = credentials_for(named, Url.parse(REGISTRY), arguments(net.clock))
        assert credentials is not None
        secret = now(credentials.current())
        asking = upstream(net, credentials=credentials)
        question = asking.manifest("a", "t")
        net.settle()
        net.clock.advance(100)
        fault = failure_of(question)
        shown = [str(fault), repr(fault), Failure(fault).getTraceback(), repr(secret), repr(credentials), repr(asking)]
        shown += [repr(vars(credentials)), repr(Presented(b"Basic " + CANARY.encode(), secret=secret)), secret.identity]
    finally:
        globalLogPublisher.removeObserver(observer)
    assert isinstance(fault, errors.UpstreamError)
    for text in (*shown, *map(repr, events)):
        assert CANARY not in text
        assert base64.b64encode(CANARY.encode()).decode()[:12] not in text


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


# -- one secret for one host ----------------------------------------------------------------------------------------

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
def test_a_host_that_the_file_does_not_know_is_asked_as_anybody(tmp_path: Path, order: tuple[str, str]) -> None:
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
    """Nobody restarts for it."""
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

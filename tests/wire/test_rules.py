"""
What may not be read does not exist: no way of asking answers what the rules refuse, held or not, prepared or under way.

Clients are told apart by their addresses, and on a listener with a login by their users.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import ISSLTransport
from zope.interface import alsoProvides

from appliance import config
from appliance.cache.access import Client
from appliance.flow.disk import InlineThreads
from appliance.identity.passwords import Passwords
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.settings import LIST, PULL, RuleSettings
from tests.doubles.manifests import CONFIG, descriptor, image, index
from tests.wire.line import GHCR, HUB, IMAGE, INDEX, LARGE, LAYER, Answer, Fields, Line, Shop, blob, manifest, request


@dataclass(frozen=True)
class Asker:
    """Somebody at an address: with a password, or anonymous."""

    address: str
    user: str | None = None

    @property
    def fields(self) -> list[tuple[str, str]]:
        if self.user is None:
            return []
        return [("Authorization", "Basic " + b64encode(f"{self.user}:of {self.user}".encode()).decode())]


INSIDE, OUTSIDE = Asker("10.0.0.1"), Asker("192.0.2.9")
ANN, BOB = Asker("192.0.2.9", "ann"), Asker("192.0.2.9", "bob")
ASKERS = [INSIDE, OUTSIDE, ANN, BOB]
TEAM = "ghcr.io/team/app"
SIGNATURE = image(b"a signature", subject=descriptor(OCI_MANIFEST, IMAGE))
#: Anybody may write it: it names what is the team's.
THEFT = index(IMAGE, SIGNATURE)
NOTHING = Digest.of(b"there is no such thing")

FOR_THE_TEAM = "[{allow: {networks: 10.0.0.0/8}}, {allow: {repositories: 'docker.io/**'}}]"
RULES = [
    "[]",
    FOR_THE_TEAM,
    "[{deny: {networks: 192.0.2.0/24, repositories: 'ghcr.io/**'}}, {allow: {}}]",
    "[{deny: {actions: list, repositories: '*/team/**'}}, {allow: {}}]",
    "[{allow: {actions: list}}]",
    "[{allow: {repositories: 'docker.io/library/*'}}]",
    "[{allow: {users: '*'}}]",
    "[{allow: {users: ann}}, {allow: {repositories: 'docker.io/**'}}]",
    "[{deny: {users: bob, repositories: 'ghcr.io/**'}}, {allow: {listeners: door}}]",
    "[{deny: {}}]",
]


def rules(written: str) -> tuple[RuleSettings, ...]:
    return config.parse(f"access: {written}\nlisten: [{{endpoint: 'tcp:1', name: door}}]", "/p").access


class Site(Shop):
    """
    The team's image at GHCR with what refers to it, another at Docker Hub beside a list that names the team's, and
    clients at several addresses.
    """

    def __init__(self, written: str = "[]", login: str = "none") -> None:
        super().__init__(access=rules(written))
        checker = InMemoryUsernamePasswordDatabaseDontUse(ann=b"of ann", bob=b"of bob")
        self.passwords = Passwords([checker], self.clock, InlineThreads())
        self.listen = structs.replace(self.listen, name="door", login=login)
        self.settings = structs.replace(self.settings, listen=(self.listen,))
        self.rule(written)
        self.ghcr.add_manifest("team/app", SIGNATURE, OCI_MANIFEST, "sig")
        self.ghcr.add_blob("team/app", b"a signature")
        described = json.dumps(descriptor(OCI_MANIFEST, SIGNATURE)).encode()
        self.ghcr.add_referrers("team/app", Digest.of(IMAGE), described)
        self.hub.add_manifest("mine/list", THEFT, OCI_INDEX, "latest")
        self.lines: dict[Asker, Line] = {}

    def rule(self, written: str) -> None:
        """The configuration is read again, with other rules."""
        self.settings = structs.replace(self.settings, access=rules(written))
        self.cache.services.configure(self.settings)
        self.listener.configure(self.settings, self.listen, self.passwords)

    def line_of(self, who: Asker) -> Line:
        """A new connection, with TLS."""
        line = Line(self.listener)
        line.transport.peerAddr = IPv4Address("TCP", who.address, 40000)
        alsoProvides(line.transport, ISSLTransport)
        return line

    def asked(self, who: Asker, method: str, path: str, fields: Fields = ()) -> Answer:
        """Over the one connection that each asker keeps."""
        line = self.lines.setdefault(who, self.line_of(who))
        return line.ask(method, path, [*who.fields, *fields])

    def allows(self, who: Asker, upstream: str, name: str, action: str) -> bool:
        """What the rules say."""
        access, user = self.cache.access, None if self.listen.login == "none" else who.user
        client = Client(who.address, user, listener="door")
        return access.decide(access.remotes[upstream].repository(name), client, action).allowed

    def refusal(self, who: Asker) -> tuple[int, str]:
        """The status of what may not be had, and what is said with it."""
        if self.listen.login == "none":
            return 404, f"does not exist, or may not be read from {who.address}"
        return (401, "log in: docker login cache.test") if who.user is None else (404, f"or {who.user} may not read it")


@dataclass(frozen=True)
class Way:
    """A way of asking for something: the prefix of a path, what stands behind it, and what it means."""

    prefix: str
    query: str
    upstream: str
    name: str

    def path(self, rest: str) -> str:
        return f"/v2/{self.prefix}/{rest}{self.query}"


WAYS = [
    *(Way(each, "", GHCR, "team/app") for each in (TEAM, "GHCR.io/team/app", "ghcr.io:443/team/app")),
    Way("team/app", "?ns=ghcr.io", GHCR, "team/app"),
    Way("team/app", "?ns=ghcr.io%3A443", GHCR, "team/app"),
    Way(TEAM, "?ns=ghcr.io", GHCR, "team/app"),
    Way("app", "", HUB, "app"),
    Way("library/app", "", HUB, "library/app"),
    Way("index.docker.io/app", "", HUB, "app"),
    Way("app", "?ns=docker.io", HUB, "app"),
    Way("mine/list", "", HUB, "mine/list"),
]
MANIFESTS = ["latest", "multi", "sig", Digest.of(IMAGE), Digest.of(INDEX), Digest.of(SIGNATURE), Digest.of(THEFT)]
RESTS = [
    *(f"manifests/{each}" for each in (*MANIFESTS, NOTHING, "absent")),
    *(f"blobs/{Digest.of(each)}" for each in (LAYER, LARGE, CONFIG, b"a signature", IMAGE)),
    f"blobs/{NOTHING}",
    "tags/list",
    f"referrers/{Digest.of(IMAGE)}",
    f"referrers/{NOTHING}",
]
FIELDS: list[Fields] = [
    (),
    [("Range", "bytes=100-199")],
    [("Range", "bytes=0-0,5-9")],
    [("If-None-Match", f'"{Digest.of(IMAGE)}"')],
    [("X-Forwarded-For", INSIDE.address)],
]
#: Parts of what is the team's, none of which is in an error.
SECRETS = [LAYER[:64], LARGE[:64], b'"config"', b"a signature", b'"sig"', str(Digest.of(SIGNATURE)).encode()]

steps = st.tuples(
    st.sampled_from(["GET", "GET", "HEAD"]),
    st.sampled_from(ASKERS),
    st.sampled_from(WAYS),
    st.sampled_from(RESTS),
    st.sampled_from(FIELDS),
    st.none() | st.sampled_from(RULES),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(RULES),
    st.sampled_from(["none", "offered"]),
    st.booleans(),
    st.lists(steps, min_size=1, max_size=12),
)
def test_no_way_of_asking_answers_what_the_rules_refuse(
    written: str, login: str, warm: bool, asked: list[tuple[str, Asker, Way, str, Fields, str | None]]
) -> None:
    """
    By any name, for a tag, a digest, a child, a blob, a range, a list: the refusal is the same for what is there and
    for what is not, no upstream is asked for it, and it holds from the reload on. What is allowed is as without rules.
    """
    site, free = Site(login=login), Site(login=login)
    if warm:
        for each in (site, free):
            for way in (WAYS[0], WAYS[6], WAYS[10]):
                for rest in RESTS:
                    each.asked(INSIDE, "GET", way.path(rest))
    site.rule(written)
    for method, who, way, rest, fields, later in asked:
        if later is not None:
            site.rule(later)
        action = LIST if rest == "tags/list" else PULL
        calls = site.calls()
        answer = site.asked(who, method, way.path(rest), fields)
        if site.allows(who, way.upstream, way.name, action):
            as_ever = free.asked(who, method, way.path(rest), fields)
            assert answer.status == as_ever.status and answer.body == as_ever.body
        else:
            assert site.calls() == calls
            status, words = site.refusal(who)
            assert answer.status == status and (answer["WWW-Authenticate"] is None) is (status == 404)
            assert not any(secret in answer.raw for secret in SECRETS)
            other = rest.partition("/")[0] + f"/{NOTHING}" if action == PULL else rest
            absent = site.asked(who, method, way.path(other))
            assert answer.undated == absent.undated
            if method == "GET":
                assert words in answer.error["message"]


# -- one by one -----------------------------------------------------------------------------------------------------

#: What of a private image a client asks for.
PRIVATE: list[tuple[str, str]] = [
    ("by tag", manifest("latest", TEAM)),
    ("by digest", manifest(Digest.of(IMAGE), TEAM)),
    ("an index", manifest("multi", TEAM)),
    ("a child", manifest(Digest.of(IMAGE), TEAM)),
    ("a small blob", blob(LAYER, TEAM)),
    ("a large blob", blob(LARGE, TEAM)),
    ("a referrer", manifest(Digest.of(SIGNATURE), TEAM)),
    ("what refers to it", f"/v2/{TEAM}/referrers/{Digest.of(IMAGE)}"),
    ("its tags", f"/v2/{TEAM}/tags/list"),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("what", "path"), PRIVATE, ids=[what for what, _ in PRIVATE])
def test_what_others_pull_all_the_time_is_not_there_for_who_may_not(what: str, path: str, method: str) -> None:
    """Held, prepared for the next who asks, and on a connection that is kept open."""
    site = Site(FOR_THE_TEAM)
    for _ in range(3):
        assert site.asked(INSIDE, method, path).status == 200
        refused = site.asked(OUTSIDE, method, path)
        assert refused.status == 404 and not any(secret in refused.raw for secret in SECRETS)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("what", "path"), PRIVATE, ids=[what for what, _ in PRIVATE])
def test_a_private_image_is_there_for_its_user_alone(what: str, path: str, method: str) -> None:
    """Once it is held: 401 for the anonymous, 404 for the wrong user, 200 for the right one, each time."""
    site = Site("[{allow: {users: ann}}, {allow: {repositories: 'docker.io/**'}}]", "offered")
    for _ in range(4):
        assert site.asked(ANN, method, path).status == 200
        for who, status in ((OUTSIDE, 401), (BOB, 404)):
            refused = site.asked(who, method, path)
            assert refused.status == status and not any(secret in refused.raw for secret in SECRETS)


@pytest.mark.parametrize("stolen", [IMAGE, SIGNATURE])
def test_what_anothers_index_names_is_not_read_through_it(stolen: bytes) -> None:
    """Who may not read the team's repository lists its digests in an own one, and gets what its upstream has there."""
    site = Site(FOR_THE_TEAM)
    assert site.asked(INSIDE, "GET", manifest(Digest.of(stolen), TEAM)).status == 200
    assert site.asked(OUTSIDE, "GET", manifest("latest", "mine/list")).body == THEFT
    for method in ("GET", "HEAD"):
        assert site.asked(OUTSIDE, method, manifest(Digest.of(stolen), "mine/list")).status == 404
        assert site.asked(OUTSIDE, method, blob(LAYER, "mine/list")).status == 404


@pytest.mark.parametrize("fields", [[], [("Range", "bytes=0-9")], [("Range", "bytes=-9")]])
def test_a_flight_for_others_is_not_joined(fields: Fields) -> None:
    """While it comes, neither its beginning nor its size is told; those who may go on reading it."""
    site = Site(FOR_THE_TEAM)
    site.ghcr.by_hand = True
    line = site.line_of(INSIDE)
    line.send(request("GET", blob(LARGE, TEAM)))
    site.ghcr.bodies[0].feed(100_000)
    for name in (TEAM, "team/app"):
        assert site.asked(OUTSIDE, "GET", blob(LARGE, name), fields).status == 404
        assert site.asked(OUTSIDE, "HEAD", blob(LARGE, name)).status == 404
    site.ghcr.bodies[0].complete()
    [answer] = line.answers("GET")
    assert answer.body == LARGE


def test_a_transfer_under_way_ends_as_it_began_and_the_next_is_under_the_new_rules() -> None:
    """A reload cuts nobody off."""
    site = Site()
    site.ghcr.by_hand = True
    line = site.line_of(OUTSIDE)
    line.send(request("GET", blob(LARGE, TEAM)))
    site.ghcr.bodies[0].feed(100_000)
    site.rule(FOR_THE_TEAM)
    site.ghcr.bodies[0].complete()
    [answer] = line.answers("GET")
    assert answer.body == LARGE
    assert line.ask("GET", blob(LARGE, TEAM)).status == 404


def test_who_may_not_read_a_repository_does_not_learn_what_its_upstream_lets_through() -> None:
    """The rules come before allow and deny, whose 403 would say that somebody meant that name."""
    site = Site()
    denying = structs.replace(site.settings.upstreams[GHCR], deny=("team/*",))
    site.settings = structs.replace(site.settings, upstreams={**site.settings.upstreams, GHCR: denying})
    site.rule(FOR_THE_TEAM)
    assert site.asked(INSIDE, "GET", manifest("latest", TEAM)).status == 403
    assert site.asked(OUTSIDE, "GET", manifest("latest", TEAM)).status == 404


def test_what_a_client_may_not_read_is_no_want_of_its_site() -> None:
    """The next bundle is not filled with what a stranger made up."""
    site = Site(FOR_THE_TEAM)
    for path in (manifest("latest", TEAM), blob(LAYER, TEAM), manifest("absent", TEAM)):
        assert site.asked(OUTSIDE, "GET", path).status == 404
    assert site.cache.services.wants.snapshot() == []


def test_the_list_of_tags_is_an_action_of_its_own() -> None:
    """Who may pull what is named need not see what there is; what refers to an image belongs to pulling it."""
    paths = {PULL: [path for _, path in PRIVATE[:-1]], LIST: [PRIVATE[-1][1]]}
    for action, other in ((PULL, LIST), (LIST, PULL)):
        site = Site(f"[{{allow: {{networks: 10.0.0.0/8, actions: {action}}}}}]")
        assert {site.asked(INSIDE, "GET", path).status for path in paths[action]} == {200}
        assert {site.asked(INSIDE, "GET", path).status for path in paths[other]} == {404}

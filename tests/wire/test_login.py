"""Who is let in by which listener, and what is told to whom; the hot lane and the routes as one."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import ISSLTransport
from twisted.web.test.requesthelper import DummyRequest
from zope.interface import alsoProvides

from appliance.admin.access import AccessPage
from appliance.bundle.names import Names
from appliance.cache.rules import AccessRules
from appliance.flow.disk import InlineThreads
from appliance.identity.htpasswd import HtpasswdChecker
from appliance.identity.passwords import Passwords
from appliance.registry import login
from appliance.settings import MatchSettings, RuleSettings
from tests.doubles.audit import NotedAudit
from tests.doubles.passwords import write_users
from tests.doubles.threads import HeldThreads
from tests.wire.line import LAYER, Answer, Line, Shop, blob, manifest, request

CHALLENGE = 'Basic realm="pullcache", charset="UTF-8"'
OUTSIDE, PROXY = "192.0.2.7", "10.0.0.1"
PING, OPEN, CLOSED = "/v2/", manifest(), "/v2/ghcr.io/team/app/manifests/latest"
NOBODY, ANN, BOB, WRONG = None, ("ann", "one"), ("bob", "two"), ("ann", "wrong")


class Door:
    """A listener over TLS: Docker Hub is for all, GHCR for ann; bob has a password, too."""

    def __init__(self, path: Path, login: str, threads: Any = None, *, proxies: Sequence[str] = ()) -> None:
        self.shop = shop = Shop()
        self.audit = shop.listener._login._audit = NotedAudit()  # type: ignore[assignment]
        checker = HtpasswdChecker(str(write_users(path / "htpasswd", {"ann": "one", "bob": "two"})))
        self.passwords = Passwords([checker], shop.clock, threads or InlineThreads())
        listen = structs.replace(shop.listen, name="door", login=login)
        rules = (
            RuleSettings(allow=MatchSettings(users=("ann",), repositories=("ghcr.io/**",))),
            RuleSettings(deny=MatchSettings(repositories=("ghcr.io/**",))),
            RuleSettings(allow=MatchSettings()),
        )
        trusted = tuple(map(ip_network, proxies))
        self.settings = structs.replace(shop.settings, listen=(listen,), access=rules, trusted_proxies=trusted)
        shop.cache.through.access.rules = AccessRules.of(self.settings)
        shop.listener.configure(self.settings, listen, self.passwords)
        self.served = 0
        serve = shop.listener._lane.serve

        def counted(*given: Any) -> int:
            octets = serve(*given)
            self.served += octets > 0
            return octets

        shop.listener._lane.serve = counted  # type: ignore[method-assign]

    def line(self, address: str = OUTSIDE, tls: bool = True) -> Line:
        line = Line(self.shop.listener)
        line.transport.peerAddr = IPv4Address("TCP", address, 4711)
        if tls:
            alsoProvides(line.transport, ISSLTransport)
        return line

    def ask(
        self,
        path: str,
        who: tuple[str, str] | None = None,
        *fields: tuple[str, str],
        method: str = "GET",
        address: str = OUTSIDE,
        tls: bool = True,
    ) -> Answer:
        line = self.line(address, tls)
        answer = line.ask(method, path, [*([] if who is None else [basic(*who)]), *fields])
        line.lose()
        return answer


def basic(user: str, password: str) -> tuple[str, str]:
    return "Authorization", "Basic " + b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("login", "who", "statuses"),
    [
        ("none", NOBODY, (200, 200, 404)),
        ("none", ANN, (200, 200, 404)),
        ("none", WRONG, (200, 200, 404)),
        ("offered", NOBODY, (200, 200, 401)),
        ("offered", ANN, (200, 200, 200)),
        ("offered", BOB, (200, 200, 404)),
        ("offered", WRONG, (401, 401, 401)),
        ("required", NOBODY, (401, 401, 401)),
        ("required", ANN, (200, 200, 200)),
        ("required", BOB, (200, 200, 404)),
        ("required", WRONG, (401, 401, 401)),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_gets_what(tmp_path: Path, login: str, who: Any, statuses: tuple[int, ...], method: str) -> None:
    """By listener and login; asked once or again and again, and by what was prepared for ann."""
    door = Door(tmp_path, login)
    for _ in range(2):
        for _ in range(3):
            for path, status in zip((PING, OPEN, CLOSED), statuses, strict=True):
                answer = door.ask(path, who, method=method)
                assert (path, answer.status) == (path, status)
                may_log_in = (path, login, who) == (PING, "offered", NOBODY)
                assert answer["WWW-Authenticate"] == (CHALLENGE if status == 401 or may_log_in else None)
        for path in (OPEN, CLOSED):
            for _ in range(3):
                door.ask(path, ANN, method=method)


def test_a_password_takes_the_hot_lane_once_it_is_known(tmp_path: Path) -> None:
    """The first request of a client is looked at; the others are as hot as those of a listener without logins."""
    door = Door(tmp_path, "required")
    for _ in range(3):
        assert door.ask(CLOSED, ANN).status == 200
    assert door.served == 1
    told = door.shop.accounts.told[-1]
    assert told[:2] == (OUTSIDE, "ann")
    door.shop.clock.advance(400.0)
    assert door.ask(CLOSED, ANN).status == 200
    assert door.ask(CLOSED, ANN).status == 200


def test_a_password_that_is_not_asked_for_is_as_good_as_none(tmp_path: Path) -> None:
    """podman and dockerd may send one for another reason; where nobody logs in it makes nothing slower."""
    door = Door(tmp_path, "none")
    for _ in range(3):
        assert door.ask(OPEN, WRONG).status == 200
    assert door.served == 1
    assert not door.audit.noted


def test_a_login_that_is_offered_is_offered_at_the_first_question(tmp_path: Path) -> None:
    """podman and skopeo show what they were given only where C{/v2/} asks for it; who may pass is not stopped there."""
    door = Door(tmp_path, "offered")
    offer = door.ask(PING)
    assert (offer.status, offer["WWW-Authenticate"]) == (200, CHALLENGE)
    assert door.ask(PING, ANN)["WWW-Authenticate"] is None
    assert door.ask(PING, tls=False)["WWW-Authenticate"] is None


@pytest.mark.parametrize("login", ["offered", "required"])
def test_what_podman_sends_without_a_password_is_none(tmp_path: Path, login: str) -> None:
    """An empty name with an empty password: it is asked to log in, and is not told that they are wrong."""
    door = Door(tmp_path, login)
    answer = door.ask(CLOSED, ("", ""))
    assert answer.status == 401
    assert "docker login cache.test" in answer.error["message"]
    assert door.ask(OPEN, ("", "")).status == (200 if login == "offered" else 401)
    assert not door.audit.noted


def test_a_user_reads_what_to_do(tmp_path: Path) -> None:
    """In the words of somebody who types docker pull."""
    required, offered = Door(tmp_path, "required"), Door(tmp_path, "offered")
    anonymous = required.ask(OPEN)
    assert anonymous.error == {
        "code": "UNAUTHORIZED",
        "message": "log in to use this registry: docker login cache.test",
    }
    assert required.ask(OPEN, WRONG).error["message"] == "the user name or the password is wrong"
    assert "docker login cache.test" in offered.ask(CLOSED).error["message"]
    assert "bob may not read it" in offered.ask(CLOSED, BOB).error["message"]


def test_a_user_and_a_stranger_are_refused_alike(tmp_path: Path) -> None:
    """Byte for byte."""
    door = Door(tmp_path, "required")
    assert door.ask(PING, WRONG).undated == door.ask(PING, ("nobody", "wrong")).undated


@pytest.mark.parametrize("login", ["offered", "required"])
def test_a_password_that_others_can_read_is_not_looked_at(tmp_path: Path, login: str) -> None:
    """Over plain HTTP from another machine: right or wrong, it is told so, and no challenge asks for another."""
    door = Door(tmp_path, login, HeldThreads())
    for who in (ANN, WRONG):
        answer = door.ask(PING, who, tls=False)
        assert (answer.status, answer.error["code"], answer["WWW-Authenticate"]) == (403, "DENIED", None)
        assert "use https" in answer.error["message"]
    anonymous = door.ask(CLOSED, tls=False)
    assert anonymous.status == (403 if login == "required" else 404)
    assert anonymous["WWW-Authenticate"] is None


def test_one_that_was_right_over_tls_is_not_taken_in_the_clear(tmp_path: Path) -> None:
    """Remembered or not."""
    door = Door(tmp_path, "required")
    for _ in range(3):
        assert door.ask(OPEN, ANN).status == 200
    assert door.ask(OPEN, ANN, tls=False).status == 403


def test_on_this_machine_a_password_needs_no_tls(tmp_path: Path) -> None:
    """Loopback is read by nobody else."""
    door = Door(tmp_path, "required")
    assert door.ask(OPEN, ANN, address="127.0.0.1", tls=False).status == 200
    assert door.ask(OPEN, address="127.0.0.1", tls=False).status == 401


def test_who_is_behind_a_proxy_is_who_the_proxy_says(tmp_path: Path) -> None:
    """In the log, hot or not, and only where the proxy is one of ours."""
    door = Door(tmp_path, "none", proxies=["10.0.0.0/24"])
    said = ("X-Forwarded-For", f"6.6.6.6, {OUTSIDE}")
    for _ in range(3):
        door.ask(OPEN, None, said, address=PROXY, tls=False)
    assert door.served == 1
    assert [told[0] for told in door.shop.accounts.told] == [OUTSIDE] * 3
    door.shop.accounts.told.clear()
    for _ in range(3):
        door.ask(OPEN, None, said, address="198.51.100.1", tls=False)
    assert [told[0] for told in door.shop.accounts.told] == ["198.51.100.1"] * 3


def test_a_refused_request_is_its_clients_too(tmp_path: Path) -> None:
    """What is logged of it is not the proxy's address."""
    door = Door(tmp_path, "required", proxies=["10.0.0.0/24"])
    for who in (None, WRONG):
        assert door.ask(OPEN, who, ("X-Forwarded-For", OUTSIDE), address=PROXY).status == 401
    assert [told[0] for told in door.shop.accounts.told] == [OUTSIDE] * 2


class Shown:
    """Certificates that clients show; C{names} are those in the one that is shown now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, door: Door, *, passwords: bool) -> None:
        self.names: tuple[str, ...] | None = None
        monkeypatch.setattr(login, "names_of", lambda transport, which: self.names)
        (listen,) = door.settings.listen
        listen = structs.replace(listen, client_ca_file=Path("/etc/pullcache/clients.pem"))
        door.shop.listener.configure(door.settings, listen, door.passwords if passwords else None)


@pytest.mark.parametrize("passwords", [True, False])
def test_a_certificate_is_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passwords: bool) -> None:
    """For as long as it is good: one that is revoked meanwhile is none from then on, on the same connection."""
    door = Door(tmp_path, "required")
    shown = Shown(monkeypatch, door, passwords=passwords)
    line = door.line()
    shown.names = ("ann", "ann.site")
    assert [line.ask("GET", CLOSED).status for _ in range(3)] == [200] * 3
    assert door.served == 1
    shown.names = ("bob",)
    assert line.ask("GET", CLOSED).status == 404
    for names in (None, ()):
        shown.names = names
        assert [line.ask("GET", OPEN).status for _ in range(3)] == [401] * 3
    told = [each[1] for each in door.shop.accounts.told]
    assert told == ["ann"] * 3 + ["bob"] + [None] * 6


def test_a_password_says_more_than_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user on a node with a certificate is that user; a wrong password is one there, too."""
    door = Door(tmp_path, "offered")
    shown = Shown(monkeypatch, door, passwords=True)
    shown.names = ("bob",)
    for _ in range(3):
        assert door.ask(CLOSED).status == 404
        assert door.ask(CLOSED, ANN).status == 200
        assert door.ask(CLOSED, WRONG).status == 401


def test_where_no_password_is_taken_none_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener for certificates alone: what is not for all is 404, and a password is as good as none."""
    door = Door(tmp_path, "offered")
    Shown(monkeypatch, door, passwords=False)
    for who in (None, ANN, WRONG):
        assert door.ask(CLOSED, who).status == 404
        assert door.ask(OPEN, who).status == 200


def test_each_request_of_one_connection_has_its_own_client(tmp_path: Path) -> None:
    """A proxy keeps connections for all its clients."""
    door = Door(tmp_path, "offered", proxies=["10.0.0.0/24"])
    line = door.line(PROXY)
    for _ in range(2):
        for who, address, status in ((ANN, "192.0.2.1", 200), (BOB, "192.0.2.2", 404), (None, "192.0.2.3", 401)):
            fields = [("X-Forwarded-For", address), *([basic(*who)] if who else [])]
            assert line.ask("GET", CLOSED, fields).status == status
            assert door.shop.accounts.told[-1][0] == address


@pytest.mark.parametrize(
    ("proto", "status"), [("https", 200), ("http", 403), ("https, http", 403), (None, 403)], ids=str
)
def test_the_proxy_says_whether_a_password_was_sheltered(tmp_path: Path, proto: str | None, status: int) -> None:
    """Where it speaks plain HTTP to us."""
    door = Door(tmp_path, "required", proxies=["10.0.0.0/24"])
    fields = [("X-Forwarded-For", OUTSIDE), *([] if proto is None else [("X-Forwarded-Proto", proto)])]
    for _ in range(3):
        assert door.ask(OPEN, ANN, *fields, address=PROXY, tls=False).status == status
    # Nobody else may say so.
    assert door.ask(OPEN, ANN, *fields, address="198.51.100.1", tls=False).status == 403


def test_a_proxy_that_writes_nonsense_is_refused(tmp_path: Path) -> None:
    """Whatever is prepared."""
    door = Door(tmp_path, "none", proxies=["10.0.0.0/24"])
    for _ in range(3):
        door.ask(OPEN)
    answer = door.ask(OPEN, None, ("X-Forwarded-For", "unknown"), address=PROXY)
    assert (answer.status, answer.error["code"]) == (400, "UNSUPPORTED")


def test_what_clients_make_up_behind_a_proxy_takes_little_memory(tmp_path: Path) -> None:
    """A long header that a proxy passes on is remembered by its length."""
    door = Door(tmp_path, "none", proxies=["10.0.0.0/24"])
    for number in range(120):
        door.ask(PING, None, ("X-Forwarded-For", f"{'x' * 50_000}{number}, {OUTSIDE}"), address=PROXY)
    assert door.shop.accounts.told[-1][0] == OUTSIDE
    assert 0 < door.shop.listener._login._origins.used <= login.SAID
    assert len(door.shop.listener._login._origins) < 100


def test_no_cache_on_the_way_gives_one_client_what_another_got(tmp_path: Path) -> None:
    """Whatever the answer is, hot or not; without rules and logins everything may be kept by everybody."""
    door = Door(tmp_path, "none")
    for path in (PING, OPEN, blob(LAYER), CLOSED, "/v2/app/tags/list"):
        for _ in range(3):
            told = door.ask(path)["Cache-Control"]
            assert told is not None and told.startswith("private")
    assert door.ask(blob(LAYER))["Cache-Control"] == "private, max-age=31536000, immutable"
    assert Shop().get(blob(LAYER))["Cache-Control"] == "max-age=31536000, immutable"
    assert Shop().get(OPEN)["Cache-Control"] is None


def test_refused_logins_are_noted_without_what_was_typed(tmp_path: Path) -> None:
    """A name that is no user's may be a password."""
    door = Door(tmp_path, "required")
    for who in (WRONG, ("hunter2", "hunter2")):
        assert door.ask(PING, who).status == 401
    door.ask(PING, ANN, tls=False)
    door.ask(PING)
    assert [each["outcome"] for each in door.audit.noted] == ["refused"] * 3
    assert [each.get("user") for each in door.audit.noted] == ["ann", None, None]
    for each in door.audit.noted:
        assert (each["action"], each["what"], each["means"], each["address"]) == ("login", "door", "basic", OUTSIDE)
    assert {told[1] for told in door.shop.accounts.told} == {None}


def test_a_checker_that_fails_is_noted_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged_errors: list[dict[str, Any]]
) -> None:
    """Its client is told to come again, and is not asked for another password."""
    door = Door(tmp_path, "required")

    def broken(*given: object) -> None:
        raise RuntimeError(given)

    monkeypatch.setattr(HtpasswdChecker, "requestAvatarId", broken)
    answer = door.ask(PING, ANN)
    assert (answer.status, answer.error["code"], answer["WWW-Authenticate"]) == (503, "UNAVAILABLE", None)
    (noted,) = door.audit.noted
    assert (noted["action"], noted["what"], noted["outcome"]) == ("login", "door", "failed")
    assert (noted["user"], noted["means"], noted["address"]) == ("ann", "basic", OUTSIDE)
    assert "one" not in str([each["log_format"] for each in logged_errors])
    logged_errors.clear()


def test_whoever_leaves_meanwhile_is_not_answered(tmp_path: Path) -> None:
    """And their password is remembered all the same, for the next request."""
    threads = HeldThreads()
    door = Door(tmp_path, "required", threads)
    leaving, staying = door.line(), door.line()
    for line in (leaving, staying):
        line.send(request("GET", PING, [basic(*ANN)]))
    leaving.lose()
    while threads.waiting:
        threads.work()
    assert staying.answers("GET")[0].status == 200
    assert leaving.received() == b""


def test_a_listener_follows_a_new_configuration(tmp_path: Path) -> None:
    """Also the connections that are open."""
    door = Door(tmp_path, "none")
    line = door.line()
    for _ in range(3):
        assert line.ask("GET", OPEN).status == 200
    listen = structs.replace(door.settings.listen[0], login="required")
    door.shop.listener.configure(door.settings, listen, door.passwords)
    assert line.ask("GET", OPEN).status == 401
    assert line.ask("GET", OPEN, [basic(*ANN)]).status == 200


def test_a_password_checked_across_a_change_is_not_half_in_force(tmp_path: Path) -> None:
    """Who it is and what that is good for are of one configuration: nobody is a user where nobody logs in."""
    threads = HeldThreads()
    door = Door(tmp_path, "offered", threads)
    line = door.line()
    line.send(request("GET", CLOSED, [basic(*ANN)]))
    listen = structs.replace(door.settings.listen[0], login="none")
    door.shop.listener.configure(door.settings, listen)
    while threads.waiting:
        threads.work()
    assert line.answers("GET")[0].status == 404


@pytest.mark.parametrize("who", [("", ""), None])
@pytest.mark.parametrize("passwords", [True, False])
def test_who_does_not_log_in_is_noted_whatever_it_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: tuple[str, str] | None, passwords: bool
) -> None:
    """A header that is not looked at keeps no refusal out of the audit log."""
    door = Door(tmp_path, "required")
    Shown(monkeypatch, door, passwords=passwords)
    noted = door.shop.listener._app._audit = NotedAudit()  # type: ignore[assignment]
    sent = () if who is None and passwords else (basic(*(who or ANN)),)
    assert door.ask(OPEN, None, *sent).status == 401
    [line] = noted.noted
    assert (line["action"], line["what"], line["outcome"]) == ("pull", "docker.io/app:latest", "refused")


def test_a_balancer_on_this_machine_that_says_nothing_of_tls_shelters_no_password(tmp_path: Path) -> None:
    """Its client is elsewhere, and may have sent it in the clear."""
    door = Door(tmp_path, "required", proxies=["127.0.0.1"])
    said = ("X-Forwarded-For", OUTSIDE)
    assert door.ask(OPEN, ANN, said, address="127.0.0.1", tls=False).status == 403
    assert door.ask(OPEN, ANN, said, address="127.0.0.1", tls=True).status == 200
    assert door.ask(OPEN, ANN, ("X-Forwarded-For", "127.0.0.1"), address="127.0.0.1", tls=False).status == 200


ELSEWHERE = {"tls": (OUTSIDE, True), "plain": (OUTSIDE, False), "here": ("127.0.0.1", False)}


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("login", ["none", "offered", "required"])
@pytest.mark.parametrize("who", [NOBODY, ANN, BOB], ids=str)
@pytest.mark.parametrize("path", [OPEN, CLOSED])
def test_what_is_explained_is_what_is_answered(tmp_path: Path, where: str, login: str, who: Any, path: str) -> None:
    """Status for status, with every login, over TLS or not."""
    door, (address, tls) = Door(tmp_path, login), ELSEWHERE[where]
    listen = structs.replace(
        door.settings.listen[0], endpoint="tls:/p:port=1" if tls else "tcp:1", checkers=("file:/p",)
    )
    settings = structs.replace(door.settings, listen=(listen,))
    page = AccessPage(door.shop.cache.through.access, lambda: settings, Names(settings.upstream_for))
    asked = DummyRequest([])
    named = "docker.io/library/app" if path == OPEN else "ghcr.io/team/app"
    given = {"reference": named, "address": address, **({"user": who[0]} if who else {})}
    asked.args = {name.encode(): [value.encode()] for name, value in given.items()}
    [answer] = json.loads(page.explain(asked).body)["answers"]  # type: ignore[arg-type]
    assert answer["status"] == door.ask(path, who, address=address, tls=tls).status


@pytest.mark.parametrize("sent", ["Bearer abc", "Basic", "Basic !!", "Negotiate x"])
def test_another_kind_of_login_is_told_what_is_taken(tmp_path: Path, sent: str) -> None:
    """With a challenge that names it."""
    door = Door(tmp_path, "offered")
    answer = door.ask(OPEN, None, ("Authorization", sent))
    assert (answer.status, answer["WWW-Authenticate"]) == (401, CHALLENGE)


def test_two_logins_in_one_request_are_none(tmp_path: Path) -> None:
    """Which of them would count is anybody's guess."""
    door = Door(tmp_path, "offered")
    for _ in range(3):
        assert door.ask(OPEN, ANN).status == 200
    assert door.ask(OPEN, ANN, basic(*BOB)).status == 401


def test_every_way_of_writing_goes_before_the_login(tmp_path: Path) -> None:
    """What no registry here takes is refused as ever: no password is looked at for it."""
    door = Door(tmp_path, "required", HeldThreads())
    assert door.ask("/v2/app/blobs/uploads/", WRONG, method="POST").status == 405
    assert door.ask(blob(LAYER) + "%2e", WRONG).status == 400

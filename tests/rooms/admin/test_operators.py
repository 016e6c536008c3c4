"""Who may ask the admin endpoint for what: by a token, by a browser's session, by the socket; and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from socket import socketpair
from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.testing import StringTransport
from twisted.internet.unix import Server

from appliance.admin.operators import COOKIE, CSRF
from appliance.errors import ConfigError
from appliance.identity.roles import Operator, Role
from appliance.identity.sessions import DURATION
from appliance.settings import AdminSettings
from tests.doubles.appliance import Appliance

TOKENS = {"read": "r-0123456789abcdef", "operate": "o-0123456789abcdef", "manage": "m-0123456789abcdef"}
FROM = IPv4Address("TCP", "192.0.2.7", 4711)
HERE = IPv4Address("TCP", "192.168.1.1", 5001)


class Asked:
    """One answer: status, fields with names in lower case, body."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        self.code = int(first.split(" ")[1])
        self.fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def word(self) -> str:
        """Of an error, for programs."""
        return str(json.loads(self.body)["error"]["code"])

    @property
    def session(self) -> str:
        """The cookie that was set, as it is sent back."""
        return self.fields["set-cookie"].partition(";")[0]


class Door:
    """The admin endpoint of an appliance, reached from elsewhere."""

    def __init__(
        self,
        site: Appliance,
        peer: Any = FROM,
        transport: type[StringTransport] = StringTransport,
        port: int | None = 5001,
    ) -> None:
        self.site = site
        self.host = "192.168.1.1" if port is None else f"192.168.1.1:{port}"
        self.peer = peer
        self.transport = transport

    def ask(self, line: str, *fields: str, body: str = "", kind: str = "application/json") -> Asked:
        """Send one request and read the answer."""
        channel: Any = self.site.app.site().buildProtocol(None)  # type: ignore[arg-type]
        transport = self.transport(hostAddress=HERE, peerAddress=self.peer)
        channel.makeConnection(transport)
        head = [f"{line} HTTP/1.1", f"Host: {self.host}", "Connection: close", *fields]
        if body:
            head += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        channel.dataReceived("\r\n".join([*head, "", body]).encode())
        answer = Asked(transport.value())
        channel.setTimeout(None)
        return answer

    def log_in(self, token: str) -> Asked:
        """Show a token at the page, as a form."""
        form = f"token={quote(token)}"
        return self.ask("POST /login", body=form, kind="application/x-www-form-urlencoded")

    def csrf(self, cookie: str) -> str:
        """What a page of the session knows."""
        return str(json.loads(self.ask("GET /api/v1/session", f"Cookie: {cookie}").body)["csrf"])


def bearer(role: str) -> str:
    return f"Authorization: Bearer {TOKENS[role]}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("".join(f"{role} {token}\n" for role, token in TOKENS.items()))
    return path


@pytest.fixture
def door(file: Path) -> Door:
    return Door(Appliance(admin=AdminSettings(token_file=file)))


# -- roles ----------------------------------------------------------------------------------------------------------

OPEN = {"GET /healthz", "GET /readyz", "GET /login", "POST /login", "GET /metrics"}
OPERATE = {
    "POST /api/v1/exports",
    "GET /api/v1/exports",
    "GET /api/v1/exports/<export>",
    "GET /api/v1/exports/<export>/document",
    "PUT /api/v1/exports/<export>/signature",
    "GET /api/v1/exports/<export>/volumes/<n>",
    "POST /api/v1/imports",
    "POST /api/v1/imports/sendings",
    "PUT /api/v1/imports/sendings/<sending>",
    "POST /api/v1/pins",
    "DELETE /api/v1/pins/<path:reference>",
}
MANAGE = {
    # It says of each operator what they did, and from where.
    "GET /api/v1/audit",
    "DELETE /api/v1/images/<path:reference>",
    "POST /api/v1/collections",
    "POST /api/v1/scrubs",
    "POST /api/v1/reload",
}
# A browser's session is its own.
READ_AND_CHANGE = {"DELETE /api/v1/session"}


def test_each_route_takes_a_role(door: Door) -> None:
    """Who may only read gets the same for every route that reads; what is not named here only reads."""
    for route in door.site.app.routes:
        line = route.name.replace("<path:reference>", "x/y").replace("<n>", "1")
        least = Role.OPERATE if route.name in OPERATE else Role.MANAGE if route.name in MANAGE else Role.READ
        assert route.method == "GET" or route.name in OPEN | OPERATE | MANAGE | READ_AND_CHANGE, route.name
        anonymous = door.ask(line)
        if route.name in OPEN:
            assert anonymous.code != 401 or "set-cookie" not in anonymous.fields
            continue
        assert (anonymous.code, anonymous.word) == (401, "login-required"), route.name
        assert anonymous.fields["www-authenticate"] == 'Bearer realm="pullcache"'
        for role in Role:
            answer = door.ask(line, bearer(role.word))
            if role < least:
                assert (answer.code, answer.word) == (403, "role-too-low"), (route.name, role)
                assert least.word in json.loads(answer.body)["error"]["message"]
            else:
                assert answer.code not in (401, 403), (route.name, role)


@pytest.mark.parametrize(
    "before", ["/", "//", "X", "X/", "\\", "./", "/./", "/x/../", "/%2e/", "%2F", "/%2F", "http://x/", "*", "#"]
)
def test_no_way_to_write_a_path_leads_past_the_question_who_asks(door: Door, before: str) -> None:
    """Nor one to write a method: what is decided about is what is answered."""
    for route in door.site.app.routes:
        if route.name in OPEN:
            continue
        path = route.path.replace("<path:reference>", "x/y").replace("<n>", "1")
        for name in (route.method, route.method.lower(), "HEAD", "OPTIONS"):
            for target in (f"{before}{path[1:]}", f"{before}{path[1:]}/", f"{before}{path[1:].replace('/', '%2F')}"):
                fields = "X-HTTP-Method-Override: POST", "X-Original-URL: /healthz", "Cookie: pullcache_session="
                answer = door.ask(f"{name} {target}", *fields)
                assert answer.code in (400, 401, 404, 405), (name, target)


def test_a_request_with_a_body_is_refused_before_the_body_comes(door: Door) -> None:
    """Who may not ask for it is not asked to send what may be gigabytes."""
    for line, code in (("POST /api/v1/imports", 401), ("POST /api/v1/scrubs", 401)):
        answer = door.ask(line, "Content-Type: application/json", "Content-Length: 10", "Expect: 100-continue")
        assert (answer.code, answer.fields["connection"]) == (code, "close")
        assert answer.fields["www-authenticate"].startswith("Bearer")
    answer = door.ask("POST /api/v1/scrubs", bearer("operate"), "Transfer-Encoding: chunked")
    assert (answer.code, answer.word) == (403, "role-too-low")


@pytest.mark.parametrize(
    "field",
    [
        "Bearer wrong",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKENS['manage']}x",
        f"Bearer {'x' * 5000}",
        f"Basic {TOKENS['manage']}",
        TOKENS["manage"],
        "Bearer \xff",
    ],
)
def test_a_wrong_token_is_refused(door: Door, field: str) -> None:
    """In one way, whatever is wrong with it; and nothing of it is in the answer."""
    answer = door.ask("GET /api/v1/status", f"Authorization: {field}")
    assert (answer.code, answer.word) == (401, "login-required")
    challenge = 'Bearer realm="pullcache"' + (', error="invalid_token"' if field.startswith("Bearer") else "")
    assert answer.fields["www-authenticate"] == challenge
    assert field.split(" ")[-1] not in answer.body.decode() or field in ("Bearer", "Bearer ")


def test_two_tokens_are_none(door: Door) -> None:
    """What stands between could add one."""
    assert door.ask("GET /api/v1/status", bearer("manage"), bearer("read")).code == 401


def test_the_scheme_may_be_written_in_any_case(door: Door) -> None:
    """RFC 9110 section 11.1."""
    assert door.ask("GET /api/v1/session", f"Authorization: bearer {TOKENS['read']}").code == 200


def test_what_is_not_there_is_told_to_everybody(door: Door) -> None:
    """The paths there are, are no secret: they stand in the documentation."""
    assert door.ask("GET /nothing").code == 404
    assert door.ask("PUT /api/v1/status").code == 405


def test_metrics_are_open_or_for_readers(file: Path) -> None:
    """By choice; a Prometheus then shows a token that may only read."""
    door = Door(Appliance(admin=AdminSettings(token_file=file, metrics="read")))
    assert door.ask("GET /metrics").code == 401
    assert door.ask("GET /metrics", bearer("read")).code == 200


def test_without_a_token_file_nothing_is_asked() -> None:
    """As on loopback, which is the default; and no token is of any use."""
    door = Door(Appliance())
    answer = door.ask("GET /api/v1/session", "Authorization: Bearer x")
    assert json.loads(answer.body) == {"role": "manage", "name": "", "means": "address", "csrf": ""}
    assert door.ask("DELETE /api/v1/pins/nginx:1").word == "not-held"
    assert door.log_in("x").code == 409


class AtSocket(StringTransport, Server):
    """A connection to the socket, by this process."""

    socket, _other = socketpair()


def test_the_socket_asks_for_nothing(file: Path) -> None:
    """Its mode says who may open it."""
    door = Door(Appliance(admin=AdminSettings(token_file=file)), UNIXAddress(None), AtSocket)
    answer = door.ask("GET /api/v1/session", "Authorization: Bearer wrong")
    assert json.loads(answer.body) == {"role": "manage", "name": f"uid {os.getuid()}", "means": "socket", "csrf": ""}


def test_who_is_only_said_to_come_by_a_socket_is_asked(file: Path) -> None:
    """A PROXY header may name a socket as where a connection comes from, and anybody may send one."""
    door = Door(Appliance(admin=AdminSettings(token_file=file)), UNIXAddress("/run/x"))
    assert door.ask("GET /api/v1/status").code == 401


# -- browsers -------------------------------------------------------------------------------------------------------


def test_a_browser_logs_in_once(door: Door) -> None:
    """The cookie is of no use to scripts and to other sites; the token is not asked for again."""
    answer = door.log_in(TOKENS["operate"])
    assert (answer.code, answer.fields["location"]) == (303, "/login")
    cookie, *attributes = answer.fields["set-cookie"].split("; ")
    assert attributes == ["Path=/", f"Max-Age={DURATION:.0f}", "HttpOnly", "SameSite=Strict"]
    assert TOKENS["operate"] not in cookie
    who = json.loads(door.ask("GET /api/v1/session", f"Cookie: a=b; {cookie}; c=d").body)
    assert (who["role"], who["name"], who["means"]) == ("operate", "token 2", "session")
    assert b"token 2 (operate)" in door.ask("GET /login", f"Cookie: {cookie}").body


def test_a_program_logs_in_with_json(door: Door) -> None:
    """And gets in the answer what its session needs."""
    answer = door.ask("POST /login", body=json.dumps({"token": TOKENS["read"]}))
    who = json.loads(answer.body)
    assert (answer.code, who["role"], who["csrf"]) == (200, "read", door.csrf(answer.session))
    assert who["csrf"] and answer.fields["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "body", ["token=", "token=wrong", "x=y", "token=%ff", "a=1&b=2&c=3&d=4&e=5", "token=" + "x" * 3000]
)
def test_a_wrong_token_opens_no_session(door: Door, body: str) -> None:
    """The page says what happened, and nothing of what was typed."""
    answer = door.ask("POST /login", body=body, kind="application/x-www-form-urlencoded")
    assert answer.code in (400, 401) and "set-cookie" not in answer.fields
    assert b"wrong" not in answer.body and b"xxx" not in answer.body


def test_the_page_runs_in_a_browser_and_loads_nothing_from_elsewhere(door: Door) -> None:
    """Its form works, no other site frames it, and it is not kept."""
    answer = door.ask("GET /login")
    assert answer.fields["content-type"] == "text/html; charset=utf-8"
    policy = answer.fields["content-security-policy"]
    assert "default-src 'self'" in policy and "sandbox" not in policy and "frame-ancestors 'none'" in policy
    assert answer.fields["cache-control"] == "no-store" and answer.fields["x-content-type-options"] == "nosniff"


def test_what_changes_something_needs_what_only_our_pages_know(door: Door) -> None:
    """A cookie alone reads; with the session's own CSRF token it orders what its role allows."""
    cookie, other = door.log_in(TOKENS["operate"]).session, door.log_in(TOKENS["manage"]).session
    csrf = door.csrf(cookie)
    assert door.ask("GET /api/v1/images", f"Cookie: {cookie}").code == 200
    for fields in ((), (f"{CSRF}: ",), (f"{CSRF}: {door.csrf(other)}",), (f"{CSRF}: \xff",), (f"{CSRF}: {csrf}",) * 2):
        answer = door.ask("DELETE /api/v1/pins/nginx:1", f"Cookie: {cookie}", *fields)
        assert (answer.code, answer.word) == (403, "csrf")
    assert door.ask("DELETE /api/v1/pins/nginx:1", f"Cookie: {cookie}", f"{CSRF}: {csrf}").word == "not-held"
    answer = door.ask("POST /api/v1/reload", f"Cookie: {cookie}", f"{CSRF}: {csrf}")
    assert (answer.code, answer.word) == (403, "role-too-low")


def test_a_session_ends_with_its_user_its_time_and_its_token(door: Door, file: Path) -> None:
    """Each at once."""
    ended, old, gone = (door.log_in(TOKENS["read"]).session for _ in range(3))
    answer = door.ask("DELETE /api/v1/session", f"Cookie: {ended}", f"{CSRF}: {door.csrf(ended)}")
    assert answer.code == 200 and answer.fields["set-cookie"].startswith(f"{COOKIE}_5001=; Path=/; Max-Age=0;")
    assert door.ask("GET /api/v1/status", f"Cookie: {ended}").code == 401
    assert door.ask("GET /api/v1/status", f"Cookie: {gone}").code == 200
    file.write_text(f"read {TOKENS['operate']}\n")
    assert door.ask("GET /api/v1/status", f"Cookie: {gone}").code == 401
    file.write_text(f"manage {TOKENS['read']}  \n")
    assert json.loads(door.ask("GET /api/v1/session", f"Cookie: {gone}").body)["role"] == "manage"
    door.site.clock.advance(DURATION)
    assert door.ask("GET /api/v1/status", f"Cookie: {old}").code == 401


def test_a_new_log_in_ends_the_session_before_it(door: Door) -> None:
    """Nothing that was known of the old one opens the new one."""
    before = door.log_in(TOKENS["read"]).session
    form = f"token={TOKENS['manage']}"
    after = door.ask("POST /login", f"Cookie: {before}", body=form, kind="application/x-www-form-urlencoded").session
    assert before != after and door.ask("GET /api/v1/status", f"Cookie: {before}").code == 401


def test_two_appliances_behind_tunnels_leave_each_other_their_sessions(file: Path) -> None:
    """Cookies know no ports; both are localhost to the browser, which sends each what it got from both."""
    doors = [Door(Appliance(admin=AdminSettings(token_file=file)), port=port) for port in (5001, 5002, None)]
    cookies = [door.log_in(TOKENS["read"]).session for door in doors]
    assert len({each.partition("=")[0] for each in cookies}) == 3
    for door in doors:
        assert door.ask("GET /api/v1/status", f"Cookie: {'; '.join(cookies)}").code == 200


def test_a_page_of_another_site_logs_nobody_in(door: Door) -> None:
    """Not even with a token of its own."""
    form = f"token={TOKENS['read']}"
    answer = door.ask("POST /login", "Origin: http://evil.example", body=form, kind="application/x-www-form-urlencoded")
    assert (answer.code, answer.word) == (403, "foreign-page")


# -- a configuration that is read again -----------------------------------------------------------------------------


def test_the_configuration_is_followed(door: Door, tmp_path: Path) -> None:
    """Another file, other names, and metrics for readers only; sessions of the old file end."""
    cookie = door.log_in(TOKENS["read"]).session
    other = tmp_path / "other"
    other.write_text("manage another-0123456789\n")
    door.site.app.configure(AdminSettings(token_file=other, metrics="read", hosts=("a.example",)))
    for field in (bearer("manage"), f"Cookie: {cookie}"):
        assert door.ask("GET /api/v1/status", field).code == 401
    assert door.ask("GET /metrics").code == 401
    assert door.ask("GET /api/v1/status", "Authorization: Bearer another-0123456789").code == 200


def test_a_session_outlives_a_reload(door: Door, file: Path) -> None:
    """As long as its token is in the file."""
    cookie = door.log_in(TOKENS["read"]).session
    door.site.app.configure(AdminSettings(token_file=file))
    assert door.ask("GET /api/v1/status", f"Cookie: {cookie}").code == 200
    file.write_text(f"manage {TOKENS['manage']}\n")
    door.site.app.configure(AdminSettings(token_file=file))
    assert door.ask("GET /api/v1/status", f"Cookie: {cookie}").code == 401


def test_a_file_that_cannot_be_used_leaves_all_as_it_is(door: Door, tmp_path: Path) -> None:
    """Nothing is opened by a mistake."""
    empty = tmp_path / "empty"
    empty.write_text("")
    with pytest.raises(ConfigError, match="holds no token"):
        door.site.app.configure(AdminSettings(token_file=empty, metrics="read"))
    assert door.ask("GET /metrics").code == 200 and door.ask("GET /api/v1/status").code == 401
    assert door.ask("GET /api/v1/status", bearer("read")).code == 200


def test_a_reload_is_answered_with_what_needs_a_restart() -> None:
    """A bad one says what is wrong with it, and changes nothing."""
    site = Appliance(reload=lambda operator: ["store"])
    assert site.ask("POST", "reload").json == {"restart": ["store"]}

    def refused(operator: Operator) -> list[str]:
        raise ConfigError("pullcache.yaml: line 3: fresh_fro: unknown key")

    code, word, message = Appliance(reload=refused).error("POST", "reload")
    assert (code, word) == (409, "configuration") and "fresh_fro" in message

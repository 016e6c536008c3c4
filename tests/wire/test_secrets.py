"""No password and no token is told to anybody: not in an answer, a log, the audit log, an error, or by what stays."""

from __future__ import annotations

import traceback
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any
from urllib.parse import quote

import pytest
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.internet.defer import Deferred, fail
from twisted.logger import eventAsText, globalLogPublisher
from zope.interface import implementer

from appliance.admin.operators import CSRF
from appliance.errors import ConfigError, PullcacheError
from appliance.explain import describe
from appliance.identity.passwords import BasicLogin, Passwords, make_checker, parse_basic
from appliance.identity.roles import OperatorTokens
from appliance.settings import AdminSettings, Settings
from tests.doubles.appliance import Appliance
from tests.doubles.passwords import write_users
from tests.rooms.admin.test_operators import Door as AdminDoor
from tests.wire.test_login import CLOSED, OPEN, OUTSIDE, PING, Door, basic

#: Made of what base64, percent-encoding and JSON leave as it is.
SECRET = "canary0of0a0password"
USER = "ann"
FORMS = [
    SECRET,
    *(b64encode(f"{before}{SECRET}".encode()).decode().rstrip("=")[6:-6] for before in ("", "x", "xx", f"{USER}:")),
    SECRET.encode().hex(),
]


def gives_away(said: str) -> bool:
    """Whether the secret could be read from it."""
    return any(form in said for form in FORMS)


@pytest.fixture
def said(logged_errors: list[Any]) -> Iterator[list[str]]:
    """Every line of the log, and every value that a line was made of."""
    lines: list[str] = []

    def observe(event: Any) -> None:
        lines.append(eventAsText(event, includeTraceback=True) + repr({**event}))
        failure = event.get("log_failure")
        if failure is not None:
            lines.append(failure.getTraceback(detail="verbose"))

    globalLogPublisher.addObserver(observe)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(observe)
        logged_errors.clear()


def kept_by(*roots: object) -> Iterator[str]:
    """Every text that can be reached from some objects, but for what belongs to the program itself."""
    seen: set[int] = set()
    found = list(roots)
    while found:
        each = found.pop()
        if id(each) in seen or isinstance(each, (type, ModuleType, FunctionType)):
            continue
        seen.add(id(each))
        if isinstance(each, str):
            yield each
        elif isinstance(each, (bytes, bytearray)):
            yield each.decode("latin-1")
        elif isinstance(each, dict):
            found += [*each.keys(), *each.values()]
        elif isinstance(each, MethodType):
            found.append(each.__self__)
        elif isinstance(each, (list, tuple, set, frozenset)):
            found += each
        else:
            slots = [name for kind in type(each).__mro__ for name in getattr(kind, "__slots__", ())]
            found += [getattr(each, name, None) for name in ("__dict__", *slots)]


@implementer(ICredentialsChecker)
class Broken:
    """A checker of a site's own, which tells in its error whatever it was given."""

    credentialInterfaces = (IUsernamePassword,)

    def requestAvatarId(self, login: Any) -> Deferred[Any]:
        return fail(ValueError(f"no such row: {login.username!r} {login.password!r}"))


def encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


WAYS = [
    [basic(USER, SECRET)],
    [basic(USER, f"{SECRET}x")],
    [basic("bob", SECRET)],
    [basic(SECRET, SECRET)],
    [basic(SECRET, "")],
    [basic(f"{USER}\x01", SECRET)],
    [("Authorization", f"Basic {SECRET}")],
    [("Authorization", f"Basic {SECRET}!")],
    [("Authorization", f"Basic {encoded(SECRET)}")],
    [("Authorization", f"Basic {encoded(f'{USER}:{SECRET}' * 400)}")],
    [("Authorization", f"Bearer {SECRET}")],
    [("Authorization", f"Digest username={SECRET}, response={SECRET}")],
    [("Authorization", SECRET)],
    [basic(USER, SECRET), basic(USER, SECRET)],
]


@pytest.mark.parametrize("login", ["none", "offered", "required"])
@pytest.mark.parametrize("way", range(len(WAYS)))
def test_a_clients_password_is_told_to_nobody(tmp_path: Path, login: str, way: int, said: list[str]) -> None:
    """Right or wrong, mistyped as a name, malformed, over a line that others can read, or with a broken checker."""
    door = Door(tmp_path, login)
    write_users(tmp_path / "htpasswd", {USER: SECRET, "bob": "two"})
    door.shop.clock.advance(10)
    fields = WAYS[way]
    answers = []
    for passwords in (door.passwords, Passwords([Broken()], door.shop.clock, door.passwords._threads)):
        door.shop.listener.configure(door.settings, door.settings.listen[0], passwords)
        for tls in (True, False):
            for path in (PING, OPEN, CLOSED, "/v2/-/x", "/elsewhere"):
                for _ in range(2):
                    line = door.line(OUTSIDE, tls)
                    line.send(raw(path, fields))
                    door.shop.clock.advance(1)
                    answers.append(line.received())
                    line.lose()
        assert not gives_away(repr((passwords, vars(passwords))))
    told = repr((answers, door.shop.accounts.told, door.audit.noted, door.shop.cache.audit.noted))
    assert not gives_away(told) and not gives_away("".join(said))
    kept = list(kept_by(door.shop.listener, door.passwords))
    # It did look into what it was to look into.
    assert "door" in kept and not any(map(gives_away, kept))


def raw(path: str, fields: list[tuple[str, str]]) -> bytes:
    """A request."""
    lines = [f"GET {path} HTTP/1.1", "Host: cache.test", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_a_login_says_nothing_of_itself() -> None:
    """As it stands in a traceback, or in what a program notes for its author."""
    login = parse_basic(basic(USER, SECRET)[1].encode())
    assert isinstance(login, BasicLogin)
    assert not gives_away(f"{login} {login!r} {[login]}")


@pytest.mark.parametrize(
    "header", [f"Basic {SECRET}!", f"Bearer {SECRET}", SECRET, f"Basic {encoded(SECRET)}", f"Basic {SECRET[:16]}"]
)
def test_an_error_says_nothing_of_what_was_sent(header: str) -> None:
    """Nor does what led to it, with all that stands on the stack."""
    with pytest.raises(PullcacheError) as caught:
        parse_basic(header.encode())
    assert not gives_away("".join(traceback.format_exception(caught.value)))


@pytest.mark.parametrize("description", [f"memory:{USER}:{SECRET}", f"nothing:{SECRET}", f"file:/{SECRET}/x:{SECRET}"])
def test_what_a_checker_is_made_of_is_told_by_no_error(description: str) -> None:
    """It may be a password itself."""
    assert not gives_away(describe(Settings(checkers=(description,))))
    try:
        make_checker(description)
    except ConfigError as error:
        assert not gives_away(str(error))


def test_an_operators_token_is_told_to_nobody(tmp_path: Path, said: list[str]) -> None:
    """By header, form or JSON, right or wrong; nor is the cookie, or what a page has to show."""
    file = tmp_path / "tokens"
    file.write_text(f"manage {SECRET}\n")
    site = Appliance(admin=AdminSettings(token_file=file))
    door = AdminDoor(site)
    answers = []
    for token in (SECRET, f"{SECRET}x", f"x{SECRET}"):
        for scheme in ("Bearer", "bearer", "Basic", "Token", ""):
            answers.append(door.ask("DELETE /api/v1/images/nginx:1", f"Authorization: {scheme} {token}"))
        answers.append(door.ask("POST /login", body=f"token={quote(token)}", kind="application/x-www-form-urlencoded"))
        answers.append(door.ask("POST /login", body=f'{{"token": "{token}"}}'))
        answers.append(door.ask("POST /login", body=f'{{"token": {token}}}'))
        answers.append(door.ask("GET /api/v1/status", f"Cookie: pullcache_session={token}", f"{CSRF}: {token}"))
    cookie = door.log_in(SECRET).session
    csrf = door.csrf(cookie)
    door.ask("DELETE /api/v1/images/nginx:1", f"Cookie: {cookie}", f"{CSRF}: {csrf}")
    assert not any(gives_away(f"{each.fields} {each.body!r}") for each in answers)
    told = f"{site.audit.noted} {''.join(said)}"
    assert not gives_away(told) and cookie.partition("=")[2] not in told and csrf not in told
    kept = list(kept_by(site.app))
    assert csrf in kept and not any(map(gives_away, kept))


@pytest.mark.parametrize(
    "line", [f"{SECRET} x", f"manage {SECRET} {SECRET}", f"owner {SECRET}", f"manage {SECRET}\u00e9"]
)
def test_a_file_of_tokens_that_is_wrong_is_not_quoted(tmp_path: Path, line: str, said: list[str]) -> None:
    """The place of the line has to do."""
    file = tmp_path / "tokens"
    file.write_text(f"manage {SECRET}0123456789\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        OperatorTokens(file)
    assert not gives_away("".join(traceback.format_exception(caught.value))) and not gives_away("".join(said))

"""Passwords are checked once for many requests, and what a stranger can cause is bounded."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.checkers import FilePasswordDB, ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, execute, fail
from zope.interface import implementer

from appliance.errors import ConfigError, LoginRequired, LoginsBusy, LoginUnavailable, LoginWrong
from appliance.flow.disk import InlineThreads
from appliance.identity import passwords
from appliance.identity.htpasswd import HtpasswdChecker
from appliance.identity.interfaces import IBlockingChecker
from appliance.identity.passwords import WRONG, Passwords, make_checker, parse_basic
from tests.doubles.clocks import TwoClocks
from tests.doubles.deferreds import begin, failing, pending, result
from tests.doubles.passwords import write_users
from tests.doubles.threads import HeldThreads


def basic(user: str, password: str) -> bytes:
    return b"Basic " + b64encode(f"{user}:{password}".encode())


@implementer(ICredentialsChecker)
class Directory:
    """A checker that answers when a test says so."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, Deferred[Any]]] = []

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.asked.append((credentials.username, answer))
        return answer


class Gate:
    """Passwords over some checkers, and a clock."""

    def __init__(self, *checkers: Any, threads: Any = None) -> None:
        self.clock = TwoClocks()
        self.passwords = Passwords(checkers, self.clock, threads or InlineThreads())

    def check(self, user: str, password: str, address: str = "192.0.2.1") -> Deferred[str]:
        sent = basic(user, password)
        login = parse_basic(sent)
        assert login is not None
        return begin(self.passwords.check(sent, login, address))

    def known(self, user: str, password: str) -> str | None:
        return self.passwords.known(basic(user, password))


@pytest.fixture
def users(tmp_path: Path) -> Path:
    return write_users(tmp_path / "htpasswd", {"ann": "one", "bob": "two"})


class Counted(HtpasswdChecker):
    """Counts the hashes."""

    hashes = 0

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        self.hashes += 1
        return super().requestAvatarId(credentials)


def test_fifty_layers_are_one_hash(users: Path) -> None:
    """Also where they are asked for at the same moment; after some minutes there is another one."""
    checker, threads = Counted(str(users)), HeldThreads()
    gate = Gate(checker, threads=threads)
    asked = [gate.check("ann", "one") for _ in range(50)]
    threads.work()
    threads.work()
    assert [result(each) for each in asked] == ["ann"] * 50
    assert gate.known("ann", "one") == "ann"
    assert checker.hashes == 1
    for _ in range(10):
        gate.clock.advance(29.0)
        again = gate.check("ann", "one")
        threads.work()
        assert result(again) == "ann"
    assert checker.hashes == 1
    gate.clock.advance(11.0)
    again = gate.check("ann", "one")
    threads.work()
    threads.work()
    assert result(again) == "ann"
    assert checker.hashes == 2


def test_a_wrong_password_is_checked_once_in_a_while(users: Path) -> None:
    """A client asks for all layers with it; one that has just become right is not refused for long."""
    checker = Counted(str(users))
    gate = Gate(checker)
    for _ in range(9):
        assert str(failing(gate.check("ann", "wrong"), LoginRequired)) == WRONG
        gate.clock.advance(1.0)
    assert checker.hashes == 1
    gate.clock.advance(1.0)
    failing(gate.check("ann", "wrong"), LoginRequired)
    assert checker.hashes == 2


def test_the_text_is_the_same_for_a_user_and_a_stranger(users: Path) -> None:
    """And so is the number of hashes, whichever of several files the user stands in."""
    more = write_users(users.with_name("more"), {"eve": "three"})
    first, second = Counted(str(users)), Counted(str(more))
    gate = Gate(first, second)
    said = set()
    for user in ("ann", "eve", "nobody"):
        said.add(str(failing(gate.check(user, "wrong"), LoginRequired)))
    assert said == {WRONG}
    assert first.hashes == second.hashes == 3


def test_what_is_remembered_ends_when_the_file_changes(users: Path) -> None:
    """With the first request that comes two seconds after; a user that did not change has no second hash."""
    checker = Counted(str(users))
    gate = Gate(checker)
    for user, password in (("ann", "one"), ("bob", "two")):
        result(gate.check(user, password))
    bob = users.read_text().splitlines()[1]
    write_users(users, {"ann": "changed"})
    users.write_text(f"{users.read_text()}{bob}\n")
    os.utime(users, (gate.clock.wall() - 60, gate.clock.wall() - 60))
    gate.clock.advance(2.0)
    assert gate.known("ann", "one") is None
    failing(gate.check("ann", "one"), LoginRequired)
    assert checker.hashes == 3
    assert gate.known("bob", "two") == "bob"
    write_users(users, {"ann": "changed"}, gate.clock.wall() - 50)
    gate.clock.advance(2.0)
    assert gate.known("bob", "two") is None
    failing(gate.check("bob", "two"), LoginRequired)
    assert result(gate.check("ann", "changed")) == "ann"


def test_a_file_of_twisted_counts_as_well(tmp_path: Path) -> None:
    """file: of Twisted's own checkers is looked at in the same way."""
    path = tmp_path / "users"
    path.write_text("ann:one\n")
    gate = Gate(FilePasswordDB(str(path)))
    assert result(gate.check("ann", "one")) == "ann"
    path.write_text("ann:another\n")
    gate.clock.advance(2.0)
    refused = gate.check("ann", "one")
    gate.clock.advance(1.0)
    failing(refused, LoginRequired)


@pytest.mark.parametrize("order", [(0, 0), (1, 0)])
def test_a_password_checked_across_a_change_is_not_remembered(users: Path, order: tuple[int, int]) -> None:
    """Its hash was that of the file before, whichever of the two is known first."""
    threads = HeldThreads()
    gate = Gate(HtpasswdChecker(str(users)), threads=threads)
    asked = gate.check("ann", "one")
    threads.step()
    write_users(users, {"ann": "another"}, gate.clock.wall() - 60)
    gate.clock.advance(2.0)
    other = gate.check("bob", "two")
    # The password and the file: both done before either is delivered.
    outcomes = [(deferred, execute(function)) for deferred, function in threads.waiting]
    threads.waiting.clear()
    assert len(outcomes) == 2
    for index in order:
        deferred, outcome = outcomes.pop(index)
        outcome.chainDeferred(deferred)
    assert result(asked) == "ann"
    assert gate.known("ann", "one") is None
    threads.work()
    failing(other, LoginRequired)


def test_checkers_are_tried_in_order_until_one_says_yes(users: Path) -> None:
    """The name is the one that the checker gives."""
    second = InMemoryUsernamePasswordDatabaseDontUse(carl=b"three")
    gate = Gate(HtpasswdChecker(str(users)), second)
    assert result(gate.check("ann", "one")) == "ann"
    assert result(gate.check("carl", "three")) == "carl"


@pytest.mark.parametrize("answer", [(), b"\xff", "", "a\nb", None])
def test_what_can_be_no_name_lets_nobody_in(answer: object) -> None:
    """Whatever a plugin gives, ANONYMOUS of cred too."""
    directory = Directory()
    gate = Gate(directory)
    asked = gate.check("ann", "one")
    directory.asked[0][1].callback(answer)
    gate.clock.advance(1.0)
    failing(asked, LoginRequired)


def test_an_empty_password_is_no_users(users: Path) -> None:
    """A directory takes it for a login of nobody, and says yes; it is not asked."""
    directory = Directory()
    failing(Gate(directory).check("ann", ""), LoginRequired)
    assert not directory.asked


def test_a_checker_that_fails_or_is_silent_lets_nobody_in(logged_errors: list[dict[str, Any]]) -> None:
    """Its client is told to come again, not that the password is wrong; nothing of it is logged or remembered."""
    directory = Directory()
    gate = Gate(directory)
    asked = gate.check("ann", "one")
    directory.asked[0][1].errback(RuntimeError("cannot reach ldap://ann:one@directory"))
    failing(asked, LoginUnavailable)
    asked = gate.check("ann", "one")
    gate.clock.advance(10.0)
    failing(asked, LoginUnavailable)
    asked = gate.check("ann", "one")
    directory.asked[2][1].callback("ann")
    assert result(asked) == "ann"
    assert [each["silent"] for each in logged_errors] == ["RuntimeError", "it gave no answer in time"]
    assert "one@" not in repr([(each["checker"], each["silent"]) for each in logged_errors])
    logged_errors.clear()


def test_another_checker_may_still_say_yes(users: Path, logged_errors: list[dict[str, Any]]) -> None:
    """While the directory is down, who stands in the file is let in."""
    directory = Directory()
    gate = Gate(directory, HtpasswdChecker(str(users)))
    asked = gate.check("ann", "one")
    directory.asked[0][1].errback(OSError("down"))
    assert result(asked) == "ann"
    logged_errors.clear()


@implementer(IBlockingChecker)
class Hanging:
    """A checker whose library never comes back, or when a test says so."""

    credentialInterfaces = (IUsernamePassword,)

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        return fail(UnauthorizedLogin())


def test_a_checker_that_never_comes_back_keeps_nobody_waiting(logged_errors: list[dict[str, Any]]) -> None:
    """Its client is told so after a while, no more threads go to it than may, and it is logged once."""
    threads = HeldThreads()
    gate = Gate(Hanging(), threads=threads)
    for number in range(20):
        asked = gate.check("ann", f"one {number}")
        assert pending(asked)
        gate.clock.advance(10.0)
        failing(asked, LoginUnavailable)
    assert [each["silent"] for each in logged_errors] == ["it gave no answer in time"]
    logged_errors.clear()
    checked = 0
    while threads.waiting:
        threads.step()
        checked += 1
    # Those that were given up meanwhile are not kept.
    assert checked <= max(1, len(os.sched_getaffinity(0)) // 2)
    asked = gate.check("ann", "wrong")
    threads.work()
    gate.clock.advance(1.0)
    failing(asked, LoginWrong)


def test_a_file_on_a_disk_that_is_gone_keeps_nobody_waiting(users: Path) -> None:
    """The client is told to come again, also when its password was right before."""
    threads = HeldThreads()
    asked = (gate := Gate(HtpasswdChecker(str(users)), threads=threads)).check("ann", "one")
    while threads.waiting:
        threads.work()
    assert result(asked) == "ann"
    gate.clock.advance(passwords.LOOK)
    asked = gate.check("ann", "one")
    gate.clock.advance(10.0)
    failing(asked, LoginUnavailable)
    threads.work()
    asked = gate.check("ann", "one")
    threads.work()
    assert result(asked) == "ann"


def test_a_thousand_guesses_wait_behind_each_other() -> None:
    """And behind nobody else: another address is next, and the same one with another name."""
    directory = Directory()
    gate = Gate(directory)
    guesses = [gate.check("ann", f"guess {n}") for n in range(1000)]
    assert len(directory.asked) == passwords.AT_ONCE
    refused = [each for each in guesses if not pending(each)]
    assert len(refused) > 900
    for each in refused:
        failing(each, LoginsBusy)
    right, neighbour = gate.check("bob", "two", "198.51.100.1"), gate.check("bob", "two 2")
    for _ in range(3):
        directory.asked.pop(0)[1].errback(UnauthorizedLogin())
    for name, answer in directory.asked:
        if name == b"bob":
            answer.callback(name)
    assert result(right) == result(neighbour) == "bob"
    while directory.asked:
        _, answer = directory.asked.pop(0)
        if not answer.called:
            answer.errback(UnauthorizedLogin())
    gate.clock.advance(1.0)
    for each in set(guesses) - set(refused):
        failing(each, LoginRequired)


def test_who_was_right_before_does_not_wait_behind_guesses() -> None:
    """Every place is taken when what is remembered ends, and the pulls go on."""
    directory = Directory()
    gate = Gate(directory)
    asked = gate.check("ann", "one")
    directory.asked.pop()[1].callback("ann")
    assert result(asked) == "ann"
    guesses = [gate.check("ann", f"guess {n}") for n in range(100)]
    gate.passwords.reconsider()
    assert gate.known("ann", "one") is None
    asked = gate.check("ann", "one")
    directory.asked[-1][1].callback("ann")
    assert result(asked) == "ann"
    while directory.asked:
        _, answer = directory.asked.pop(0)
        if not answer.called:
            answer.errback(UnauthorizedLogin())
    gate.clock.advance(1.0)
    for each in guesses:
        failing(each, LoginRequired, LoginsBusy)


def test_where_checkers_may_tell_by_the_time_refusals_come_in_step() -> None:
    """Of a user and of a stranger, at the same moment."""
    gate = Gate(InMemoryUsernamePasswordDatabaseDontUse(ann=b"one"))
    for user in ("ann", "nobody"):
        asked = gate.check(user, "wrong")
        gate.clock.advance(0.49)
        assert pending(asked)
        gate.clock.advance(0.01)
        failing(asked, LoginRequired)


def test_only_users_that_a_checker_knows_are_named(users: Path) -> None:
    """A mistyped name may be a password."""
    gate = Gate(HtpasswdChecker(str(users)), InMemoryUsernamePasswordDatabaseDontUse(carl=b"three"))
    for name, named in (("ann", "ann"), ("one", None), ("carl", None)):
        login = parse_basic(basic(name, "x"))
        assert login is not None
        assert gate.passwords.knows(login) == named


def test_no_password_is_kept_or_shown(users: Path) -> None:
    """Neither in what is remembered nor in the text of any value."""
    gate = Gate(HtpasswdChecker(str(users)))
    result(gate.check("ann", "one"))
    kept = repr([list(each._values.items()) for each in (gate.passwords._right, gate.passwords._wrong)])
    assert basic("ann", "one").decode()[6:] not in kept
    login = parse_basic(basic("ann", "hunter2"))
    assert "hunter2" not in f"{login!r} {login}" and "ann" not in f"{login!r} {login}"


@pytest.mark.parametrize(
    "sent",
    [b"", b"Basic", b"Basic !!!", b"Basic eDp5 eDp5", b"Basic eA==", b"Bearer eDp5", b"Basic " + b"QTpB" * 2000],
)
def test_what_is_no_basic_is_told_so(sent: bytes) -> None:
    """Without repeating it."""
    with pytest.raises(LoginRequired) as refused:
        parse_basic(sent)
    assert "eDp5" not in str(refused.value)


def test_no_name_and_no_password_is_nobody() -> None:
    """podman sends it where it has none."""
    assert parse_basic(b"Basic Og==") is None


NAMES = st.text(st.characters(exclude_characters=":", exclude_categories=("C", "Z")), min_size=1, max_size=60)


@given(NAMES, st.text(st.characters(exclude_categories=("Cs",)), max_size=200))
def test_any_name_and_password_can_be_sent(name: str, password: str) -> None:
    """In UTF-8; a password may hold colons."""
    login = parse_basic(basic(name, password))
    assert login is not None
    assert (login.username, login.password) == (name.encode(), password.encode())


@given(st.binary(max_size=200))
def test_whatever_is_sent_is_a_login_nobody_or_refused(sent: bytes) -> None:
    """And nothing else happens."""
    try:
        parse_basic(b"Basic " + sent)
    except LoginRequired:
        pass


def test_a_checker_is_named_as_twisted_names_it(users: Path) -> None:
    """Ours, Twisted's, and a site's own."""
    assert isinstance(make_checker(f"htpasswd:{users}"), HtpasswdChecker)
    assert isinstance(make_checker(f"file:{users}"), FilePasswordDB)
    assert IUsernamePassword in make_checker("unix").credentialInterfaces


@pytest.mark.parametrize(
    ("description", "why"),
    [
        ("ldap:x", "there is no checker ldap; there are: .*htpasswd"),
        ("anonymous", "knows no passwords"),
        ("htpasswd:/nowhere/users", "/nowhere/users: No such file"),
        ("memory:user", "cannot be made"),
    ],
)
def test_a_checker_that_cannot_be_made_is_refused(description: str, why: str) -> None:
    """With what there is, and nothing of what may be a password."""
    with pytest.raises(ConfigError, match=why) as refused:
        make_checker(description)
    assert "hunter2" not in str(refused.value)

"""Users in a file of htpasswd: read again when it changes, and never worse than before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from zope.interface.verify import verifyObject

from appliance.errors import ConfigError
from appliance.identity import htpasswd
from appliance.identity.htpasswd import HtpasswdChecker, parse_htpasswd
from appliance.identity.interfaces import IBlockingChecker, IUserFile
from tests.doubles.deferreds import failing, result
from tests.doubles.passwords import hashed, write_users

NOW = 1_800_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_users(tmp_path / "htpasswd", {"ann": "secret one", "bob": "secret two"}, NOW - 3600)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []

    def keep(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(keep)
    yield lines
    globalLogPublisher.removeObserver(keep)


def lets_in(checker: HtpasswdChecker, user: str, password: str) -> bool:
    deferred = checker.requestAvatarId(UsernamePassword(user.encode(), password.encode()))
    try:
        return result(deferred) == user.encode()
    except UnauthorizedLogin:
        return False


def test_it_is_a_checker_of_cred(path: Path) -> None:
    """Other programs of Twisted's may use it as well."""
    checker = HtpasswdChecker(str(path))
    for interface in (ICredentialsChecker, IBlockingChecker, IUserFile):
        assert verifyObject(interface, checker)


def test_the_right_password_of_a_user_is_let_in(path: Path) -> None:
    """And no other one, of nobody else."""
    checker = HtpasswdChecker(str(path))
    assert lets_in(checker, "ann", "secret one")
    for user, password in (("ann", "secret two"), ("ann", ""), ("", "secret one"), ("eve", "secret one"), ("ANN", "x")):
        failing(checker.requestAvatarId(UsernamePassword(user.encode(), password.encode())), UnauthorizedLogin)
    assert checker.entry("ann") is not None and checker.entry("eve") is None


def test_passwords_may_be_of_any_length_and_letters(tmp_path: Path) -> None:
    """bcrypt looks at 72 bytes, as htpasswd does; a zero byte does not end what is compared."""
    long = "ü" * 60
    checker = HtpasswdChecker(str(write_users(tmp_path / "h", {"ann": long, "bob": "short"})))
    assert lets_in(checker, "ann", long)
    assert not lets_in(checker, "ann", "ü" * 35)
    assert not lets_in(checker, "bob", "short\0and more")


def test_who_is_not_there_costs_what_another_user_does(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One hash, of the same cost whenever that name is tried, also after the file has changed elsewhere."""
    compared: list[bytes] = []
    checkpw = bcrypt.checkpw

    def counted(password: bytes, hashed: bytes) -> bool:
        compared.append(hashed)
        return checkpw(password, hashed)

    monkeypatch.setattr(htpasswd.bcrypt, "checkpw", counted)
    checker = HtpasswdChecker(str(path))
    for _ in range(3):
        assert not lets_in(checker, "eve", "secret one")
        assert not lets_in(checker, "ann", "wrong")
    assert len(compared) == 6
    assert len(set(compared[::2])) == 1
    strangers = {lets_in(checker, f"stranger {n}", "secret one") for n in range(50)}
    assert strangers == {False}
    assert set(compared) == set(parse_htpasswd(path.read_bytes(), path).values())


def test_no_user_at_all_lets_nobody_in(tmp_path: Path) -> None:
    """An empty file is one without users."""
    (tmp_path / "h").write_text("# none yet\n\n")
    assert not lets_in(HtpasswdChecker(str(tmp_path / "h")), "ann", "")


OTHERS = {
    "ann:$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00": "line 1: the user ann has an MD5 hash, bcrypt is wanted",
    "# users\nann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=": "line 2: the user ann has a SHA-1 hash",
    "ann:rl5FQRpXRLXgw": "the user ann has a crypt hash",
    "ann:$6$salt$abcdef": "the user ann has another hash",
    "ann:hunter2": "the user ann has no hash",
    "ann:": "the user ann has no hash",
    "hunter2": "is no USER:HASH",
    ":hunter2": "is no USER:HASH",
    f"ann:{hashed('x')[:-1]}": "the user ann has another hash",
    f"ann:{hashed('x').replace('$04$', '$20$')}": "the hash of ann costs 20",
    f"ann:{hashed('x')}\nann:{hashed('y')}": "line 2: the user ann is there twice",
}


@pytest.mark.parametrize("text", OTHERS)
def test_what_cannot_be_used_is_named_by_its_line(text: str, tmp_path: Path) -> None:
    """And nothing of it repeated but the user: it may be a password."""
    (tmp_path / "h").write_text(text)
    with pytest.raises(ConfigError) as refused:
        HtpasswdChecker(str(tmp_path / "h"))
    assert OTHERS[text] in str(refused.value)
    assert "hunter2" not in str(refused.value) and "W6ph5" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """With what to do."""
    with pytest.raises(ConfigError, match="No such file.*htpasswd -B"):
        HtpasswdChecker(str(tmp_path / "absent"))


def test_what_apache_writes_around_it_does_no_harm() -> None:
    """Comments, blank lines, Windows' line ends, a field behind the hash."""
    text = f"\ufeff# users\r\n\r\n ann:{hashed('x')}:Ann Other \r\n"
    assert list(parse_htpasswd(text.encode(), "h")) == [b"ann"]


def test_a_change_is_in_force_with_the_next_look(path: Path, logged: list[str]) -> None:
    """Who was removed is out, who was added is in."""
    checker = HtpasswdChecker(str(path))
    before = checker.look(NOW)
    assert checker.look(NOW) == before
    write_users(path, {"bob": "secret two", "eve": "secret three"}, NOW - 60)
    assert lets_in(checker, "ann", "secret one")
    assert checker.look(NOW) != before
    assert not lets_in(checker, "ann", "secret one")
    assert lets_in(checker, "eve", "secret three")
    assert logged == [f"{path} was read again: 2 users"]


def test_a_file_that_is_being_written_is_left_for_later(path: Path) -> None:
    """htpasswd writes over the old one: for a moment there is nothing, or half of it."""
    checker = HtpasswdChecker(str(path))
    before = checker.look(NOW)
    path.write_text("")
    os.utime(path, (NOW - 0.3, NOW - 0.3))
    assert checker.look(NOW) == before
    assert lets_in(checker, "ann", "secret one")
    assert checker.look(NOW + 1.0) != before
    assert not lets_in(checker, "ann", "secret one")


def test_a_bad_new_file_leaves_the_old_one_in_force(
    path: Path, logged: list[str], logged_errors: list[dict[str, Any]]
) -> None:
    """Said once for each fault, with the line; and a good one is taken again."""
    checker = HtpasswdChecker(str(path))
    before = checker.look(NOW)
    path.write_text("ann:hunter2\n")
    os.utime(path, (NOW - 50, NOW - 50))
    for _ in range(3):
        assert checker.look(NOW) == before
    assert logged == [
        f"{path}, line 1: the user ann has no hash, bcrypt is wanted; make it with htpasswd -B;"
        " the users of before stay in force"
    ]
    path.unlink()
    for _ in range(3):
        assert checker.look(NOW) == before
    assert lets_in(checker, "ann", "secret one")
    write_users(path, {"ann": "another"}, NOW - 40)
    assert checker.look(NOW) != before
    assert not lets_in(checker, "ann", "secret one")
    assert "hunter2" not in "".join(logged)
    logged_errors.clear()

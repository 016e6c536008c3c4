"""Where an upstream's secret comes from, and how it is followed while it is replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from appliance import errors
from appliance.flow.disk import InlineThreads
from appliance.settings import UpstreamSettings
from appliance.upstream.credentials.attempts import LoginAttempts
from appliance.upstream.credentials.configured import (
    MAX_SECRET_BYTES,
    PasswordFile,
    SecretFile,
    TokenFile,
    credentials_for,
    token_credentials,
)
from appliance.upstream.credentials.renewing import GRACE, RETRY_DELAYS, IAcceptedCredentials, RenewingCredential
from appliance.upstream.interfaces import ICredentials, Secret
from appliance.upstream.url import Url
from tests.doubles.deferreds import failing, pending, result
from tests.rooms.upstream.net import arguments

HOME = Url.parse("https://registry.example")

# -- the choice -----------------------------------------------------------------------------------------------------


def settings(**files: object) -> UpstreamSettings:
    return UpstreamSettings(name="up.example", urls=("https://registry.example",), **files)  # type: ignore[arg-type]


def wrote(path: Path, data: str) -> Path:
    path.write_text(data, encoding="utf-8", newline="")
    return path


def test_without_a_file_we_are_anonymous() -> None:
    """Most upstreams are asked anonymously."""
    assert credentials_for(settings(), HOME, arguments(Clock())) is None


def test_a_user_name_goes_with_the_password_of_its_file(tmp_path: Path) -> None:
    """The usual way."""
    named = settings(username="u", password_file=wrote(tmp_path / "p", "x\n"))
    given = credentials_for(named, HOME, arguments(Clock()))
    assert given is not None
    secret = result(given.current())
    assert (secret.username, secret.danger_text, secret.use) == ("u", "x", Secret.Use.PASSWORD)


def test_a_token_file_holds_a_token_for_the_registry(tmp_path: Path) -> None:
    """White space around it means nothing."""
    given = credentials_for(settings(token_file=wrote(tmp_path / "t", " \n x.y \r\n")), HOME, arguments(Clock()))
    assert given is not None
    secret = result(given.current())
    assert (secret.username, secret.danger_text, secret.use) == ("", "x.y", Secret.Use.BEARER)


def test_an_adapter_may_know_a_token_as_a_password(tmp_path: Path) -> None:
    """Google takes an access token as the password of a user of that name."""
    file = wrote(tmp_path / "t", "ya29")
    given = token_credentials(settings(token_file=file), arguments(Clock()), "oauth2accesstoken", Secret.Use.PASSWORD)
    assert given is not None
    secret = result(given.current())
    assert (secret.username, secret.danger_text, secret.use) == ("oauth2accesstoken", "ya29", Secret.Use.PASSWORD)
    assert token_credentials(settings(), arguments(Clock())) is None


def test_an_auth_file_is_docker_s(tmp_path: Path) -> None:
    """What docker login wrote is taken as it is."""
    file = wrote(tmp_path / "config.json", '{"auths": {"registry.example": {"auth": "dTpw"}}}')
    given = credentials_for(settings(auth_file=file), HOME, arguments(Clock()))
    assert given is not None
    assert result(given.current()).username == "u"


# -- files ----------------------------------------------------------------------------------------------------------


def read(file: SecretFile, again: bool = False) -> bytes:
    return result(Deferred.fromCoroutine(file.read(again)))


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    """By its time, its size or its inode: written to, or replaced by another one."""
    path = wrote(tmp_path / "f", "one")
    file = SecretFile("token_file", path, "up.example", InlineThreads())
    assert read(file) == b"one"
    wrote(path, "three")
    os.utime(path, ns=(1, 1))
    assert read(file) == b"three"
    wrote(path, "other")
    os.utime(path, ns=(2, 2))
    assert read(file) == b"other"
    wrote(tmp_path / "g", "quiet")
    os.utime(tmp_path / "g", ns=(2, 2))
    os.replace(tmp_path / "g", path)
    assert read(file) == b"quiet"


def test_a_file_that_looks_unchanged_is_read_again_after_a_refusal(tmp_path: Path) -> None:
    """Two writes in one tick of the file system's clock look like one."""
    path = wrote(tmp_path / "f", "one")
    os.utime(path, ns=(1, 1))
    file = SecretFile("token_file", path, "up.example", InlineThreads())
    assert read(file) == b"one"
    wrote(path, "two")
    os.utime(path, ns=(1, 1))
    assert (read(file), read(file, again=True)) == (b"one", b"two")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def too_much(path: Path) -> None:
    path.write_bytes(b"x" * (MAX_SECRET_BYTES + 1))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: None, "No such file"),
        (os.mkdir, "directory"),
        (a_pipe, "regular file"),
        (too_much, "larger"),
        (lambda path: path.write_bytes(b"c4n4ry\xff"), "UTF-8"),
    ],
)
def test_a_file_that_is_no_use_is_named_with_what_is_wrong(tmp_path: Path, make: object, word: str) -> None:
    """A pipe without a writer does not hang anything either."""
    path = tmp_path / "f"
    make(path)  # type: ignore[operator]
    fault = failing(Deferred.fromCoroutine(PasswordFile("u", path, "up.example", InlineThreads()).read(again=False)))
    assert type(fault) is errors.UpstreamDenied
    assert f"password_file {path}" in str(fault)
    assert word in str(fault)
    assert "c4n4ry" not in str(fault)


def test_an_empty_token_file_holds_no_token(tmp_path: Path) -> None:
    """Said before the registry is asked."""
    file = TokenFile(wrote(tmp_path / "t", "\n"), "up.example", InlineThreads(), "", Secret.Use.BEARER)
    assert "is empty" in str(failing(Deferred.fromCoroutine(file.read(again=False))))


# -- credential -------------------------------------------------------------------------------------------------------


class Drawer:
    """A L{appliance.upstream.credentials.renewing.SecretSource} that a test changes."""

    shown = "drawer 3"
    edited = True

    def __init__(self) -> None:
        self.text = "old"
        self.fault: errors.UpstreamError | None = None
        self.readings = 0
        self.again = 0
        self.held: list[tuple[Deferred[Secret], Secret]] | None = None

    async def read(self, again: bool) -> Secret:
        self.readings += 1
        self.again += again
        if self.fault is not None:
            raise self.fault
        if self.held is not None:
            waiting: Deferred[Secret] = Deferred()
            self.held.append((waiting, Secret("", "u", self.text)))
            return await waiting
        return Secret("", "u", self.text)


class Rig:
    def __init__(self) -> None:
        self.clock = Clock()
        self.drawer = Drawer()
        self.credential = RenewingCredential(self.drawer, self.clock)

    def current(self) -> Secret:
        return result(self.credential.current())

    def accepted(self) -> Secret:
        secret = self.current()
        self.credential.accepted(secret)
        return secret


def test_it_provides_what_it_promises() -> None:
    """L{ICredentials}, and takes note of what was accepted."""
    credential = Rig().credential
    assert verifyObject(ICredentials, credential)
    assert verifyObject(IAcceptedCredentials, credential)
    assert credential.source == "drawer 3"


def test_the_same_secret_keeps_its_identity_and_another_gets_another() -> None:
    """So tokens are kept as long as, and no longer than, they are the secret's."""
    rig = Rig()
    first = rig.current()
    assert rig.current() == first
    rig.drawer.text = "new"
    second = rig.current()
    assert second.danger_text == "new"
    assert second.identity != first.identity


def test_a_secret_that_was_never_accepted_is_looked_at_once_more_and_not_waited_for() -> None:
    """It is wrong: no change of it is to be expected."""
    rig = Rig()
    secret = rig.current()
    assert result(rig.credential.refused(secret)) is False
    assert rig.drawer.again == 1
    rig.drawer.text = "new"
    assert result(rig.credential.refused(secret)) is True


def test_a_secret_that_is_accepted_no_more_is_waited_for_three_seconds() -> None:
    """The registry may have been changed before the file."""
    rig = Rig()
    secret = rig.accepted()
    refused = rig.credential.refused(secret)
    rig.clock.pump([0.25, 0.25, 0.5])
    assert pending(refused)
    rig.drawer.text = "new"
    rig.clock.advance(1)
    assert result(refused) is True
    assert rig.current().danger_text == "new"


def test_the_wait_ends() -> None:
    """After three seconds the answer is no, with a few looks at the source and no call left behind."""
    rig = Rig()
    refused = rig.credential.refused(rig.accepted())
    for pause in RETRY_DELAYS:
        assert pending(refused)
        rig.clock.advance(pause)
    assert result(refused) is False
    assert rig.clock.seconds() == sum(RETRY_DELAYS) == 3
    assert rig.drawer.again == len(RETRY_DELAYS) + 1
    assert rig.clock.getDelayedCalls() == []


def test_all_share_one_wait() -> None:
    """Twenty refusals make one look; who leaves takes nothing from the others."""
    rig = Rig()
    secret = rig.accepted()
    refusals = [rig.credential.refused(secret) for _ in range(20)]
    refusals[0].addErrback(lambda _: None)
    refusals[0].cancel()
    rig.drawer.text = "new"
    rig.clock.advance(RETRY_DELAYS[0])
    assert [result(each) for each in refusals[1:]] == [True] * 19
    assert rig.drawer.again == 2


def test_the_wait_outlives_a_source_that_cannot_be_read_for_a_moment() -> None:
    """It is about to be written."""
    rig = Rig()
    secret = rig.accepted()
    rig.drawer.fault = errors.UpstreamDenied("u", "gone")
    refused = rig.credential.refused(secret)
    rig.drawer.fault, rig.drawer.text = None, "new"
    rig.clock.advance(RETRY_DELAYS[0])
    assert result(refused) is True


def test_a_late_refusal_of_an_earlier_secret_says_that_there_is_another() -> None:
    """And makes no wait, and no doubt about the new one."""
    rig = Rig()
    old = rig.accepted()
    rig.drawer.text = "new"
    new = rig.accepted()
    assert result(rig.credential.refused(old)) is True
    assert rig.current() == new


def test_the_secret_before_is_presented_when_the_registry_does_not_know_the_new_one_yet() -> None:
    """Under another identity: the old one's tokens are not used again. The new one's turn comes when it is refused."""
    rig = Rig()
    old = rig.accepted()
    rig.drawer.text = "new"
    new = rig.current()
    assert result(rig.credential.refused(new)) is True
    back = rig.current()
    assert back.danger_text == "old"
    assert back.identity not in (old.identity, new.identity)
    rig.credential.accepted(back)
    assert result(rig.credential.refused(back)) is True
    last = rig.current()
    assert last.danger_text == "new"
    assert last.identity not in (old.identity, new.identity, back.identity)
    assert result(rig.credential.refused(new)) is True, "a refusal from before the registry's change, come late"
    assert rig.current() == last


def test_the_secret_before_is_not_presented_for_ever() -> None:
    """A mistake in the new one shows after a minute."""
    rig = Rig()
    rig.accepted()
    rig.drawer.text = "new"
    assert result(rig.credential.refused(rig.current())) is True
    rig.clock.advance(GRACE - 1)
    assert rig.current().danger_text == "old"
    rig.clock.advance(1)
    new = rig.current()
    assert new.danger_text == "new"
    assert result(rig.credential.refused(new)) is False


def test_the_secret_before_is_forgotten_when_the_new_one_was_accepted() -> None:
    """When that is refused later, it is not because the registry is behind."""
    rig = Rig()
    rig.accepted()
    rig.drawer.text = "new"
    new = rig.accepted()
    refused = rig.credential.refused(new)
    assert pending(refused)
    rig.clock.pump(RETRY_DELAYS)
    assert result(refused) is False


def test_a_refused_secret_is_not_come_back_to() -> None:
    """The registry changed first: what was there before is known to be wrong."""
    rig = Rig()
    old = rig.accepted()
    refused = rig.credential.refused(old)
    rig.drawer.text = "new"
    rig.clock.advance(RETRY_DELAYS[0])
    assert result(refused) is True
    assert result(rig.credential.refused(rig.current())) is False


@pytest.mark.parametrize("how", ["empty", "gone"])
def test_a_file_that_is_being_written_does_not_take_the_secret_away(how: str) -> None:
    """It is empty or missing for a moment; after a minute it is taken as meant."""
    rig = Rig()
    secret = rig.accepted()
    if how == "empty":
        rig.drawer.text = ""
    else:
        rig.drawer.fault = errors.UpstreamDenied("u", "gone")
    assert rig.current() == secret
    rig.clock.advance(GRACE - 1)
    assert rig.current() == secret
    rig.clock.advance(1)
    if how == "empty":
        assert rig.current().danger_text == ""
    else:
        assert type(failing(rig.credential.current())) is errors.UpstreamDenied


def test_a_reading_that_took_longer_than_a_later_one_brings_no_old_secret_back() -> None:
    """Threads of a slow disk end in any order."""
    rig = Rig()
    secret = rig.accepted()
    rig.drawer.held = []
    slow = rig.credential.current()
    rig.drawer.text = "new"
    refused = rig.credential.refused(secret)
    (first, old), (second, new) = rig.drawer.held
    second.callback(new)
    assert result(refused) is True
    first.callback(old)
    assert result(slow).danger_text == "new"


def test_many_questions_at_once_make_one_reading() -> None:
    """A pull of forty layers is one look at the file."""
    rig = Rig()
    rig.drawer.held = []
    asked = [rig.credential.current() for _ in range(40)]
    ((waiting, found),) = rig.drawer.held
    waiting.callback(found)
    assert {result(each).identity for each in asked} == {"u#1"}


def test_nothing_shows_the_secret() -> None:
    """Neither what was found nor what is presented."""
    rig = Rig()
    rig.drawer.text = "c4n4ry"
    secret = rig.current()
    shown = repr(rig.credential) + repr(vars(rig.credential)) + repr(secret) + secret.identity
    assert "c4n4ry" not in shown


# -- one URL --------------------------------------------------------------------------------------------------------


class Plain:
    """L{ICredentials} of an adapter's own, which takes no note of what is accepted; says no in its own time."""

    def __init__(self) -> None:
        self.secret = Secret("a", "u", "x")
        self.verdicts: list[Deferred[bool]] = []

    def current(self) -> Deferred[Secret]:
        return succeed(self.secret)

    def refused(self, secret: Secret) -> Deferred[bool]:
        self.verdicts.append(Deferred())
        return self.verdicts[-1]


def attempts() -> tuple[LoginAttempts, Plain, Clock]:
    plain, clock = Plain(), Clock()
    return LoginAttempts("up.example", "https://registry.example/", plain, clock), plain, clock  # type: ignore[arg-type]


def test_who_comes_while_another_secret_is_looked_for_waits_for_it() -> None:
    """Instead of showing what was refused a moment ago."""
    attempted, plain, _ = attempts()
    refused = Deferred.fromCoroutine(attempted.refused(plain.secret))
    coming = Deferred.fromCoroutine(attempted.presentable())
    assert pending(refused) and pending(coming)
    plain.secret = Secret("b", "u", "y")
    (verdict,) = plain.verdicts
    verdict.callback(True)
    assert result(refused) is True
    assert result(coming).identity == "b"


def test_refusals_that_come_after_the_verdict_make_no_new_look() -> None:
    """Nineteen others were under way; an AWS or a helper is not asked nineteen times."""
    attempted, plain, _ = attempts()
    first = Deferred.fromCoroutine(attempted.refused(plain.secret))
    plain.verdicts[0].callback(False)
    assert result(first) is False
    assert result(Deferred.fromCoroutine(attempted.refused(plain.secret))) is False
    assert len(plain.verdicts) == 1
    fault = failing(Deferred.fromCoroutine(attempted.presentable()))
    assert type(fault) is errors.UpstreamDenied
    assert "https://registry.example/" in str(fault)


def test_a_source_that_cannot_be_asked_is_the_error() -> None:
    """It is down, and the secret is not judged finally: the next question asks it again."""
    attempted, plain, _ = attempts()
    first = Deferred.fromCoroutine(attempted.refused(plain.secret))
    plain.verdicts[0].errback(errors.UpstreamTimeout("up.example", "slow"))
    assert type(failing(first)) is errors.UpstreamTimeout
    coming = Deferred.fromCoroutine(attempted.presentable())
    plain.verdicts[1].callback(False)
    assert type(failing(coming)) is errors.UpstreamDenied


def test_many_refused_secrets_are_not_remembered_for_ever() -> None:
    """A source that changes every second does not fill the memory."""
    attempted, plain, _ = attempts()
    for number in range(1000):
        plain.secret = Secret(str(number), "u", "x")
        judged = Deferred.fromCoroutine(attempted.refused(plain.secret))
        plain.verdicts[-1].callback(False)
        result(judged)
    assert len(attempted._refusals) < 100

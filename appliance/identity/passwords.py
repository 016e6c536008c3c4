"""
Passwords of clients (HTTP Basic, RFC 7617), checked by whatever C{twisted.cred} has for it, and what is remembered of
that: a pull of 50 layers is not 50 hashes.

What is remembered is a keyed hash of the header's value, with a key of this process; the password itself is kept
nowhere. It ends after L{REMEMBERED}, when the user's line in a file changes, and, where checkers are of another kind,
when the configuration is read again.
"""

from __future__ import annotations

import binascii
import hmac
import os
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from twisted.cred.checkers import FilePasswordDB, ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import findCheckerFactories, makeChecker
from twisted.internet.defer import Deferred, DeferredSemaphore, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.plugins.cred_unix import UNIXChecker
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance.errors import ConfigError, LoginUnavailable, LoginWrong
from appliance.flow.clock import wall_of
from appliance.flow.disk import stamp_of
from appliance.flow.lru import LeastRecentlyUsed
from appliance.flow.singleflight import SingleFlight, ended, shielded
from appliance.identity.htpasswd import HtpasswdChecker
from appliance.identity.interfaces import IBlockingChecker, IUserFile
from appliance.identity.turns import Turns
from appliance.interfaces import IThreads
from appliance.settings import ANY_USER, LOGIN_NONE, Settings

REMEMBERED = 300.0
"""Seconds for which a password that was right is not checked again."""
WRONG_FOR = 10.0
"""Seconds for which one that was wrong is not: a client asks for all layers with it."""
LOOK = 2.0
"""Seconds after which files of users are looked at again, when somebody asks."""
PATIENCE = 10.0
"""Seconds that a checker has for its answer."""
AT_ONCE = 4
"""Passwords that are checked at a time."""
PACE = 0.5
"""A refusal comes at a multiple of so many seconds, where checkers might tell by the time who is a user."""

MOST_KEPT = 16 * 1024
"""Passwords that are remembered; as many wrong ones."""
LONGEST = 4096
"""Bytes of the header's value."""

# Of Twisted's own: they read a file, or hash, in the call.
_BLOCKING = (FilePasswordDB, UNIXChecker)

WRONG = "the user name or the password is wrong"
UNAVAILABLE = "passwords cannot be checked at the moment; come again in a minute"


def make_checker(description: str) -> ICredentialsChecker:
    """
    The checker that a value of C{checkers} means, as C{twisted.cred.strcred} finds it.

    @raise ConfigError: there is none, or it cannot be made. What follows the colon may be a password (C{memory:}) and
        is left out of the message.
    """
    kind = description.partition(":")[0]
    known = {factory.authType: factory for factory in findCheckerFactories()}
    if kind not in known:
        raise ConfigError(f"there is no checker {kind}; there are: {', '.join(sorted(known))}")
    if IUsernamePassword not in known[kind].credentialInterfaces:
        raise ConfigError(f"the checker {kind} knows no passwords; take another one")
    try:
        checker: ICredentialsChecker = makeChecker(description)
    except ConfigError:
        raise
    except Exception as error:
        # A plugin's own parser may raise anything, and repeat what it was given.
        raise ConfigError(f"the checker {kind} cannot be made: {type(error).__name__}; see its help") from error
    return checker


def strangers(settings: Settings) -> list[str]:
    """
    Users that rules of access name, themselves or by a group, and that no checker knows; none where there is a checker,
    or a certificate, of which it cannot be told whom it knows. Blocks.

    @raise ConfigError: a checker cannot be made.
    """
    named = [name for rule in settings.access for name in rule.match.users if name != ANY_USER]
    named += [name for rule in settings.access for group in rule.match.groups for name in settings.groups[group]]
    listeners = [each for each in settings.listen if each.login != LOGIN_NONE]
    descriptions = dict.fromkeys(each for listener in listeners for each in settings.checkers_of(listener))
    if not named or not descriptions or any(each.client_ca_file is not None for each in settings.listen):
        return []
    files: list[IUserFile | None] = [IUserFile(make_checker(each), None) for each in descriptions]
    if None in files:
        return []
    return [name for name in dict.fromkeys(named) if all(file is None or file.entry(name) is None for file in files)]


def check_checkers(settings: Settings, source: str) -> None:
    """Raises L{ConfigError} for the first of C{checkers} in the file C{source} that cannot be made."""
    lists = {"checkers": settings.checkers}
    lists |= {f"listen[{number}].checkers": each.checkers or () for number, each in enumerate(settings.listen)}
    for key, checkers in lists.items():
        for number, description in enumerate(checkers):
            try:
                make_checker(description)
            except ConfigError as error:
                raise ConfigError(f"{source}: {key}[{number}]: {error}") from error


@implementer(IUsernamePassword)
@dataclass(frozen=True)
class BasicLogin:
    """
    A user name and a password, as a client sent them.

    @ivar username: UTF-8; not checked: it may be a mistyped password, and is for no log.
    """

    username: bytes
    password: bytes

    def checkPassword(self, password: bytes) -> bool:
        """See L{IUsernamePassword}; takes as long for a wrong one."""
        return hmac.compare_digest(self.password, password)

    def __repr__(self) -> str:
        return "<BasicLogin>"


def parse_basic(authorization: bytes) -> BasicLogin | None:
    """
    What the value of an C{Authorization} header says; C{None} for no user and no password, as podman and skopeo send
    where they have none.

    @raise LoginWrong: it is no Basic, or not written as RFC 7617 has it.
    """
    scheme, _, encoded = authorization.strip().partition(b" ")
    if scheme.lower() != b"basic":
        raise LoginWrong("only a user name and a password are taken here (Basic)")
    try:
        if len(authorization) > LONGEST:
            raise ValueError
        name, colon, password = b64decode(encoded.strip(), validate=True).partition(b":")
        if not colon or not name.decode().isprintable() or len(name) > 255:
            raise ValueError
    except (ValueError, binascii.Error):
        raise LoginWrong("the Authorization header holds no user name and password (RFC 7617)") from None
    if not name and not password:
        return None
    return BasicLogin(name, password)


@dataclass(slots=True)
class _Remembered:
    """
    A password that was right.

    @ivar user: as the checker gives it; C{name} as the client does.
    @ivar entries: see L{Passwords._entries}; from before it was checked, as a file may change meanwhile.
    @ivar until: seconds of the clock. What is older was right once, and is checked before what was never seen.
    """

    user: str
    name: str
    entries: list[object]
    until: float


class Passwords:
    """
    The users of some checkers, tried in their order.

    Of what a stranger can cause, all is bounded: the passwords that are checked at a time, those that wait for it (in
    all, for each address, for each name), the processor time of hashes, and what is remembered. Whoever was right
    before does not wait behind strangers.
    """

    _log = Logger()

    def __init__(self, checkers: Sequence[ICredentialsChecker], clock: IReactorTime, threads: IThreads) -> None:
        self._checkers = checkers
        self._clock = clock
        self._wall = wall_of(clock)
        self._threads = threads
        self._key = os.urandom(32)
        self._right: LeastRecentlyUsed[bytes, _Remembered] = LeastRecentlyUsed(MOST_KEPT)
        self._wrong: LeastRecentlyUsed[bytes, float] = LeastRecentlyUsed(MOST_KEPT)
        self._checks: SingleFlight[bytes, str] = SingleFlight()
        self._looks: SingleFlight[None, None] = SingleFlight()
        self._turns = Turns(AT_ONCE)
        # Half of the processors go on serving, whatever is guessed. A checker of another kind may never come back, and
        # takes no other's turns with it.
        at_once = max(1, len(os.sched_getaffinity(0)) // 2)
        hashing = DeferredSemaphore(at_once)
        self._places = [
            hashing if isinstance(each, HtpasswdChecker) else DeferredSemaphore(at_once) for each in checkers
        ]
        # Why a checker gives no answers, by its place; that is logged when it begins.
        self._silent: dict[int, str] = {}
        self._looked = -LOOK
        self._versions: list[object] = [None for _ in checkers]
        self._generation = 0
        # Ours takes the same time for all names; of others nothing is known.
        self._is_even = all(isinstance(each, HtpasswdChecker) for each in checkers)

    def known(self, authorization: bytes) -> str | None:
        """
        The user whose password this is, when it was right a short time ago and no file of users has changed since, by
        a look that is no older than L{LOOK}. Otherwise L{check} finds out.
        """
        remembered = self._right.get(self._digest(authorization))
        if remembered is None:
            return None
        now = self._clock.seconds()
        return remembered.user if now < remembered.until and now < self._looked + LOOK else None

    async def check(self, authorization: bytes, login: BasicLogin, address: str) -> str:
        """
        Whose password it is.

        @param login: what L{parse_basic} made of C{authorization}.
        @param address: where it comes from.
        @return: the user's name, as the checker gives it.
        @raise LoginWrong: it is wrong.
        @raise LoginsBusy: too many wait to be checked.
        @raise LoginUnavailable: whoever has to know gives no answer.
        """
        if not login.password:
            # A directory takes a login without a password for one of nobody, and says yes (RFC 4513 section 5.1.2).
            raise LoginWrong(WRONG)
        if self._clock.seconds() >= self._looked + LOOK:
            try:
                await self._looks.run(None, self._look).addTimeout(PATIENCE, self._clock)
            except TimeoutError:
                raise LoginUnavailable(UNAVAILABLE) from None
        user = self.known(authorization)
        if user is not None:
            return user
        digest = self._digest(authorization)
        wrong_until = self._wrong.get(digest)
        if wrong_until is not None and self._clock.seconds() < wrong_until:
            raise LoginWrong(WRONG)
        return await self._checks.run(digest, lambda: self._decide(digest, login, address))

    def knows(self, login: BasicLogin) -> str | None:
        """The name that a client gave, where a checker knows it for one of its users."""
        name = login.username.decode()
        files = (each for each in self._checkers if IUserFile.providedBy(each))
        return name if any(each.entry(name) is not None for each in files) else None

    def reconsider(self) -> None:
        """Look at the files of users with the next request, and check once more what stands in none."""
        self._looked = -LOOK
        if not all(_is_file(each) for each in self._checkers):
            self._expire(lambda remembered: True)

    def _expire(self, is_concerned: Callable[[_Remembered], bool]) -> None:
        self._generation += 1
        for remembered in self._right.values():
            if is_concerned(remembered):
                remembered.until = 0.0
        self._wrong = LeastRecentlyUsed(MOST_KEPT)

    def _entries(self, name: str) -> list[object]:
        """What every file of users says of a name; where it cannot be asked that, which file it is."""
        return [
            checker.entry(name) if IUserFile.providedBy(checker) else version
            for checker, version in zip(self._checkers, self._versions, strict=True)
        ]

    def _digest(self, authorization: bytes) -> bytes:
        return blake2b(authorization, key=self._key, digest_size=16).digest()

    async def _look(self) -> None:
        """Look at the files of users, and forget what is remembered when one has changed."""
        began = self._clock.seconds()
        versions: list[object] = []
        for checker in self._checkers:
            version: object = None
            if IUserFile.providedBy(checker):
                version = await self._threads.call(checker.look, self._wall())
            elif isinstance(checker, FilePasswordDB):
                version = await self._threads.call(stamp_of, checker.filename)
            versions.append(version)
        if versions != self._versions:
            self._versions = versions
            self._expire(lambda remembered: remembered.entries != self._entries(remembered.name))
        self._looked = began

    async def _decide(self, digest: bytes, login: BasicLogin, address: str) -> str:
        generation, began = self._generation, self._clock.seconds()
        name = login.username.decode()
        entries = self._entries(name)
        was_right = self._right.get(digest) is not None
        if not was_right:
            await self._turns.take(address, name)
        try:
            user = await self._asked(login)
        except LoginWrong:
            user = None
        finally:
            if not was_right:
                self._turns.end()
        now = self._clock.seconds()
        is_current = generation == self._generation and entries == self._entries(name)
        if user is not None:
            until = now + REMEMBERED if is_current else 0.0
            self._right.put(digest, _Remembered(user, name, entries, until), 1)
            return user
        if is_current:
            self._right.drop(digest)
            self._wrong.put(digest, now + WRONG_FOR, 1)
        if not self._is_even:
            await deferLater(self._clock, PACE - (now - began) % PACE)
        raise LoginWrong(WRONG)

    async def _asked(self, login: BasicLogin) -> str | None:
        """All checkers are asked, until one says who it is; C{None}: none does."""
        silent = ""
        for number, checker in enumerate(self._checkers):
            try:
                answer: Any
                if IBlockingChecker.providedBy(checker) or type(checker) in _BLOCKING:
                    answer = await self._asked_in_thread(self._places[number], checker, login)
                else:
                    answering: Deferred[Any] = checker.requestAvatarId(login)
                    answer = await answering.addTimeout(PATIENCE, self._clock)
            except UnauthorizedLogin:
                self._silent.pop(number, None)
                continue
            except Exception as error:
                # Its text, and whatever stands on its stack, may hold the password.
                silent = "it gave no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
                if self._silent.get(number) != silent:
                    self._silent[number] = silent
                    self._log.error(
                        "{checker} cannot check a password: {silent}", checker=type(checker).__name__, silent=silent
                    )
                continue
            self._silent.pop(number, None)
            user = _user_of(answer)
            if user is not None:
                return user
        if silent:
            raise LoginUnavailable(UNAVAILABLE)
        return None


    async def _asked_in_thread(self, places: DeferredSemaphore, checker: Any, login: BasicLogin) -> Any:
        """What a checker that blocks says, once there is a place; raises L{TimeoutError}."""
        await places.acquire().addTimeout(PATIENCE, self._clock)
        working = self._threads.call(_ask_at_once, checker, login)
        # Its thread cannot be stopped, and keeps its place for as long as it is silent.
        ended(working).addCallback(lambda _: places.release())
        return await shielded(working).addTimeout(PATIENCE, self._clock)


def _user_of(answer: object) -> str | None:
    """What a checker calls the user it let in; C{None} for C{ANONYMOUS}, and for what can be no name."""
    try:
        name = answer.decode() if isinstance(answer, bytes) else answer
    except UnicodeDecodeError:
        return None
    return name if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 255 else None


def _is_file(checker: object) -> bool:
    return bool(IUserFile.providedBy(checker)) or isinstance(checker, FilePasswordDB)


def _ask_at_once(checker: Any, login: BasicLogin) -> object:
    """In a thread."""
    answers: list[object] = []
    checker.requestAvatarId(login).addBoth(answers.append)
    if answers and isinstance(answers[0], Failure):
        answers[0].raiseException()
    return answers[0] if answers else None

"""
The credentials that the settings name: a password, a token, or Docker's C{config.json}.

The last holds credentials of many registries (docker CLI, "Configuration files")::

    {"auths": {"registry.example": {"auth": base64 of user:password}},
     "credHelpers": {"ecr.example": "ecr-login"}, "credsStore": "secretservice"}

An entry may hold C{username} and C{password} in place of C{auth}, an C{identitytoken} (a refresh token for the token
server), or a C{registrytoken} (a token for the registry itself).
"""

from __future__ import annotations

import binascii
import os
import shlex
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorProcess, IReactorTime

from appliance.errors import UpstreamDenied
from appliance.interfaces import IThreads
from appliance.settings import UpstreamSettings
from appliance.upstream.credentials.helper import CredentialHelper
from appliance.upstream.credentials.renewing import RenewingCredential
from appliance.upstream.interfaces import ICredentials, Secret
from appliance.upstream.url import Url

#: See L{CredentialArguments.post}.
Post = Callable[[str, Mapping[str, str]], Deferred[bytes]]


@dataclass(frozen=True)
class CredentialArguments:
    """
    The arguments that credentials are made with; each takes those that it needs.

    @ivar upstream: its configured name, for errors.
    @ivar host: the host that the credentials are for, in lower case and without a port.
    @ivar threads: for calls that block.
    @ivar post: C{post(path, fields)} sends C{fields} as a form (C{application/x-www-form-urlencoded}) to C{path} at
        that host, with its proxy, trust and address rules; C{path} begins with a slash. Fires with the body of a 200,
        of 1 MiB at most. Fails with L{appliance.errors.UpstreamDenied} for 404 and other refusals, else with the
        L{appliance.errors.UpstreamError} for the status; never with what was sent.
    @ivar environ: the environment, as C{HOME} and C{PATH}; not shown, since it may hold secrets.
    @ivar danger_proxy: gives the URL, with user and password, of the proxy to ask https through; C{None}: none.
    """

    upstream: str
    host: str
    clock: IReactorTime
    threads: IThreads
    processes: IReactorProcess
    post: Post
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    danger_proxy: Callable[[], str | None] = lambda: None


def credentials_for(settings: UpstreamSettings, url: Url, given: CredentialArguments) -> ICredentials | None:
    """
    Where the secret for C{url} comes from that the settings name a file of, C{None} for an anonymous upstream.

    In C{auth_file} secrets stand by host, and C{url} is shown the one of its own. An upstream with URLs of several
    hosts may have some that want none: those that the file does not name are asked anonymously. The other files hold
    one secret, which every host of the upstream is shown (see L{appliance.explain.warnings}).

    An adapter with a way of its own is asked first, by L{appliance.upstream.interfaces.IAdapter.credentials}.
    """
    if settings.username is not None and settings.password_file is not None:
        password = PasswordFile(settings.username, settings.password_file, given.upstream, given.threads)
        return RenewingCredential(password, given.clock)
    if settings.auth_file is None:
        return token_credentials(settings, given)

    def helper(name: str, source: str) -> CredentialHelper:
        return CredentialHelper(
            name, source, given.upstream, given.clock, given.threads, given.processes, given.environ
        )

    several = len({Url.parse(each).authority for each in settings.urls}) > 1
    config = DockerConfig(settings.auth_file, url, given.upstream, given.threads, helper, or_none=several)
    return RenewingCredential(config, given.clock)


def token_credentials(
    settings: UpstreamSettings, given: CredentialArguments, username: str = "", use: Secret.Use = Secret.Use.BEARER
) -> RenewingCredential | None:
    """
    The token of C{token_file}, C{None} when the settings name none.

    @param use: how it is presented; as a password, with C{username}.
    """
    if settings.token_file is None:
        return None
    token = TokenFile(settings.token_file, given.upstream, given.threads, username, use)
    return RenewingCredential(token, given.clock)


# -- files ------------------------------------------------------------------------------------------------------------

#: Bytes; a config.json of a thousand registries is far below.
MAX_SECRET_BYTES = 1024 * 1024

#: Modification time in ns, size in bytes, inode: what a file replaced or written to does not keep.
_Stamp = tuple[int, int, int]


class SecretFile:
    """
    A small file that is read again when it has changed.

    @ivar shown: its key in the configuration and its path.
    """

    def __init__(self, key: str, path: Path, upstream: str, threads: IThreads) -> None:
        # Quoted where needed, so that its end can be found when it is left out of what clients are sent.
        self.shown = f"{key} {shlex.quote(str(path))}"
        self._path = path
        self._upstream = upstream
        self._threads = threads
        self._stamp: _Stamp | None = None
        self._danger_data = b""

    async def read(self, again: bool) -> bytes:
        """
        What the file holds.

        @param again: whether it is read although it looks unchanged: two changes in one tick of the file system's clock
            look like one.
        @raise UpstreamDenied: it cannot be read.
        """
        known = None if again else self._stamp
        try:
            changed = await self._threads.call(_read_changed, self._path, known)
        except OSError as reason:
            raise self.fault(f"cannot be read: {reason.strerror}") from None
        if changed is not None:
            self._stamp, self._danger_data = changed
        if len(self._danger_data) > MAX_SECRET_BYTES:
            self._danger_data = b""
            self._stamp = None
            raise self.fault(f"is larger than {MAX_SECRET_BYTES} bytes")
        return self._danger_data

    async def text(self, again: bool) -> str:
        """What the file holds, without the newline at its end that editors and echo put there."""
        try:
            text = (await self.read(again)).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fault("cannot be read: it is not UTF-8") from None
        return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")

    def fault(self, why: str) -> UpstreamDenied:
        """The error that the file cannot be used."""
        return UpstreamDenied(self._upstream, f"{self.shown} {why}")

    def __repr__(self) -> str:
        return f"<SecretFile {self.shown}>"


class PasswordFile:
    """A L{SecretSource}: the password of a user whose name is known."""

    edited = True

    def __init__(self, username: str, path: Path, upstream: str, threads: IThreads) -> None:
        self._username = username
        self._file = SecretFile("password_file", path, upstream, threads)
        self.shown = self._file.shown

    async def read(self, again: bool) -> Secret:
        """See L{SecretSource.read}. The password may be empty."""
        return Secret("", self._username, await self._file.text(again))


class TokenFile:
    """A L{SecretSource}: a token, white space around it left out."""

    edited = True

    def __init__(self, path: Path, upstream: str, threads: IThreads, username: str, use: Secret.Use) -> None:
        """
        @param use: how it is presented; as a password it goes with C{username}.
        """
        self._username = username
        self._use = use
        self._file = SecretFile("token_file", path, upstream, threads)
        self.shown = self._file.shown

    async def read(self, again: bool) -> Secret:
        """See L{SecretSource.read}."""
        text = (await self._file.text(again)).strip()
        if not text:
            raise self._file.fault("is empty; write the token into it")
        return Secret("", self._username, text, self._use)


def _read_changed(path: Path, known: _Stamp | None) -> tuple[_Stamp, bytes] | None:
    """The file's stamp and content, C{None} when its stamp is C{known}. Blocks."""
    if known is not None and _stamp(os.stat(path)) == known:
        return None
    # Opening a pipe or a device must not hang a thread.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is no regular file")
        return _stamp(status), file.read(MAX_SECRET_BYTES + 1)


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino


# -- Docker's config.json ---------------------------------------------------------------------------------------------

#: What docker calls Docker Hub, and its hosts.
HUB = "https://index.docker.io/v1/"
_HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")


class _AuthEntry(msgspec.Struct):
    """One registry's; whatever is missing is empty."""

    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None

    def __repr__(self) -> str:
        return "<_AuthEntry>"


class _Config(msgspec.Struct):
    """The file, as far as it matters. Entries are read one by one: another registry's may be as broken as it likes."""

    auths: dict[str, Any] | None = None
    helpers: dict[str, str] | None = msgspec.field(default=None, name="credHelpers")
    store: str | None = msgspec.field(default=None, name="credsStore")

    def __repr__(self) -> str:
        return "<_Config>"


@dataclass(frozen=True)
class Server:
    """
    A registry as docker looks it up.

    @ivar name: what a helper is asked for.
    @ivar keys: the keys of C{auths} and C{credHelpers} that mean it and no other, in order.
    """

    name: str
    keys: tuple[str, ...]

    @classmethod
    def at(cls, url: Url) -> Server:
        """The registry at a configured URL."""
        if url.host in _HUB_HOSTS:
            return cls(HUB, (HUB, *(_HUB_HOSTS)))
        with_port = f"{url.authority.removesuffix(f':{url.port}')}:{url.port}"
        return cls(url.authority, tuple(dict.fromkeys((url.authority, with_port))))

    def entry(self, entries: dict[str, Any]) -> Any:
        """
        The value that is meant in C{entries}, C{None} when there is none.

        As docker does: by the very key, else by the first whose host is that one, such as C{https://host/v1/}.
        """
        for key in self.keys:
            if key in entries:
                return entries[key]
        return next((value for key, value in entries.items() if host_of(key) in self.keys), None)


def host_of(key: str) -> str:
    """A key's host, and its port when it has one: scheme and path left out."""
    for scheme in ("https://", "http://"):
        key = key.removeprefix(scheme)
    return key.partition("/")[0].lower()


class DockerConfig:
    """One registry's secret out of such a file, or from the program it names: a L{SecretSource}."""

    edited = True

    def __init__(
        self,
        path: Path,
        url: Url,
        upstream: str,
        threads: IThreads,
        helper: Callable[[str, str], CredentialHelper],
        or_none: bool = False,
    ) -> None:
        """
        @param url: of the registry.
        @param helper: gives the program of that name; the second argument says for messages where the name was found.
        @param or_none: whether having nothing for it means that it wants nothing, which otherwise is an error.
        """
        self._server = Server.at(url)
        self._upstream = upstream
        self._or_none = or_none
        self._file = SecretFile("auth_file", path, upstream, threads)
        self._make_helper = helper
        self._helpers: dict[str, CredentialHelper] = {}
        self.shown = self._file.shown

    async def read(self, again: bool) -> Secret:
        """See L{SecretSource.read}. The registry's own helper is asked first, then that of all, then the file."""
        try:
            config = msgspec.json.decode(await self._file.read(again), type=_Config)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise self._file.fault("cannot be read: it is no JSON as docker login writes it") from None
        own = self._server.entry(config.helpers or {})
        if own:
            secret = await self._helper(own).get(self._server.name, again)
            if secret is None:
                raise self._fault(f"names docker-credential-{own} for it, which has nothing")
            return secret
        secret = await self._helper(config.store).get(self._server.name, again) if config.store else None
        secret = secret or self._written(config.auths or {})
        if secret is None and self._or_none:
            return Secret("", "", "", Secret.Use.NONE)
        if secret is None:
            raise self._fault(f"has nothing; write it there with docker login {self._server.name}")
        return secret

    def _written(self, entries: dict[str, Any]) -> Secret | None:
        """What stands in the file itself; an empty entry is one whose secret a program has."""
        try:
            entry = msgspec.convert(self._server.entry(entries) or {}, _AuthEntry)
            username, password = _pair(entry.auth) if entry.auth else (entry.username or "", entry.password or "")
        except (msgspec.ValidationError, ValueError):
            raise self._fault("cannot be read") from None
        if entry.registrytoken:
            return Secret("", username, entry.registrytoken, Secret.Use.BEARER)
        if entry.identitytoken:
            return Secret("", username, entry.identitytoken, Secret.Use.IDENTITY)
        return Secret("", username, password) if username or password else None

    def _helper(self, name: str) -> CredentialHelper:
        """The program of that name, with what it keeps of its last answers; only the last name's."""
        if name not in self._helpers:
            self._helpers = {name: self._make_helper(name, self.shown)}
        return self._helpers[name]

    def _fault(self, why: str) -> UpstreamDenied:
        return UpstreamDenied(self._upstream, f"{self.shown}, for {self._server.name}: it {why}")


def _pair(auth: str) -> tuple[str, str]:
    """User name and password. Raises L{ValueError}, whose message may hold them."""
    text = binascii.a2b_base64(auth, strict_mode=False).decode("utf-8")
    username, colon, password = text.partition(":")
    if not colon:
        raise ValueError("no colon")
    # Docker has written zeros at the end, and takes them off.
    return username, password.strip("\0")

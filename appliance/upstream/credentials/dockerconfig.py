"""
Docker's C{config.json}: credentials of many registries in one file (docker CLI, "Configuration files").

::

    {"auths": {"registry.example": {"auth": base64 of user:password}},
     "credHelpers": {"ecr.example": "ecr-login"}, "credsStore": "secretservice"}

An entry may hold C{username} and C{password} in place of C{auth}, an C{identitytoken} (a refresh token for the token
server), or a C{registrytoken} (a token for the registry itself).
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from appliance.errors import UpstreamDenied
from appliance.interfaces import IThreads
from appliance.upstream.credentials.file import SecretFile
from appliance.upstream.credentials.helper import CredentialHelper
from appliance.upstream.interfaces import Secret
from appliance.upstream.url import Url

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
    """
    One registry's secret out of such a file, or from the program it names: a
    L{appliance.upstream.credentials.renewing.SecretSource}.
    """

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

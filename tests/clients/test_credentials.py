"""A private registry behind the appliance: clients need no credentials, and see none."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, Protocol

import pytest

from tests.clients import tools
from tests.clients.logins import Htpasswd, TokenServer, refresh_token, replace
from tests.clients.plain import ACCEPT, PATIENCE, ask, pull
from tests.clients.tools import DockerRegistry, Skopeo, Source
from tests.doubles import images
from tests.doubles.images import Content
from tests.process.service import Appliance, until

pytestmark = [pytest.mark.real_client, pytest.mark.process]

USER = "robot$team+puller"
PASSWORD = "Danger-one-4711"
NEXT_PASSWORD = "Danger-two-0815"
REPOSITORY = "team/app"
IMAGE = images.multi_arch(REPOSITORY)
CLIENTS = 20
BEFORE, AFTER = 60, 80
"""Images pulled for the first time by the clients before the registry takes another password, and after."""

LAG = 1.0
"""Seconds between the registry's new password and the appliance's."""


class Login(Protocol):
    """See L{tests.clients.logins}."""

    upstream: dict[str, Any]

    def section(self) -> dict[str, Any]: ...
    def allow(self, user: str, password: str) -> None: ...
    def refused(self) -> int: ...
    def stop(self) -> None: ...


class Private:
    """A registry that holds L{IMAGE} and more, and asks each client for the one login that is good."""

    def __init__(self, folder: Path, kind: Callable[[Path, DockerRegistry], Login]) -> None:
        self.folder = folder
        self.registry = DockerRegistry(folder)
        self.login = kind(folder, self.registry)
        self.allow(PASSWORD)

    def allow(self, password: str) -> None:
        """From now on this password is good, and no other."""
        self.login.allow(USER, password)

    def start(self, **held: Content) -> Private:
        """Start it with L{IMAGE}, and with C{held} by repository, each as C{latest}."""
        self.registry.start()
        for repository, content in {REPOSITORY: IMAGE, **held}.items():
            self.registry.add(repository, "latest", content)
        self.registry.kill()
        self.registry.start(auth=self.login.section())
        return self

    def stop(self) -> None:
        """End everything that runs."""
        self.registry.kill()
        self.login.stop()


def _private(request: pytest.FixtureRequest, folder: Path, kind: Any) -> Iterator[Private]:
    tools.need(*kind.programs)
    made = Private(folder, kind)
    yield made
    made.stop()


@pytest.fixture(params=[Htpasswd, TokenServer], ids=["htpasswd", "token-server"])
def private(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Private]:
    """Debian's docker-registry with a login of each kind; not started yet."""
    yield from _private(request, tmp_path, request.param)


@pytest.fixture
def with_tokens(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Private]:
    """The one with a token server."""
    yield from _private(request, tmp_path, TokenServer)


# -- ways to give the credentials -----------------------------------------------------------------------------------


class InPasswordFile:
    """C{username} and C{password_file}."""

    def __init__(self, private: Private, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = private.folder / "password"
        self.settings = {"username": USER, "password_file": str(self._file)}

    def give(self, password: str) -> None:
        """From now on this is the password that is shown."""
        replace(self._file, f"{password}\n")


class InAuthFile:
    """C{auth_file} with C{auths}, as C{docker login} writes it."""

    def __init__(self, private: Private, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = private.folder / "config.json"
        self._authority = private.registry.authority
        self.settings = {"auth_file": str(self._file)}

    def give(self, password: str) -> None:
        """See L{InPasswordFile.give}."""
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        replace(self._file, json.dumps({"auths": {"other.example": {}, self._authority: {"auth": auth}}}))


class WithHelper:
    """C{auth_file} with C{credHelpers}: a program that is asked for each registry."""

    def __init__(self, private: Private, monkeypatch: pytest.MonkeyPatch) -> None:
        programs = private.folder / "bin"
        programs.mkdir()
        self._kept = private.folder / "kept.json"
        authority = private.registry.authority
        helper = programs / "docker-credential-kept"
        helper.write_text(f'#!/bin/sh\nread -r server\n[ "$1 $server" = "get {authority}" ] && cat {self._kept}\n')
        helper.chmod(0o755)
        monkeypatch.setenv("PATH", str(programs), prepend=":")
        auth_file = private.folder / "config.json"
        auth_file.write_text(json.dumps({"credHelpers": {authority: "kept"}}))
        auth_file.chmod(0o600)
        self.settings = {"auth_file": str(auth_file)}

    def give(self, password: str) -> None:
        """See L{InPasswordFile.give}."""
        replace(self._kept, json.dumps({"Username": USER, "Secret": password}))


class WithRefreshToken(InAuthFile):
    """C{auth_file} with an C{identitytoken}, which the token server exchanges."""

    def give(self, password: str) -> None:
        """See L{InPasswordFile.give}."""
        token = refresh_token(USER, password)
        replace(self._file, json.dumps({"auths": {self._authority: {"identitytoken": token}}}))


WAYS = pytest.mark.parametrize(
    "way", [InPasswordFile, InAuthFile, WithHelper], ids=["password_file", "auth_file", "credHelpers"]
)


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    """An appliance that is not started, with an upstream that no test asks; whatever it says, it says no secret."""
    made = Appliance(tmp_path / "appliance", "http://127.0.0.1:9")
    yield made
    try:
        said = [made.log(), *(ask(made.admin, path).body.decode() for path in ("/metrics", "/api/v1/status"))]
        assert all(said)
        assert [each for each in said if tells(each)] == []
    finally:
        made.kill()


def put_before(appliance: Appliance, private: Private, settings: dict[str, Any]) -> None:
    """Start the appliance in front of the registry."""
    upstream = appliance.settings["upstreams"]["up.test"]
    upstream.update({"url": private.registry.url, **private.login.upstream, **settings, "private": False})
    appliance.write()
    appliance.start()


def tells(text: str) -> bool:
    """Whether a secret can be read out of the text."""
    logins = [f"{USER}:{password}".encode() for password in (PASSWORD, NEXT_PASSWORD)]
    return any(
        each in text for each in ("Danger-", "eyJ", *(base64.b64encode(login).decode()[:-4] for login in logins))
    )


# -- promises -------------------------------------------------------------------------------------------------------


@WAYS
def test_a_private_image_is_pulled_without_credentials_of_ones_own(
    way: Any, private: Private, appliance: Appliance, skopeo: Skopeo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The appliance shows its own, in each way they can be given; digests are the registry's."""
    given = way(private, monkeypatch)
    given.give(PASSWORD)
    private.start()
    put_before(appliance, private, given.settings)
    assert skopeo.pull(Source(appliance, REPOSITORY, "latest")) == {IMAGE.digest}
    assert skopeo.tags(appliance.authority, REPOSITORY) == ["latest"]
    assert private.login.refused() == 0


def test_a_refresh_token_is_exchanged(
    with_tokens: Private, appliance: Appliance, skopeo: Skopeo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What C{docker login} keeps of some registries is no password."""
    given = WithRefreshToken(with_tokens, monkeypatch)
    given.give(PASSWORD)
    with_tokens.start()
    put_before(appliance, with_tokens, given.settings)
    assert skopeo.pull(Source(appliance, REPOSITORY, "latest")) == {IMAGE.digest}
    assert with_tokens.login.refused() == 0


@WAYS
def test_wrong_credentials_are_named_and_never_asked_of_the_client(
    way: Any, private: Private, appliance: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """404 with the upstream and the fault, whatever is asked for: a 401 would have clients send their own."""
    given = way(private, monkeypatch)
    given.give(NEXT_PASSWORD)
    private.start()
    put_before(appliance, private, given.settings)
    paths = ("manifests/latest", f"manifests/{IMAGE.digest}", "tags/list", f"blobs/{IMAGE.children[0].blobs[0].digest}")
    for path in paths:
        for method in ("GET", "HEAD"):
            reply = ask(appliance.authority, f"/v2/{REPOSITORY}/{path}", method, {"Accept": ACCEPT})
            assert (reply.status, reply.headers.get("www-authenticate")) == (404, None)
            assert not tells(repr(reply))
            if method == "GET":
                (error,) = reply.json()["errors"]
                assert error["code"] == "NAME_UNKNOWN"
                assert error["detail"] == {"upstream": "up.test", "fault": "denied"}
    assert private.login.refused() > 0


@pytest.mark.parametrize(
    ("way", "registry_first"),
    [(InPasswordFile, True), (InPasswordFile, False), (WithHelper, True)],
    ids=["password_file, registry first", "password_file, appliance first", "credHelpers, registry first"],
)
def test_credentials_are_replaced_under_load_without_a_failed_pull(
    way: Any, registry_first: bool, private: Private, appliance: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Twenty clients pull all the time, what is held and what is not; the registry takes another password and no more the
    old one, and a second later or earlier the new one is here: no restart, and no client notices.
    """
    given = way(private, monkeypatch)
    given.give(PASSWORD)
    wanted = {f"team/app-{number}": images.image(f"app-{number}", (2_000,)) for number in range(BEFORE + AFTER)}
    private.start(**wanted)
    put_before(appliance, private, given.settings)
    load = Load(appliance, {repository: content.digest for repository, content in wanted.items()})
    steps = [private.allow, given.give] if registry_first else [given.give, private.allow]
    with load:
        until(lambda: load.pulled >= BEFORE or load.failures, "the first pulls")
        steps[0](NEXT_PASSWORD)
        Event().wait(LAG)
        steps[1](NEXT_PASSWORD)
        until(lambda: load.over, "the last pulls", PATIENCE)
    assert load.failures == []
    assert load.pulled == len(wanted)
    # The password that was shown was not good for a while.
    assert private.login.refused() > 0


class Load:
    """
    L{CLIENTS} that pull, until every image was pulled once: one for the first time, one that is held, and so on.

    @ivar failures: what went wrong, in words.
    """

    def __init__(self, appliance: Appliance, wanted: dict[str, str]) -> None:
        self.failures: list[str] = []
        self._authority = appliance.authority
        self._wanted: SimpleQueue[tuple[str, str]] = SimpleQueue()
        for pair in wanted.items():
            self._wanted.put(pair)
        self._done: SimpleQueue[str] = SimpleQueue()
        self._threads = [Thread(target=self._pull_all) for _ in range(CLIENTS)]

    def __enter__(self) -> Load:
        pull(self._authority, REPOSITORY, "latest")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        while True:
            try:
                self._wanted.get_nowait()
            except Empty:
                break
        for thread in self._threads:
            thread.join()

    @property
    def pulled(self) -> int:
        """Images that were pulled for the first time."""
        return self._done.qsize()

    @property
    def over(self) -> bool:
        """Whether no client pulls any more."""
        return not any(thread.is_alive() for thread in self._threads)

    def _pull_all(self) -> None:
        while True:
            try:
                repository, digest = self._wanted.get_nowait()
            except Empty:
                return
            self._pull(repository, digest)
            self._pull(REPOSITORY, IMAGE.digest)

    def _pull(self, repository: str, digest: str) -> None:
        try:
            assert pull(self._authority, repository, "latest").digest == digest
        except (AssertionError, OSError) as error:
            self.failures.append(f"{repository}: {error}")
        else:
            if repository != REPOSITORY:
                self._done.put(repository)

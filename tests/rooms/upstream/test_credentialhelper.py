"""Programs that know credentials: docker-credential-<name> get."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessProtocol, IProcessTransport, IReactorProcess
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance import errors
from appliance.flow.disk import InlineThreads
from appliance.upstream.credentials.configured import HUB, DockerConfig
from appliance.upstream.credentials.helper import KEPT, KEPT_FAULT, MAX_OUTPUT_BYTES, TIMEOUT, CredentialHelper
from appliance.upstream.credentials.renewing import RenewingCredential
from appliance.upstream.interfaces import Secret
from appliance.upstream.url import Url
from tests.doubles.deferreds import failing, pending, result


class Program:
    """One process as its starter sees it."""

    def __init__(self, protocol: Any, executable: str, args: list[str], env: dict[str, str]) -> None:
        self.protocol = protocol
        self.executable = executable
        self.args = args
        self.env = env
        self.heard = b""
        self.stdin_closed = False
        self.signals: list[str] = []
        self.let_go = False
        self.gone = False

    def write(self, data: bytes) -> None:
        self.heard += data

    def closeStdin(self) -> None:
        self.stdin_closed = True

    def signalProcess(self, name: str) -> None:
        if self.gone:
            raise ProcessExitedAlready
        self.signals.append(name)

    def loseConnection(self) -> None:
        self.let_go = True

    def says(self, output: bytes | object, code: int = 0, problem: bytes = b"") -> None:
        """The program writes C{output} and C{problem}, and exits with C{code}."""
        self.protocol.errReceived(problem)
        self.protocol.outReceived(output if isinstance(output, bytes) else json.dumps(output).encode())
        self.exits(code)

    def exits(self, code: int) -> None:
        self.gone = True
        self.protocol.processEnded(Failure(ProcessTerminated(code) if code else ProcessDone(0)))


@implementer(IReactorProcess)
class Shop:
    """Where processes are started."""

    def __init__(self) -> None:
        self.programs: list[Program] = []

    def spawnProcess(  # type: ignore[override]
        self, processProtocol: IProcessProtocol, executable: str, args: list[str], env: dict[str, str], **more: object
    ) -> IProcessTransport:
        assert not more
        program = Program(processProtocol, executable, args, env)
        self.programs.append(program)
        processProtocol.makeConnection(program)  # type: ignore[arg-type]
        return program  # type: ignore[return-value]


class Rig:
    """A folder on the PATH with one helper, C{docker-credential-test}."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.folder = folder
        self.install("test")
        self.clock = Clock()
        self.shop = Shop()
        environ = {"PATH": f"relative:{folder}/none::{self.bin}", "HOME": "/home/x"}
        self.environ = environ
        self.helper = self.named("test", "auth_file /x")

    def named(self, name: str, source: str) -> CredentialHelper:
        return CredentialHelper(name, source, "up.example", self.clock, InlineThreads(), self.shop, self.environ)

    def get(self, again: bool = False, name: str = "test") -> Deferred[Secret | None]:
        """Ask the helper of that name for C{registry.example}; C{test} keeps its answers."""
        helper = self.helper if name == "test" else self.named(name, "auth_file /x")
        return Deferred.fromCoroutine(helper.get("registry.example", again))

    def install(self, name: str, mode: int = 0o755) -> None:
        program = self.bin / f"docker-credential-{name}"
        program.write_text("#!/bin/false\n")
        program.chmod(mode)

    def config(self, config: object, url: str = "https://registry.example") -> DockerConfig:
        path = self.folder / "config.json"
        path.write_text(json.dumps(config))
        return DockerConfig(path, Url.parse(url), "up.example", InlineThreads(), self.named)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


ANSWER = {"ServerURL": "registry.example", "Username": "user", "Secret": "c4n4ry"}


def test_a_helper_is_asked_as_docker_asks_it(rig: Rig) -> None:
    """The program on the PATH, C{get}, the server's name on its standard input, our environment."""
    asked = rig.get()
    (program,) = rig.shop.programs
    assert program.executable == str(rig.bin / "docker-credential-test")
    assert program.args == ["docker-credential-test", "get"]
    assert program.env == rig.environ
    assert (program.heard, program.stdin_closed) == (b"registry.example", True)
    assert pending(asked)
    program.says(ANSWER)
    assert result(asked) == Secret("", "user", "c4n4ry")
    assert rig.clock.getDelayedCalls() == []


def test_the_user_name_token_says_that_it_is_an_identity_token(rig: Rig) -> None:
    """As docker's own stores keep them."""
    asked = rig.get()
    rig.shop.programs[0].says({"Username": "<token>", "Secret": "c4n4ry"})
    assert result(asked) == Secret("", "", "c4n4ry", Secret.Use.IDENTITY)


def test_an_answer_is_kept_for_five_minutes_and_asked_for_again_on_a_refusal(rig: Rig) -> None:
    """A keyring is not opened for every layer."""
    asked = rig.get()
    rig.shop.programs[0].says(ANSWER)
    result(asked)
    rig.clock.advance(KEPT - 1)
    assert result(rig.get()) == Secret("", "user", "c4n4ry")
    assert len(rig.shop.programs) == 1
    asked = rig.get(again=True)
    rig.shop.programs[1].says({**ANSWER, "Secret": "other"})
    assert result(asked) == Secret("", "user", "other")
    rig.clock.advance(KEPT)
    assert pending(rig.get())


def test_many_questions_are_one_run(rig: Rig) -> None:
    """All who asked get the answer."""
    asked = [rig.get() for _ in range(20)]
    (program,) = rig.shop.programs
    program.says(ANSWER)
    assert {result(each) for each in asked} == {Secret("", "user", "c4n4ry")}


def test_a_helper_that_takes_too_long_is_killed(rig: Rig) -> None:
    """It waits for a passphrase to be typed; its children's pipes are let go of, too."""
    asked = rig.get()
    rig.clock.advance(TIMEOUT)
    (program,) = rig.shop.programs
    assert (program.signals, program.let_go) == (["KILL"], True)
    fault = failing(asked)
    assert type(fault) is errors.UpstreamTimeout
    assert "docker-credential-test" in str(fault)
    program.exits(9)


def test_a_helper_that_never_ends_writing_is_killed(rig: Rig) -> None:
    """Nothing a program writes fills our memory."""
    asked = rig.get()
    (program,) = rig.shop.programs
    program.protocol.outReceived(b"x" * MAX_OUTPUT_BYTES)
    assert program.signals == []
    program.protocol.outReceived(b"x")
    assert program.signals == ["KILL"]
    assert str(MAX_OUTPUT_BYTES) in str(failing(asked))
    program.exits(9)
    assert rig.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("output", "code", "word"),
    [
        (b"error: c4n4ry", 3, "exited with 3"),
        (b"c4n4ry", 0, "no JSON"),
        (b'{"Username": 7, "Secret": "c4n4ry"}', 0, "no JSON"),
        (b"\xffc4n4ry", 0, "no JSON"),
        (b"[" * 60_000, 0, "no JSON"),
    ],
)
def test_a_helper_in_trouble_is_named_and_not_quoted(rig: Rig, output: bytes, code: int, word: str) -> None:
    """What it writes, on either pipe, may hold secrets."""
    asked = rig.get()
    rig.shop.programs[0].says(output, code, b"stderr c4n4ry")
    fault = failing(asked)
    assert type(fault) is errors.UpstreamDenied
    assert "docker-credential-test" in str(fault) and word in str(fault)
    assert "c4n4ry" not in str(fault) + repr(fault) + Failure(fault).getTraceback()


def test_a_failed_helper_is_not_run_for_every_question(rig: Rig) -> None:
    """One that hangs would hold every pull for ten seconds."""
    rig.get().addErrback(lambda _: None)
    rig.clock.advance(TIMEOUT)
    assert type(failing(rig.get())) is errors.UpstreamTimeout
    assert len(rig.shop.programs) == 1
    rig.clock.advance(KEPT_FAULT)
    assert pending(rig.get())


@pytest.mark.parametrize(
    ("output", "code"),
    [(b"credentials not found in native keychain\n", 1), ({"Username": "", "Secret": ""}, 0), (b"", 0)],
)
def test_a_helper_may_have_nothing(rig: Rig, output: object, code: int) -> None:
    """That is no failure of the helper."""
    asked = rig.get()
    rig.shop.programs[0].says(output, code)
    assert result(asked) is None


@pytest.mark.parametrize("name", ["", "../evil", "a/b", "a b", "a\nb", "-x;rm", "é", "a\0"])
def test_a_name_is_no_path(rig: Rig, name: str) -> None:
    """The file may name a program of the PATH, nothing else."""
    config = rig.config({"credHelpers": {"registry.example": name}})
    fault = failing(Deferred.fromCoroutine(config.read(again=False)))
    assert type(fault) is errors.UpstreamDenied
    assert rig.shop.programs == []


@pytest.mark.parametrize("name", ["missing", "plain"])
def test_a_program_that_is_not_there_is_named(rig: Rig, name: str) -> None:
    """With where it was looked for; a file that is no program is none."""
    rig.install("plain", 0o644)
    fault = failing(rig.get(name=name))
    assert f"docker-credential-{name} is not on the PATH" in str(fault)
    assert "auth_file /x" in str(fault)


def test_a_program_in_the_working_directory_is_not_run(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The PATH has empty and relative entries, which would mean it."""
    rig.install("near")
    (rig.folder / "relative").mkdir()
    os.rename(rig.bin / "docker-credential-near", rig.folder / "relative" / "docker-credential-near")
    monkeypatch.chdir(rig.folder)
    fault = failing(rig.get(name="near"))
    assert "is not on the PATH" in str(fault)


# -- in a config.json -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "url", "server"),
    [
        ({"credHelpers": {"registry.example": "test"}}, "https://registry.example", "registry.example"),
        ({"credHelpers": {"registry.example:5000": "test"}}, "https://registry.example:5000", "registry.example:5000"),
        ({"credHelpers": {HUB: "test"}}, "https://registry-1.docker.io", HUB),
        ({"credHelpers": {"docker.io": "test"}}, "https://registry-1.docker.io", HUB),
        ({"credsStore": "test"}, "https://registry.example", "registry.example"),
        ({"credsStore": "other", "credHelpers": {"registry.example": "test"}}, "https://registry.example", None),
    ],
)
def test_the_file_says_which_helper_knows_a_registry(rig: Rig, config: object, url: str, server: str | None) -> None:
    """A helper of its own goes before the store of all, and both before what stands in the file."""
    entry = {"auths": {"registry.example": {"username": "file", "password": "x"}}}
    asked = Deferred.fromCoroutine(rig.config({**entry, **config}, url).read(again=False))  # type: ignore[dict-item]
    (program,) = rig.shop.programs
    assert program.args[0] == "docker-credential-test"
    assert server is None or program.heard == server.encode()
    program.says(ANSWER)
    assert result(asked) == Secret("", "user", "c4n4ry")


def test_what_the_store_of_all_does_not_have_may_stand_in_the_file(rig: Rig) -> None:
    """Written there before the store was configured."""
    entry = {"registry.example": {"username": "file", "password": "x"}}
    asked = Deferred.fromCoroutine(rig.config({"auths": entry, "credsStore": "test"}).read(again=False))
    rig.shop.programs[0].says(b"credentials not found in native keychain", 1)
    assert result(asked) == Secret("", "file", "x")


def test_a_refused_secret_of_a_helper_is_asked_for_again_at_once(rig: Rig) -> None:
    """Its five minutes are for secrets that are accepted."""
    credential = RenewingCredential(rig.config({"credsStore": "test"}), rig.clock)
    asked = credential.current()
    rig.shop.programs[0].says(ANSWER)
    secret = result(asked)
    refused = credential.refused(secret)
    rig.shop.programs[1].says({**ANSWER, "Secret": "other"})
    assert result(refused) is True
    assert result(credential.current()).danger_text == "other"

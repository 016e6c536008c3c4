"""The simulated registry in a process of its own, driven from a test that blocks."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.doubles.answers import Exchange
from tests.doubles.registry import matches

CHECKOUT = Path(__file__).parents[2]


class RemoteRegistry:
    """
    A running C{tests.doubles.serve}.

    @ivar port: its port; the same after C{kill} and C{start}, but its contents are gone then.
    @ivar host: the address it listens on.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def authority(self) -> str:
        """Host and port, as clients write them."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.authority}"

    def start(self, *options: str) -> RemoteRegistry:
        """Start it and wait for its port; C{options} are those of the module's command line."""
        command = [sys.executable, "-m", "tests.doubles.serve", "--port", str(self.port)]
        command += ["--interface", self.host, *options]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT, env=environment)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.strip().isdigit():
            raise RuntimeError("the simulated registry did not start")
        self.port = int(line)
        return self

    def kill(self) -> None:
        """End the process at once: connections to it are refused from now on."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    @property
    def pid(self) -> int:
        """The process, for signals."""
        assert self._process is not None
        return self._process.pid

    def _control(self, method: str, path: str, value: Any = None) -> Any:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, f"/_control/{path}", None if value is None else json.dumps(value))
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"{method} {path} of the simulated registry: {response.status}")
        return json.loads(text)

    def add(self, repository: str, tag: str | None = "latest", kind: str = "image", **options: Any) -> dict[str, Any]:
        """Add content; returns C{digest}, C{media_type}, C{children} and C{blobs}, pairs of digest and size."""
        wanted = {"repository": repository, "tag": tag, "kind": kind, "options": {"seed": repository, **options}}
        if kind in ("large", "confused", "busybox", "artifact"):
            wanted["options"] = options
        added: dict[str, Any] = self._control("POST", "contents", wanted)
        return added

    def fallback(
        self, repository: str, subject: str, artifact_types: Sequence[str] = (), listed: Sequence[str] = ()
    ) -> list[str]:
        """Let the referrers tag list new artifacts, and held ones by digest; returns the digests of the new."""
        wanted = {"repository": repository, "subject": subject, "artifact_types": artifact_types, "listed": listed}
        made: list[str] = self._control("POST", "fallback", wanted)
        return made

    def tag(self, repository: str, tag: str, digest: str | None) -> None:
        """Move a tag, or remove it."""
        self._control("POST", "tags", {"repository": repository, "tag": tag, "digest": digest})

    def misbehave(
        self, pattern: str, *faults: tuple[str, dict[str, Any]], times: int | None = None, skip: int = 0
    ) -> None:
        """Schedule faults by name and arguments, as L{tests.doubles.registry.Registry.misbehave} does."""
        self._control("POST", "faults", {"pattern": pattern, "faults": faults, "times": times, "skip": skip})

    def behave(self) -> None:
        """Forget every scheduled fault."""
        self._control("DELETE", "faults")

    def set(self, **settings: Any) -> None:
        """Change C{rate}, C{strict_accept}, C{page}, C{has_referrers} or C{referrers_page}."""
        self._control("POST", "settings", settings)

    def forget(self) -> None:
        """Start a new log of requests."""
        self._control("DELETE", "requests")

    def seen(self, pattern: str = "/*") -> list[Exchange]:
        """The requests that match, oldest first."""
        exchanges = [Exchange(**fields) for fields in self._control("GET", "requests")]
        return [exchange for exchange in exchanges if matches(pattern, exchange)]

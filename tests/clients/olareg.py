"""olareg, a registry that has the referrers API; everything it holds is in memory, and gone with the process."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.clients.tools import DockerRegistry
from tests.process.service import free_port, until


class Olareg(DockerRegistry):
    """Started and filled as L{DockerRegistry} is; it pages what its referrers API lists at 4 MiB."""

    programs = ("olareg",)

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "olareg"
        self._folder.mkdir()
        self._port = free_port()
        self.authority = f"127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **sections: Any) -> Olareg:
        """Start it and wait until it answers; it has no configuration that C{sections} could be of."""
        assert not sections
        listen = ["--addr", "127.0.0.1", "--port", str(self._port)]
        with (self._folder / "log").open("wb") as log:
            command = ["olareg", "serve", *listen, "--store-type", "mem", "--gc-frequency", "-1s"]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        until(self._answers, "olareg answers")
        return self

"""Readers of bodies and of manifests, each in processes of its own, and what they found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.clients.plain import ACCEPT
from tests.clients.tools import Failed, run

READER = Path(__file__).with_name("reader.py")
PATIENCE = 300.0
# The shape of the manifest rows: one thread, as many connections as a busy site's nodes.
CONNECTIONS = 32
_RATE = re.compile(r"Requests/sec: +([0-9.]+)")
_TAIL = re.compile(r"99% +([0-9.]+)(us|ms|s)\n")
_BAD = re.compile(r"Non-2xx.*|Socket errors.*")
_UNIT = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Fetched:
    """
    What the clients of L{reader} got together.

    @ivar seconds: from the start of all to the end of the last.
    @ivar octets: bytes of bodies.
    @ivar first: seconds to the first byte of a body, the median of the clients.
    """

    seconds: float
    octets: int
    first: float

    @property
    def rate(self) -> float:
        """MB (10^6 bytes) a second."""
        return self.octets / self.seconds / 1e6


@dataclass(frozen=True)
class Hammered:
    """What wrk reports: requests a second, and the 99th percentile of their times in milliseconds."""

    rate: float
    tail: float


def fetch(authority: str, path: str, clients: int = 1, times: int = 1) -> Fetched:
    """
    Let C{clients} ask at once for C{path}, each C{times} times over one connection.

    @raise Failed: one of them got something else than a whole 200.
    """
    port = authority.rpartition(":")[2]
    command = [sys.executable, "-S", str(READER), port, path, str(clients), str(times)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if ended.returncode:
        raise Failed(f"the reader: {ended.stderr}")
    said = json.loads(ended.stdout)
    if said["errors"]:
        raise Failed(f"{authority}{path}: {len(said['errors'])} of {clients} failed, one with {said['errors'][0]}")
    return Fetched(said["seconds"], said["octets"], median(said["first"]))


def hammer(authority: str, path: str, seconds: int) -> Hammered:
    """
    Ask for C{path} as often as one wrk thread can.

    @raise Failed: some answers were no 2xx.
    """
    shape = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    output = run("wrk", *shape, "-H", f"Accept: {ACCEPT}", f"http://{authority}{path}").decode()
    rate, tail = _RATE.search(output), _TAIL.search(output)
    if rate is None or tail is None or _BAD.search(output):
        raise Failed(f"wrk {authority}{path}: {output}")
    return Hammered(float(rate[1]), float(tail[1]) * _UNIT[tail[2]])

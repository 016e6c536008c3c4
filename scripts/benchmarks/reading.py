"""Readers of bodies and of manifests, each in processes of its own, and what they found."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

from tests.clients.plain import ACCEPT
from tests.clients.tools import Failed, run

READER = Path(__file__).with_name("reader.py")
PATIENCE = 300.0
# The shape of the manifest rows: one thread, as many connections as a busy site's nodes.
CONNECTIONS = 32
# Longer than anything that wrk is run beside.
_LONG = 1800
T = TypeVar("T")
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


def fetch(authority: str, path: str, clients: int = 1, times: int = 1, into: Path | None = None) -> Fetched:
    """
    Let C{clients} ask at once for C{path}, each C{times} times over one connection.

    @param into: where the one client writes what it reads; C{None}: it is dropped.
    @raise Failed: one of them got something else than a whole 200.
    """
    port = authority.rpartition(":")[2]
    command = [sys.executable, "-S", str(READER), port, path, str(clients), str(times)]
    command += [] if into is None else [str(into)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if ended.returncode:
        raise Failed(f"the reader: {ended.stderr}")
    said = json.loads(ended.stdout)
    if said["errors"]:
        raise Failed(f"{authority}{path}: {len(said['errors'])} of {clients} failed, one with {said['errors'][0]}")
    return Fetched(said["seconds"], said["octets"], median(said["first"]))


def hammer(authority: str, path: str, seconds: int, *headers: str) -> Hammered:
    """
    Ask for C{path} as often as one wrk thread can.

    @param headers: sent besides, as C{NAME: VALUE}.
    @raise Failed: some answers were no 2xx.
    """
    return _hammered(run(*_wrk(authority, path, seconds, *headers)).decode())


def hammer_during(authority: str, path: str, work: Callable[[], T]) -> tuple[Hammered, T]:
    """
    As L{hammer}, from the beginning of C{work} to its end; wrk looks ten times a second whether it is to end.

    @return: what wrk reports, and what C{work} returned.
    @raise Failed: some answers were no 2xx.
    """
    command = _wrk(authority, path, _LONG)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as wrk:
        try:
            result = work()
            wrk.send_signal(signal.SIGINT)
            output, errors = wrk.communicate(timeout=PATIENCE)
        except BaseException:
            wrk.kill()
            raise
    return _hammered(output + errors), result


def _wrk(authority: str, path: str, seconds: int, *headers: str) -> list[str]:
    shape = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    fields = [part for each in (f"Accept: {ACCEPT}", *headers) for part in ("-H", each)]
    return ["wrk", *shape, *fields, f"http://{authority}{path}"]


def _hammered(output: str) -> Hammered:
    rate, tail = _RATE.search(output), _TAIL.search(output)
    if rate is None or tail is None or _BAD.search(output):
        raise Failed(f"wrk: {output}")
    return Hammered(float(rate[1]), float(tail[1]) * _UNIT[tail[2]])

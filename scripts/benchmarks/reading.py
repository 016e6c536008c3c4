"""Readers of bodies and of manifests, each in processes of its own, and what they found."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

from tests.clients.plain import ACCEPT
from tests.clients.tools import Failed, run

READER = Path(__file__).with_name("reader.py")
SCRIPTS = Path(__file__).parents[1]
PATIENCE = 300.0
CONNECTIONS = 32
"""The shape of the manifest rows: one thread, as many connections as a busy site's nodes."""

# Longer than anything that wrk is run beside.
_LONG = 1800
# Seconds that curls may take until they read what they are to do.
_STARTING = 5.0
_CURL = r"""silent
show-error
insecure
http1.1
fail
write-out = "%{size_download} %{time_starttransfer}\n"
"""
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

    @param path: several with commas between them are asked for one after the other.
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


def curl(url: str, clients: int = 1, times: int = 1, *options: str) -> Fetched:
    """
    Let C{clients} curls ask at once for C{url}, each C{times} times over one connection.

    All are there before the clock starts: each reads what it is to ask for from its standard input.

    @param options: of curl's configuration file besides, as C{range = 0-99}.
    @raise Failed: one of them got no 2xx, or not all of it.
    """
    asked = "\n".join((_CURL, *options, *[f'url = "{url}"\noutput = "/dev/null"'] * times, ""))
    command, pipe = ["curl", "-q", "-K", "-"], subprocess.PIPE
    started: list[subprocess.Popen[str]] = []
    try:
        for _ in range(clients):
            started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        end = time.monotonic() + _STARTING
        while not all(map(_reads, started)) and time.monotonic() < end:
            time.sleep(0.005)
        start = time.perf_counter()
        for each in started:
            assert each.stdin is not None
            each.stdin.write(asked)
            each.stdin.close()
            each.stdin = None
        told = [each.communicate(timeout=PATIENCE) for each in started]
        seconds = time.perf_counter() - start
    finally:
        for each in started:
            each.kill()
            each.wait()
    bad = [errors for each, (_, errors) in zip(started, told, strict=True) if each.returncode]
    if bad:
        raise Failed(f"{url}: {len(bad)} of {clients} curls failed, one with {bad[0][:1000]}")
    lines = [line.split() for output, _ in told for line in output.splitlines()]
    return Fetched(seconds, sum(int(octets) for octets, _ in lines), median(float(first) for _, first in lines))


def _reads(process: subprocess.Popen[str]) -> bool:
    """Whether a process waits at its standard input, or has ended."""
    try:
        return "pipe" in Path(f"/proc/{process.pid}/wchan").read_text() or process.poll() is not None
    except OSError:
        return True


def hammer(
    authority: str, path: str, seconds: int, *headers: str, clients: int = CONNECTIONS, tls: bool = False
) -> Hammered:
    """
    Ask for C{path} as often as one wrk thread can.

    @param headers: sent besides, as C{NAME: VALUE}.
    @raise Failed: some answers were no 2xx.
    """
    return _hammered(run(*_wrk(authority, path, seconds, *headers, clients=clients, tls=tls)).decode())


def heads(authority: str, path: str, seconds: int) -> Hammered:
    """As L{hammer}, but for the head alone, and by L{benchmarks.heads}."""
    port = authority.rpartition(":")[2]
    command = [sys.executable, "-S", "-m", "benchmarks.heads", port, path, str(CONNECTIONS), str(seconds)]
    said = json.loads(run("env", f"PYTHONPATH={SCRIPTS}", *command))
    return Hammered(said["rate"], said["tail"])


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


def _wrk(
    authority: str, path: str, seconds: int, *headers: str, clients: int = CONNECTIONS, tls: bool = False
) -> list[str]:
    shape = ["-t1", f"-c{clients}", f"-d{seconds}s", "--latency", "--timeout", "30s"]
    fields = [part for each in (f"Accept: {ACCEPT}", *headers) for part in ("-H", each)]
    return ["wrk", *shape, *fields, f"http{'s' if tls else ''}://{authority}{path}"]


def _hammered(output: str) -> Hammered:
    rate, tail = _RATE.search(output), _TAIL.search(output)
    if rate is None or tail is None or _BAD.search(output):
        raise Failed(f"wrk: {output}")
    return Hammered(float(rate[1]), float(tail[1]) * _UNIT[tail[2]])

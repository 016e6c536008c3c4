"""
The rows about what is not held yet, and about the process: pulls through the appliance beside pulls straight from its
upstream and through other caches; herds; memory; the start; and whom a pull keeps waiting.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from statistics import median

from benchmarks.contenders import NGINX, PULLCACHE, REGISTRY_PROXY
from benchmarks.contents import Image
from benchmarks.field import (
    DIRECT,
    MB,
    MIB,
    TOUCHED,
    Bench,
    check,
    cold_blobs,
    interleaved,
    settle,
    until_served,
    warm_up,
)
from benchmarks.reading import Fetched, curl, fetch, hammer, hammer_during
from benchmarks.servers import Nginx, Registry, forget_peak, memory
from tests.clients import plain
from tests.process.service import Appliance, until

LINE_RATE, ROUND_TRIP = 100e6, 0.02
"""Of the line to a TLS upstream: bytes a second, seconds."""

HERD_RATE = 50e6
"""Bytes a second of the link that all of a herd share."""

HERD = 20
CROWD, LAYERS = 200, 5
MANY = 64
FLIGHTS = 8
IDLE = 1000
"""Connections that say nothing any more, to see what one costs."""

REST = 3.0
"""Seconds after which a new process has nothing more to do by itself."""



def cold(bench: Bench) -> None:
    """A blob that was not pulled yet, on an unlimited loopback: the reader's kernel drops it."""
    effort, findings = bench.effort, bench.findings
    for size, rounds in ((effort.small, effort.rounds + 2), (effort.large, effort.cold)):
        images, told = bench.cold_images(rounds, size), f"{size / MB:.0f} MB"
        with bench.servers("cold") as servers:
            targets = {DIRECT: bench.registry.authority, PULLCACHE: servers.appliance().authority}
            targets |= {name: proxy.authority for name, proxy in servers.proxies().items()}
            for server in targets.values():
                warm_up(bench, server)
            _add_cold(bench, "cold", told, interleaved(rounds, list(targets), cold_blobs(bench, images, targets)))
        promise = f"{told}, loopback: time against {REGISTRY_PROXY}"
        findings.at_most("cold", promise, 1.0, findings.ratio("cold", f"{told}, time", PULLCACHE, REGISTRY_PROXY))
        promise = f"{told}, loopback: first byte against straight"
        findings.at_most("cold", promise, 1.2, findings.ratio("cold", f"{told}, first byte", PULLCACHE, DIRECT))


def _add_cold(bench: Bench, row: str, told: str, rounds: dict[str, list[Fetched]]) -> None:
    for name, each in rounds.items():
        bench.findings.add(row, name, f"{told}, time", "s", [one.seconds for one in each])
        bench.findings.add(row, name, f"{told}, first byte", "ms", [one.first * 1e3 for one in each])


def cold_tls(bench: Bench) -> None:
    """From an upstream as registries are: TLS, over a line of limited speed that is long. Read by curl."""
    effort, findings = bench.effort, bench.findings
    for size, rounds in ((effort.small, effort.rounds), (effort.large, max(1, effort.cold - 1))):
        images, told = bench.cold_images(rounds, size), f"{size / MB:.0f} MB"
        with bench.servers("cold-tls") as servers:
            upstream = servers.registry("upstream", tls=servers.tls, beside=bench.registry)
            line = servers.line(LINE_RATE, ROUND_TRIP, to=upstream)
            authority_file = str(servers.folder / "authority.pem")
            through = servers.appliance(upstream_url=line.url, ca_file=authority_file)
            targets = {DIRECT: line.url, PULLCACHE: through.url}
            warm_up(bench, through.authority)
            left = {name: iter(images) for name in targets}

            ask = partial(_after_manifest, bench, targets, left)
            _add_cold(bench, "cold-tls", told, interleaved(rounds, list(targets), ask))
        where = f"TLS, {LINE_RATE / MB:.0f} MB/s, {ROUND_TRIP * 1e3:.0f} ms"
        ratio = findings.ratio("cold-tls", f"{told}, time", PULLCACHE, DIRECT)
        findings.at_most("cold-tls", f"{told}, upstream {where}: time against straight", 1.02, ratio)


def _after_manifest(bench: Bench, urls: dict[str, str], left: dict[str, Iterator[Image]], name: str) -> Fetched:
    """As L{cold_blobs}, over TLS."""
    image = next(left[name])
    settle(bench, TOUCHED * len(image.layer.data))
    curl(f"{urls[name]}{image.digest_path}", 1, 1, f'header = "Accept: {plain.ACCEPT}"')
    return curl(f"{urls[name]}{image.blob_path}")


# -- herds ------------------------------------------------------------------------------------------------------------


def herd(bench: Bench) -> None:
    """Clients that ask for the same at the same moment, over a link that the upstream's connections share."""
    findings, effort = bench.findings, bench.effort
    with bench.servers("herd") as servers:
        line = servers.line(HERD_RATE, 0.0)
        through = servers.appliance(upstream_url=line.url)
        targets: dict[str, Appliance | Registry] = {PULLCACHE: through}
        if effort.peers:
            targets |= servers.proxies(line.url)
        for target in targets.values():
            warm_up(bench, target.authority)
        nginx = servers.nginx()
        one, five = bench.pushed("herd", effort.small // 2), bench.pushed("crowd", effort.large // LAYERS, LAYERS)
        for told, image, clients, who in (
            (f"{HERD} clients", one, HERD, list(targets)),
            (f"{CROWD} clients, {LAYERS} layers", five, CROWD, [PULLCACHE]),
        ):
            size = sum(len(layer.data) for layer in image.content.layers)
            floor = size / HERD_RATE
            for name in who:
                seconds, upstream, growth = _herd(bench, image, clients, targets[name])
                findings.add("herd", name, f"{told}, time", "s", [seconds])
                findings.add("herd", name, f"{told}, of the floor", "x", [seconds / floor])
                findings.add("herd", name, f"{told}, upstream bytes", "x", [upstream])
                findings.add("herd", name, f"{told}, memory", "MiB", [growth])
                if name == PULLCACHE:
                    promise = f"{told}, {size / MB:.0f} MB cold"
                    findings.at_most("herd", f"{promise}: upstream bytes", 1.0, round(upstream, 4), 4)
                    findings.at_most("herd", f"{promise}: time against the link's floor", 1.1, seconds / floor)
                    if nginx is not None:
                        floor = max(floor, _warm(bench, nginx, image, clients, told))
                        said = f"{promise}: time against that, or nginx's for the same bytes warm"
                        findings.at_most("herd", said, 1.1, seconds / floor)


def _herd(bench: Bench, image: Image, clients: int, target: Appliance | Registry) -> tuple[float, float, float]:
    """Seconds; bytes that the upstream sent, in sizes of the image; MiB by which the process grew."""
    layers = image.content.layers
    size = sum(len(layer.data) for layer in layers)
    settle(bench, TOUCHED * size)
    pid = target.process.pid if isinstance(target, Appliance) else target.pid
    sent = bench.registry.sent(image)
    forget_peak(pid)
    before, _ = memory(pid)
    plain.get(target.authority, image.digest_path, image.content.digest)
    fetched = fetch(target.authority, ",".join(map(image.path_of, layers)), clients)
    _, peak = memory(pid)
    # The upstream logs a response when it has ended, which may be a moment later.
    until(lambda: bench.registry.sent(image) - sent >= size, "the upstream has logged what it sent")
    time.sleep(0.5)
    return fetched.seconds, (bench.registry.sent(image) - sent) / size, max(0, peak - before) / MIB


def _warm(bench: Bench, nginx: Nginx, image: Image, clients: int, told: str) -> float:
    """Seconds in which this machine carries as many bytes to as many clients, whatever the link can do."""
    nginx.push(image)
    seconds = fetch(nginx.authority, ",".join(map(image.path_of, image.content.layers)), clients).seconds
    bench.findings.add("herd", NGINX, f"{told}, the same bytes warm", "s", [seconds])
    return seconds


# -- the process ------------------------------------------------------------------------------------------------------


def many(bench: Bench) -> None:
    """What many clients of one large blob cost in memory, while it comes and when it is held."""
    image, findings = bench.pushed("many", bench.effort.huge), bench.findings
    told = f"{MANY} x {bench.effort.huge / MB:.0f} MB"
    with bench.servers("memory") as servers:
        through = servers.appliance()
        warm_up(bench, through.authority)
        plain.get(through.authority, image.digest_path, image.content.digest)
        pid = through.process.pid
        for when in ("cold", "warm"):
            forget_peak(pid)
            before, _ = memory(pid)
            fetched = fetch(through.authority, image.blob_path, MANY)
            growth = max(0, memory(pid)[1] - before) / MIB
            findings.add("memory", PULLCACHE, f"{told}, {when}", "MiB", [growth])
            findings.add("memory", PULLCACHE, f"{told}, {when}, speed", "MB/s", [fetched.rate])
            findings.at_most("memory", f"{told}, {when}: resident memory grows by MiB", 64, growth, 1)


def start(bench: Bench) -> None:
    """From nothing to the first answer with an image in the store, and what is resident then, with nothing to do."""
    findings = bench.findings
    image = bench.pushed("start", 64 * 1024)
    with bench.servers("start") as servers:
        appliance = servers.appliance()
        check(appliance.authority, image)
        seconds, resident = [], []
        for _ in range(bench.effort.cold):
            appliance.stop()
            begun = time.perf_counter()
            appliance.launch()
            until_served(appliance, image.tag_path)
            seconds.append(time.perf_counter() - begun)
            until(lambda: plain.ask(appliance.admin, "/readyz").status == 200, "ready")
            time.sleep(REST)
            resident.append(memory(appliance.process.pid)[0] / MIB)
        cost = _idle_connection(appliance, image)
        findings.add("start", PULLCACHE, "first answer", "s", seconds)
        findings.add("start", PULLCACHE, "idle memory", "MiB", resident)
        findings.add("start", PULLCACHE, "an idle connection", "KiB", [cost])
        findings.at_most("start", "from the start to the first answer: seconds", 0.8, median(seconds))
        findings.at_most("start", "idle: resident memory in MiB", 60, median(resident), 1)


def _idle_connection(appliance: Appliance, image: Image) -> float:
    """KiB of memory for each connection that has asked once."""
    host, _, port = appliance.authority.rpartition(":")
    before, _ = memory(appliance.process.pid)
    with ExitStack() as stack:
        for _ in range(IDLE):
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(f"HEAD {image.tag_path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            connection.recv(64 * 1024)
        return (memory(appliance.process.pid)[0] - before) / IDLE / 1024


def tail(bench: Bench) -> None:
    """A warm manifest over 32 connections, by itself and while large blobs are pulled."""
    effort, findings = bench.effort, bench.findings
    told = f"{FLIGHTS} cold pulls of {effort.large / MB:.0f} MB"
    images = bench.cold_images(FLIGHTS, effort.large)
    held = bench.pushed("tail", 64 * 1024)
    idle, busy, rates = [], [], []
    for _ in range(max(1, effort.cold - 1)):
        with bench.servers("tail") as servers, ThreadPoolExecutor(FLIGHTS) as threads:
            authority = servers.appliance().authority
            check(authority, held)
            settle(bench, FLIGHTS * effort.large)
            time.sleep(REST)
            idle.append(hammer(authority, held.tag_path, effort.seconds + 1))

            for image in images:
                plain.get(authority, image.digest_path, image.content.digest)
            paths = [each.blob_path for each in images]
            during, rate = hammer_during(authority, held.tag_path, partial(_together, threads, authority, paths))
            busy.append(during)
            rates.append(rate)
    for when, each in (("idle", idle), (f"during {told}", busy)):
        findings.add("tail", PULLCACHE, f"99 %, {when}", "ms", [one.tail for one in each])
        findings.add("tail", PULLCACHE, f"rate, {when}", "/s", [one.rate for one in each])
    findings.add("tail", PULLCACHE, "the pulls together", "MB/s", rates)
    ratio = median(two.tail / one.tail for one, two in zip(idle, busy, strict=True))
    findings.at_most("tail", f"warm manifest during {told}: 99 % against idle", 10, ratio)


def _together(threads: ThreadPoolExecutor, authority: str, paths: list[str]) -> float:
    """MB a second."""
    begun = time.perf_counter()
    fetched = list(threads.map(partial(fetch, authority), paths))
    return sum(each.octets for each in fetched) / (time.perf_counter() - begun) / MB


ROWS: dict[str, Callable[[Bench], None]] = {
    "cold": cold,
    "cold-tls": cold_tls,
    "herd": herd,
    "memory": many,
    "start": start,
    "tail": tail,
}

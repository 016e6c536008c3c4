"""
The rows about what is held: manifests, configs and blobs, from everybody with the same bytes, in interleaved rounds.

Clients are on the same processors as the servers, so that a figure is that of both. Blobs are read by two kinds of
them: C{curl}, one process a client, which copies what it gets as clients do; and L{reader}, whose kernel drops it
(C{MSG_TRUNC}), so that what is left is the server's work. Ranges of 1 MiB are asked for by wrk, over four connections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders import DISTRIBUTION, NGINX, PULLCACHE, REGISTRY, ZOT
from benchmarks.field import MB, Bench, interleaved, settle
from benchmarks.reading import CONNECTIONS, Fetched, Hammered, curl, fetch, hammer, heads
from benchmarks.stores import place
from tests.clients.tools import Failed
from tests.process.service import UPSTREAM

CLIENTS = {1: 8, 4: 4, 64: 1}
"""How often each of so many clients asks for a blob in a round: about as many bytes are sent each time."""

LARGE = 1_000_000_000
"""Bytes of a blob that is measured once where there are more."""

RANGE = 1024 * 1024
RANGES = 4
"""Connections over which ranges are asked for."""


def manifest(bench: Bench) -> None:
    """Manifests and a config, as often as they can be asked for."""
    image, servers = bench.field.hold("held", bench.effort.small), bench.field.authorities
    seconds = bench.effort.seconds
    for by, path in {"by tag": image.tag_path, "by digest": image.digest_path}.items():
        for method, ask in {"GET": hammer, "HEAD": heads}.items():
            figure = f"{method} {by}"
            _compare(bench, "manifest", figure, "/s", servers, partial(ask, path=path, seconds=seconds))
            _bars(bench, "manifest", figure, {NGINX: 0.5, DISTRIBUTION: 4.0, ZOT: 2.0})
    _compare(bench, "manifest", "2 KB config", "/s", servers, partial(hammer, path=image.config_path, seconds=seconds))
    _bars(bench, "manifest", "2 KB config", {NGINX: 0.45, ZOT: 2.0})


def blob(bench: Bench) -> None:
    """A blob for one client and for many, and parts of it."""
    image, size, servers = bench.field.hold("held", bench.effort.small), bench.effort.small, bench.field.authorities
    settle(bench, size)
    path = image.blob_path
    asked: dict[str, Callable[[str], Fetched]] = {}
    for clients, times in CLIENTS.items():
        told = f"{size / MB:.0f} MB x {clients}"
        asked[f"{told}, curl"] = partial(_curl, path=path, clients=clients, times=times)
        asked[f"{told}, reader"] = partial(fetch, path=path, clients=clients, times=times)
    asked["second half x 4, curl"] = partial(_curl, path=path, clients=4, times=8, options=(_half(size),))
    for figure, ask in asked.items():
        _compare(bench, "blob", figure, "MB/s", servers, ask)
        _ahead(bench, "blob", figure)
    figure = f"1 MiB ranges x {RANGES}, wrk"
    _compare(bench, "blob", figure, "/s", servers, partial(_ranges, bench, path, RANGES))
    _ahead(bench, "blob", figure)


def tls(bench: Bench) -> None:
    """The same over TLS, from those that speak it here."""
    image, size, servers = bench.field.hold("held", bench.effort.small), bench.effort.small, bench.field.tls
    ask = partial(hammer, path=image.tag_path, seconds=bench.effort.seconds, tls=True)
    _compare(bench, "tls", "GET by tag", "/s", servers, ask)
    _bars(bench, "tls", "GET by tag", {NGINX: 0.4})
    over = partial(_curl, path=image.blob_path, scheme="https")
    asked = {f"{size / MB:.0f} MB x {c}, curl": partial(over, clients=c, times=n) for c, n in CLIENTS.items()}
    asked["second half x 4, curl"] = partial(over, clients=4, times=8, options=(_half(size),))
    for figure, measure in asked.items():
        _compare(bench, "tls", figure, "MB/s", servers, measure)
        _bars(bench, "tls", figure, {NGINX: 0.95})
    figure = f"1 MiB ranges x {RANGES}, wrk"
    _compare(bench, "tls", figure, "/s", servers, partial(_ranges, bench, image.blob_path, RANGES, tls=True))
    _bars(bench, "tls", figure, {NGINX: 0.95})


def clients(bench: Bench) -> None:
    """The rate as more connections ask."""
    image, findings, servers = bench.field.hold("held", bench.effort.small), bench.findings, bench.field.authorities
    for count in bench.effort.clients:
        ask = partial(hammer, path=image.tag_path, seconds=1, clients=count)
        _compare(bench, "clients", "manifests", "/s", servers, ask, count)
        if bench.effort.peers:
            ask = partial(_ranges, bench, image.blob_path, count, seconds=1)
            _compare(bench, "clients", "1 MiB ranges", "/s", servers, ask, count)
    most = max(bench.effort.clients)
    few, many, tail = (
        findings.find("clients", PULLCACHE, figure, at)
        for figure, at in (("manifests", CONNECTIONS), ("manifests", most), ("manifests, 99 %", most))
    )
    if few is not None and many is not None and tail is not None:
        ratio = many.median / few.median
        findings.at_least("clients", f"manifests over {most:,} connections: rate against {CONNECTIONS}", 0.8, ratio)
        findings.at_most("clients", f"manifests over {most:,} connections: 99 % in ms", 100, tail.median, 1)


def sizes(bench: Bench) -> None:
    """
    Blobs from small to very large: sparse files, which nobody has written, and which all have in common.

    What is read is in memory from the second time on, where that is large enough.
    """
    with bench.servers("sizes") as servers:
        ours, nginx = servers.configured("appliance"), servers.nginx()
        registries = {REGISTRY: servers.registry("registry")}
        if (newer := bench.programs.get(DISTRIBUTION)) is not None:
            registries[DISTRIBUTION] = servers.registry("v3", program=newer)
        held: dict[str, tuple[str, Path]] = {}
        for size in bench.effort.sizes:
            repository, file = f"sparse/{size}", servers.folder / str(size)
            with file.open("wb") as sparse:
                sparse.truncate(size)
            # Nobody looks whether the digest is that of the bytes when they are sent.
            held[repository] = f"sha256:{size:064x}", file
        place(ours.store, UPSTREAM, held)
        paths = {repository: f"/v2/{repository}/blobs/{digest}" for repository, (digest, _) in held.items()}
        for repository, (digest, file) in held.items():
            for registry in registries.values():
                registry.place(repository, digest, file)
            if nginx is not None:
                nginx.link(paths[repository], file)
        ours.start()
        targets = {PULLCACHE: ours.authority, **{name: each.authority for name, each in registries.items()}}
        targets |= {NGINX: nginx.authority} if nginx is not None else {}
        for repository, path in paths.items():
            size = held[repository][1].stat().st_size
            fetch(ours.authority, path)
            ask = partial(fetch, path=path, times=max(1, min(200, 2_000_000_000 // size)))
            # The largest takes each server several seconds.
            rounds = 1 if size > LARGE else bench.effort.rounds
            _compare(bench, "sizes", "speed, one client, reader", "MB/s", targets, ask, size, rounds)


# -- what the rows share ----------------------------------------------------------------------------------------------


def _compare(
    bench: Bench,
    row: str,
    figure: str,
    unit: str,
    servers: Mapping[str, str],
    ask: Callable[[str], Fetched | Hammered],
    at: float | None = None,
    rounds: int | None = None,
) -> None:
    """
    Measure all C{servers}, authorities by name, in interleaved rounds.

    One that cannot do it, as with a thousand connections, is left out, and the others are not.
    """
    failed: dict[str, Failed] = {}

    def measure(name: str) -> Any:
        try:
            return None if name in failed else ask(servers[name])
        except Failed as error:
            failed[name] = error

    for name, each in interleaved(rounds or bench.effort.rounds, list(servers), measure).items():
        if name in failed:
            bench.findings.leave_out(f"{row}, {figure}: {name}", " ".join(str(failed[name]).split())[:300])
            continue
        bench.findings.add(row, name, figure, unit, [one.rate for one in each], at)
        if at is not None and isinstance(each[0], Hammered):
            bench.findings.add(row, name, f"{figure}, 99 %", "ms", [one.tail for one in each], at)


def _curl(
    authority: str, path: str, clients: int, times: int, options: tuple[str, ...] = (), scheme: str = "http"
) -> Fetched:
    return curl(f"{scheme}://{authority}{path}", clients, times, *options)


def _half(size: int) -> str:
    """The second half, for curl."""
    return f"range = {size // 2}-{size - 1}"


def _ranges(
    bench: Bench, path: str, clients: int, authority: str, seconds: int | None = None, tls: bool = False
) -> Hammered:
    """Ranges from the middle, a second."""
    start = bench.effort.small // 2
    header = f"Range: bytes={start}-{start + RANGE - 1}"
    return hammer(authority, path, seconds or bench.effort.seconds, header, clients=clients, tls=tls)


def _ahead(bench: Bench, row: str, figure: str) -> None:
    """As fast as the fastest peer, and a little more."""
    peer = bench.findings.fastest(row, figure, PULLCACHE)
    ratio = None if peer is None else bench.findings.ratio(row, figure, PULLCACHE, peer)
    bench.findings.at_least(row, f"{figure}: speed against the fastest peer, {peer}", 1.05, ratio)


def _bars(bench: Bench, row: str, figure: str, limits: dict[str, float]) -> None:
    for peer, limit in limits.items():
        ratio = bench.findings.ratio(row, figure, PULLCACHE, peer)
        bench.findings.at_least(row, f"{figure}: rate against {peer}", limit, ratio)


ROWS: dict[str, Callable[[Bench], None]] = {
    "manifest": manifest,
    "blob": blob,
    "tls": tls,
    "clients": clients,
    "sizes": sizes,
}

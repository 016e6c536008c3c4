"""
The row about bundles: exports against C{tar -cf} of the same blobs, imports against C{tar -xf} followed by
C{sha256sum}, both with the same bytes in interleaved rounds.

tar and sha256sum leave it to the kernel when their bytes reach the disk, while the appliance syncs each blob before a
reference to it is published: what a sync adds to theirs is a figure too, and no bar is held against it.
"""

from __future__ import annotations

import http.client
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contenders import PULLCACHE
from benchmarks.contents import Image
from benchmarks.field import MB, MIB, Bench, interleaved, settle
from benchmarks.reading import PATIENCE, Hammered, fetch, hammer, hammer_during
from benchmarks.servers import forget_peak, memory
from tests.clients import plain, tools
from tests.clients.tools import Failed, run
from tests.process.service import Appliance, until

TAR = "tar"
TAR_SUM = "tar, sha256sum"
ROW = "bundles"
_EXPORTS, _IMPORTS = "/api/v1/exports", "/api/v1/imports"
_SLOWEST, _GROWTH, _AGAIN, _SERVING = 0.8, 64, 1 / 20, 0.5


@dataclass(frozen=True)
class Sample:
    """
    A few images by what names them: their bytes are too many to keep.

    @ivar tags: paths of the manifests, by tag.
    @ivar digests: of the manifests, in the same order.
    """

    tags: tuple[str, ...]
    digests: tuple[str, ...]

    def check(self, authority: str) -> None:
        """Each manifest is served, with its digest."""
        for tag, digest in zip(self.tags, self.digests, strict=True):
            plain.get(authority, tag, digest)


@dataclass(frozen=True)
class Taken:
    """
    One round of one side.

    @ivar seconds: what it took.
    @ivar rate: MB (10^6 bytes) a second.
    @ivar growth: bytes by which the appliance's resident memory grew at most.
    @ivar again: seconds of a second import; of tar and sha256sum, seconds until all is on disk as well.
    """

    seconds: float
    rate: float
    growth: int = 0
    again: float = 0.0


def bundles(bench: Bench) -> None:
    """Everything one appliance holds, into a file; and from there into another one."""
    if reason := tools.missing("tar", "sha256sum"):
        bench.findings.leave_out(ROW, reason)
        return
    with bench.servers(ROW) as servers:
        source = servers.appliance("source")
        sample = _seed(bench, source)
        bundle = bench.folder / ROW / "bundle.tar"
        # Memory that pulling has left over is not there for exports to grow into.
        source.restart()
        _export(bench, source, bundle)
        source.kill()
        shutil.rmtree(source.store)
        _import(bench, bundle, sample)
        _serve(bench, bundle, sample)


# -- export -----------------------------------------------------------------------------------------------------------


def _export(bench: Bench, source: Appliance, bundle: Path) -> None:
    """Leaves the last export as C{bundle}."""
    planning: list[float] = []

    def measure(name: str) -> Taken:
        target = bundle if name == PULLCACHE else bundle.with_name("peer.tar")
        target.unlink(missing_ok=True)
        _settle(bench)
        if name == TAR:
            return _timed(_size(source), lambda: run("tar", "-cf", target, "-C", source.store, "blobs"))
        planned, seconds = _plan(source)
        planning.append(seconds)
        return _exported(source, planned["volumes"][0], target)

    findings = bench.findings
    rounds = interleaved(bench.effort.bundles, [PULLCACHE, TAR], measure)
    bundle.with_name("peer.tar").unlink()
    for name, each in rounds.items():
        findings.add(ROW, name, "export", "MB/s", [one.rate for one in each])
    findings.add(ROW, PULLCACHE, "planning", "ms", [seconds * 1e3 for seconds in planning])
    _add_growth(bench, "export", rounds[PULLCACHE])
    ratio = findings.ratio(ROW, "export", PULLCACHE, TAR)
    findings.at_least(ROW, f"{_shape(bench)} export: speed against tar -cf", _SLOWEST, ratio)
    _growth_bar(bench, "export", rounds[PULLCACHE])


def _plan(source: Appliance) -> tuple[dict[str, Any], float]:
    start = time.perf_counter()
    with _post(source.admin, _EXPORTS, {"all": True}) as response:
        planned = json.load(response)
    if response.status != 201 or len(planned["volumes"]) != 1 or planned["leftOut"]:
        raise Failed(f"POST {_EXPORTS}: {response.status} {str(planned)[:1000]}")
    return planned, time.perf_counter() - start


def _exported(source: Appliance, volume: dict[str, Any], target: Path) -> Taken:
    pid = source.process.pid
    forget_peak(pid)
    before, _ = memory(pid)
    fetched = fetch(source.admin, volume["url"], into=target)
    if not fetched.octets == target.stat().st_size == volume["size"]:
        raise Failed(f"{target}: {fetched.octets} bytes of {volume['size']}")
    return Taken(fetched.seconds, fetched.rate, _grown(pid, before))


# -- import -----------------------------------------------------------------------------------------------------------


def _import(bench: Bench, bundle: Path, sample: Sample) -> None:
    """Into appliances that hold nothing, twice each, and beside them into folders."""
    peer = bundle.with_name("extracted")
    size = bundle.stat().st_size

    def measure(name: str) -> Taken:
        if name == PULLCACHE:
            return _imported(bench, bundle, sample)
        _settle(bench)
        try:
            taken = _timed(size, lambda: _extract(bundle, peer))
            return Taken(taken.seconds, taken.rate, again=taken.seconds + _timed(size, lambda: run("sync")).seconds)
        finally:
            shutil.rmtree(peer)

    findings = bench.findings
    rounds = interleaved(bench.effort.bundles, [PULLCACHE, TAR_SUM], measure)
    mine = rounds[PULLCACHE]
    for name, each in rounds.items():
        findings.add(ROW, name, "import", "MB/s", [one.rate for one in each])
    findings.add(ROW, TAR_SUM, "import and sync", "MB/s", [size / MB / one.again for one in rounds[TAR_SUM]])
    findings.add(ROW, PULLCACHE, "second import", "ms", [one.again * 1e3 for one in mine])
    _add_growth(bench, "import", mine)
    ratio = findings.ratio(ROW, "import", PULLCACHE, TAR_SUM)
    findings.at_least(ROW, f"{_shape(bench)} import: speed against tar -xf, sha256sum", _SLOWEST, ratio)
    _growth_bar(bench, "import", mine)
    again = median(one.again / one.seconds for one in mine)
    findings.at_most(ROW, "second import of the same bundle: part of the first's time", _AGAIN, again, 3)


def _imported(bench: Bench, bundle: Path, sample: Sample) -> Taken:
    with _fresh(bench) as target:
        _settle(bench)
        pid = target.process.pid
        forget_peak(pid)
        before, _ = memory(pid)
        first = _timed(bundle.stat().st_size, lambda: _order(target, bundle))
        grown = _grown(pid, before)
        start = time.perf_counter()
        receipt = _order(target, bundle)
        again = time.perf_counter() - start
        if receipt["newBlobs"] or receipt["readBytes"]:
            raise Failed(f"the second import read {receipt['readBytes']} bytes of blobs")
        sample.check(target.authority)
        return Taken(first.seconds, first.rate, grown, again)


def _order(target: Appliance, bundle: Path) -> dict[str, Any]:
    """Import and return the receipt, the last line of the answer."""
    last = b"{}"
    with _post(target.admin, _IMPORTS, {"files": [str(bundle)]}) as response:
        for line in response:
            last = line
    receipt: dict[str, Any] | None = json.loads(last).get("receipt")
    if receipt is None:
        raise Failed(f"POST {_IMPORTS}: {response.status} {last[:1000]!r}")
    return receipt


def _extract(bundle: Path, folder: Path) -> None:
    folder.mkdir()
    run("tar", "-xf", bundle, "-C", folder)
    blobs = sorted((folder / "blobs" / "sha256").iterdir())
    sums = run("sha256sum", *blobs).decode().splitlines()
    wrong = [path.name for path, line in zip(blobs, sums, strict=True) if not line.startswith(path.name)]
    if wrong:
        raise Failed(f"{bundle}: wrong digests: {wrong}")


# -- serving while importing ------------------------------------------------------------------------------------------


def _serve(bench: Bench, bundle: Path, sample: Sample) -> None:
    """A held manifest, as often as it can be asked for: by itself, and while a bundle is imported."""
    findings, effort = bench.findings, bench.effort
    if reason := tools.missing("wrk"):
        findings.leave_out(f"{ROW}: serving while importing", reason)
        return
    image = bench.pushed("busy", 64 * 1024)
    rounds = [_served(bench, bundle, sample, image) for _ in range(effort.bundles)]
    for when, each in (("idle", [one[0] for one in rounds]), ("importing", [one[1] for one in rounds])):
        findings.add(ROW, PULLCACHE, f"manifest, {when}", "/s", [one.rate for one in each])
        findings.add(ROW, PULLCACHE, f"{when}, 99 %", "ms", [one.tail for one in each])
    findings.add(ROW, PULLCACHE, "import while serving", "MB/s", [one[2].rate for one in rounds])
    ratio = median(busy.rate / idle.rate for idle, busy, _ in rounds)
    findings.at_least(ROW, "warm manifest by tag: requests a second, importing against idle", _SERVING, ratio)


def _served(bench: Bench, bundle: Path, sample: Sample, image: Image) -> tuple[Hammered, Hammered, Taken]:
    with _fresh(bench) as target:
        plain.get(target.authority, image.tag_path, image.content.digest)
        idle = hammer(target.authority, image.tag_path, bench.effort.seconds)
        _settle(bench)
        size = bundle.stat().st_size
        busy, taken = hammer_during(
            target.authority, image.tag_path, lambda: _timed(size, lambda: _order(target, bundle))
        )
        sample.check(target.authority)
        return idle, busy, taken


# -- both -------------------------------------------------------------------------------------------------------------


def _seed(bench: Bench, source: Appliance) -> Sample:
    """Let C{source} pull the images; they are not kept in memory, nor by the upstream's."""
    effort = bench.effort
    tags, digests = [], []
    for _ in range(effort.bundle_images):
        image = bench.pushed("bundled", effort.bundle_bytes // effort.bundle_images)
        plain.get(source.authority, image.tag_path, image.content.digest)
        for blob in image.content.blobs:
            fetch(source.authority, f"/v2/{image.repository}/blobs/{blob.digest}")
            # The client has it all a moment before it is on disk under its name.
            until(source.blob(blob.digest).exists, f"{blob.digest} is held")
        tags.append(image.tag_path)
        digests.append(image.content.digest)
    return Sample(tuple(tags), tuple(digests))


@contextmanager
def _fresh(bench: Bench) -> Iterator[Appliance]:
    """An appliance that holds nothing but a first small image."""
    with bench.servers("bundles-into") as servers:
        target = servers.appliance()
        first = bench.pushed("first", 64 * 1024)
        plain.get(target.authority, first.tag_path, first.content.digest)
        plain.get(target.authority, first.blob_path, first.layer.digest)
        yield target


def _settle(bench: Bench) -> None:
    """Each side writes the bundle once."""
    settle(bench, bench.effort.bundle_bytes)


@contextmanager
def _post(authority: str, path: str, document: object) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(authority, timeout=PATIENCE)
    try:
        connection.request("POST", path, json.dumps(document), {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


def _timed(size: int, work: Callable[[], object]) -> Taken:
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return Taken(seconds, size / seconds / MB)


def _size(source: Appliance) -> int:
    return sum(path.stat().st_size for path in (source.store / "blobs").rglob("*") if path.is_file())


def _grown(pid: int, before: int) -> int:
    _, peak = memory(pid)
    return max(0, peak - before)


def _add_growth(bench: Bench, what: str, rounds: list[Taken]) -> None:
    bench.findings.add(ROW, PULLCACHE, f"memory, {what}", "MiB", [one.growth / MIB for one in rounds])


def _growth_bar(bench: Bench, what: str, rounds: list[Taken]) -> None:
    growth = max(one.growth for one in rounds) / MIB
    bench.findings.at_most(ROW, f"{what}: resident memory grows by MiB", _GROWTH, growth, 1)


def _shape(bench: Bench) -> str:
    effort = bench.effort
    return f"{effort.bundle_bytes / MB:.0f} MB in {effort.bundle_images} images,"

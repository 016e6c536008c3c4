"""What all rows share: how much is measured, in which order, and the servers, which end with their row or the run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.contenders import DISTRIBUTION, DISTRIBUTION_PROXY, NGINX, PULLCACHE, REGISTRY, REGISTRY_PROXY, ZOT
from benchmarks.contents import Image, Images
from benchmarks.findings import Findings
from benchmarks.reading import Fetched, fetch
from benchmarks.servers import Line, Nginx, Registry, Zot, appliance
from tests.clients import plain
from tests.doubles.certificates import authority
from tests.process.service import Appliance, Died, free_port, until

DIRECT = "straight from upstream"
MB = 1e6
MIB = 1024.0 * 1024.0
# Times the size of a blob: its file, and what sockets and processes hold of it on the way.
TOUCHED = 3
_BLANK = bytes(1024 * 1024)


@dataclass(frozen=True)
class Effort:
    """
    How much is measured.

    @ivar rounds: of what is quick to measure.
    @ivar cold: rounds of what moves many bytes through the disk.
    @ivar seconds: of one run of wrk.
    @ivar small: bytes of a blob, 80 MB in a whole run.
    @ivar large: bytes of a larger one, 400 MB in a whole run.
    @ivar huge: bytes of the one that many clients pull at once, 1 GB in a whole run.
    @ivar peers: whether the others are sent herds, too, which takes them many times as long.
    @ivar clients: how many ask for a manifest at once.
    @ivar sizes: bytes of blobs that nobody wrote: sparse files.
    @ivar stores: how many images are in a store.
    @ivar bundles: rounds of the row about bundles.
    @ivar bundle_bytes: of all layers of a bundle together.
    @ivar bundle_images: how many these are.
    @ivar images: in the largest store of the row about the index.
    """

    rounds: int
    cold: int
    seconds: int
    small: int
    large: int
    huge: int
    peers: bool
    clients: tuple[int, ...]
    sizes: tuple[int, ...]
    stores: tuple[int, ...]
    inspections: int
    bundles: int
    bundle_bytes: int
    bundle_images: int
    images: int


class Holding(Protocol):
    """A server that can be given images."""

    authority: str

    @property
    def pid(self) -> int:
        """Its process, the first of several."""

    def push(self, image: Image) -> None:
        """Hold an image from now on."""


@dataclass
class Bench:
    """
    What all rows share.

    @ivar registry: the upstream, which holds everything.
    @ivar programs: where zot and distribution v3 are, where they are; and nginx.
    @ivar stack: what ends with the run.
    """

    folder: Path
    registry: Registry
    findings: Findings
    effort: Effort
    programs: Mapping[str, str]
    stack: ExitStack
    images: Images = field(default_factory=Images)
    _field: Field | None = None
    _blobs: dict[int, list[Image]] = field(default_factory=dict)

    def pushed(self, purpose: str, size: int, layers: int = 1) -> Image:
        """A new image that the upstream holds."""
        image = self.images.make(purpose, size, layers)
        self.registry.push(image)
        return image

    def cold_images(self, count: int, size: int) -> list[Image]:
        """So many images of one layer that the upstream holds, the same in each row: its servers are new."""
        made = self._blobs.setdefault(size, [])
        while len(made) < count:
            made.append(self.pushed("cold", size))
        return made[:count]

    @property
    def field(self) -> Field:
        """Everybody, started when first asked for."""
        if self._field is None:
            self._field = Field(self, self.stack.enter_context(self.servers("field")))
        return self._field

    @contextmanager
    def servers(self, name: str) -> Iterator[Servers]:
        """Servers for one row, gone with their files afterwards."""
        folder = self.folder / name
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            folder.mkdir()
            yield Servers(folder, self, stack)


class Servers:
    """Starts servers that end with their row."""

    def __init__(self, folder: Path, bench: Bench, stack: ExitStack) -> None:
        self.folder = folder
        self._bench = bench
        self._stack = stack

    def appliance(self, name: str = "appliance", upstream_url: str | None = None, **upstream: Any) -> Appliance:
        """With an empty store; C{upstream} goes into that part of its configuration."""
        return self.configured(name, upstream_url, **upstream).start()

    def configured(self, name: str, upstream_url: str | None = None, **upstream: Any) -> Appliance:
        """As L{appliance}, not started yet: its folder may be filled first."""
        made = appliance(self.folder / name, upstream_url or self._bench.registry.url, **upstream)
        self._stack.callback(made.kill)
        return made

    def registry(self, name: str, **options: Any) -> Registry:
        """docker-registry, or with another C{program} distribution."""
        made = Registry(self.folder / name, **options)
        self._stack.callback(made.kill)
        return made.start()

    def proxies(self, upstream_url: str | None = None) -> dict[str, Registry]:
        """Pull-through caches with empty stores, by name: docker-registry and, where it is there, distribution."""
        url = upstream_url or self._bench.registry.url
        programs = {REGISTRY_PROXY: "docker-registry"}
        if (newer := self._bench.programs.get(DISTRIBUTION)) is not None:
            programs[DISTRIBUTION_PROXY] = newer
        return {name: self.registry(name, remote=url, program=program) for name, program in programs.items()}

    def nginx(self) -> Nginx | None:
        """nginx; C{None} where there is none."""
        if NGINX not in self._bench.programs:
            return None
        made = Nginx(self.folder / "nginx", self.tls)
        self._stack.callback(made.kill)
        return made.start()

    def zot(self) -> Zot | None:
        """zot; C{None} where there is none."""
        if (program := self._bench.programs.get(ZOT)) is None:
            return None
        made = Zot(self.folder / "zot", program)
        self._stack.callback(made.kill)
        return made.start()

    @property
    def tls(self) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and its key; C{authority.pem} beside them has issued it."""
        certificate, key = self.folder / "server.pem", self.folder / "server.key"
        if not key.exists():
            issuer = authority()
            (self.folder / "authority.pem").write_bytes(issuer.certificates)
            issuer.issue("127.0.0.1").write(self.folder, "server")
        return certificate, key

    def line(self, rate: float, round_trip: float, each: bool = False, to: Registry | None = None) -> Line:
        """A limited line to the upstream, or one for C{each} connection."""
        target = to or self._bench.registry
        line = Line(target.authority, rate, round_trip, each, target.scheme)
        self._stack.callback(line.kill)
        return line


class Field:
    """
    Everybody who answers from what he holds: up from row to row, and at rest while not asked.

    @ivar authorities: by name.
    @ivar tls: the same of those that speak TLS, too.
    @ivar appliance: ours.
    """

    def __init__(self, bench: Bench, servers: Servers) -> None:
        certificate, key = servers.tls
        self.appliance = servers.configured("appliance")
        port = free_port()
        secure = f"ssl:port={port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        self.appliance.settings["listen"].append({**self.appliance.settings["listen"][0], "endpoint": secure})
        self.appliance.write()
        self.appliance.start()
        self.authorities = {PULLCACHE: self.appliance.authority}
        self.tls = {PULLCACHE: f"127.0.0.1:{port}"}
        self._peers: dict[str, Holding] = {}
        if (nginx := servers.nginx()) is not None:
            self._peers[NGINX], self.tls[NGINX] = nginx, nginx.tls
        if (newer := bench.programs.get(DISTRIBUTION)) is not None:
            self._peers[DISTRIBUTION] = servers.registry("v3", program=newer)
        if (zot := servers.zot()) is not None:
            self._peers[ZOT] = zot
        self._peers[REGISTRY] = bench.registry
        self.authorities |= {name: peer.authority for name, peer in self._peers.items()}
        self._bench = bench
        self._held: dict[tuple[str, int], Image] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Of their processes."""
        return {PULLCACHE: self.appliance.process.pid} | {name: peer.pid for name, peer in self._peers.items()}

    def hold(self, purpose: str, size: int) -> Image:
        """An image that everybody holds, the same for the same arguments."""
        if (held := self._held.get((purpose, size))) is not None:
            return held
        image = self._held[purpose, size] = self._bench.images.make(purpose, size)
        for peer in self._peers.values():
            peer.push(image)
        for server in self.authorities.values():
            check(server, image)
        # The client has it all a moment before it is on disk under its name.
        until(self.appliance.blob(image.layer.digest).exists, "the layer is held")
        return image


def interleaved(rounds: int, names: Sequence[str], measure: Callable[[str], Any]) -> dict[str, list[Any]]:
    """
    Measure each once a round, beginning each round with another one.

    @return: what C{measure} returned, by name, in the order of the rounds.
    """
    results: dict[str, list[Any]] = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in (*names[start:], *names[:start]):
            results[name].append(measure(name))
    return results


def settle(bench: Bench, octets: int) -> None:
    """
    What was written before is on disk before the next clock starts, and memory for C{octets} has just been in use.

    A virtual machine gets memory from its host when it first touches it, and may give it back after seconds: a new file
    of 200 MB can take half a second instead of a thirtieth, for any writer.
    """
    os.sync()
    scratch = bench.folder / "scratch"
    with scratch.open("wb", buffering=0) as file:
        for _ in range(octets // len(_BLANK) + 1):
            file.write(_BLANK)
    scratch.unlink()


def cold_blobs(bench: Bench, images: list[Image], targets: dict[str, str]) -> Callable[[str], Fetched]:
    """Fetches, from a target by its name, the blob of the next image that was not fetched there."""
    left = {name: iter(images) for name in targets}

    def measure(name: str) -> Fetched:
        image = next(left[name])
        settle(bench, TOUCHED * len(image.layer.data))
        # A client has the manifest first. Soon afterwards the appliance fetches by itself what nobody asks for.
        plain.get(targets[name], image.digest_path, image.content.digest)
        return fetch(targets[name], image.blob_path)

    return measure


def check(server: str, image: Image) -> None:
    """Every server gives the same bytes; what has been pulled once is held from then on."""
    plain.get(server, image.tag_path, image.content.digest)
    for blob in image.content.blobs:
        plain.get(server, image.path_of(blob), blob.digest)


def warm_up(bench: Bench, server: str) -> None:
    """A first pull, so that nothing is measured that happens once in the life of a process."""
    image = bench.images.make("first", 64 * 1024)
    bench.registry.push(image)
    check(server, image)


def until_served(appliance: Appliance, path: str) -> None:
    """Ask for what it holds, again and again, until it answers."""
    while True:
        try:
            plain.get(appliance.authority, path)
            return
        except OSError:
            if appliance.process.poll() is not None:
                raise Died(appliance.log()[-4000:]) from None
            time.sleep(0.002)

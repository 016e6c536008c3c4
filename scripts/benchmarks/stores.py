"""
Stores as they are after years: many repositories of ten images each, and one with very many tags.

C{PYTHONPATH=.:scripts python -m benchmarks.stores FOLDER IMAGES [TAGS]} writes one, to look at or to measure by hand. A
hundred thousand images take half a minute, 1.5 GB and 350,000 files.

Documents are written by the appliance's own code, blobs as the files that it would have made of them, and nothing is
synced. The same arguments give the same images.
"""

from __future__ import annotations

import gzip
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from appliance.cache.usage import Usage
from appliance.flow.disk import InlineThreads
from appliance.index.documents import FilesystemDocuments
from appliance.index.repositories import Repositories
from appliance.oci.digest import Digest
from appliance.store.ownership import Ownership
from benchmarks.contents import image_of
from tests.doubles.images import OCI, Blob, Content, layer_tar, sha256
from tests.process.service import UPSTREAM

PER_REPOSITORY = 10
BASES = 16
"""Layers that many repositories share."""

EVERYTHING = "team-00/everything"
"""The repository with very many tags."""

_SERIAL = "serial-of-this-layer"
T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """
    What is in a store.

    @ivar images: all of them.
    @ivar tags: how many of these are in L{EVERYTHING}; the others are in repositories of L{PER_REPOSITORY}.
    """

    images: int
    tags: int = 0

    def repositories(self) -> Iterator[tuple[str, int]]:
        """Each repository, and how many images it has."""
        if self.tags:
            yield EVERYTHING, self.tags
        for number in range((self.images - self.tags) // PER_REPOSITORY):
            yield repository(number), PER_REPOSITORY

    def write(self, root: Path, now: float) -> None:
        """
        Write the store.

        @param now: when the upstream last said what the tags mean, seconds since the epoch; the pulls were before.
        """
        threads, clock = InlineThreads(), Clock()
        clock.rightNow = now - self.images
        with _unsynced():
            Ownership.claim(root).release()
            blobs, written = f"{root}/blobs/sha256", set[str]()
            repositories = Repositories(FilesystemDocuments(root, threads), budget=0)
            usage = Usage(FilesystemDocuments(root, threads, "state"), clock)
            for name, images in self.repositories():
                held = _now(repositories.get(UPSTREAM, name))
                for number in range(images):
                    content = image(name, number)
                    digest = Digest.parse(content.digest)
                    for blob in (content.manifest, *content.blobs):
                        if blob.digest not in written:
                            _write(f"{blobs}/{blob.digest.removeprefix('sha256:')}", blob.data)
                            # What no other image can have is not remembered.
                            if blob in content.layers[:-1]:
                                written.add(blob.digest)
                    held.hold(digest, OCI.manifest, len(content.manifest.data), confirm=True)
                    for blob in content.blobs:
                        held.link(Digest.parse(blob.digest), len(blob.data))
                    held.tag(tag(number), digest, now)
                    clock.advance(1)
                    for reference in (tag(number), content.digest):
                        usage.note(UPSTREAM, name, reference, 1 + number)
                _now(repositories.save(held))
            _now(Deferred.fromCoroutine(usage.flush(now=True)))


def place(root: Path, upstream: str, blobs: Mapping[str, tuple[str, Path]]) -> None:
    """
    Write a store that holds one blob in each of some repositories.

    @param blobs: by repository the digest, and a file on the same filesystem that is linked to.
    """
    with _unsynced():
        Ownership.claim(root).release()
        repositories = Repositories(FilesystemDocuments(root, InlineThreads()), budget=0)
        for name, (digest, file) in blobs.items():
            target = root / "blobs" / digest.replace(":", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(file)
            held = _now(repositories.get(upstream, name))
            held.link(Digest.parse(digest), file.stat().st_size)
            _now(repositories.save(held))


def repository(number: int) -> str:
    """The name of a repository of L{PER_REPOSITORY} images."""
    return f"team-{number % 100:02}/app-{number:05}"


def tag(number: int) -> str:
    """The tag of an image of its repository."""
    return f"1.{number}"


def image(name: str, number: int) -> Content:
    """An image of the repository C{name}: a layer that many have, one that the repository's images have, its own."""
    base = int(sha256(name.encode())[-2:], 16) % BASES
    layers = [_shared(f"base {base}"), _shared(name), _layer(f"{name}:{number}")]
    return image_of([layer for layer, _ in layers], [diff_id for _, diff_id in layers], f"{name}:{tag(number)}")


@lru_cache(64)
def _shared(said: str) -> tuple[Blob, str]:
    return _layer(said)


def _layer(said: str) -> tuple[Blob, str]:
    """A layer that holds one small file, and the digest of its tar."""
    tar = _TAR.replace(_SERIAL.encode(), sha256(said.encode())[-len(_SERIAL) :].encode())
    return Blob(OCI.layer, gzip.compress(tar, 1, mtime=0)), sha256(tar)


# Of a tar only the headers have sums. Two blocks of zeros end it.
_TAR = layer_tar({"serial": _SERIAL.encode()})[: 4 * 512]


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(fd, data)
    os.close(fd)


def _now(deferred: Deferred[T]) -> T:
    """The result of what was done at once."""
    results: list[T] = []
    deferred.addCallback(results.append)
    (result,) = results
    return result


@contextmanager
def _unsynced() -> Iterator[None]:
    """Nothing waits for the disk."""
    with mock.patch("os.fsync", lambda fd: None), mock.patch("os.fdatasync", lambda fd: None):
        yield


if __name__ == "__main__":
    Layout(int(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 0).write(Path(sys.argv[1]), time.time())

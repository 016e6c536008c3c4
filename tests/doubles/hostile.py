"""Archives that were made to do harm."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import zstandard

from appliance.bundle import tar


def long_names(path: Path, entries: int) -> Path:
    """
    A compressed tar of empty files whose names have 4 KiB each; hardly more than their numbers is stored of them.

    Each ends in 16 bytes that do not compress, so that it is not taken for a decompression bomb.
    """
    name = "/".join(["n" * 60] * 66) + "/" + "0" * 32
    before, after = tar.header(name, 0).split(b"0" * 32 + b"\n")
    with path.open("wb") as file, zstandard.ZstdCompressor(level=1).stream_writer(file) as out:
        for number in range(entries):
            tail = hashlib.blake2b(b"%d" % number, digest_size=16).hexdigest().encode()
            out.write(before + tail + b"\n" + after)
        out.write(tar.END)
    return path


def slow(path: Path, mebibytes: int) -> Path:
    """A compressed tar of one file, which takes seconds to be passed over and is no decompression bomb."""
    size = 1024 * 1024
    with path.open("wb") as file, zstandard.ZstdCompressor(level=1).stream_writer(file) as out:
        out.write(tar.header("file", mebibytes * size))
        for _ in range(mebibytes):
            out.write(os.urandom(size // 128).ljust(size, b"\0"))
        out.write(tar.END)
    return path

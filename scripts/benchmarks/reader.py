"""
Clients that read a response and drop it, or keep it: C{python reader.py PORT PATH[,PATH...] CLIENTS TIMES [FILE]}.

Each is a process with a blocking socket and one connection, over which it asks C{TIMES} times for each path. The kernel
throws the bytes of a body away without copying them here (C{MSG_TRUNC}, tcp(7)), so that the reader costs next to
nothing beside the server that is measured; with C{FILE} they are read and written there, as a download is. Standard
output is one JSON object, as L{reading.Fetched} has it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from typing import Any

# The most that is dropped at once; a buffer that holds it is never touched.
PIECE = 4 * 1024 * 1024
# The most that is read and written at once: what stays in a processor's cache between the two.
WRITTEN = 512 * 1024
HEAD_LIMIT = 64 * 1024
PATIENCE = 120.0
_STATUS = re.compile(rb"HTTP/1\.1 200 ")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


class Cut(Exception):
    """The response is not a whole 200 with a length."""


class Dropped:
    """A body that is not wanted."""

    def __init__(self) -> None:
        self._buffer = bytearray(PIECE)

    def begin(self, data: bytes) -> None:
        """What came together with the head."""

    def take(self, connection: socket.socket, most: int) -> int:
        """Drop what is there; says how many bytes that were."""
        return connection.recv_into(self._buffer, min(PIECE, most), socket.MSG_TRUNC)


class Kept:
    """A body that goes into a file."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._buffer = memoryview(bytearray(WRITTEN))

    def begin(self, data: bytes) -> None:
        """What came together with the head."""
        self._write(memoryview(data))

    def take(self, connection: socket.socket, most: int) -> int:
        """Write what is there; says how many bytes that were."""
        count = connection.recv_into(self._buffer, min(WRITTEN, most))
        self._write(self._buffer[:count])
        return count

    def _write(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._file, data) :]


def read_head(connection: socket.socket) -> tuple[int, bytes]:
    """The length of the body, and what of it came together with its head."""
    head = b""
    while (end := head.find(b"\r\n\r\n")) < 0:
        piece = connection.recv(HEAD_LIMIT)
        if not piece or len(head) > HEAD_LIMIT:
            raise Cut(f"no head: {head[:200]!r}")
        head += piece
    length = _LENGTH.search(head, 0, end + 2)
    if not _STATUS.match(head) or length is None:
        raise Cut(repr(head[:300]))
    return int(length[1]), head[end + 4 :]


def fetch(connection: socket.socket, request: bytes, body: Dropped | Kept) -> tuple[int, float]:
    """One request and its response; the bytes of the body, and the seconds until its first one."""
    start = time.perf_counter()
    connection.sendall(request)
    length, data = read_head(connection)
    body.begin(data)
    got = len(data)
    first = time.perf_counter() - start if got else None
    while got < length:
        count = body.take(connection, length - got)
        if first is None:
            first = time.perf_counter() - start
        if not count:
            raise Cut(f"{got} bytes of {length}")
        got += count
    return got, first or 0.0


def client(port: int, path: str, times: int, into: str | None, ready: int, go: int) -> dict[str, Any]:
    """Connect, wait for the others, then ask."""
    body = Dropped() if into is None else Kept(into)
    asked = "GET {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAccept: */*\r\n\r\n"
    requests = [asked.format(each, port).encode() for each in path.split(",")] * times
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        # A timeout makes Python's sockets poll before each call; the kernel's own costs nothing.
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, int(PATIENCE).to_bytes(8, "little") + bytes(8))
        os.write(ready, b".")
        os.read(go, 1)
        fetched = [fetch(connection, request, body) for request in requests]
        return {"octets": sum(octets for octets, _ in fetched), "first": fetched[0][1], "end": time.perf_counter()}


def run_client(port: int, path: str, times: int, into: str | None, ready: int, go: int, told: int) -> int:
    """What a forked process does; its exit status."""
    try:
        said = client(port, path, times, into, ready, go)
    except (OSError, Cut) as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    # Shorter than PIPE_BUF, so never mixed with another's.
    os.write(told, json.dumps(said)[:2000].encode() + b"\n")
    return 0


def main(port: int, path: str, clients: int, times: int, into: str | None = None) -> None:
    """Start all, let them go at once, and print what they tell."""
    (ready, is_ready), (wait, go), (tell, told) = os.pipe(), os.pipe(), os.pipe()
    for _ in range(clients):
        if os.fork() == 0:
            os.close(go)
            os._exit(run_client(port, path, times, into, is_ready, wait, told))
    os.close(is_ready)
    os.close(told)
    came = 0
    while came < clients and (some := os.read(ready, clients)):
        came += len(some)
    start = time.perf_counter()
    os.close(go)
    with os.fdopen(tell) as lines:
        said = [json.loads(line) for line in lines]
    for _ in range(clients):
        os.wait()
    errors = [each["error"] for each in said if "error" in each]
    ends = [each["end"] for each in said if "end" in each]
    result = {
        "seconds": max(ends, default=start) - start,
        "octets": sum(each.get("octets", 0) for each in said),
        "first": [each["first"] for each in said if "first" in each],
        "errors": errors,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])

"""
A line of limited speed to a server: C{python line.py PORT TO_PORT BYTES_PER_SECOND ROUND_TRIP_SECONDS [each]}.

All connections share it, unless C{each} has one of its own. What the server sends is paced; what clients send is held
back for a round trip. The first line on standard output says that it listens.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable

PIECE = 64 * 1024
# What a line may have kept back and then send at once: a sleep that was too long is made up for.
BURST = 256 * 1024


class Pace:
    """When the next bytes may go."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._due = 0.0
        self._lock = threading.Lock()

    def take(self, octets: int) -> None:
        """Wait until the line has carried C{octets}."""
        with self._lock:
            self._due = max(self._due, time.perf_counter() - BURST / self._rate) + octets / self._rate
            due = self._due
        ahead = due - time.perf_counter()
        if ahead > 0:
            time.sleep(ahead)


def carry(source: socket.socket, sink: socket.socket, wait: Callable[[int], None]) -> None:
    """Pass bytes on until one side ends; C{wait} is called with the number of them first."""
    buffer = memoryview(bytearray(PIECE))
    with contextlib.suppress(OSError):
        while count := source.recv_into(buffer):
            wait(count)
            sink.sendall(buffer[:count])
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def connect(client: socket.socket, port: int, pace: Pace, round_trip: float) -> None:
    """Carry a connection both ways."""
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=carry, args=(server, client, pace.take), daemon=True)
        back.start()
        carry(client, server, lambda _: time.sleep(round_trip))
        back.join()


def main(port: int, to_port: int, rate: float, round_trip: float, each: bool = False) -> None:
    """Listen until killed."""
    shared = Pace(rate)
    with socket.create_server(("127.0.0.1", port), backlog=128) as listening:
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while True:
            client, _ = listening.accept()
            pace = Pace(rate) if each else shared
            threading.Thread(target=connect, args=(client, to_port, pace, round_trip), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), sys.argv[5:] == ["each"])

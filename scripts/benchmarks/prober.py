"""
A client that notices when a server stands still: C{python -m benchmarks.prober PORT PATH}.

It asks for the same small document over one connection, again and again with a short pause, until its standard input
ends. Standard output is one JSON object: the longest time to an answer, the median, and how many there were.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from statistics import median

from benchmarks.reader import PATIENCE, Dropped, fetch

PAUSE = 0.001
"""Seconds between an answer and the next request: a pause of the server that is longer is seen."""


def main(port: int, path: str) -> None:
    """Ask until nobody listens any more."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\n\r\n".encode()
    body, seconds = Dropped(), []
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        fetch(connection, request, body)
        sys.stdout.write("asking\n")
        sys.stdout.flush()
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            start = time.perf_counter()
            fetch(connection, request, body)
            seconds.append(time.perf_counter() - start)
    said = {"longest": max(seconds, default=0.0), "median": median(seconds or [0.0]), "count": len(seconds)}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

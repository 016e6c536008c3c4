"""
A client that asks for the head of a document as often as it can: C{python heads.py PORT PATH CONNECTIONS SECONDS}.

wrk waits for a body that no answer to HEAD has; this is one thread with one epoll, as wrk is. Standard output is one
JSON object: requests a second, and the 99th percentile of the times to an answer in milliseconds.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

from benchmarks.reader import Cut

ACCEPT = "application/vnd.oci.image.manifest.v1+json"
_MOST = 64 * 1024


def main(port: int, path: str, connections: int, seconds: float) -> None:
    """Ask over all connections, each as soon as it has its answer."""
    request = f"HEAD {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: {ACCEPT}\r\n\r\n".encode()
    made = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    sockets = {each.fileno(): each for each in made}
    asked, begun, times = dict.fromkeys(sockets, 0.0), dict.fromkeys(sockets, b""), []
    now = time.perf_counter
    with select.epoll() as poll:
        start = now()
        for number, each in sockets.items():
            each.setblocking(False)
            poll.register(number, select.EPOLLIN)
            asked[number] = now()
            each.send(request)
        while now() - start < seconds:
            for number, _ in poll.poll(1.0):
                each = sockets[number]
                answer = begun[number] + each.recv(_MOST)
                if not answer.endswith(b"\r\n\r\n") and answer:
                    begun[number] = answer
                    continue
                if not answer.startswith(b"HTTP/1.1 200 "):
                    raise Cut(repr(answer[:300]))
                begun[number], then = b"", asked[number]
                asked[number] = at = now()
                times.append(at - then)
                each.send(request)
        took = now() - start
    times.sort()
    sys.stdout.write(json.dumps({"rate": len(times) / took, "tail": times[len(times) * 99 // 100] * 1e3}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))

"""A network of its own for one test: packets can be dropped there, and none leaves."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable

import pytest

_CLONE_NEWNET = 0x40000000


def in_a_network_of_its_own(body: Callable[[], None]) -> None:
    """
    Run C{body} on a thread that has a network namespace of its own, as have the processes it starts: only a loopback
    interface. Skips the test where that is not allowed.
    """
    if shutil.which("ip") is None:
        pytest.skip("ip (iproute2) is not installed")
    failures: list[BaseException] = []

    def run() -> None:
        try:
            _unshare()
            ip("link", "set", "lo", "up")
            body()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def ip(*arguments: str) -> None:
    """Change the network of the thread."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        pytest.skip(f"no network namespace here: {os.strerror(ctypes.get_errno())}")

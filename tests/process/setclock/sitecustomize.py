"""
Imported by Python before anything else where this folder is on C{PYTHONPATH}: the process's clock on the wall is off by
as many seconds as the file C{SETCLOCK} says at the moment, a double. The machine's own clock is not touched.
"""

import mmap
import os
import struct
import time
from collections.abc import Callable

with open(os.environ["SETCLOCK"], "r+b") as _file:
    _off = mmap.mmap(_file.fileno(), 8)

_right: Callable[[], float] = time.time


def _shown() -> float:
    off: float = struct.unpack("<d", _off[:])[0]
    return _right() + off


time.time = _shown

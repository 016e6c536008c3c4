"""
Lines of a journal: each a JSON object behind its checksum, C{<crc32 in hex> <JSON>}.

A power cut may leave the last line torn; it was not promised to any caller. A line that is wrong elsewhere is damage.
"""

from __future__ import annotations

from binascii import crc32


def line(record: bytes) -> bytes:
    """C{record}, which has no line end in it, as it is appended."""
    return b"%08x %b\n" % (crc32(record), record)


def records(data: bytes) -> tuple[list[bytes], int]:
    """The records of the lines that are whole, in order; and how many lines are damaged, without a torn last one."""
    *lines, _ = data.split(b"\n")
    whole = [each[9:] for each in lines if each[:9] == b"%08x " % crc32(each[9:])]
    return whole, len(lines) - len(whole)

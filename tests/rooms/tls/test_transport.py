"""A connection over TLS is not harmed by what others do, and no client makes it wait in a loop."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from OpenSSL._util import lib

from appliance.flow.pace import Pace
from appliance.tls.transport import RECORD
from tests.doubles.certificates import authority
from tests.rooms.tls.visits import Line, Site, Visitor

ROOT = authority("Root")
SITE = ROOT.issue("a.site")


def test_a_long_request_comes_whole_whatever_its_records_are(tmp_path: Path) -> None:
    visitor = Visitor(Site.of(tmp_path, SITE))
    for size in (1, RECORD - 1, RECORD, RECORD + 1, 3 * RECORD, 4 * RECORD, 9 * RECORD + 7):
        data = os.urandom(size)
        got = visitor.say(data)
        for _ in range(40):
            got += visitor.say(b"")
        assert got == data, size


def test_a_connection_that_breaks_leaves_no_error_for_the_next_one(tmp_path: Path) -> None:
    """OpenSSL's errors are a thread's, and not a connection's."""
    site = Site.of(tmp_path, SITE)
    broken, other = Visitor(site), Visitor(site)
    broken.line.network.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    broken.line.network.close()
    broken.connection.write(b"x" * 100)
    broken.line.carry()
    assert not broken.connection.connected
    assert lib.ERR_peek_error() == 0
    assert other.connection.doRead() is None
    assert other.say(b"hello") == b"hello"


def test_garbage_ends_its_connection_only(tmp_path: Path) -> None:
    site = Site.of(tmp_path, SITE)
    broken, other = Visitor(site), Visitor(site)
    broken.line.carry(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    assert not broken.connection.connected
    assert lib.ERR_peek_error() == 0
    assert other.say(b"hello") == b"hello"


def test_nobody_who_says_nothing_costs_more_than_memory(tmp_path: Path) -> None:
    """A handshake that never goes on: nothing is to be written, and nothing is asked again before something comes."""
    site = Site.of(tmp_path, SITE)
    line = Line(site)
    line.carry(b"\x16\x03\x01\x02\x00\x01")
    assert line.connection.connected
    assert line.connection not in site.clock.writers
    line.network.close()
    line.carry()
    assert not line.connection.connected and not site.refused


def test_a_rate_that_falls_does_not_break_what_openssl_has_begun(tmp_path: Path) -> None:
    """What it has encrypted already it wants to be offered again, whole."""
    site = Site.of(tmp_path, SITE)
    visitor = Visitor(site)
    data = os.urandom(3_000_000)
    visitor.connection.write(data)
    assert visitor.connection.socket.unfinished
    pace = Pace(site.clock)
    pace.rate = 500_000
    visitor.connection.pace = pace
    got = b""
    for _ in range(2000):
        site.clock.advance(0.01)
        got += visitor.say(b"")
        if len(got) == len(data):
            break
    assert got == data


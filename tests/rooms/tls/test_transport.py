"""A connection over TLS is not harmed by what others do, and no client makes it wait in a loop."""

from __future__ import annotations

import os
import socket
import struct
import termios
from fcntl import ioctl
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL
from OpenSSL._util import lib

from appliance.flow.pace import Pace
from appliance.tls.socket import RECORD
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


HANDSHAKE, DATA = b"\x16", b"\x17"
KEY_UPDATE = b"\x18\x00\x00\x01"
"""And a byte: whether the other end is to use other keys, too (RFC 8446 section 4.6.3)."""


def expanded(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446 section 7.1, without a context."""
    label = b"tls13 " + label
    info = struct.pack(">HB", length, len(label)) + label + b"\0"
    return HKDFExpand(SHA384(), length, info).derive(secret)


class Sealing(Visitor):
    """Makes its own records once the handshake is done, for OpenSSL would not make such ones."""

    def __init__(self, site: Site) -> None:
        self.lines: list[bytes] = []
        super().__init__(site)
        assert self.tls.get_cipher_name() == "TLS_AES_256_GCM_SHA384"
        (secret,) = (each.split()[2] for each in self.lines if each.startswith(b"CLIENT_TRAFFIC_SECRET_0 "))
        self._use(bytes.fromhex(secret.decode()))

    def _set_up(self, context: SSL.Context, *args: Any) -> None:
        super()._set_up(context, *args)
        context.set_keylog_callback(lambda connection, line: self.lines.append(line))

    def _use(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        self._key, self._start = AESGCM(expanded(secret, b"key", 32)), expanded(secret, b"iv", 12)

    def seal(self, content: bytes, kind: bytes) -> bytes:
        """The next record."""
        nonce = (int.from_bytes(self._start, "big") ^ self._number).to_bytes(12, "big")
        self._number += 1
        head = b"\x17\x03\x03" + struct.pack(">H", len(content) + 17)
        return head + self._key.encrypt(nonce, content + kind, head)

    def update(self, wants_ours: bool) -> bytes:
        """A record that says that the next one has another key."""
        record = self.seal(KEY_UPDATE + bytes([wants_ours]), HANDSHAKE)
        self._use(expanded(self._secret, b"traffic upd", 48))
        return record


def test_a_client_may_change_keys_in_the_middle_of_what_it_gets(tmp_path: Path) -> None:
    site = Site.of(tmp_path, SITE)
    visitor = Sealing(site)
    data = os.urandom(3_000_000)
    visitor.connection.write(data)
    visitor.line.network.sendall(visitor.update(True) + visitor.seal(b"hello", DATA) + visitor.update(True))
    got = b""
    for _ in range(200):
        got += visitor.say(b"")
    assert visitor.error is None and got == data + b"hello"
    visitor.line.network.sendall(visitor.seal(b"again", DATA))
    assert visitor.say(b"") == b"again"


def test_a_change_of_keys_that_is_half_there_holds_up_what_is_written(tmp_path: Path) -> None:
    """Nothing is asked of OpenSSL in a loop until the rest has come."""
    site = Site.of(tmp_path, SITE)
    visitor = Sealing(site)
    visitor.line.carry(visitor.seal(KEY_UPDATE, HANDSHAKE))
    visitor.connection.write(b"answer")
    assert visitor.say(b"") == b""
    assert visitor.connection in site.clock.readers and visitor.connection not in site.clock.writers
    visitor.line.network.sendall(visitor.seal(b"\1", HANDSHAKE))
    visitor._use(expanded(visitor._secret, b"traffic upd", 48))
    assert visitor.say(b"") == b"answer"
    visitor.line.network.sendall(visitor.seal(b"more", DATA))
    assert visitor.say(b"") == b"more"


def test_a_client_that_does_nothing_but_change_keys_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    """As fast as it likes: a turn of its connection is as long as any other."""
    visitor = Sealing(Site.of(tmp_path, SITE))
    visitor.line.network.sendall(b"".join(visitor.update(False) for _ in range(1000)))

    def waiting() -> int:
        return int(struct.unpack("i", ioctl(visitor.connection.fileno(), termios.FIONREAD, b"\0" * 4))[0])

    before = waiting()
    visitor.connection.doRead()
    assert before - waiting() < 1000 < before
    for _ in range(2000):
        visitor.connection.doRead()
    assert waiting() == 0
    visitor.line.network.sendall(visitor.seal(b"hello", DATA))
    assert visitor.say(b"") == b"hello"


def test_a_client_that_wants_to_begin_anew_is_told_no_and_nothing_else_happens(tmp_path: Path) -> None:
    """Renegotiation, of TLS 1.2 only."""
    visitor = Visitor(Site.of(tmp_path, SITE), versions=(SSL.TLS1_2_VERSION, SSL.TLS1_2_VERSION))
    assert visitor.say(b"hello") == b"hello"
    visitor.tls.renegotiate()
    visitor.say(b"x")
    assert visitor.tls.total_renegotiations() <= 1
    assert "renegotiation" in str(visitor.error) or not visitor.connection.connected

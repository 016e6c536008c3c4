"""Archives that are sent: as the body of a request, or the head first and then what is wanted of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from appliance.admin.sendings import MOST, SILENCE
from appliance.api import SENDING, Wanted
from appliance.bundle.archive import open_archive
from appliance.bundle.compression import Stop
from appliance.bundle.minisign import SecretKey
from appliance.cli.client import read
from appliance.cli.sending import WantedBytes, head_of
from appliance.flow.arrival import AHEAD
from appliance.oci.digest import Digest
from appliance.settings import AdminSettings
from tests.doubles import archives
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.deferreds import result
from tests.doubles.exports import entries
from tests.doubles.images import Content, image, tar
from tests.rooms.admin.test_imports import bundle
from tests.rooms.admin.test_operators import TOKENS, Door, bearer

CONTENT = image("large", sizes=(1_500_000, 700_000, 2000))
TAR = "application/x-tar"


class ClosingTransport(StringTransport):
    """One whose protocol is told that it is closed."""

    closed: Any = None

    def loseConnection(self) -> None:
        """See L{ITransport}."""
        super().loseConnection()
        closed, self.closed = self.closed, None
        if closed is not None:
            closed()

    def abortConnection(self) -> None:
        """See L{ITCPTransport}."""
        self.loseConnection()


class Wire:
    """One connection to the admin endpoint."""

    def __init__(self, site: Appliance) -> None:
        self.transport = ClosingTransport()
        self.transport.closed = self.leave
        self.channel: Any = site.app.site().buildProtocol(None)  # type: ignore[arg-type]  # it is not looked at
        self.channel.makeConnection(self.transport)

    def begin(self, method: str, path: str, length: int, kind: str) -> Wire:
        """The head of a request."""
        lines = [f"{method} /api/v1/{path} HTTP/1.1", "Host: 127.0.0.1:5001", f"Content-Length: {length}"]
        self.channel.dataReceived("\r\n".join([*lines, f"Content-Type: {kind}", "", ""]).encode())
        return self

    def send(self, data: bytes, piece: int = 65_536) -> Wire:
        """Some of its body, as the network brings it; stops where nothing is read any more."""
        for start in range(0, len(data), piece):
            self.channel.dataReceived(data[start : start + piece])
        return self

    def leave(self) -> None:
        """The line is cut."""
        self.transport.closed = None
        self.channel.connectionLost(Failure(ConnectionDone()))

    @property
    def status(self) -> int:
        """Of the answer."""
        return int(self.transport.value().split()[1])

    @property
    def lines(self) -> list[Any]:
        """The documents that were answered so far, chunks put together."""
        head, _, rest = self.transport.value().partition(b"\r\n\r\n")
        if b"chunked" in head:
            body = b""
            while rest:
                size, _, rest = rest.partition(b"\r\n")
                body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
            rest = body
        return [json.loads(line) for line in rest.splitlines()]


def post(site: Appliance, data: bytes, query: str = "", kind: str = TAR, piece: int = 65_536) -> Wire:
    """Send an archive as a body."""
    return Wire(site).begin("POST", f"imports{query}", len(data), kind).send(data, piece)


def archive(tmp_path: Path, *contents: Content, **more: Any) -> bytes:
    return Path(bundle(tmp_path, *(contents or (CONTENT,)), **more)).read_bytes()


def serves(site: Appliance, content: Content = CONTENT, tag: str = "1") -> bool:
    found = result(site.through.manifest(site.at(HUB, NGINX), tag))
    whole = all(site.store.size(Digest.parse(blob.digest)) == len(blob.data) for blob in content.blobs)
    return bool(found.data == content.manifest.data) and whole


# -- as a body --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [700, 65_536, 10**9])
def test_an_archive_that_is_the_body_is_imported_while_it_arrives(tmp_path: Path, piece: int) -> None:
    """As curl sends it, in whatever pieces the network brings."""
    site, data = Appliance(offline=True), archive(tmp_path)
    wire = post(site, data, "?name=b.tar", piece=piece)
    assert wire.status == 200
    [line] = wire.lines
    receipt = line["receipt"]
    assert receipt["files"] == ["b.tar"] and [each["outcome"] for each in receipt["refs"]] == ["new"]
    assert receipt["newBytes"] == sum(len(blob.data) for blob in (*CONTENT.blobs, CONTENT.manifest))
    assert serves(site)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_compressed_archive_may_be_the_body(tmp_path: Path, pack: Any) -> None:
    """Unpacked as it arrives; two members one after the other are one file."""
    site, data = Appliance(offline=True), archive(tmp_path)
    half = len(data) // 2
    assert post(site, pack(data[:half]) + pack(data[half:]), kind="application/octet-stream").status == 200
    assert serves(site)


def test_what_is_held_is_not_written_again(tmp_path: Path) -> None:
    """The receipt counts what came new."""
    site, data = Appliance(offline=True), archive(tmp_path)
    post(site, data)
    done = post(site, data).lines[0]["receipt"]
    assert (done["newBlobs"], done["readBytes"]) == (0, 0) and done["refs"][0]["outcome"] == "unchanged"


def test_an_unsigned_bundle_is_refused_before_its_blobs_come(tmp_path: Path) -> None:
    """Gigabytes are not sent first."""
    site, data = Appliance(offline=True, trust=(str(SecretKey.generate().public),)), archive(tmp_path)
    wire = Wire(site).begin("POST", "imports", len(data), TAR).send(data[:20_000])
    assert (wire.status, wire.lines[0]["error"]["code"]) == (403, "bundle-untrusted")
    assert site.store.total() == 0 and not site.store.unfinished()


def test_a_body_that_is_cut_keeps_what_came(tmp_path: Path) -> None:
    """The next one is not written from the beginning."""
    site, data = Appliance(offline=True), archive(tmp_path)
    wire = Wire(site).begin("POST", "imports", len(data), TAR).send(data[:1_200_000])
    wire.leave()
    [cut] = site.store.unfinished()
    assert result(site.store.inspect(cut)).size > 1_000_000
    assert post(site, data).status == 200 and serves(site)


def test_an_archive_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    """The request was whole, and the file on the other side was not."""
    site, data = Appliance(offline=True), archive(tmp_path)
    wire = post(site, data[:1_000_000])
    assert (wire.status, wire.lines[0]["error"]["code"]) == (422, "bundle-damaged")
    assert site.store.total() < 100_000


def test_what_is_no_archive_is_refused_at_its_beginning() -> None:
    """Whatever its length says."""
    wire = Wire(Appliance()).begin("POST", "imports", 10**9, TAR).send(b"x" * 2000)
    assert (wire.status, wire.lines[0]["error"]["code"]) == (422, "bundle-unreadable")


def test_an_empty_body_is_said_to_be_empty() -> None:
    """A file without bytes, or a program that does not say how many come."""
    wire = Wire(Appliance(offline=True)).begin("POST", "imports", 0, TAR)
    assert wire.status == 400 and "body is empty" in wire.lines[0]["error"]["message"]


def test_a_form_of_a_web_page_is_no_archive() -> None:
    """What curl says of a body by itself is what a page may send without being asked."""
    wire = Wire(Appliance()).begin("POST", "imports", 10**9, "application/x-www-form-urlencoded")
    assert wire.status == 415 and "application/x-tar" in wire.lines[0]["error"]["message"]


def test_a_choice_that_means_nothing_is_refused() -> None:
    """Before anything is read."""
    for query in ("?onExistingTag=x", "?dryrun=1", "?trust=x", "?rename=a", "?dryRun=perhaps"):
        assert Wire(Appliance()).begin("POST", f"imports{query}", 10**9, TAR).status in (400, 422), query


def test_a_dry_run_of_a_body_stores_nothing(tmp_path: Path) -> None:
    """It says what would come of it."""
    site = Appliance(offline=True)
    done = post(site, archive(tmp_path), "?dryRun=1").lines[0]["receipt"]
    assert done["dryRun"] and done["newBlobs"] == 5 and site.store.total() == 0


def test_a_sender_that_is_faster_than_the_disk_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little of it is ever in memory, and its silence is none meanwhile."""
    site, data = Appliance(offline=True), archive(tmp_path)
    disk: Deferred[Any] = Deferred()
    ingest = site.store.ingest
    monkeypatch.setattr(site.store, "ingest", lambda digest: disk)
    wire = Wire(site).begin("POST", "imports", len(data), TAR).send(data[: AHEAD + 300_000])
    assert wire.transport.producerState == "paused"
    site.clock.advance(10 * SILENCE)
    disk.callback(result(ingest(Digest.parse(CONTENT.layers[0].digest))))
    assert wire.transport.producerState == "producing"
    monkeypatch.undo()
    assert wire.send(data[AHEAD + 300_000 :]).status == 200 and serves(site)


FOREIGN = {
    "skopeo": archives.skopeo_oci(CONTENT, "docker.io/library/nginx:1"),
    "containerd": archives.containerd((CONTENT, "docker.io/library/nginx:1")),
    "crane": archives.crane_pull(CONTENT, ["docker.io/library/nginx:1"]),
}


def tar_of(files: archives.Files, links: dict[str, str] | None = None) -> bytes:
    """As another tool writes it: sorted by name, so that what explains the rest comes last."""
    return tar(dict(sorted(files.items())), links=links)


def test_a_body_that_is_made_to_deceive_is_refused(tmp_path: Path) -> None:
    """As a file is: names that lead out, one thing twice, other things than the bundle lists, links."""
    data, layer = archive(tmp_path), f"blobs/{CONTENT.layers[1].digest.replace(':', '/')}"

    def refusal(body: bytes) -> tuple[int, str]:
        site = Appliance(offline=True)
        error = post(site, body).lines[0]["error"]
        assert not site.get("images")["images"]
        return error["code"], error["message"]

    def changed(change: Any, links: dict[str, str] | None = None) -> bytes:
        found = list(entries(data).items())
        change(found)
        return tar(found, links)

    def longer(found: list[tuple[str, bytes]]) -> None:
        found[:] = [(name, inside + b"x" if name == layer else inside) for name, inside in found]

    at = [name for name, _ in entries(data).items()].index(layer)
    assert "leads out" in refusal(changed(lambda found: found.insert(at, ("../../etc/x", b"x"))))[1]
    assert "leads out" in refusal(changed(lambda found: found.insert(1, ("/etc/x", b"x"))))[1]
    assert "there twice" in refusal(changed(lambda found: found.insert(at, found[1])))[1]
    assert "there twice" in refusal(changed(lambda found: found.insert(at, found[at - 1])))[1]
    assert "are listed" in refusal(changed(longer))[1]
    assert "does not know it" in refusal(changed(lambda found: found.insert(at, (f"blobs/sha256/{'0' * 64}", b"x"))))[1]
    assert "is not there" in refusal(changed(lambda found: found.pop(at)))[1]
    assert refusal(changed(lambda found: found.pop(at), {layer: "/etc/passwd"}))[0] == "bundle-damaged"


def test_a_bomb_is_not_unpacked() -> None:
    """Little that would become much ends before it is in memory."""
    for pack in (gzip.compress, zstandard.ZstdCompressor().compress):
        wire = post(Appliance(offline=True), pack(tar([(f"blobs/sha256/{'0' * 64}", bytes(150_000_000))])))
        assert wire.status == 422 and "bomb" in wire.lines[0]["error"]["message"]


@pytest.mark.parametrize("tool", FOREIGN)
def test_archives_of_other_tools_may_be_the_body(tool: str) -> None:
    """Their lists stand at the end; nothing of them is written to a file but blobs."""
    site, data = Appliance(offline=True), tar_of(FOREIGN[tool])
    wire = post(site, data)
    assert wire.status == 200, wire.lines
    done = wire.lines[0]["receipt"]
    assert done["newBytes"] >= 2_000_000 and done["heldBlobs"] == 0
    assert result(site.through.manifest(site.at(HUB, NGINX), "1")).data
    assert not site.store.unfinished()


def test_podmans_archive_may_be_the_body() -> None:
    """Its layers are called by their digests, with links beside them."""
    site = Appliance(offline=True)
    files, links = archives.podman_save(CONTENT, ["docker.io/library/nginx:1"])
    assert post(site, tar_of(files, links)).status == 200
    assert result(site.through.manifest(site.at(HUB, NGINX), "1")).data


def test_an_archive_whose_layers_have_other_names_is_to_be_sent_by_the_command() -> None:
    """Docker's own before version 25: what a layer is stands behind it."""
    content = image("old", sizes=(6_000_000,))
    files, links = archives.docker_save((content, ["nginx:1"]))
    wire = post(Appliance(offline=True), tar_of(files, links))
    assert wire.status == 422 and "pullcache import" in wire.lines[0]["error"]["message"]


def test_another_tools_archive_is_refused_where_signatures_are_demanded() -> None:
    """Before any of it is stored."""
    site = Appliance(offline=True, trust=(str(SecretKey.generate().public),))
    wire = Wire(site).begin("POST", "imports", 10**9, TAR).send(tar_of(FOREIGN["skopeo"])[:300_000])
    assert (wire.status, wire.lines[0]["error"]["code"]) == (403, "bundle-untrusted") and site.store.total() == 0


# -- the head first ----------------------------------------------------------------------------------------------------


class Sender:
    """Sends files as the command does, one step at a time."""

    def __init__(self, site: Appliance, *files: Path, **choices: Any) -> None:
        self.site = site
        self.archives = [open_archive(file, Stop()) for file in files]
        self.order = Wire(site)
        head = head_of(self.archives, choices)
        self.order.begin("POST", "imports/sendings", len(head), SENDING).send(head)
        self.parts: list[Wire] = []

    @property
    def wanted(self) -> Wanted:
        """What was asked for."""
        found: Wanted = read(next(line for line in self.order.lines if line.get("stage") == "wanted"), Wanted)
        return found

    @property
    def data(self) -> bytes:
        """All of that."""
        source, pieces = WantedBytes(self.archives, self.wanted), []
        while piece := source.read(10**9):
            pieces.append(piece)
        return b"".join(pieces)

    def put(self, data: bytes, at: int = 0, length: int | None = None) -> Wire:
        """Send some of it."""
        path = f"imports/sendings/{self.wanted.sending}?at={at}"
        wire = Wire(self.site).begin("PUT", path, len(data) if length is None else length, "application/octet-stream")
        self.parts.append(wire.send(data))
        return wire

    def leave(self) -> None:
        """The line is cut, for all requests."""
        for wire in (*self.parts, self.order):
            wire.leave()

    @property
    def receipt(self) -> Any:
        """What it came to."""
        assert set(self.order.lines[-1]) == {"receipt"}, self.order.lines[-1]
        return self.order.lines[-1]["receipt"]

    @property
    def error(self) -> Any:
        """Why it came to nothing."""
        return self.order.lines[-1]["error"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(bundle(tmp_path, CONTENT))


def test_only_what_is_lacking_is_wanted(file: Path) -> None:
    """The head is a few kilobytes; a layer that another image brought is not sent."""
    site = Appliance(offline=True)
    site.hold(image("other", sizes=(10,)), "9")
    result(site.store.put(Digest.parse(CONTENT.layers[1].digest), CONTENT.layers[1].data))
    sender = Sender(site, file)
    assert [each.entry[-64:] for each in sender.wanted.wanted] == [
        CONTENT.layers[0].digest[7:],
        CONTENT.layers[2].digest[7:],
    ]
    assert sender.order.channel.requests[0].content.closed, "the head is twice in memory"
    assert sender.put(sender.data).lines == [{"received": sender.wanted.bytes}]
    assert sender.receipt["heldBlobs"] == 1 and sender.receipt["newBlobs"] == 4
    assert serves(site)


def test_it_may_be_sent_in_any_number_of_requests(file: Path) -> None:
    """A proxy on the way may take no large ones."""
    site = Appliance(offline=True)
    sender = Sender(site, file)
    data = sender.data
    for at in range(0, len(data), 400_000):
        assert sender.put(data[at : at + 400_000], at).status == 200
    assert sender.receipt["readBytes"] >= len(data) and serves(site)


@pytest.mark.parametrize("first", ["order", "part"])
def test_after_a_cut_it_goes_on_in_the_middle_of_a_blob(file: Path, first: str) -> None:
    """Whichever connection is seen to be gone first, what has come is kept to its last byte."""
    site = Appliance(offline=True)
    sender = Sender(site, file)
    data = sender.data
    part = sender.put(data[:1_234_567], length=len(data))
    for wire in (sender.order, part) if first == "order" else (part, sender.order):
        wire.leave()
    again = Sender(site, file)
    assert again.wanted.bytes == len(data) - 1_234_567
    again.put(again.data)
    assert again.receipt["newBlobs"] and serves(site)


def test_what_came_before_the_cut_is_kept_where_the_disk_is_slow(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had been received; that it is written takes a moment longer."""
    site = Appliance(offline=True)
    disk: list[Deferred[None]] = []
    ingest = site.store.ingest

    def slow(made: Any) -> Any:
        write = made.write

        def later(data: list[bytes]) -> Deferred[None]:
            disk.append(Deferred())
            return disk[-1].addCallback(lambda _: write(data))

        made.write = later
        return made

    monkeypatch.setattr(site.store, "ingest", lambda digest: ingest(digest).addCallback(slow))
    sender = Sender(site, file)
    sender.put(sender.data[:700_000], length=sender.wanted.bytes)
    whole = sender.wanted.bytes
    sender.order.leave()
    while disk:
        disk.pop(0).callback(None)
    monkeypatch.undo()
    assert Sender(site, file).wanted.bytes == whole - 700_000


def test_what_begins_while_the_appliance_stops_is_cut_too(file: Path) -> None:
    """Its port is still open for a moment, and who was cut comes again at once."""
    site, data = Appliance(offline=True), file.read_bytes()
    result(site.services.stop_imports())
    wire = Wire(site).begin("POST", "imports", len(data), TAR).send(data[:100])
    assert (wire.status, wire.lines[0]["error"]["code"]) == (503, "stopped")
    assert Sender(site, file).error["code"] == "stopped"


def test_a_dry_run_sends_the_head_only(file: Path) -> None:
    """And says what an import would."""
    site = Appliance(offline=True)
    sender = Sender(site, file, dryRun=True)
    assert sender.receipt["dryRun"] and sender.receipt["newBlobs"] == 5
    assert [line.get("stage") for line in sender.order.lines[:-1]] == ["checking"] and site.store.total() == 0


def test_what_is_refused_is_refused_by_its_head(file: Path) -> None:
    """An unsigned bundle, and one that lacks what it builds on: nothing is asked for."""
    signed_only = Appliance(offline=True, trust=(str(SecretKey.generate().public),))
    assert Sender(signed_only, file).error["code"] == "bundle-untrusted"


def test_the_same_archive_has_one_intake(file: Path) -> None:
    """Who sends it anew, while the line he lost still seems to stand, goes on where that one stopped."""
    site = Appliance(offline=True)
    lost = Sender(site, file)
    data = lost.data
    lost.put(data[:1_000_000], length=len(data))
    again = Sender(site, file)
    assert "another connection" in lost.error["message"] and lost.parts[0].status == 409
    assert again.wanted.bytes == len(data) - 1_000_000
    again.put(again.data)
    assert serves(site)


def test_a_trial_ends_no_sending(file: Path) -> None:
    """It stores nothing: who only looks does not stop who sends."""
    site = Appliance(offline=True)
    sender = Sender(site, file)
    data = sender.data
    part = sender.put(data[:1_000_000], length=len(data))
    assert Sender(site, file, dryRun=True).receipt["dryRun"]
    part.send(data[1_000_000:])
    assert sender.receipt["newBlobs"] and serves(site)


def test_what_is_received_on_another_way_too_is_asked_for_from_its_beginning(file: Path) -> None:
    """A client's pull, or an import of a file, has a part of it: that part is not to be gone on with from here."""
    site, layer = Appliance(offline=True), CONTENT.layers[0]
    pull = result(site.store.ingest(Digest.parse(layer.digest)))
    result(pull.write([layer.data[:600_000]]))
    sender = Sender(site, file)
    assert {each.start for each in sender.wanted.wanted} == {0}
    sender.put(sender.data)
    pull.close()
    assert sender.receipt["newBlobs"] and serves(site)


def test_a_sender_that_falls_silent_is_given_up(file: Path) -> None:
    """What it held is free again, and what has come is kept."""
    site = Appliance(offline=True)
    sender = Sender(site, file)
    sender.put(sender.data[:1_000_000], length=sender.wanted.bytes)
    site.clock.advance(SILENCE + 1)
    assert sender.error["code"] == "bundle-not-read" and "not sent again" in sender.error["message"]
    assert Sender(site, file).wanted.bytes < 1_300_000


@pytest.mark.parametrize(("octets", "ends"), [(100, True), (20_000, False)])
def test_a_trickle_is_given_up_and_a_thin_line_is_not(file: Path, octets: int, ends: bool) -> None:
    """A place is not held for ever by a byte now and then; so many a second are enough for the thinnest line."""
    site = Appliance(offline=True)
    sender = Sender(site, file)
    wire, data = sender.put(b"", length=sender.wanted.bytes), sender.data
    for start in range(0, 100 * octets, octets):
        if "error" in sender.order.lines[-1]:
            break
        site.clock.advance(20)
        wire.send(data[start : start + octets])
    assert ("error" in sender.order.lines[-1]) is ends
    wire.leave()
    sender.order.leave()


def test_unfinished_sendings_are_few(tmp_path: Path) -> None:
    """Each takes memory; one more is told to come later, and can when another has left."""
    site = Appliance(offline=True)
    senders = [
        Sender(site, Path(bundle(tmp_path, image(str(number), sizes=(900_000,)), name=f"{number}.tar")))
        for number in range(MOST + 1)
    ]
    *taken, refused = senders
    assert refused.order.status == 503 and refused.error["code"] == "too-many-sendings"
    assert all(sender.wanted.bytes for sender in taken)
    assert Wire(site).begin("POST", "imports", 10**9, TAR).status == 503
    taken[0].leave()
    assert Sender(site, tmp_path / f"{MOST}.tar").wanted.bytes


def test_what_is_not_in_its_place_is_refused(file: Path) -> None:
    """Other bytes than the next ones, a second sender, more than was asked for, and a sending that there is not."""
    site = Appliance(offline=True)
    sender = Sender(site, file)
    data = sender.data
    assert sender.put(data[5:], at=5).lines[0]["error"]["code"] == "out-of-place"
    first = sender.put(data[:1000], length=len(data))
    assert sender.put(data[1000:], at=1000).lines[0]["error"]["code"] == "out-of-place"
    first.leave()
    assert sender.put(data[1000:] + b"x" * 70_000, at=1000).status == 400
    unknown = Wire(site).begin("PUT", "imports/sendings/x", 10, "application/octet-stream")
    assert (unknown.status, unknown.lines[0]["error"]["code"]) == (404, "not-held")


def test_wrong_bytes_are_not_kept(file: Path) -> None:
    """As from a file: the digest decides."""
    site = Appliance(offline=True)
    sender = Sender(site, file)
    sender.put(bytes(sender.wanted.bytes))
    assert sender.error["code"] == "bundle-damaged"
    assert Sender(site, file).wanted.bytes == sum(len(layer.data) for layer in CONTENT.layers)


def test_a_head_that_lies_is_refused(file: Path) -> None:
    """Names that lead out of the archive, twice the same, sizes beyond reason, and bytes that it does not name."""
    site = Appliance()

    def refused(entries: Any, rest: bytes = b"", **more: Any) -> tuple[int, str]:
        head = json.dumps({"archives": [{"source": "a.tar", "entries": entries, **more}]}).encode() + b"\n" + rest
        wire = Wire(site).begin("POST", "imports/sendings", len(head), SENDING).send(head)
        return wire.status, wire.lines[-1]["error"]["code"]

    assert refused([["../a", 1]]) == refused([["/a", 1]]) == refused([["", 1]]) == (422, "bundle-damaged")
    assert refused([["a", 1], ["a", 1]]) == refused([["a", 2**62]]) == refused([["a", -1]]) == (422, "bundle-damaged")
    assert refused([["a", 1]], b"x") == refused([["a", 1]], beginnings=[[0, 2]]) == (400, "bad-request")
    assert refused([["a", 1]], beginnings=[[7, 1]]) == refused("x") == (400, "bad-request")


def test_a_head_of_too_many_entries_is_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would take memory, and all clients' time."""
    monkeypatch.setattr("appliance.admin.sendings.MAX_HEAD_VALUES", 30)
    head = json.dumps({"archives": [{"source": "a.tar", "entries": [[str(n), 0] for n in range(12)]}]}).encode()
    wire = Wire(Appliance()).begin("POST", "imports/sendings", len(head), SENDING).send(head)
    assert (wire.status, wire.lines[-1]["error"]["code"]) == (400, "bad-request")
    assert "30 are allowed" in wire.lines[-1]["error"]["message"]


# -- volumes -----------------------------------------------------------------------------------------------------------


def volumes(folder: Path, size: int) -> list[Path]:
    """The files of a bundle, no larger than that."""
    site = Appliance()
    site.hold(CONTENT, "1")
    plan = site.ask("POST", "exports", {"all": True, "volumeSize": size}).json
    files = []
    for each in plan["volumes"]:
        files.append(folder / each["file"])
        files[-1].write_bytes(site.ask("GET", f"exports/{plan['id']}/volumes/{each['n']}").body)
    return files


def test_volumes_are_sent_together_in_any_order(tmp_path: Path) -> None:
    """Also where a layer goes on in the next one; what has come of it is not sent again."""
    site, files = Appliance(offline=True), volumes(tmp_path, 1_000_000)
    assert len(files) >= 3
    sender = Sender(site, *reversed(files))
    data = sender.data
    sender.put(data[:1_300_000], length=len(data))
    sender.leave()
    again = Sender(site, *files[1:], files[0])
    assert again.wanted.bytes == len(data) - 1_300_000
    again.put(again.data)
    assert sorted(again.receipt["files"]) == sorted(map(str, files)) and serves(site)


def test_a_volume_that_is_lacking_is_named(tmp_path: Path) -> None:
    """Before anything is sent."""
    files = volumes(tmp_path, 1_000_000)
    refused = Sender(Appliance(offline=True), *files[:-1])
    assert refused.error["code"] == "bundle-incomplete" and f"volume {len(files)}" in refused.error["message"]


def test_volumes_may_be_bodies_one_after_the_other(tmp_path: Path) -> None:
    """In any order: each is kept, and with the last one everything is there."""
    site, files = Appliance(offline=True), volumes(tmp_path, 2_000_000)
    assert len(files) == 2
    for file in reversed(files):
        wire = post(site, file.read_bytes(), f"?name={file.name}")
    assert wire.status == 200 and serves(site)
    first = post(Appliance(offline=True), files[0].read_bytes())
    assert first.status == 409 and "kept for some hours" in first.lines[0]["error"]["message"]


def test_a_volume_with_a_part_of_a_blob_cannot_be_a_body(tmp_path: Path) -> None:
    """It says how all of them can be sent."""
    wire = post(Appliance(offline=True), volumes(tmp_path, 1_000_000)[0].read_bytes())
    assert wire.status == 409 and "pullcache import" in wire.lines[0]["error"]["message"]


# -- other archives, by the command -----------------------------------------------------------------------------------

NAMES = ["docker.io/library/nginx:1"]
TOOLS = {
    "skopeo": (FOREIGN["skopeo"], None),
    "containerd": (FOREIGN["containerd"], None),
    "crane": (FOREIGN["crane"], None),
    "docker": archives.docker_save((CONTENT, NAMES)),
    "podman": archives.podman_save(CONTENT, NAMES),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize("tool", TOOLS)
def test_archives_of_all_tools_are_sent(tmp_path: Path, tool: str, pack: Any) -> None:
    """Wherever their lists stand, and whatever their layers are called; compressed ones are unpacked by who sends."""
    (tmp_path / "a.tar").write_bytes(pack(tar_of(*TOOLS[tool])))
    site = Appliance(offline=True)
    sender = Sender(site, tmp_path / "a.tar")
    data = sender.data
    sender.put(data[:500_000], length=len(data))
    sender.leave()
    again = Sender(site, tmp_path / "a.tar")
    assert again.wanted.bytes == len(data) - 500_000
    again.put(again.data)
    assert [each["outcome"] for each in again.receipt["refs"]] == ["new"]
    assert result(site.through.manifest(site.at(HUB, NGINX), "1")).data


def test_a_folder_is_sent_as_an_archive_is(tmp_path: Path) -> None:
    """An OCI layout that no tool has packed."""
    for name, data in FOREIGN["skopeo"].items():
        (tmp_path / "layout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "layout" / name).write_bytes(data)
    site = Appliance(offline=True)
    sender = Sender(site, tmp_path / "layout")
    sender.put(sender.data)
    assert sender.receipt["refs"][0]["outcome"] == "new" and serves(site)


# -- who, and what is noted --------------------------------------------------------------------------------------------


def test_operators_send_archives_and_readers_do_not(tmp_path: Path) -> None:
    """Decided by the head of the request: nothing of a body is taken, and the length of it does not matter."""
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{role} {token}\n" for role, token in TOKENS.items()))
    door = Door(Appliance(offline=True, admin=AdminSettings(token_file=tokens)))
    asked = ("POST /api/v1/imports", "POST /api/v1/imports/sendings", "PUT /api/v1/imports/sendings/x?at=0")
    for line in asked:
        assert (door.ask(line, body="x", kind=TAR).code, door.ask(line, bearer("read"), body="x").code) == (401, 403)
    codes = [door.ask(line, bearer("operate"), body="x", kind=TAR).code for line in asked]
    assert codes == [422, 415, 415]


def noted(site: Appliance) -> list[tuple[str, str, str]]:
    return [(each["action"], each["what"], each["outcome"]) for each in site.audit.noted]


def test_what_is_sent_is_noted(tmp_path: Path, file: Path) -> None:
    """Once each, however it ends and however it was sent; a trial is not."""
    site, data = Appliance(offline=True), file.read_bytes()
    post(site, data, "?name=b.tar&dryRun=1")
    Sender(site, file, dryRun=True)
    assert noted(site) == []
    Wire(site).begin("POST", "imports?name=cut.tar", len(data), TAR).send(data[:500_000]).leave()
    Wire(site).begin("POST", "imports?name=no.tar", 10**9, TAR).send(b"x" * 1000)
    post(site, data[:800_000], "?name=short.tar")
    post(site, data, "?name=b.tar")
    sender = Sender(site, file)
    assert "newBlobs" in sender.receipt
    assert noted(site) == [
        ("import", "cut.tar", "refused"),
        ("import", "no.tar", "refused"),
        ("import", "short.tar", "refused"),
        ("import", "b.tar", "done"),
        ("import", str(file), "done"),
    ]
    assert all(each["address"] for each in site.audit.noted)


@pytest.mark.parametrize("rest", [0, 200])
def test_an_import_is_noted_where_its_request_never_ends(file: Path, rest: int) -> None:
    """All of it came, and was published, and then the line was cut: it has been done."""
    site, data = Appliance(offline=True), file.read_bytes()
    wire = Wire(site).begin("POST", "imports?name=b.tar", len(data) + 1000, TAR).send(data).send(bytes(rest))
    assert serves(site)
    wire.leave()
    assert noted(site) == [("import", "b.tar", "done")]

"""Tar archives: every tool reads ours, and none that was made to deceive is read."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bundle import tar
from appliance.bundle.tar import BLOCK, END, TarEntry, TarReader
from appliance.errors import BundleDamaged

NAMES = st.text("abcdefgh0123456789._-", min_size=1, max_size=20).filter(lambda name: name.strip("."))
PATHS = st.lists(NAMES, min_size=1, max_size=12).map("/".join)
FILES = st.dictionaries(PATHS, st.binary(max_size=1500), max_size=6)


def archive(files: dict[str, bytes]) -> bytes:
    """An archive as this program writes it."""
    pieces = [tar.header(name, len(data)) + data + tar.padding(len(data)) for name, data in files.items()]
    return b"".join(pieces) + END


def reader(data: bytes, max_entries: int = tar.MAX_ENTRIES) -> TarReader:
    file = io.BytesIO(data)
    return TarReader(file.read, lambda n: file.seek(n, os.SEEK_CUR), "a.tar", max_entries)


def entries(data: bytes) -> list[TarEntry]:
    return list(reader(data).entries())


def contents(data: bytes) -> dict[str, bytes]:
    source = reader(data)
    return {entry.name: source.whole(1 << 20) for entry in source.entries()}


def block(name: bytes = b"file", size: bytes = b"00000000000\0", kind: bytes = b"0", prefix: bytes = b"") -> bytes:
    """One header with a right checksum, and whatever else in its fields."""
    fields = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size + b"00000000000\0" + b" " * 8
    made = (fields + kind + bytes(100) + b"ustar\00000" + bytes(80) + prefix).ljust(BLOCK, b"\0")
    return made[:148] + b"%06o\0 " % sum(made) + made[156:]


def blocks(data: bytes) -> bytes:
    return data + tar.padding(len(data))


def octal(size: int) -> bytes:
    return b"%011o\0" % size


def extended(data: bytes, kind: bytes = b"x") -> bytes:
    return block(b"extension", octal(len(data)), kind) + blocks(data)


def complaint(data: bytes) -> str:
    with pytest.raises(BundleDamaged) as caught:
        entries(data)
    return str(caught.value)


# -- what we write --------------------------------------------------------------------------------------------------


@given(FILES)
def test_what_was_written_is_read_back(files: dict[str, bytes]) -> None:
    """I get out of an archive what I put in."""
    assert contents(archive(files)) == files


@given(FILES)
def test_pythons_tarfile_reads_what_we_write(files: dict[str, bytes]) -> None:
    """My bundle is an ordinary tar, for my scripts too."""
    with tarfile.open(fileobj=io.BytesIO(archive(files))) as theirs:
        members = theirs.getmembers()
        assert {member.name: member.size for member in members} == {name: len(data) for name, data in files.items()}
        assert all((m.isreg(), m.mode, m.uid, m.gid, m.mtime) == (True, 0o644, 0, 0, 0) for m in members)
        assert all((theirs.extractfile(member) or io.BytesIO()).read() == files[member.name] for member in members)


def test_gnu_tar_unpacks_what_we_write(tmp_path: Path) -> None:
    """tar -xf on the machine I carry it to gives the files."""
    if shutil.which("tar") is None:
        pytest.skip("no tar here")
    files = {"oci-layout": b"{}", f"blobs/sha256/{'a' * 64}": b"x" * 700, f"blobs/sha512/{'b' * 128}": b"y"}
    (tmp_path / "a.tar").write_bytes(archive(files))
    done = subprocess.run(["tar", "-xvf", "a.tar"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (list(files), "")
    assert {name: (tmp_path / name).read_bytes() for name in files} == files


@pytest.mark.parametrize("size", [0, 1, 8**11 - 1, 8**11, 10**12])
@pytest.mark.parametrize("name", ["a", "a" * 100, "b" * 101, f"blobs/sha512/{'c' * 128}"])
def test_huge_files_and_long_names_are_said_in_pax(name: str, size: int) -> None:
    """A layer of 8 GiB and more, and one named by SHA-512, arrive with their size and name."""
    header = tar.header(name, size)
    assert len(header) == BLOCK * (1 if size < 8**11 and len(name) <= 100 else 3)
    (member,) = [tarfile.TarInfo.frombuf(header[-BLOCK:], "utf-8", "strict")]
    assert member.isreg()
    entry = next(iter(reader(header).entries()))
    assert (entry.name, entry.size, entry.start, entry.kind) == (name, size, len(header), "file")
    with tarfile.open(fileobj=io.BytesIO(header)) as theirs:
        first = theirs.next()
        assert first is not None and (first.name, first.size, first.offset_data) == (name, size, len(header))


@given(st.integers(0, 2**50), PATHS)
def test_the_room_a_file_takes_is_known_beforehand(size: int, name: str) -> None:
    """The length of a bundle is known before it is made."""
    assert tar.extent(size, name) == len(tar.header(name, size)) + size + len(tar.padding(size))
    assert tar.extent(size, name) % BLOCK == 0


def test_equal_contents_make_equal_bytes() -> None:
    """Nothing of the machine or the moment gets into an archive."""
    assert tar.header("oci-layout", 30) == tar.header("oci-layout", 30)
    assert b"root" not in tar.header("oci-layout", 30)


# -- what others write ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_programs_are_read(form: int) -> None:
    """Long names, folders and links in any of the three dialects."""
    long = "/".join(["blobs", "x" * 90, "y" * 60])
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as theirs:
        for name, kind, data in [
            ("./folder/", tarfile.DIRTYPE, b""),
            ("./folder/file", tarfile.REGTYPE, b"one"),
            (long, tarfile.REGTYPE, b"two" * 300),
            ("link", tarfile.SYMTYPE, b""),
            ("device", tarfile.CHRTYPE, b""),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname, member.mtime = kind, len(data), "folder/file", 1.5
            theirs.addfile(member, io.BytesIO(data))
    kinds = [(entry.name, entry.kind, entry.size) for entry in entries(made.getvalue())]
    assert kinds == [
        ("folder", "folder", 0),
        ("folder/file", "file", 3),
        (long, "file", 900),
        ("link", "other", 0),
        ("device", "other", 0),
    ]
    assert contents(made.getvalue())[long] == b"two" * 300


def test_gnu_tar_of_a_folder_is_read(tmp_path: Path) -> None:
    """An image layout that was packed with tar -C is recognised by its names."""
    if shutil.which("tar") is None:
        pytest.skip("no tar here")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "oci-layout").write_bytes(b"{}")
    subprocess.run(["tar", "-C", "in", "-cf", "a.tar", "."], cwd=tmp_path, check=True)
    found = entries((tmp_path / "a.tar").read_bytes())
    assert [(entry.name, entry.kind, entry.unsafe) for entry in found] == [
        (".", "folder", False),
        ("oci-layout", "file", False),
    ]


def test_a_size_in_base_256_is_read() -> None:
    """GNU tar writes the size of a huge file that way."""
    huge = b"\x80" + (9 * 2**30).to_bytes(11, "big")
    assert next(iter(reader(block(size=huge)).entries())).size == 9 * 2**30


def test_gnu_headers_have_times_where_others_have_a_prefix() -> None:
    """An incremental backup's file keeps its name."""
    made = block(b"name", prefix=b"15076530000").replace(b"ustar\00000", b"ustar  \0")
    made = made[:148] + b"%06o\0 " % (sum(made) - sum(made[148:156]) + 256) + made[156:]
    assert [entry.name for entry in entries(made + END)] == ["name"]
    assert [entry.name for entry in entries(block(b"name", prefix=b"folder") + END)] == ["folder/name"]


def test_what_is_not_read_is_skipped() -> None:
    """An entry may be left after a few bytes, and the next one is right all the same."""
    source = reader(archive({"a": b"1" * 1000, "b": b"2" * 513, "c": b"3"}))
    seen = [(entry.name, source.data(5), entry.start) for entry in source.entries()]
    assert seen == [("a", b"11111", 512), ("b", b"22222", 2048), ("c", b"3", 3584)]


def test_data_may_come_in_dribs() -> None:
    """A pipe gives what it has; the bytes are the same."""
    file = io.BytesIO(archive({"a": b"1" * 1000, "b": b"2"}))
    source = TarReader(lambda n: file.read(min(n, 7)), lambda n: file.seek(n, os.SEEK_CUR), "pipe")
    assert [source.whole(2000) for _ in source.entries()] == [b"1" * 1000, b"2"]


def test_what_follows_the_end_is_not_read() -> None:
    """The zeros with which tar fills its last record do not matter, nor does anything else there."""
    assert contents(archive({"a": b"1"}) + b"rubbish" * 500) == {"a": b"1"}


# -- what is refused ------------------------------------------------------------------------------------------------


def test_every_truncation_is_noticed() -> None:
    """A copy that broke off is refused wherever it did, also exactly between two entries."""
    whole = archive({"a": b"1" * 700, f"blobs/sha512/{'b' * 128}": b"2"})
    for length in range(0, len(whole), 128):
        assert "is cut off at byte" in complaint(whole[:length])


def test_a_changed_header_is_noticed() -> None:
    """No byte of a header can be flipped unseen."""
    whole = archive({"a": b""})
    for position in range(BLOCK):
        broken = bytearray(whole)
        broken[position] ^= 1
        assert "header" in complaint(bytes(broken))


def test_the_message_names_file_entry_and_next_step() -> None:
    """I learn which file, where in it, and what to do."""
    text = complaint(archive({"a": b"1", "b": b"2"})[: -len(END)])
    assert "a.tar, after 'b'" in text
    assert "copy the archive again" in text


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (block(kind=b"S"), "sparse"),
        (extended(b"22 GNU.sparse.major=1\n") + block(), "sparse"),
        (extended(b"22 GNU.sparse.major=1\n", b"g") + block(), "global"),
        (extended(b"16 size=1000000\n", b"g") + block(), "global"),
        (extended(b"12 path=abc\n", b"g") + block(), "global"),
        (block(size=b"\xff" * 12), "negative"),
        (block(size=b"-0000000001\0"), "negative"),
        (block(size=b"\x80" + b"\xff" * 11), "beyond all reason"),
        (block(size=b"\x81" + bytes(11)), "negative"),
        (block(size=b"0000000009\0\0"), "a number"),
        (extended(b"25 size=9999999999999999\n") + block(), "beyond all reason"),
        (extended(b"11 size=-1\n") + block(), "no number"),
        (extended(b"8 size=\n") + block(), "no number"),
        (extended(b"10 size=1\n10 size=2\n") + block(), "malformed"),
        (extended(b"8 size=1\n") + block(), "malformed"),
        (extended(b"99999 a=b\n") + block(), "malformed"),
        (extended(b"0 a=b\n") + block(), "malformed"),
        (extended(b"6 abc\n") + block(), "malformed"),
        (extended(b"6 a=bc") + block(), "malformed"),
        (extended(b"") + extended(b"") + block(), "twice"),
        (extended(b"", b"X") + extended(b"") + block(), "twice"),
        (extended(b"name\0", b"L") + extended(b"name\0", b"L") + block(), "twice"),
        (extended(b"name\0", b"L") + extended(b"12 path=abc\n") + block(), "two long names"),
        (extended(b"12 path=abc\n") + END, "no entry"),
        (block(size=octal(70_000), kind=b"x"), "70000 bytes; 65536 are allowed"),
        (block(size=octal(5000), kind=b"L"), "5000 bytes; 4097 are allowed"),
        (extended(b"5011 path=" + b"a" * 5000 + b"\n") + block(), "longer than 4096"),
        (block(size=octal(4), kind=b"2") + blocks(b"data"), "no file"),
        (block(size=octal(4), kind=b"5") + blocks(b"data"), "no file"),
        (block(b"folder/", octal(4)) + blocks(b"data"), "no file"),
        (bytes(BLOCK) + block(), "lone zero block"),
        (b"PK\3\4" + bytes(600), "no valid tar header at byte 0"),
        (block()[:257] + b"USTAR" + block()[262:], "no valid tar header"),
    ],
)
def test_what_could_deceive_is_refused(data: bytes, words: str) -> None:
    """An archive that two programs would read differently, or that asks for the impossible, gets no further."""
    assert words in complaint(data + END)


@pytest.mark.parametrize(
    "name",
    [b"/etc/x", b"../x", b"a/../x", b"a/..", b"..", b"a//b", b"a/./b", b"\xff", b"a\nb", b"\x1b[2J", b"", b"."],
)
def test_a_name_that_leads_elsewhere_is_marked(name: bytes) -> None:
    """What a name like that holds is no file."""
    (entry,) = entries(block(name, octal(1)) + blocks(b"1") + END)
    assert (entry.kind, entry.unsafe) == ("other", True)
    (entry,) = entries(extended(b"12 path=a\0b\n") + block() + END)
    assert (entry.kind, entry.unsafe) == ("other", True)
    (entry,) = entries(block(b"/") + END)
    assert (entry.kind, entry.unsafe) == ("other", True)
    (entry,) = entries(block(b"passwd", prefix=b"/etc") + END)
    assert (entry.name, entry.unsafe) == ("/etc/passwd", True)


def test_there_is_an_end_to_entries() -> None:
    """An archive of millions of empty files is given up early, after its limit and not after its last."""
    with pytest.raises(BundleDamaged, match="more than 3 entries"):
        list(reader(archive({str(n): b"" for n in range(4)}), 3).entries())
    assert len(list(reader(archive({str(n): b"" for n in range(3)}), 3).entries())) == 3


def test_a_small_document_is_never_a_large_one() -> None:
    """What is read into memory has a limit."""
    source = reader(archive({"a": b"1" * 1000}))
    next(iter(source.entries()))
    with pytest.raises(BundleDamaged, match=r"a.tar, at 'a': 1000 bytes are too many here: 999 are allowed"):
        source.whole(999)


@given(st.binary(max_size=3000))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Rubbish is called damaged, and nothing else ever happens."""
    with pytest.raises(BundleDamaged):
        contents(data + b"x")


FIELD = st.binary(min_size=12, max_size=12)
SIZES = st.one_of(st.integers(0, 2000).map(octal), FIELD)
KINDS = st.sampled_from([bytes([n]) for n in b"0\x001234567xXgLKSDMVN"])
HEADERS = st.builds(block, st.binary(max_size=100), SIZES, KINDS, st.binary(max_size=155))
RECORDS = st.lists(st.sampled_from([b"12 path=abc\n", b"10 size=1\n", b"22 GNU.sparse.major=1\n", b"9 a=b\n", b"\0"]))
EXTENSIONS = st.builds(extended, RECORDS.map(b"".join), st.sampled_from([b"x", b"g", b"L", b"K"]))


@given(st.lists(st.one_of(HEADERS, EXTENSIONS, st.binary(max_size=600).map(blocks)), max_size=8).map(b"".join))
def test_any_headers_are_read_or_refused(data: bytes) -> None:
    """Behind a right checksum, too, nothing happens but reading or refusing; sizes are never negative."""
    try:
        found = entries(data + END)
    except BundleDamaged:
        return
    assert all(entry.size >= 0 and entry.start <= len(data) for entry in found)
    assert all(tar.is_plain(entry.name) for entry in found if not entry.unsafe)

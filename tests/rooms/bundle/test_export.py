"""Volumes: everything is on one of them, none is too large, and none is wasted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bundle import tar
from appliance.bundle.contents import parse_name
from appliance.bundle.export import BlobSlice, pack
from appliance.cli.command import VOLUME_SIZES
from appliance.errors import BundleError
from appliance.oci.digest import Digest

ROOM = 100_000
RESERVED = 5_000

SIZES = st.one_of(st.integers(0, 3000), st.integers(0, 200_000), st.integers(0, 1_000_000))


def blobs(*sizes: int, algorithm: str = "sha256") -> list[tuple[Digest, int]]:
    return [(Digest.of(str(n).encode(), algorithm), size) for n, size in enumerate(sizes)]


def shape(volumes: tuple[tuple[BlobSlice, ...], ...]) -> list[list[tuple[int, int | None]]]:
    return [[(piece.size, piece.part) for piece in volume] for volume in volumes]


@given(st.lists(SIZES, max_size=12), st.integers(70_000, 300_000), st.sampled_from(["sha256", "sha512"]))
def test_every_byte_is_on_a_volume_and_every_volume_fits(sizes: list[int], volume: int, algorithm: str) -> None:
    """In the order of the bundle, each blob whole or in consecutive parts, and no volume above its size."""
    wanted = blobs(*sizes, algorithm=algorithm)
    packed = pack(wanted, volume, 1024)
    assert all(sum(piece.extent for piece in pieces) + 1024 <= volume for pieces in packed)
    ends: dict[Digest, int] = {}
    for piece in (piece for pieces in packed for piece in pieces):
        assert piece.start == ends.get(piece.digest, 0)
        ends[piece.digest] = piece.start + piece.size
    assert list(ends.items()) == wanted


@given(st.lists(SIZES, min_size=1, max_size=12))
def test_only_what_is_larger_than_a_volume_is_cut(sizes: list[int]) -> None:
    """A layer that fits on a disc is on one disc; a cut one has no empty part."""
    for pieces in pack(blobs(*sizes), ROOM + RESERVED, RESERVED):
        for piece in pieces:
            whole = sizes[[digest for digest, _ in blobs(*sizes)].index(piece.digest)]
            assert (piece.part is None) == (tar.extent(whole) <= ROOM)
            assert piece.part is None or 0 < piece.size < whole


@given(st.lists(SIZES, min_size=1, max_size=12))
def test_no_volume_is_begun_without_need(sizes: list[int]) -> None:
    """What comes first on a disc had no room on the one before, and there is no empty disc."""
    packed = pack(blobs(*sizes), ROOM + RESERVED, RESERVED)
    assert all(packed)
    for before, after in zip(packed, packed[1:], strict=False):
        left = ROOM - sum(piece.extent for piece in before)
        assert after[0].extent > left or after[0].part is not None
        assert after[0].part in (None, 1) or left < 2 * tar.BLOCK


def test_without_a_size_there_is_one_volume() -> None:
    """An export that is not split is one file."""
    assert shape(pack(blobs(1, 10**12, 2), None, RESERVED)) == [[(1, None), (10**12, None), (2, None)]]
    assert pack([], None, RESERVED) == pack([], ROOM, RESERVED) == ((),)


def test_a_large_blob_begins_where_there_is_room() -> None:
    """The rest of a disc is used for the first part, unless that is a scrap."""
    first = tar.extent(1)
    assert shape(pack(blobs(1, 150_000), ROOM + RESERVED, RESERVED)) == [
        [(1, None), (first_part := (ROOM - first - tar.BLOCK) // 512 * 512, 1)],
        [(150_000 - first_part, 2)],
    ]
    assert shape(pack(blobs(94_000, 100_000), ROOM + RESERVED, RESERVED)) == [
        [(94_000, None)],
        [(99_328, 1)],
        [(672, 2)],
    ]


def test_the_name_of_a_piece_tells_what_it_is() -> None:
    """Whole blobs lie where an image layout has them, parts beside."""
    whole, part = BlobSlice(Digest.of(b""), 0, 5), BlobSlice(Digest.of(b""), 0, 5, 3)
    assert parse_name(whole.name) == (Digest.of(b""), None)
    assert parse_name(part.name) == (Digest.of(b""), 3)
    assert whole.extent == part.extent == 1024


@pytest.mark.parametrize("volume", [0, 1, RESERVED, RESERVED + 1000, RESERVED + 64 * 1024 - 1])
def test_too_small_a_volume_is_refused_with_a_better_one(volume: int) -> None:
    """I am told what would do."""
    with pytest.raises(BundleError, match=rf"too small.*at least {2 * RESERVED + 65536}"):
        pack(blobs(1), volume, RESERVED)
    assert pack(blobs(1), 2 * RESERVED + 65536, RESERVED)


def test_a_bundle_of_endlessly_many_volumes_is_refused() -> None:
    """No person carries ten thousand discs."""
    with pytest.raises(BundleError, match="more than 9999 volumes"):
        pack(blobs(10**9), 64 * 1024 + RESERVED, RESERVED)


@pytest.mark.parametrize(("name", "size"), [("cd", 700 * 10**6), ("dvd", 47 * 10**8), ("bd25", 25 * 10**9)])
def test_the_media_have_their_sizes(name: str, size: int) -> None:
    """What is called a DVD fits on one."""
    assert VOLUME_SIZES[name] == size
    assert VOLUME_SIZES["fat32"] == 2**32 - 1

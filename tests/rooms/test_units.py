"""Durations and sizes: written with a unit, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ConfigError
from appliance.units import duration, size, size_words, words


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("0s", 0.0), ("500ms", 0.5), ("90s", 90.0), ("5m", 300.0), ("12h", 43200.0), ("7d", 604800.0)],
)
def test_durations_are_read_with_their_unit(text: str, seconds: float) -> None:
    """As the file's head explains them."""
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [("100B", 100), ("512MiB", 512 << 20), ("40GB", 40 * 10**9), ("1KB", 1000), ("1KiB", 1024), ("2TiB", 2 << 40)],
)
def test_sizes_are_read_with_their_unit(text: str, count: int) -> None:
    """Powers of 1000 and of 1024 differ."""
    assert size(text) == count


@pytest.mark.parametrize(
    "text", ["", "1", "m", "-1m", "+1m", "1.5h", "1M", "1m ", " 1m", "1m\n", "1h30m", "\u0661s", "1e3s"]
)
def test_no_duration_is_guessed(text: str) -> None:
    """A unit that is missing or in doubt is not filled in."""
    with pytest.raises(ConfigError, match="^is no duration"):
        duration(text)


@pytest.mark.parametrize("text", ["", "0", "1", "GB", "-1GB", "1.5GB", "1gb", "1 GB", "1G", "1Gb", "1GB\n", "\u0661GB"])
def test_no_size_is_guessed(text: str) -> None:
    """A unit that is missing or in doubt is not filled in."""
    with pytest.raises(ConfigError, match="^is no size"):
        size(text)


@given(st.integers(0, 10**9 - 1), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_duration_is_put_in_words_as_it_would_be_written(count: int, unit: str) -> None:
    """What --check prints can be put into the file, and means the same."""
    seconds = duration(f"{count}{unit}")
    assert duration(words(seconds)) == pytest.approx(seconds, abs=0.0005)


@given(st.integers(0, 10**12 - 1), st.sampled_from(["B", "KB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_a_size_is_put_in_words_as_it_would_be_written(count: int, unit: str) -> None:
    """What --check prints can be put into the file, and means the same."""
    octets = size(f"{count}{unit}")
    assert size(size_words(octets)) == octets


@pytest.mark.parametrize(("octets", "words"), [(0, "0B"), (40_000_000, "40MB"), (1 << 30, "1GiB"), (1001, "1001B")])
def test_a_size_is_put_in_words_in_the_largest_unit(octets: int, words: str) -> None:
    """Short, and exact."""
    assert size_words(octets) == words

"""Numbers and tables as the command prints them."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cli import screen


@pytest.mark.parametrize(
    ("octets", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (4.7e9, "4.70 GB"), (99_960, "100 kB"), (999_600, "1.00 MB")],
)
def test_sizes_are_read_at_a_glance(octets: float, text: str) -> None:
    """Three digits and a unit of powers of 1000, as on the label of a disc."""
    assert screen.size(octets) == text


@given(st.integers(0, 10**17))
def test_no_size_has_more_than_four_digits(octets: int) -> None:
    """A column of sizes stays narrow, whatever is in it."""
    assert len(screen.size(octets).split()[0]) <= 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (3600, "1 h"), (90061, "1 d 1 h"), (86460, "1 d 1 min")],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    """The seconds of an hour are left out."""
    assert screen.span(seconds) == text


def test_progress_tells_bytes_rate_and_time_left() -> None:
    """I can see whether to wait for it."""
    assert screen.progress(1_000_000_000, 4_700_000_000, 10) == "1.00 GB of 4.70 GB, 100 MB/s, 37 s left"


def test_progress_makes_nothing_up() -> None:
    """Where no total or no time is known, none is shown."""
    assert screen.progress(1000, None, 0) == "1.00 kB"


def test_columns_cut_nothing() -> None:
    """A digest that I copy out of a table is whole."""
    assert screen.columns([("NAME", "DIGEST"), ("a", "sha256:" + "0" * 64)])[1] == "a     sha256:" + "0" * 64


@given(st.text())
def test_nothing_from_an_archive_drives_my_terminal(text: str) -> None:
    """Escape sequences in names and titles are shown as what they are: rubbish."""
    assert screen.plain(text).isprintable()


HOSTILE = "\x1b[2J\x7f\x85\x9b\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\U000e0001"


@given(st.text() | st.just(HOSTILE) | st.text(HOSTILE))
def test_what_is_printed_for_a_machine_does_not_drive_my_terminal_either(text: str) -> None:
    """It is the same document, and what a terminal would obey stands in it as an escape; letters stay as they are."""
    document = msgspec.json.format(msgspec.json.encode({text: [text, "\u00e9\u4e2d"]})).decode()
    printed = screen.escaped(document)
    assert json.loads(printed) == json.loads(document) and "\u00e9\u4e2d" in printed
    assert all(line.isprintable() for line in printed.split("\n"))


def test_times_are_short_and_in_utc() -> None:
    """Every time in a table is of the same zone."""
    assert screen.moment("2026-11-21T09:30:15+01:00") == "2026-11-21 08:30"
    assert (screen.moment(None), screen.moment("soon")) == ("-", "soon")

"""Durations and sizes as the configuration writes them: a whole number and a unit, nothing guessed."""

from __future__ import annotations

import re

from appliance.errors import ConfigError

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS: dict[str, int] = {"B": 1} | {
    f"{letter}{mark}": base**power
    for power, letter in enumerate("KMGTP", start=1)
    for mark, base in (("B", 1000), ("iB", 1024))
}
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,12})([KMGTP]i?B|B)")


def duration(text: str) -> float:
    """
    Seconds of C{90s}, C{5m}, C{12h}, C{7d}, C{500ms} or C{0}.

    @raise ConfigError: for anything else; the message is to follow the value, which may be long.
    """
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigError("is no duration; write a whole number with a unit: 500ms, 90s, 5m, 12h, 7d")
    return int(match[1]) * _DURATION_UNITS[match[2]]


def size(text: str) -> int:
    """
    Bytes of C{512MiB} (powers of 1024), C{40GB} (powers of 1000) or C{100B}.

    @raise ConfigError: for anything else; the message is to follow the value, which may be long.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigError("is no size; write a whole number with a unit: 100B, 512MiB, 40GB")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def rate(text: str) -> int:
    """
    Bytes per second of C{40MB}.

    @raise ConfigError: for anything else; the message is to follow the value, which may be long.
    """
    try:
        octets = size(text)
    except ConfigError:
        raise ConfigError("is no rate; write a size per second: 500KB, 40MB, 1GiB") from None
    if octets < 1000:
        # A unit was mistaken.
        raise ConfigError("is less than 1KB per second; write a larger size")
    return octets


def rate_of(text: str) -> int:
    """As L{rate}, which may be written C{40MB/s} where nothing else says that it is per second."""
    return rate(text.removesuffix("/s"))


def words(seconds: float) -> str:
    """A duration as the configuration writes it, in the largest unit that fits without a fraction."""
    if not seconds:
        return "0"
    milliseconds = round(seconds * 1000)
    unit = max((u for u in _DURATION_UNITS if not milliseconds % _scale(u)), key=_scale)
    return f"{milliseconds // _scale(unit)}{unit}"


def size_words(octets: int) -> str:
    """A size as the configuration writes it, in the largest unit that fits without a fraction."""
    unit = max((u for u, scale in _SIZE_UNITS.items() if not octets % scale), key=_SIZE_UNITS.__getitem__)
    return f"{octets // _SIZE_UNITS[unit]}{unit}" if octets else "0B"


def _scale(unit: str) -> int:
    return round(_DURATION_UNITS[unit] * 1000)

"""What every command has: how it is added to the command line, what it works with, and how it fails."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, _SubParsersAction
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from twisted.internet.defer import Deferred, succeed

from appliance import __version__
from appliance.cli.address import ADMIN, CA_FILE, CERT_FILE, DEFAULT_ADMIN, DEFAULT_SOCKET, TOKEN_FILE
from appliance.cli.client import AdminClient
from appliance.cli.screen import Meter, Screen
from appliance.errors import ConfigError
from appliance.units import duration, rate_of, size

#: Exit statuses.
DONE, FAILED, MISUSED = 0, 1, 2

#: Bytes of the media that people carry.
VOLUME_SIZES: dict[str, int] = {
    "cd": 700_000_000,
    "dvd": 4_700_000_000,
    "bd25": 25_000_000_000,
    #: The largest file of the file system, not of a medium.
    "fat32": 2**32 - 1,
}

_Number = TypeVar("_Number", int, float)

Commands: TypeAlias = "_SubParsersAction[ArgumentParser]"


@dataclass(frozen=True)
class Local:
    """
    What a command works with that needs no appliance.

    @ivar meter: makes what shows progress; who calls it closes it.
    """

    screen: Screen
    meter: Callable[[], Meter]


@dataclass(frozen=True)
class Session(Local):
    """
    What a command works with that asks an appliance.

    @ivar pause: fires after so many seconds.
    """

    client: AdminClient
    pause: Callable[[float], Deferred[None]] = lambda seconds: succeed(None)


# -- the command line -----------------------------------------------------------------------------------------------


def top_parser(groups: tuple[Callable[[Commands], None], ...]) -> ArgumentParser:
    """
    The parser of C{pullcache}.

    @param groups: each adds its commands.
    """
    parser = ArgumentParser(
        prog="pullcache",
        description="Asks and feeds a running pullcache appliance.",
        epilog="Exit status: 0 done, 1 failed or not all of it, 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"pullcache {__version__}")
    _add_common(parser, None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add_to in groups:
        add_to(commands)
    return parser


def new_command(commands: Commands, name: str, summary: str) -> ArgumentParser:
    """A parser for the command C{name}; the common options may stand behind the command as well."""
    parser: ArgumentParser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    _add_common(parser, SUPPRESS)
    return parser


def _add_common(parser: ArgumentParser, default: str | None) -> None:
    where = f"the appliance's admin endpoint, or unix:PATH ({ADMIN}; {DEFAULT_SOCKET}, else {DEFAULT_ADMIN})"
    parser.add_argument("--admin", metavar="URL", default=default, help=where)
    for option, variable, what in (
        ("--token-file", TOKEN_FILE, "holds the token that is shown to it"),
        ("--ca-file", CA_FILE, "PEM, the authorities of its certificate"),
        ("--cert-file", CERT_FILE, "PEM, a certificate to show to it, and its key"),
    ):
        parser.add_argument(option, metavar="FILE", default=default, help=f"{what} ({variable})")
    parser.add_argument("--json", action="store_true", default=default or False, help="print results as JSON")


def age(text: str) -> float:
    """Seconds of C{7d}, as an argument's type."""
    return _unit(duration, text)


def rate(text: str) -> int:
    """Bytes per second of C{50MB/s}, as an argument's type."""
    return _unit(rate_of, text)


def volume_size(text: str) -> int:
    """Bytes of C{4GB} or of a medium's name, as an argument's type."""
    return VOLUME_SIZES[text] if text in VOLUME_SIZES else _unit(size, text)


def existing(text: str) -> Path:
    """A file or folder that is there, as an argument's type."""
    path = Path(text)
    if not path.exists():
        raise ArgumentTypeError(f"{text}: there is no such file")
    return path


def _unit(parse: Callable[[str], _Number], text: str) -> _Number:
    try:
        return parse(text)
    except ConfigError as error:
        raise ArgumentTypeError(f"{text} {error}") from error

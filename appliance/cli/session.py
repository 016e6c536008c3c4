"""What a command has at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance.cli.api import Api
from appliance.cli.meter import Meter
from appliance.cli.screen import Screen

#: Exit statuses.
DONE, FAILED, MISUSED = 0, 1, 2


@dataclass(frozen=True)
class Local:
    """
    For commands that need no appliance.

    @ivar meter: makes what shows progress; to be closed by who asks for it.
    """

    screen: Screen
    meter: Callable[[], Meter]


@dataclass(frozen=True)
class Session(Local):
    """For commands that ask an appliance."""

    api: Api

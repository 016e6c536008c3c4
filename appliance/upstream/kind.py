"""What tells one kind of registry from the standard one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _unchanged(name: str) -> str:
    return name


@dataclass(frozen=True)
class Kind:
    """
    An adapter: values and functions, no branches elsewhere.

    @ivar repository: maps a repository's name as people write it to its full name there.
    @ivar auth_hosts: token servers of this kind, beside those of the configuration.
    """

    repository: Callable[[str], str] = _unchanged
    auth_hosts: tuple[str, ...] = ()


#: A registry of the OCI distribution specification with nothing special.
DISTRIBUTION = Kind()

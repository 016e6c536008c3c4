"""Users with passwords in a file."""

from __future__ import annotations

import os
from pathlib import Path

import bcrypt

COST = 4
"""The least there is: a millisecond a hash."""


def hashed(password: str, cost: int = COST) -> str:
    """As C{htpasswd -B} writes it."""
    made = bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost))
    return "$2y" + made.decode()[3:]


def write_users(path: Path, users: dict[str, str], at: float | None = None) -> Path:
    """
    An htpasswd file with these passwords by user.

    @param at: when it was written, seconds since the epoch; C{None}: long ago.
    """
    path.write_text("".join(f"{user}:{hashed(password)}\n" for user, password in users.items()))
    moment = path.stat().st_mtime - 3600.0 if at is None else at
    os.utime(path, (moment, moment))
    return path

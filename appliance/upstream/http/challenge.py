"""
WWW-Authenticate: what a server wants to see (RFC 9110 section 11.6.1).

C{challenge = auth-scheme [ 1*SP ( token68 / #auth-param ) ]}; one field may hold several challenges, a response may
hold several fields, and commas stand between challenges, between parameters and inside quoted strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_SCHEME = re.compile(_TOKEN)
_PARAMETER = re.compile(rf"[ \t]*({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN})|{_QUOTED})[ \t]*(?=,|\Z)", re.DOTALL)
_TOKEN68 = re.compile(r"[ \t]+([A-Za-z0-9._~+/-]+=*)[ \t]*(?=,|\Z)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

#: Bearer before Basic: a stolen token is worth less than a stolen password.
_PREFERRED = ("bearer", "basic")


@dataclass(frozen=True)
class Challenge:
    """
    One challenge.

    @ivar scheme: in lower case, as C{"bearer"}.
    @ivar params: by lower-case name; of a name given twice, the first.
    @ivar token68: the one opaque value that stands in place of parameters, or C{None}.
    """

    scheme: str
    params: dict[str, str] = field(default_factory=dict)
    token68: str | None = None


def parse_challenges(fields: Iterable[str]) -> list[Challenge]:
    """The challenges of WWW-Authenticate fields, in order. What cannot be read ends its field."""
    return [challenge for text in fields for challenge in _field(text)]


def preferred(challenges: Iterable[Challenge]) -> Challenge | None:
    """The challenge to answer, C{None} when none is of a scheme we know."""
    known = [challenge for challenge in challenges if challenge.scheme in _PREFERRED]
    return min(known, key=lambda challenge: _PREFERRED.index(challenge.scheme), default=None)


def _field(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = 0
    while scheme := _SCHEME.match(text, _skipped(text, position, " \t,")):
        challenge, position = _challenge(scheme[0].lower(), text, scheme.end())
        if position < len(text) and text[position] != ",":
            break
        found.append(challenge)
    return found


def _challenge(scheme: str, text: str, position: int) -> tuple[Challenge, int]:
    """The challenge whose scheme ends at C{position}, and where it ends itself."""
    if text[position : position + 1] in (" ", "\t"):
        if opaque := _TOKEN68.match(text, position):
            return Challenge(scheme, token68=opaque[1]), opaque.end()
        params, position = _parameters(text, position)
        return Challenge(scheme, params), position
    return Challenge(scheme), position


def _parameters(text: str, position: int) -> tuple[dict[str, str], int]:
    """The parameters from C{position} on, up to what is no parameter: the next challenge, or rubbish."""
    params: dict[str, str] = {}
    end = position
    while match := _PARAMETER.match(text, position):
        name, token, quoted = match.groups()
        params.setdefault(name.lower(), token if quoted is None else _ESCAPED.sub(r"\1", quoted))
        end = match.end()
        position = _skipped(text, end, " \t,")
    return params, end if params else _skipped(text, end, " \t")


def _skipped(text: str, position: int, characters: str) -> int:
    """Where C{text} goes on from C{position} with none of C{characters}."""
    while text[position : position + 1] and text[position] in characters:
        position += 1
    return position

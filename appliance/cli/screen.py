"""Where a command says things: results on standard output, everything else on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TextIO

import msgspec

from appliance.cli.words import columns, escaped, plain


class Screen:
    """
    Two streams, and whether a machine reads the first.

    @ivar as_json: print results as JSON documents and no words.
    """

    def __init__(self, out: TextIO, err: TextIO, as_json: bool = False) -> None:
        self._out = out
        self._err = err
        self.as_json = as_json

    @property
    def is_terminal(self) -> bool:
        """Whether somebody watches standard error."""
        return self._err.isatty()

    def document(self, document: Any) -> None:
        """A result for machines: one JSON document on lines of its own."""
        self._out.write(escaped(msgspec.json.format(msgspec.json.encode(document)).decode()) + "\n")
        self._out.flush()

    def raw(self, data: bytes) -> None:
        """A JSON document as it came from the appliance."""
        self._out.write(escaped(data.decode("utf-8", "replace")))
        self._out.flush()

    def say(self, line: str = "") -> None:
        """A line of the result, for people; nothing where a machine reads."""
        if not self.as_json:
            self._out.write(plain(line) + "\n")
            self._out.flush()

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        """Rows of the result, for people; the first is the heading."""
        for line in columns(rows):
            self.say(line)

    def note(self, line: str) -> None:
        """A line about what happens, which is no part of the result."""
        self._err.write(plain(line) + "\n")
        self._err.flush()

    def complain(self, error: object) -> None:
        """Why the command was not done, on one line."""
        self.note("pullcache: " + " ".join(str(error).split()))

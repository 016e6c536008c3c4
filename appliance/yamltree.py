"""
YAML as a tree of plain values, each of which knows where it stands.

The text is read strictly. Numbers are left as they are written (C{1:30} and C{0123} are text here, not the numbers YAML
1.1 makes of them), and anchors, aliases and tags are refused, so that no document grows when it is read.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from appliance.errors import ConfigError

LIMIT = 1 << 20
"""Bytes, or characters, of a document."""

_DEPTH_LIMIT = 16
"""Levels of nesting; the deepest key of ours stands on the fourth. The YAML composer recurses once a level."""

_SHOWN_LIMIT = 80


class _Loader(yaml.SafeLoader):
    """Knows null and booleans; every other scalar is the text that was written."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":bool"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def tree(text: str, source: str) -> At:
    """
    The root of the text's values: mappings, lists, text, truth values and C{None}; empty text is an empty mapping.

    @param source: the file's path, for messages.
    @raise ConfigError: this is no YAML, or more of it than plain values need; the message names the line.
    """
    if len(text) > LIMIT:
        raise ConfigError(f"{source}: the text is larger than {LIMIT} bytes")
    return At(_document(text, source), "", source)


def _document(text: str, source: str) -> object:
    try:
        _refuse_tricks(text, source)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{source}: line {line}: no valid YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{source}: line {line}: no valid YAML: a character that may not stand in it") from None
    except (ValueError, OverflowError):
        # PyYAML lets them through for an escape or a version number that is out of all bounds.
        raise ConfigError(f"{source}: no valid YAML: a number in it is too large") from None
    return {} if node is None else _plain(node, source)


def _refuse_tricks(text: str, source: str) -> None:
    """Refuse, before anything is built: anchors, aliases, tags and bottomless nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        what = _trick(event, depth)
        if what:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise ConfigError(f"{source}: line {line}: {what}")


def _trick(event: yaml.Event, depth: int) -> str:
    if depth > _DEPTH_LIMIT:
        return f"nested deeper than {_DEPTH_LIMIT} levels"
    if getattr(event, "anchor", None) is not None:
        return "anchors and aliases (& and *) are not used here; write the value out, in quotes if it begins with one"
    if getattr(event, "tag", None) is not None:
        return "tags (!) are not used here; write the value without, in quotes if it begins with one"
    return ""


def _plain(node: yaml.Node, source: str) -> object:
    if isinstance(node, yaml.MappingNode):
        return _plain_mapping(node, source)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, source) for item in node.value]
    if node.tag.endswith(":null"):
        return None
    if node.tag.endswith(":bool"):
        return node.value.lower() in ("yes", "true", "on")
    return node.value


def _plain_mapping(node: yaml.MappingNode, source: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{source}: line {line}: a key must be a single word")
        if key.value in found:
            raise ConfigError(f"{source}: line {line}: the key {shown(key.value)} is given twice; keep one of them")
        found[key.value] = _plain(value, source)
    return found


@dataclass(frozen=True)
class At:
    """
    A value of the document with its key path and its file, which every fault names.

    The methods that read it raise L{ConfigError} when it is something else.
    """

    value: object
    path: str
    source: str

    def fault(self, why: str, quoted: bool = True) -> ConfigError:
        """The error that says so; the value, which may be a secret, stands in it only if C{quoted}."""
        value = f"{shown(self.value)} " if quoted else ""
        return ConfigError(": ".join(filter(None, (self.source, self.path, value + why))))

    def below(self, key: str, value: object) -> At:
        """What stands, or would stand, under a key of this mapping."""
        key = key if key.isprintable() and len(key) <= _SHOWN_LIMIT else shown(key)
        return At(value, f"{self.path}.{key}" if self.path else key, self.source)

    def text(self) -> str:
        """Printable text, not empty."""
        if isinstance(self.value, bool):
            raise self.fault("is a truth value to YAML where text is wanted; put it in quotes")
        if not isinstance(self.value, str) or not self.value:
            raise self.fault("stands where text is wanted; write a value, or leave the key out for its default")
        if not self.value.isprintable():
            raise self.fault("holds a character that is not printable")
        return self.value

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self.fault("is neither true nor false")
        return self.value

    def items(self) -> list[At]:
        """The members of a list."""
        if not isinstance(self.value, list):
            raise self.fault("stands where a list is wanted; write [a, b], or [] for none")
        return [At(item, f"{self.path}[{number}]", self.source) for number, item in enumerate(self.value)]

    def mapping(self) -> dict[str, At]:
        """The values of a mapping by their keys."""
        if not isinstance(self.value, dict):
            raise self.fault("stands where keys with values are wanted")
        return {key: self.below(key, value) for key, value in self.value.items()}

    def read(self, readers: Mapping[str, Callable[[At], Any]]) -> dict[str, Any]:
        """Every key of this mapping, read by its reader; a key without one is refused."""
        found = self.mapping()
        for key, at in found.items():
            if key not in readers:
                raise at.fault(_unknown(key, readers), quoted=False)
        return {key: readers[key](at) for key, at in found.items()}


def shown(value: object) -> str:
    """A value as a message shows it: one line, not long."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN_LIMIT else value[:_SHOWN_LIMIT] + "...")
    if isinstance(value, bool):
        return str(value).lower()
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else "nothing"


def _unknown(key: str, known: Iterable[str]) -> str:
    if key in ("password", "token", "proxy_password"):
        return f"a secret is never written here; put it into a file and name that with {key}_file"
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; the keys here are {', '.join(known)}"

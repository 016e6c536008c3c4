"""
YAML as a tree of nodes, each of which knows its file, its line and its key path.

The text is read strictly. Numbers are left as they are written (C{1:30} and C{0123} are text here, not the numbers YAML
1.1 makes of them), and anchors, aliases and tags are refused, so that no document grows when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from appliance.errors import ConfigError

LIMIT = 1 << 20
"""Bytes, or characters, of a document."""

_DEPTH_LIMIT = 16
"""Levels of nesting; the deepest key of ours stands on the fourth. The YAML composer recurses once a level."""

_SHOWN_LIMIT = 80


@dataclass(frozen=True)
class Node:
    """
    A value and where it stands. The methods that read it raise L{ConfigError} when it is something else.

    @ivar value: text, a truth value, C{None}, the nodes of a list, or those of a mapping by their keys.
    @ivar path: keys and numbers from the root, as in C{listen[0].endpoint}; or an option, as in C{--listen}.
    @ivar source: the file's path; empty for an option.
    @ivar line: counted from 1; of a mapping's value, the line of its key. 0 when there is no file.
    """

    value: str | bool | None | list[Node] | dict[str, Node]
    path: str = ""
    source: str = ""
    line: int = 0

    def fault(self, why: str, quoted: bool = True) -> ConfigError:
        """The error that names place and value; without the value, which may be a secret, unless C{quoted}."""
        line = f"line {self.line}" if self.line else ""
        message = f"{shown(self.value)} {why}" if quoted else why
        return ConfigError(": ".join(filter(None, (self.source, line, self.path, message))))

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

    def items(self) -> list[Node]:
        """The members of a list."""
        if not isinstance(self.value, list):
            raise self.fault("stands where a list is wanted; write [a, b], or [] for none")
        return self.value

    def mapping(self) -> dict[str, Node]:
        """The values of a mapping by their keys."""
        if not isinstance(self.value, dict):
            raise self.fault("stands where keys with values are wanted")
        return self.value

    def absent(self, key: str) -> Node:
        """Where a key would stand that this mapping lacks."""
        return Node(None, f"{self.path}.{key}" if self.path else key, self.source, self.line)


def shown(value: object) -> str:
    """A value as a message shows it: one line, not long."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN_LIMIT else value[:_SHOWN_LIMIT] + "...")
    if isinstance(value, bool):
        return str(value).lower()
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else "nothing"


class _Loader(yaml.SafeLoader):
    """Knows null and booleans; every other scalar is the text that was written."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":bool"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def tree(text: str, source: str) -> Node:
    """
    The root of the text's nodes; empty text is an empty mapping.

    @param source: the file's path, for messages.
    @raise ConfigError: this is no YAML, or more of it than plain values need; the message names the line.
    """
    if len(text) > LIMIT:
        raise ConfigError(f"{source}: the text is larger than {LIMIT} bytes")
    try:
        _refuse_tricks(text, source)
        root = yaml.compose(text, Loader=_Loader)
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
    return Node({}, "", source) if root is None else _node(root, "", source, 0)


def _refuse_tricks(text: str, source: str) -> None:
    """Refuse, before anything is built: anchors, aliases, tags and bottomless nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH_LIMIT:
            what = f"nested deeper than {_DEPTH_LIMIT} levels"
        elif getattr(event, "anchor", None) is not None:
            what = (
                "anchors and aliases (& and *) are not used here; write the value out, in quotes if it begins with one"
            )
        elif getattr(event, "tag", None) is not None:
            what = "tags (!) are not used here; write the value without, in quotes if it begins with one"
        else:
            continue
        line = event.start_mark.line + 1 if event.start_mark else 1
        raise ConfigError(f"{source}: line {line}: {what}")


def _node(node: yaml.Node, path: str, source: str, line: int) -> Node:
    """What the composer made, as a node of ours."""
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Node] = {}
        for key, value in node.value:
            at = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{source}: line {at}: a key must be a single word")
            if key.value in found:
                raise ConfigError(f"{source}: line {at}: the key {shown(key.value)} is given twice; keep one of them")
            name = key.value if key.value.isprintable() and len(key.value) <= _SHOWN_LIMIT else shown(key.value)
            found[key.value] = _node(value, f"{path}.{name}" if path else name, source, at)
        return Node(found, path, source, line)
    if isinstance(node, yaml.SequenceNode):
        items = [
            _node(item, f"{path}[{number}]", source, item.start_mark.line + 1) for number, item in enumerate(node.value)
        ]
        return Node(items, path, source, line)
    if node.tag.endswith(":null"):
        return Node(None, path, source, line)
    if node.tag.endswith(":bool"):
        return Node(node.value.lower() in ("yes", "true", "on"), path, source, line)
    return Node(node.value, path, source, line)

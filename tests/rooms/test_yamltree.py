"""YAML read strictly: plain values, or the line that is at fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ConfigError
from appliance.yamltree import LIMIT, Node, tree


def plain(node: Node) -> object:
    """The value of a node without its places."""
    if isinstance(node.value, dict):
        return {key: plain(value) for key, value in node.value.items()}
    return [plain(item) for item in node.value] if isinstance(node.value, list) else node.value


def fault(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        tree(text, "/etc/p.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", {}),
        ("# words", {}),
        ("[a, 0123, 1:30, 1.10, 1e3, 2026-11-21]", ["a", "0123", "1:30", "1.10", "1e3", "2026-11-21"]),
        ("{a: ~, b: null, c: '~', d: ''}", {"a": None, "b": None, "c": "~", "d": ""}),
        ("[true, off, 'off', Yes, 1]", [True, False, "off", True, "1"]),
        ("a: {b: [c]}", {"a": {"b": ["c"]}}),
        ("0x1: a", {"0x1": "a"}),
    ],
)
def test_values_stay_as_they_are_written(text: str, value: object) -> None:
    """Only nothing and truth values are more than text: no octal, no sexagesimal, no date is made of it."""
    assert plain(tree(text, "p")) == value


def test_a_value_knows_where_it_stands() -> None:
    """A fault is named with file, line, key path and value."""
    (item,) = tree("a:\n  b: [c]", "/etc/p.yaml").mapping()["a"].mapping()["b"].items()
    assert str(item.fault("is wrong")) == "/etc/p.yaml: line 2: a.b[0]: 'c' is wrong"
    assert str(item.fault("is wrong", quoted=False)) == "/etc/p.yaml: line 2: a.b[0]: is wrong"


def test_a_long_value_is_cut_in_a_message() -> None:
    """The message stays one line that can be read."""
    message = str(tree("a: " + "x" * 10_000, "p").mapping()["a"].fault("is wrong"))
    assert message == f"p: line 1: a: '{'x' * 80}...' is wrong"


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (Node.text, "[true, '', ~, [a], {a: b}, \"a\\nb\"]"),
        (Node.flag, "['true', 1, ~, [true]]"),
        (Node.items, "[a, {a: b}, ~, true]"),
        (Node.mapping, "[a, [a], ~, true]"),
    ],
)
def test_a_value_is_not_read_as_something_else(read: Callable[[Node], object], text: str) -> None:
    """Nothing is made to fit."""
    for node in tree(text, "p").items():
        with pytest.raises(ConfigError, match=r"^p: line 1: \[\d\]: "):
            read(node)


def test_text_beyond_the_limit_is_not_looked_at() -> None:
    """Not even its syntax."""
    assert "larger than" in fault("#" * (LIMIT + 1))


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a: 1\nstore: x\nstore: y", 3, "'store' is given twice"),
        ("upstreams:\n  a: {url: http://h}\n  a: {url: http://h}", 3, "'a' is given twice"),
        ("store: x\nlisten: [", 2, "no valid YAML"),
        ("store: x\n\tlisten: y", 2, "no valid YAML"),
        ("store: x\n--- \nstore: y", 2, "no valid YAML"),
        ("store: x\noffline: \x01", 2, "no valid YAML"),
        ("store: &a x", 1, "anchors"),
        ("store: *a", 1, "anchors"),
        ("store: !!python/object/apply:os.system [x]", 1, "tags"),
        ("store: !!int x", 1, "tags"),
        ("? [a]\n: b", 1, "single word"),
        ("store: " + "[" * 100_000, 1, "nested deeper"),
        ("- " * 100_000, 1, "nested deeper"),
    ],
)
def test_text_that_is_no_plain_yaml_is_named_with_its_line(text: str, line: int, why: str) -> None:
    """Broken, doubled, or too clever: the line is there to look at."""
    message = fault(text)
    assert message.startswith(f"/etc/p.yaml: line {line}: ")
    assert why in message


@pytest.mark.parametrize("text", [r'store: "\UFFFFFFFF"', "%YAML " + "9" * 5000 + ".1\n--- a", "a: " * 400_000])
def test_monstrous_text_is_refused(text: str) -> None:
    """Neither the parser's own slips nor size get past the one kind of error."""
    assert fault(text).startswith("/etc/p.yaml: ")


def test_an_alias_bomb_does_not_go_off() -> None:
    """Nine lines that would be a thousand million words are refused at the first."""
    bomb = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [{', '.join(['*a'] * 10)}]\n" for n in "bcdefghi")
    assert "line 1: anchors" in fault(bomb)


@given(st.text() | st.text(alphabet="{}[]:,-?!&*#%|>'\"\\ \n\tax0~<="))
def test_no_text_gets_past_the_one_kind_of_error(text: str) -> None:
    """Any text gives values, or one line that says what is wrong."""
    try:
        tree(text, "p")
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1

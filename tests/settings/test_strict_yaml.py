"""YAML of any kind is read, or refused, in a time that its size explains."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from softflow.files import SIZE_LIMITS, TEXT_LIMIT
from softflow.settings.strict_yaml import DEEPEST, _Loader, read_yaml, write_yaml
from softflow.settings.typed import ConfigError, load_file

NAMES = "abcdefghijklmnop"


class Key(str):
    """A key that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Key.compared += 1
        return str(self) == other

    def __hash__(self) -> int:
        return hash(str(self))


def test_a_key_is_looked_for_among_the_others_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def scalar(loader: Any, node: yaml.ScalarNode) -> Key:
        return Key(node.value)

    monkeypatch.setattr(_Loader, "yaml_constructors", {**_Loader.yaml_constructors, "tag:yaml.org,2002:str": scalar})
    Key.compared = 0
    keys = 1_000
    assert len(read_yaml("".join(f"key{number}: 1\n" for number in range(keys)))) == keys
    assert Key.compared < 4 * keys
    with pytest.raises(yaml.YAMLError, match="the key 'key7' is given twice"):
        read_yaml("key7: 1\nkey8: 1\nkey7: 2\n")


def nested(first: str, nine: Callable[[str], str]) -> str:
    """Each of sixteen values is nine times the one before."""
    return f"a: &a {first}\n" + "".join(f"{name}: &{name} {nine(before)}\n" for before, name in pairwise(NAMES))


TEXTS = {
    "lists": nested("[x]", lambda name: f"[{','.join([f'*{name}'] * 9)}]"),
    "mappings": nested("{x: 1}", lambda name: f"{{{','.join(f'{key}: *{name}' for key in range(9))}}}"),
    "a list in itself": "&a [*a]",
    "a mapping in itself": "a: &a {b: *a}",
    "a list in a mapping in itself": "a: &a [1, {b: [*a]}]",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_aliases_do_not_multiply(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="its aliases repeat values without end"):
        read_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1),
        "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, DEEPEST)),
    ],
    ids=["written", "by aliases"],
)
def test_levels_are_limited(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match=f"more than {DEEPEST} levels"):
        read_yaml(text)
    assert read_yaml("[" * (DEEPEST - 1) + "1" + "]" * (DEEPEST - 1))


def test_aliases_may_repeat_what_was_written() -> None:
    assert read_yaml("a: &a [1, 2]\nb: {c: *a, d: *a}") == {"a": [1, 2], "b": {"c": [1, 2], "d": [1, 2]}}


@pytest.mark.parametrize("values", [{"a": "1e-4", "b": 1e-4, "é": [None, True, "yes"]}, {}, {"a": {"b": [{}]}}])
def test_what_is_written_is_read(values: dict[str, Any]) -> None:
    text = write_yaml(values)
    assert text.isascii() and read_yaml(text) == values


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.yaml"
    path.write_text("".join(f"key{number}: {number}\n" for number in range(40_000)))
    with monkeypatch.context() as patch, pytest.raises(ConfigError) as refused:
        patch.setattr(yaml, "load", pytest.fail)
        load_file(path)
    assert f"{path}: it takes {path.stat().st_size:,} bytes, more than the {TEXT_LIMIT:,} bytes" in str(refused.value)
    path.write_text("key: 1\n" + "#" * TEXT_LIMIT)
    monkeypatch.setenv(SIZE_LIMITS, "2")
    assert load_file(path).values == {"key": 1}

"""The YAML that settings are written in: no duplicate keys, no endless aliases, and numbers as in YAML 1.2."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from softflow.errors import one_line
from softflow.files import TEXT_LIMIT

DEEPEST = 20
"""Levels of nesting that a text may have. With aliases, even a short text could have any number."""


class _Loader(yaml.SafeLoader):
    """A loader that reads `1e-4` as a number, as YAML 1.2 does, and refuses duplicate keys."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._most = max(TEXT_LIMIT, len(text))  # values; without aliases there are fewer than characters
        self._sizes: dict[yaml.Node, tuple[int, int]] = {}

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            self._size(node)
        return node

    def _size(self, node: yaml.Node) -> tuple[int, int]:
        """Count the values that a node stands for, and its levels. What aliases repeat counts every time.

        Raises:
            ConstructorError: Either is larger than anyone would write, or endless.
        """
        if node not in self._sizes:
            self._sizes[node] = self._most + 1, 1  # if it is met again within itself
            children = [] if isinstance(node, yaml.ScalarNode) else node.value
            if isinstance(node, yaml.MappingNode):
                children = [one for pair in node.value for one in pair]
            sizes = [self._size(child) for child in children]
            self._sizes[node] = (
                1 + sum(values for values, _ in sizes),
                1 + max((depth for _, depth in sizes), default=0),
            )
        values, depth = self._sizes[node]
        if values > self._most or depth > DEEPEST:
            problem = "its aliases repeat values without end" if values > self._most else f"more than {DEEPEST} levels"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return values, depth

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        given = set[Hashable]()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):  # else PyYAML refuses it
                if key in given:
                    problem = f"the key {key!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
                given.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes the strings that `_Loader` would read as numbers."""


_FLOAT = re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$")  # the floats that PyYAML takes for strings
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def read_yaml(text: str) -> Any:
    """Parse YAML text. Raises `yaml.YAMLError`."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise
    except Exception as error:  # PyYAML's own, of `!!int ''`, of the 31st of February, of a thousand brackets
        raise yaml.YAMLError(f"a value that cannot be read ({one_line(error)})") from error


def write_yaml(values: Any) -> str:
    """Write YAML text that `read_yaml` turns back into the same values. It is ASCII: other characters are escaped."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)

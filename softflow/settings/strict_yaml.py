"""The YAML dialect of settings: no duplicate keys, no endless aliases, and numbers as in YAML 1.2."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from softflow.errors import one_line
from softflow.files import TEXT_LIMIT

DEEPEST = 20
"""Maximum number of nesting levels. With aliases, even a short text could have arbitrarily many."""


class _Loader(yaml.SafeLoader):
    """A loader that reads `1e-4` as a number, as in YAML 1.2, and rejects duplicate keys and endless aliases."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._most = max(TEXT_LIMIT, len(text))  # number of values; without aliases it is below that of characters
        self._sizes: dict[yaml.Node, tuple[int, int]] = {}

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            self._size(node)
        return node

    def _size(self, node: yaml.Node) -> tuple[int, int]:
        """Count the values and the nesting levels of a node. Values that aliases repeat count each time.

        Raises:
            ConstructorError: Either number is unreasonably large or infinite.
        """
        if node not in self._sizes:
            self._sizes[node] = self._most + 1, 1  # in case the node contains itself
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
            if isinstance(key, Hashable):  # otherwise PyYAML rejects it
                if key in given:
                    problem = f"the key {key!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
                given.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes the strings that `_Loader` would read as numbers."""


_FLOAT = re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$")  # the floats that PyYAML reads as strings
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def read_yaml(text: str) -> Any:
    """Parse YAML text. Raise `yaml.YAMLError` if it is invalid."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise
    except Exception as error:  # PyYAML fails on `!!int ''`, the 31st of February, a thousand brackets
        raise yaml.YAMLError(f"a value that cannot be read ({one_line(error)})") from error


def write_yaml(values: Any) -> str:
    """Return YAML text that `read_yaml` converts back to the same values. Characters beyond ASCII are escaped."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)

"""YAML as settings are written in: no key twice, no values without end, numbers as YAML 1.2 has them."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from softflow.errors import one_line
from softflow.files import TEXT_LIMIT


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number, as in YAML 1.2, and a key given twice is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._most = max(TEXT_LIMIT, len(text))  # values; without aliases there are fewer than characters
        self._counted: dict[yaml.Node, int] = {}

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            self._count(node)
        return node

    def _count(self, node: yaml.Node) -> int:
        """How many values a node stands for. What aliases repeat counts every time.

        Raises:
            ConstructorError: there are more than anyone wrote, or no end of them.
        """
        if node not in self._counted:
            self._counted[node] = self._most + 1  # if it is met again within itself
            children = node.value
            if isinstance(node, yaml.ScalarNode):
                children = []
            elif isinstance(node, yaml.MappingNode):
                children = [one for pair in node.value for one in pair]
            self._counted[node] = 1 + sum(map(self._count, children))
        if self._counted[node] > self._most:
            problem = "its aliases repeat values without end"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return self._counted[node]

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
    """Quotes the strings that `_Loader` would read as numbers."""


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
    """YAML text that `read_yaml` makes the same values of. It is ASCII: what is not is escaped."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)

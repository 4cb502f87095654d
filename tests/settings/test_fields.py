"""Composed configurations: the keys of their parts are keys of the whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Generic, TypeVar

import pytest

from softflow.errors import UserError
from softflow.settings.fields import Flat, dotted_fields, dotted_values, field_texts, keys_of, to_dict
from softflow.settings.typed import ConfigError, Layer, dump_yaml, from_dict, from_layers, load_file, merge

Method = TypeVar("Method")


@dataclasses.dataclass(frozen=True)
class Stage:
    updates: int = 100
    learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Run:
    env: str = "tape_cut"
    seed: int = 0
    demos: Path | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError("seed must not be negative")


@dataclasses.dataclass(frozen=True)
class Flow:
    horizon: int
    flow_options: dict[str, int] = dataclasses.field(default_factory=dict)
    imitation: Stage = dataclasses.field(default_factory=Stage)


@dataclasses.dataclass(frozen=True)
class Clashing:
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Train(Generic[Method]):
    algorithm: str
    run: Flat[Run]
    method: Flat[Method]


VALUES = {
    "algorithm": "softflow",
    "env": "cube_rotate",
    "seed": 3,
    "demos": "a.npz",
    "horizon": 8,
    "flow_options": {"width": 4},
    "imitation": {"updates": 5, "learning_rate": 0.5},
}
CONFIG = Train("softflow", Run("cube_rotate", 3, Path("a.npz")), Flow(8, {"width": 4}, Stage(5, 0.5)))


def test_the_keys_of_the_parts_stand_beside_those_of_the_whole(tmp_path: Path) -> None:
    assert from_dict(Train[Flow], VALUES) == CONFIG
    assert to_dict(CONFIG) == VALUES
    dump_yaml(CONFIG, tmp_path / "config.yaml")
    assert load_file(tmp_path / "config.yaml").values == VALUES
    assert [key for key, _ in dotted_fields(Train[Flow])] == [
        "algorithm", "env", "seed", "demos", "horizon", "flow_options", "imitation.updates", "imitation.learning_rate"
    ]  # fmt: skip
    assert list(dotted_values(CONFIG)) == [key for key, _ in dotted_fields(Train[Flow])]
    assert dotted_values(CONFIG)["imitation.learning_rate"] == 0.5


def test_layers_of_a_composed_configuration() -> None:
    first = {"algorithm": "softflow", "horizon": 4, "imitation": {"updates": 1}, "flow_options": {"width": 1}}
    second = {"seed": 1, "horizon": 8, "imitation": {"learning_rate": 0.5}, "flow_options": {"depth": 2}}
    built = from_layers(Train[Flow], [Layer(first, "a"), Layer(second, "b")])
    options = {"width": 1, "depth": 2}
    assert built == Train("softflow", Run(seed=1), Flow(8, options, Stage(1, 0.5)))
    assert merge(Train[Flow], first, second)["imitation"] == {"updates": 1, "learning_rate": 0.5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hroizon": 4}, "x.yaml: unknown key 'hroizon': did you mean 'horizon'?"),
        ({"sed": 4}, "x.yaml: unknown key 'sed': did you mean 'seed'?"),
        ({"imitation": {"updaets": 4}}, "x.yaml: unknown key 'imitation.updaets': did you mean 'imitation.updates'?"),
        ({"run": {"seed": 4}}, "x.yaml: unknown key 'run': valid: algorithm, demos, env, flow_options, horizon,"),
        ({"seed": "x"}, "x.yaml: 'seed' must be a whole number, got 'x'"),
        ({"seed": -1}, "x.yaml: seed must not be negative"),
    ],
)
def test_errors_name_the_key_as_it_is_written(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Train[Flow], {"algorithm": "softflow", "horizon": 4, **values}, source="x.yaml")
    assert str(caught.value).startswith(message)


def test_a_required_key_of_a_part_is_missed() -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml: missing key 'horizon': it has no default"):
        from_dict(Train[Flow], {"algorithm": "softflow"}, source="x.yaml")
    built = from_layers(Train[Flow], [Layer({"algorithm": "softflow"}, "x.yaml")], missing=-1)
    assert built.method.horizon == -1


def test_two_parts_with_the_same_key_are_refused() -> None:
    with pytest.raises(UserError, match=r"^Clashing and another part of Train both have 'seed': rename one$"):
        keys_of(Train[Clashing])


def test_the_default_of_a_part_gives_the_defaults_of_its_keys() -> None:
    @dataclasses.dataclass(frozen=True)
    class Whole:
        run: Flat[Run] = dataclasses.field(default_factory=lambda: Run(env="cube_rotate", seed=7))

    assert keys_of(Whole)["seed"].default == 7
    assert from_dict(Whole, {"seed": 8}) == Whole(Run("cube_rotate", 8))


@dataclasses.dataclass
class Described:
    width: int = 1
    """Width
    of the network."""
    height: int = 2
    depth: int = 3
    print()  # not a text


@dataclasses.dataclass
class DescribedAgain(Described):
    width: int = 4
    """Another width."""


def test_texts_below_fields_are_one_line_and_inherited() -> None:
    assert field_texts(Described) == {"width": "Width of the network."}
    assert field_texts(DescribedAgain) == {"width": "Another width."}
    made = dataclasses.make_dataclass("Made", [("rate", float, 0.5)], bases=(Described,))
    assert field_texts(made) == {"width": "Width of the network."}

"""Strict configuration: what is converted, what is refused, and what the errors name."""

from __future__ import annotations

import copy
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.settings import presets
from softflow.settings.fields import to_dict
from softflow.settings.presets import load_preset
from softflow.settings.typed import (
    ConfigError,
    Layer,
    dump_yaml,
    from_dict,
    from_layers,
    load_file,
    merge,
)

Free = dict[str, float | int | str | bool]


@dataclasses.dataclass(frozen=True)
class Stage:
    updates: int = 100
    learning_rate: float = 1e-3
    augment: bool = False

    def __post_init__(self) -> None:
        if self.updates < 0:
            raise ValueError("updates must not be negative")


@dataclasses.dataclass(frozen=True)
class Config:
    horizon: int
    imitation: Stage = dataclasses.field(default_factory=lambda: Stage(updates=7, augment=True))
    flow: Literal["coupling", "gaussian"] = "coupling"
    base: Literal["gaussian", "mixture"] | None = None
    name: str | None = None
    demos: Path | None = None
    widths: tuple[int, ...] = (64,)
    bounds: tuple[float, float] = (-1.0, 1.0)
    temperature: float | None = None
    options: Free = dataclasses.field(default_factory=lambda: {"members": 2})


def test_layers_lie_over_defaults_key_by_key() -> None:
    layers = [
        Layer({"horizon": 8, "imitation": {"updates": 1}, "options": {"width": 192}}, "a"),
        Layer({"imitation": {"learning_rate": 0.5}, "options": {"width": 64}}, "b"),
    ]
    built = from_layers(Config, layers)
    assert built.imitation == Stage(updates=1, learning_rate=0.5, augment=True)
    assert built.options == {"members": 2, "width": 64}
    assert built.flow == "coupling"


def test_merge_leaves_its_arguments_alone() -> None:
    first = {"imitation": {"updates": 1, "augment": True}, "options": {"a": 1, "b": {"c": 2}}}
    second = {"imitation": {"updates": 3}, "options": {"b": {"d": 4}}, "horizon": 4}
    before = copy.deepcopy((first, second))
    assert merge(Config, first, second) == {
        "imitation": {"updates": 3, "augment": True},
        "options": {"a": 1, "b": {"d": 4}},
        "horizon": 4,
    }
    assert (first, second) == before
    assert merge(Config, {"options": {"b": 1}}, {"options": None}, {"options": {"c": 2}}) == {"options": {"c": 2}}


@pytest.mark.parametrize(
    ("values", "path", "expected"),
    [
        ({"horizon": 1e5}, "horizon", 100_000),
        ({"horizon": "1e5"}, "horizon", 100_000),
        ({"horizon": "1234567890123456789"}, "horizon", 1234567890123456789),
        ({"imitation": {"learning_rate": 1}}, "imitation.learning_rate", 1.0),
        ({"imitation": {"learning_rate": "1e-4"}}, "imitation.learning_rate", 0.0001),
        ({"temperature": 1}, "temperature", 1.0),
        ({"temperature": None}, "temperature", None),
        ({"base": "mixture"}, "base", "mixture"),
        ({"demos": "a/b.npz"}, "demos", Path("a/b.npz")),
        ({"widths": [1, 2.0, 3]}, "widths", (1, 2, 3)),
        ({"bounds": [0, 1]}, "bounds", (0.0, 1.0)),
        ({"options": {"a": 1, "b": 1.5, "c": "x"}}, "options", {"members": 2, "a": 1, "b": 1.5, "c": "x"}),
        ({"options": {"members": True}}, "options", {"members": True}),
    ],
)
def test_conversions(values: dict[str, Any], path: str, expected: Any) -> None:
    value: Any = from_dict(Config, {"horizon": 1, **values})
    for name in path.split("."):
        value = getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)
    if isinstance(value, tuple):
        assert [type(item) for item in value] == [type(item) for item in expected]


ENDLESS: list[object] = []
ENDLESS.append(ENDLESS)  # as YAML's aliases make it


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imitaton": {"updates": 1}}, "x.yaml: unknown key 'imitaton': did you mean 'imitation"),
        ({"imitation": {"udpates": 1}}, "x.yaml: unknown key 'imitation.udpates': did you mean 'imitation.updates'?"),
        ({"updates": 1}, "x.yaml: unknown key 'updates': did you mean 'imitation.updates'?"),
        ({"imitation": {"zzz": 1}}, "valid: imitation.augment, imitation.learning_rate, imitation.updates"),
        ({"imitation": 3}, "x.yaml: 'imitation' needs keys below it, got 3"),
        ({"imitation": None}, "x.yaml: 'imitation' needs keys below it, got null"),
        ({"horizon": 1.5}, "x.yaml: 'horizon' must be a whole number, got 1.5 (float)"),
        ({"horizon": True}, "'horizon' must be a whole number, got True (bool)"),
        ({"horizon": "eight"}, "'horizon' must be a whole number, got 'eight' (str)"),
        ({"horizon": float("inf")}, "'horizon' must be a whole number"),
        ({"horizon": None}, "'horizon' must be a whole number, got null"),
        ({"imitation": {"augment": 1}}, "'imitation.augment' must be true or false, got 1 (int)"),
        ({"imitation": {"augment": "true"}}, "'imitation.augment' must be true or false, got 'true' (str)"),
        ({"imitation": {"learning_rate": float("nan")}}, "'imitation.learning_rate' must be a number, got nan"),
        ({"imitation": {"updates": -1}}, "x.yaml: in 'imitation': updates must not be negative"),
        ({"flow": "coupl"}, "x.yaml: 'flow' is 'coupl': did you mean 'coupling'?"),
        ({"base": "mixtur"}, "x.yaml: 'base' is 'mixtur': did you mean 'mixture'?"),
        ({"flow": "zzz"}, "x.yaml: 'flow' is 'zzz': valid: coupling, gaussian"),
        ({"name": 3}, "'name' must be a text, got 3 (int)"),
        ({"widths": 3}, "'widths' must be tuple[int, ...], got 3 (int)"),
        ({"widths": [1, "a"]}, "'widths' must be a whole number, got 'a'"),
        ({"bounds": [1, 2, 3]}, "'bounds' must be tuple[float, float]"),
        ({"options": {"a": [1]}}, "'options.a' must be a number or a whole number or a text or true or false, got [1]"),
        ({"options": {"a": float("nan")}}, "'options.a' must be"),
        ({"options": {1: 1}}, "'options' must be a text, got 1 (int)"),
        ({"horizon": 10**400}, "'horizon' must be a whole number, got 1000"),
        ({"horizon": 2**63}, "'horizon' is 9223372036854775808, beyond what 64 bits hold"),
        ({"horizon": 1e19}, "'horizon' is 1e+19, beyond what 64 bits hold"),
        ({"name": "a\0b"}, r"'name' holds a character that no text may: 'a\x00b'"),
        ({"name": "\ud800"}, r"'name' holds a character that no text may: '\ud800'"),
        ({"name": ENDLESS}, "'name' must be a text, got [[[[[[[...]]]]]]] (list)"),
    ],
)
def test_refusals(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Config, {"horizon": 1, **values}, source="x.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Renamed:
    n_action_steps: int = 4
    options: Free = dataclasses.field(default_factory=dict)


def test_keys_of_earlier_versions_are_taken_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    built = from_dict(Renamed, {"execute": 2, "options": {"execute": 3}}, "x.yaml")
    assert built == Renamed(2, {"execute": 3})
    assert capsys.readouterr().err == "x.yaml: execute is called n_action_steps now\n"
    with pytest.raises(ConfigError, match=r"^x\.yaml: execute is the earlier name of n_action_steps, and both"):
        from_dict(Renamed, {"execute": 2, "n_action_steps": 3}, "x.yaml")
    with pytest.raises(ConfigError, match="unknown key 'trace'"):  # what it is called now is no key here
        from_dict(Renamed, {"trace": 2})


def test_errors_name_the_layer() -> None:
    with pytest.raises(ConfigError, match=r"^--imitation\.updates: 'imitation\.updates' must be"):
        flag = Layer({"imitation": {"updates": "x"}}, "--imitation.updates")
        from_layers(Config, [Layer({"horizon": 1}, "a.yaml"), flag])
    with pytest.raises(ConfigError, match=r"^a\.yaml and b\.yaml: missing key 'horizon'"):
        from_layers(Config, [Layer({}, "a.yaml"), Layer({}, "b.yaml")])


int64 = st.integers(-(2**63), 2**63 - 1)
texts = partial(st.text, st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
scalars = st.one_of(st.booleans(), st.integers(-(10**18), 10**18), st.floats(allow_nan=False), texts(max_size=8))
configs = st.builds(
    Config,
    horizon=int64,
    imitation=st.builds(Stage, updates=st.integers(0, 2**63 - 1), learning_rate=st.floats(allow_nan=False)),
    name=st.none() | texts() | st.sampled_from(["1e-4", "1e5", "null", "true", "1_000", ".inf", "- a", "a: b"]),
    base=st.sampled_from([None, "gaussian", "mixture"]),
    demos=st.none() | st.just(Path("a") / "b.npz"),
    widths=st.lists(int64, max_size=3).map(tuple),
    options=st.dictionaries(texts(min_size=1, max_size=5), scalars, max_size=3).map(lambda d: {"members": 2, **d}),
)


@given(configs)
def test_a_dumped_configuration_comes_back(tmp_path_factory: pytest.TempPathFactory, original: Config) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"  # a config.yaml would belong to other tests' runs
    dump_yaml(original, path)
    assert from_dict(Config, load_file(path).values) == original
    assert from_dict(Config, to_dict(original)) == original


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 2\n  c: 3\n", "the key 'c' is given twice"),
        ("a: [1, 2\n", "not valid YAML"),
        ("- a\n- b\n", "expected keys and values"),
        ("just text\n", "expected keys and values"),
        ("!!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("a: !!int ''\n", "not valid YAML: a value that cannot be read"),
        ("a: 2001-99-99\n", "not valid YAML: a value that cannot be read"),
        ("[" * 600, "not valid YAML: a value that cannot be read (maximum recursion"),
    ],
)
def test_broken_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_file(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("lr: 1e-4\nn: 1E+5\ns: '1e-4'\nv: 1.0.0\n")
    assert load_file(path).values == {"lr": 1e-4, "n": 1e5, "s": "1e-4", "v": "1.0.0"}
    path.write_text("# nothing yet\n")
    assert load_file(path) == Layer({}, str(path))
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load_file(str(tmp_path / "none.yaml"))


def test_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "algos").mkdir()
    for name in ("softflow", "softflow_gaussian"):
        (tmp_path / "algos" / f"{name}.yaml").write_text("horizon: 8\n")
    monkeypatch.setattr(presets, "_presets", lambda: tmp_path)
    assert presets.available_presets("algos") == ["softflow", "softflow_gaussian"]
    assert load_preset("algos", "softflow") == Layer({"horizon": 8}, "configs/algos/softflow.yaml")
    with pytest.raises(ConfigError) as caught:
        load_preset("algos", "sofflow")
    hint = "did you mean 'softflow'? valid: softflow, softflow_gaussian"
    assert str(caught.value) == f"unknown algorithm 'sofflow': {hint}"
    with pytest.raises(ConfigError, match=r"unknown environment '\.\./algos/softflow'"):
        load_preset("envs", "../algos/softflow")


@pytest.mark.parametrize("text", ["horizon: 8\n", "algorithm:\n"])
def test_a_preset_of_an_algorithm_names_it(text: str, tmp_path: Path) -> None:
    """Otherwise the settings for the algorithm in other presets would not apply."""
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(
        ConfigError, match=r"mine\.yaml: no algorithm is named: add a line such as `algorithm: softflow`"
    ):
        presets.preset_layers(presets.Selection(algo=str(tmp_path / "mine.yaml")))

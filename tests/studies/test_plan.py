"""The plan of a study: its axes, the names of its runs, and what may be added to a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softflow.errors import UserError
from softflow.studies.plan import Choice, Plan, Planned, Resolve, choices, grid_of, seeds_of


def resolving(**fixed: Any) -> Resolve:
    """What would resolve the settings of a run, of which `fixed` are given to all runs."""

    def resolve(choice: Choice) -> Planned:
        settings: dict[str, Any] = {"seed": choice.seed, "online": {"learning_rate": 3e-4, "steps": 100}, "threads": 2}
        settings |= {"actor_resources": {"CPU": 1.0}, "env_options": {"maze": [[1, 1]]}, **fixed}
        if "online.learning_rate" in choice.grid:
            settings["online"]["learning_rate"] = float(choice.grid["online.learning_rate"])
        return Planned(choice, ["--algo", choice.algo], settings)

    return resolve


@pytest.mark.parametrize(
    ("texts", "seeds"), [(["3"], [3]), (["0..2"], [0, 1, 2]), (["5", "0..1", "9"], [5, 0, 1, 9]), (["4..4"], [4])]
)
def test_seeds_are_numbers_and_ranges(texts: list[str], seeds: list[int]) -> None:
    assert seeds_of(texts) == seeds


@pytest.mark.parametrize(
    ("texts", "error"),
    [
        (["x"], "--seeds: 'x' is no seed such as 3, and no range such as 0..4"),
        (["4..1"], "'4..1' is no seed"),
        (["0.."], "'0..' is no seed"),
        (["-1"], "'-1' is no seed"),
        (["99..100"], r"seed must be in 0 \.\.\. 99, got 100"),
        (["0..999999999999"], r"seed must be in 0 \.\.\. 99, got 999999999999"),
        (["0..2", "1"], "--seeds: 1 is given twice"),
        ([], "--seeds: a value is missing"),
    ],
)
def test_other_seeds_are_refused(texts: list[str], error: str) -> None:
    with pytest.raises(UserError, match=error):
        seeds_of(texts)


def test_values_are_split_at_the_commas_outside_of_brackets() -> None:
    texts = ["online.learning-rate=1e-4,3e-4", "env_options={a: [1, 2], b: 3}, {a: []}", "imitate=return>=0.5,all"]
    assert grid_of(texts) == {
        "online.learning_rate": ["1e-4", "3e-4"],
        "env_options": ["{a: [1, 2], b: 3}", "{a: []}"],
        "imitate": ["return>=0.5", "all"],
    }


@pytest.mark.parametrize(
    ("texts", "error"),
    [
        (["mirror"], "--grid: 'mirror' is no setting with values"),
        (["mirror="], "--grid mirror: a value is missing"),
        (["num_demos=1,,2"], "--grid num_demos: a value is missing"),
        (["num_demos=1,1"], "--grid num_demos: '1' is given twice"),
        (["num_demos=1", "num-demos=2"], "--grid num_demos is given twice"),
        (["seed=1,2"], "--grid seed: the study sets it, use --seeds"),
        (["run-dir=a"], "--grid run_dir: the study sets it, use FOLDER"),
    ],
)
def test_a_grid_without_sense_is_refused(texts: list[str], error: str) -> None:
    with pytest.raises(UserError, match=error):
        grid_of(texts)


def test_each_cell_has_its_first_seed_before_any_has_its_second() -> None:
    wanted = choices(["softflow", "rfs"], ["tape_cut"], [0, 1], {"mirror": ["true", "false"]})
    assert [one.seed for one in wanted] == [0] * 4 + [1] * 4
    assert [(one.algo, one.grid["mirror"]) for one in wanted[:4]] == [
        ("softflow", "true"), ("softflow", "false"), ("rfs", "true"), ("rfs", "false"),
    ]  # fmt: skip


def test_names_tell_settings_apart() -> None:
    def name(algo: str, env: str, **settings: Any) -> str:
        return Planned(Choice(algo, env, 3, dict.fromkeys(settings, "as given")), [], settings).name

    assert name("softflow", "tape_cut") == "tape_cut/softflow_s3"
    assert name("my/preset.yaml", "my:Task-v0") == "my_Task-v0/preset_s3"
    assert name("rfs", "x", num_demos=100, mirror=True, preset=None) == "x/rfs_num_demos=100_mirror=true_preset=null_s3"


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[], Plan]:
    """Reads a folder with a run of two values each."""
    plan = Plan(tmp_path)
    plan.extend(choices(["softflow"], ["tape_cut"], [0], {"online.learning_rate": ["1e-4", "3e-4"]}), resolving())
    plan.save()
    return lambda: Plan(tmp_path)


def wanted(*values: str, algo: str = "softflow", seeds: tuple[int, ...] = (0,)) -> list[Choice]:
    return choices([algo], ["tape_cut"], seeds, {"online.learning_rate": values})


def test_a_plan_is_read_as_it_was_written(saved: Callable[[], Plan]) -> None:
    plan = saved()
    assert plan.grid == ["online.learning_rate"]
    assert list(plan.runs) == [f"tape_cut/softflow_online.learning_rate={rate}_s0" for rate in ("0.0001", "0.0003")]
    assert plan.extend(wanted("1e-4"), resolving()) == [resolving()(wanted("1e-4")[0])]
    assert len(plan.runs) == 2


def test_seeds_values_and_methods_are_added(saved: Callable[[], Plan]) -> None:
    plan = saved()
    added = plan.extend(wanted("3e-4", "0.001", seeds=(0, 1)), resolving())
    assert len(added) == 4 and len(plan.runs) == 5
    plan.extend(wanted("3e-4", algo="rfs"), resolving())
    assert len(plan.runs) == 6
    cells = [run.cell for run in plan.runs.values()]
    assert cells.count(("tape_cut", "softflow", "0.0003")) == 2


def test_a_setting_that_does_not_matter_may_change(saved: Callable[[], Plan]) -> None:
    [run] = saved().extend(wanted("1e-4"), resolving(threads=1, actor_resources={"CPU": 2.0}))
    assert run.settings["threads"] == 1


@pytest.mark.parametrize("choice", [wanted("1e-4"), wanted("5e-4"), wanted("1e-4", algo="rfs")])
@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"online": {"learning_rate": 3e-4, "steps": 200}}, "online.steps 100, not 200"),
        ({"env_options": {"maze": [[0]]}}, r"env_options.maze \[\[1, 1\]\], not \[\[0\]\]"),
        ({"imitate": "all"}, "imitate null, not all"),
    ],
)
def test_a_setting_that_matters_may_not(
    saved: Callable[[], Plan], choice: list[Choice], changed: dict[str, Any], error: str
) -> None:
    plan = saved()
    message = f"holds tape_cut/softflow_online.learning_rate=0.000[13]_s0 with {error}: choose another folder"
    with pytest.raises(UserError, match=message):
        plan.extend(choice, resolving(**changed))
    assert len(plan.runs) == 2


def test_another_grid_is_refused(saved: Callable[[], Plan]) -> None:
    with pytest.raises(UserError, match=r"is a study with online.learning_rate on its grid, not nothing: choose"):
        saved().extend(choices(["softflow"], ["tape_cut"], [0], {}), resolving())


def test_the_same_value_in_two_writings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the runs: 'tape_cut/softflow_online.learning_rate=0.0001_s0' is given twice"):
        Plan(tmp_path).extend(wanted("1e-4", "0.0001"), resolving())


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": [{}]}', '{"runs": [{"choice": {"seed": 1}}]}'])
def test_a_damaged_plan_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match=r"plan.json is no plan of a study .*: restore it"):
        Plan(tmp_path)

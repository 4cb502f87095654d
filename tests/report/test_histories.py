"""Run folders are read as they are, grouped by their settings, and pooled over their seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from softflow.data import save_demonstrations
from softflow.errors import UserError
from softflow.report.data_statistics import statistics_of
from softflow.report.episode_figures import calibration
from softflow.report.groups import differences, group_runs
from softflow.report.history import read_histories
from softflow.report.stage_axis import StageAxis
from softflow.report.success_figure import mean_own_success
from softflow.training.episode_table import EpisodeRow, as_text, read_episodes
from softflow.training.run_folder import RunFolder
from tests.pictures import lamp_episodes
from tests.report.folders import HEADER, write_run

OWN = "online,200,own,7,1,1,terminated,31,1.0,0.71,0.83,-0.61\n"


def test_the_environment_steps_of_evaluations_are_those_of_the_run(tmp_path: Path) -> None:
    [run] = read_histories([write_run(tmp_path / "a")])
    assert [(one.stage, one.number, one.step, one.environment_steps) for one in run.evaluations] == [
        ("imitation", 0, 100, 0), ("online", 0, 200, 200), ("online", 1, 400, 400),
    ]  # fmt: skip
    assert [(one.successes, one.episodes) for one in run.evaluations] == [(10, 20), (12, 20), (16, 20)]
    assert run.lengths == {"imitation": 100, "online": 400} and run.acting == {"online"}


def test_episodes_of_a_stage_that_has_just_begun_come_before_its_scalars(tmp_path: Path) -> None:
    [run] = read_histories([write_run(tmp_path / "a", success=(0.5,), episodes=OWN)])
    assert run.lengths == {"imitation": 100, "online": 200} and run.acting == {"online"}
    assert run.environment_steps("online", 200) == 200


def test_stages_follow_one_another_on_one_axis(tmp_path: Path) -> None:
    runs = read_histories([write_run(tmp_path / "a"), write_run(tmp_path / "b", success=(0.5, 0.6))])
    axis = StageAxis.of(runs)
    assert axis == StageAxis({"imitation": 0, "online": 100}, 500)
    assert axis.describe(runs) == "imitation: 0 to 100 (updates); online: 100 to 500 (environment steps)"


def test_a_stage_that_only_some_runs_have_is_where_they_have_it(tmp_path: Path) -> None:
    short, long = (tmp_path / name for name in ("short", "long"))
    write_run(short)
    write_run(long)
    lines = (long / "metrics.csv").read_text().splitlines()
    place = next(index for index, line in enumerate(lines) if line.startswith("online"))
    lines.insert(place, "offline,70,train/n_updates,70")
    (long / "metrics.csv").write_text("\n".join(lines) + "\n")
    for paths in ((short, long), (long, short)):
        assert StageAxis.of(read_histories([*map(str, paths)])) == StageAxis(
            {"imitation": 0, "offline": 100, "online": 170}, 570
        )


def test_seeds_of_one_setting_are_a_group(tmp_path: Path) -> None:
    settings = ["seed: 1\nbase: runs/im_s1\n", "seed: 0\nbase: runs/im_s0\ndevice: cuda\n", "seed: 0\nnum_demos: 7\n"]
    paths = [write_run(tmp_path / str(number), text) for number, text in enumerate(settings)]
    pair, single = group_runs(read_histories(paths))
    assert [run.seed for run in pair.runs] == [0, 1]
    assert pair.title == "softflow, 200 demonstrations, base runs/im_s1, 2 seeds"
    assert single.title == "softflow, 7 demonstrations, base None, seed 0"


def test_a_base_with_a_seed_in_its_name_may_be_that_of_all_seeds(tmp_path: Path) -> None:
    settings = [f"seed: {seed}\nbase: runs/im_s0\n" for seed in range(3)] + ["seed: 1\nbase: runs/im_s1\n"]
    runs = read_histories([write_run(tmp_path / str(number), text) for number, text in enumerate(settings)])
    same, other = group_runs(runs)
    assert [run.seed for run in same.runs] == [0, 1, 2] and other.runs == runs[3:]
    assert differences(runs[:3]) == {}


def test_repeated_runs_of_a_seed_are_no_further_seeds(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name / str(seed), f"seed: {seed}\n") for name in ("old", "new") for seed in (0, 1)]
    old, new = group_runs(read_histories(paths))
    assert [run.name for group in (old, new) for run in group.runs] == paths
    assert (old.title, new.title) == ("softflow, 2 seeds", f"softflow ({paths[2]}), 2 seeds")


def test_a_setting_that_an_earlier_version_did_not_write_is_no_difference(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "a"), write_run(tmp_path / "b", "seed: 1\nimitate: reward_to_come\n")]
    runs = read_histories(paths)
    assert differences(runs) == {} and len(group_runs(runs)) == 1


def test_a_setting_that_follows_from_the_demonstrations_is_no_difference(tmp_path: Path) -> None:
    """Seeds that record their own demonstrations imitate them for different numbers of updates."""
    lengths = {"a": 3571, "b": 4224, "given": 3571}
    paths = [
        write_run(tmp_path / name, f"seed: {seed}\nimitation: {{updates: {length}}}\n")
        for seed, (name, length) in enumerate(lengths.items())
    ]
    for name, names in (("a", '["imitation.updates"]'), ("b", '["imitation.updates"]'), ("given", "[]")):
        (tmp_path / name / "from_data.json").write_text(names)
    both, given = group_runs(read_histories(paths))
    assert [run.seed for run in both.runs] == [0, 1]
    assert both.label == "softflow, imitation.updates from the demonstrations"
    assert given.label == "softflow, imitation.updates 3571"
    (tmp_path / "a" / "from_data.json").write_text("3")
    with pytest.raises(UserError, match=r"from_data\.json: not a list of names"):
        read_histories(paths)


def test_evaluations_are_pooled_by_their_number(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "a"), write_run(tmp_path / "b", "seed: 1\n", success=(0.7, 1.0))]
    [group] = group_runs(read_histories(paths))
    pooled = group.evaluations()
    assert [(one.environment_steps, list(one.counts.successes)) for one in pooled] == [
        (0, [10, 14]), (200, [12, 20]), (400, [16]),
    ]  # fmt: skip
    np.testing.assert_array_equal(mean_own_success(group.runs), [[200, 0.8]])


def test_a_run_is_given_once(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    with pytest.raises(UserError, match="are the same run: give it once"):
        read_histories([path, f"{path}/"])


def test_the_table_of_episodes_comes_back(tmp_path: Path) -> None:
    write_run(tmp_path / "a", episodes=f"{OWN}online,200,held_out,9,0,0,truncated,50,0.0,,,\n")
    rows = read_episodes(RunFolder.open(tmp_path / "a"))
    assert rows is not None and rows[0] == EpisodeRow(
        "online", 200, "own", 7, 1, True, "terminated", 31, 1.0, 0.71, 0.83, -0.61
    )
    assert rows[1].value is None and not rows[1].success
    assert (
        "".join(",".join(as_text(row)) + "\n" for row in rows)
        == (tmp_path / "a/episodes.csv").read_text()[len(HEADER) :]
    )


def test_a_last_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "a", episodes=f"{OWN}{OWN[:-2]}")
    rows = read_episodes(RunFolder.open(tmp_path / "a"))
    assert rows is not None and len(rows) == 1


@pytest.mark.parametrize("damage", ["online,200\n", OWN.replace("own", "ours"), OWN.replace("31", "x")])
def test_a_damaged_table_names_its_line(tmp_path: Path, damage: str) -> None:
    write_run(tmp_path / "a", episodes=OWN + damage + OWN)
    with pytest.raises(UserError, match=r"episodes\.csv, line 3 is damaged"):
        read_episodes(RunFolder.open(tmp_path / "a"))


def test_own_actions_are_read_without_the_pictures_beside_them(tmp_path: Path) -> None:
    path = Path(write_run(tmp_path / "a"))
    episodes = lamp_episodes(2)
    save_demonstrations(path / "demonstrations.npz", episodes)
    checkpoint = path / "checkpoints/7"
    checkpoint.mkdir(parents=True)
    (checkpoint.parent / "last").write_text("7")
    np.savez(checkpoint / "replay.npz", action=[[0.5], [9.0], [-1.0]], remaining=[1, 0, 1])
    actions, observations, notes = statistics_of(read_histories([str(path)])[0])
    assert observations is None and notes == [
        f"The observations of {path} contain images, of which there are no statistics."
    ]
    assert actions.own is not None and actions.own[2] == -0.25
    assert actions.at_bounds is not None and actions.at_bounds[1] == 0.5


def test_calibration_compares_means_of_bins() -> None:
    row = EpisodeRow("online", 1, "own", 0, 0, True, "terminated", 1, 1.0, 0.0, 0.0, None)
    values = [index / 10 for index in range(10)]
    bins = calibration([row._replace(value=value, achieved=2 * value) for value in reversed(values)])
    np.testing.assert_allclose(bins[:, :2], [[0.2, 0.4], [0.7, 1.4]])
    np.testing.assert_allclose(bins[:, 2], np.std([0, 0.2, 0.4, 0.6, 0.8], ddof=1) / np.sqrt(5))
    assert calibration([row] * 4).shape == (0, 3)

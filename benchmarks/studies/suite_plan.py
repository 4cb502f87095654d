"""What the suite compares: its tasks with their budgets, and its methods with the flags that set them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

EVALUATIONS = 5
"""Number of evaluations while a method acts."""


@dataclass(frozen=True)
class Method:
    """A preset and what distinguishes the method from it."""

    algo: str
    flags: Sequence[str] = ()
    acts: Sequence[tuple[str, float]] = (("online.steps", 1.0),)
    """Settings of the stages that act, and the share of the task's environment steps that each gets."""
    effort: float = 1.0
    """Expected CPU time relative to `softflow`, which only orders the runs."""


STEERING = (("base-rollouts.steps", 0.1), ("online.steps", 0.9))

METHODS = {
    "imitation": Method("imitation", acts=(), effort=0.3),
    "softflow": Method("softflow"),
    "filtered_imitation": Method("filtered_imitation", acts=(("collection.steps", 0.5),), effort=0.8),  # two rounds
    "latent_steering": Method("latent_steering", acts=STEERING),
    "q_chunking": Method("q_chunking", effort=1.5),
    "softflow_without_kl": Method("softflow", ("--offline.kl-weight", "0", "--online.kl-weight", "0")),
    "softflow_with_q": Method("softflow", ("--offline.q-weight", "1", "--online.q-weight", "1")),
    "softflow_without_q": Method("softflow", ("--offline.q-weight", "0", "--online.q-weight", "0")),
    "softflow_per_step": Method("softflow_per_step"),
    "softflow_gaussian": Method("softflow_gaussian", effort=0.7),
    "rfs": Method("rfs", acts=STEERING),
    "flow_q_learning": Method("flow_q_learning", effort=1.5),
    "softflow_paper": Method("softflow_paper"),
}
ON_ALL_TASKS = ("imitation", "softflow", "filtered_imitation", "latent_steering", "q_chunking")
ALWAYS = ("imitation", "softflow")
"""Methods that get all seeds, because the others are compared with them."""


@dataclass(frozen=True)
class Task:
    """An environment with its budgets, which are all that may differ between tasks."""

    env: str
    num_demos: int
    steps: int
    """Environment steps in all stages that act."""
    minutes: float
    """Expected CPU minutes of a run of `softflow`, which only order the runs."""
    updates: int | None = None
    """Updates of imitation. None takes the default, which follows from the demonstrations."""
    play_data: bool = False
    """Whether the demonstrations are play data from `benchmarks.tasks.ogbench_play`."""
    methods: Sequence[str] = field(default=ON_ALL_TASKS)

    def demos(self, folder: Path) -> Path | None:
        """Return the file of play data in `folder`, None if the environment's demonstrator records demonstrations."""
        return folder / f"{self.env}.npz" if self.play_data else None


EVERY_METHOD = tuple(METHODS)

TASKS = {
    "delayed_corridor": Task("delayed_corridor", 100, 4_000, 1, updates=1_500),
    "drifting_goal": Task("drifting_goal", 100, 4_000, 1, updates=1_500),
    "wrong_mode": Task("wrong_mode", 100, 4_000, 1, updates=1_500),
    "peg_insertion_20": Task("peg_insertion", 20, 30_000, 4),
    "peg_insertion_40": Task("peg_insertion", 40, 30_000, 4, methods=EVERY_METHOD),
    "point_maze_large": Task("point_maze_large", 50, 100_000, 20),
    "ogbench_cube_20": Task("ogbench_cube", 20, 30_000, 8, methods=EVERY_METHOD),
    "ogbench_cube_50": Task("ogbench_cube", 50, 30_000, 8),
    "ogbench_cube_play": Task("ogbench_cube", 10_000, 100_000, 25, play_data=True),
    "ogbench_cube_double_50": Task("ogbench_cube_double", 50, 100_000, 60),
    "ogbench_cube_triple_100": Task("ogbench_cube_triple", 100, 200_000, 150),
    "ogbench_cube_double_play": Task("ogbench_cube_double", 10_000, 100_000, 30, play_data=True),
    "ogbench_puzzle": Task("ogbench_puzzle", 10_000, 100_000, 30, play_data=True),
    "ogbench_scene": Task("ogbench_scene", 10_000, 100_000, 30, play_data=True),
    "cube_rotate": Task("cube_rotate", 200, 60_000, 40),
    "tape_cut_100": Task("tape_cut", 100, 150_000, 80, methods=EVERY_METHOD),
    "tape_cut_200": Task("tape_cut", 200, 150_000, 80),
}


def plan(task: str, method: str, seed: int, data: Path) -> list[str]:
    """Return the flags of `softflow-train` for one run; `data` is the folder of play data."""
    budget, chosen = TASKS[task], METHODS[method]
    flags = ["--algo", chosen.algo, "--env", budget.env, "--seed", str(seed), "--threads", "1"]
    flags += ["--num-demos", str(budget.num_demos)]
    if budget.updates is not None:
        flags += ["--imitation.updates", str(budget.updates)]
    if demos := budget.demos(data):
        flags += ["--demos", str(demos)]
    for name, share in chosen.acts:
        flags += [f"--{name}", str(round(share * budget.steps))]
    if chosen.acts:
        flags += ["--eval-every", str(budget.steps // EVALUATIONS)]
    return [*flags, *chosen.flags]

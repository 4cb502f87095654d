"""Compare methods on one task, with the same demonstrations, environment steps and seeds: a table and a figure.

    python examples/compare_methods.py                       # a few minutes: too short to rank the methods
    python examples/compare_methods.py --full --algos softflow rfs sac_prior_data --seeds 0 1 2 --num-demos 100 \
        --steps 25000 --jobs 2 -- --threads 1

Arguments after `--` are passed to every run. The demonstrations depend only on the seed, not on the method. The script
runs two commands of the project: `benchmarks.studies.study`, which resumes where it was interrupted, and
`benchmarks.figures.plot_learning_curves`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def main() -> None:
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--algos", nargs="+", default=["softflow", "rfs", "filtered_imitation"], help="algorithm presets to compare"
    )
    parser.add_argument("--seeds", nargs="+", default=["0"], help="one run per method and seed")
    parser.add_argument("--num-demos", default="20", help="number of demonstrations")
    parser.add_argument("--steps", type=int, default=4_000, help="environment steps at which methods are compared")
    parser.add_argument("--full", action="store_true", help="use the full presets instead of the preset `quick`")
    parser.add_argument("--jobs", default="1", help="number of runs in parallel")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder for runs and results")
    arguments = parser.parse_args(sys.argv[1:split])

    every_run = ["--eval-every", str(arguments.steps // 2), *sys.argv[split + 1 :]]
    if not arguments.full:
        every_run += ["--preset", "quick"]
    study = ["benchmarks.studies.study", arguments.out, "--algos", *arguments.algos]
    study += ["--seeds", *arguments.seeds, "--num-demos", arguments.num_demos, "--jobs", arguments.jobs]
    run(*study, "--at-steps", str(arguments.steps), "--", *every_run)

    if importlib.util.find_spec("matplotlib") is None:
        sys.exit("pip install softflow[plot] to draw the learning curves")
    runs = sorted(path.parent for path in arguments.out.glob("*/metrics.csv"))
    run("benchmarks.figures.plot_learning_curves", *runs, "--out", arguments.out / "learning_curves.png")


def run(module: str, *arguments: str | Path) -> None:
    """Run a module from the checkout as a command."""
    path = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, env=os.environ | {"PYTHONPATH": path})


if __name__ == "__main__":
    main()

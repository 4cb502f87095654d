"""Steer a frozen policy: imitate tape_cut by flow matching, then learn what to change of its chunks (RFS).

    python examples/steer_frozen_policy.py                        # some minutes: shows how, learns little
    python examples/steer_frozen_policy.py --full
    python examples/steer_frozen_policy.py --full --base runs/mine --online.steps 100000

Other flags are those of `softflow-train --algo rfs`. The base may be the run of any flow policy, trained by any method.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime

from softflow.cli import evaluate, train


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="run folder of the policy to steer; without it one is trained")
    parser.add_argument("--full", action="store_true", help="the presets as they are, without `quick` on top")
    own, flags = parser.parse_known_args()
    quick = [] if own.full else ["--preset", "quick"]
    folder = f"runs/steer/{datetime.now():%Y-%m-%d_%H-%M-%S}"

    base, steered = own.base or f"{folder}/base", f"{folder}/rfs"
    if own.base is None:
        solver = ["--flow-options.solver", "euler", "--flow-options.steps", "5"]  # as the preset has it
        imitate = ["--algo", "imitation", "--flow", "flow_matching", *solver]
        if status := train.main([*imitate, "--run-dir", base, *quick]):
            return status
    steer = ["--algo", "rfs", "--base", base, "--demos", f"{base}/demonstrations.npz", "--run-dir", steered]
    if status := train.main([*steer, *quick, *flags]):
        return status

    for name, run in (("before", base), ("after", steered)):
        print(f"\n{name} steering, {run}", flush=True)
        if status := evaluate.main([run, "--episodes", "100" if own.full else "20"]):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Check whether the tests would pass on another processor.

    python -m benchmarks.studies.test_margins runs/margins
    python -m benchmarks.studies.test_margins runs/precision --seeds 50 --jobs 2 -- tests/flows -k precision

Reruns the tests with the fixture `measured` under other rounding and other seeds, and prints how far the measured
values are from their bounds. Every kind of rounding is run with the original seeds; then `--seeds` further seeds
follow, with the kinds in rotation. A line of the table is a comparison in a test: the distance of the mean from the
bound in standard deviations, the mean, the standard deviations over all runs and over those that differ only in
rounding, the value nearest to the bound, and the bound. The smallest distances come first. Arguments after `--` are
passed to pytest. The folder keeps the values and the output of pytest; a second call runs only what is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

NO_AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
ROUNDING: dict[str, dict[str, str]] = {
    "as it is": {},
    "torch without vectors": {"ATEN_CPU_CAPABILITY": "default"},
    "torch AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "torch AVX-512": {"ATEN_CPU_CAPABILITY": "avx512"},
    "oneDNN SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "oneDNN AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "MKL SSE4.2": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "MKL AVX2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
    "an old processor": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "NPY_DISABLE_CPU_FEATURES": f"AVX2 FMA3 {NO_AVX512}",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F",
    },
    "an AVX2 processor": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "NPY_DISABLE_CPU_FEATURES": NO_AVX512,
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F",
    },
    "two threads": {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    "batches reversed": {},
}
"""Environment variables of each kind of rounding; `batches reversed` is an option of the tests."""


@dataclass(frozen=True)
class Run:
    """All measured tests with one kind of rounding and one offset to their seeds."""

    folder: Path
    rounding: str
    seed: int

    @property
    def values(self) -> Path:
        return self.folder / f"{self.rounding.replace(' ', '_')}_{self.seed}.jsonl"

    @property
    def log(self) -> Path:
        return self.values.with_suffix(".log")

    def measure(self, arguments: Sequence[str]) -> None:
        if self.values.is_file():
            return
        partial = self.values.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
        command += ["--margins", str(partial), "--seed-offset", str(1000 * self.seed)]
        command += ["--reverse-batches"] * (self.rounding == "batches reversed") + [*arguments]
        environment = {"OMP_NUM_THREADS": "1"} | os.environ | ROUNDING[self.rounding]
        with self.log.open("w") as log:
            status = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
        lines = self.log.read_text().splitlines()
        if status not in (0, 1):
            raise SystemExit(f"pytest ended with status {status}: see {self.log}")
        partial.rename(self.values)
        print(f"{self.rounding}, seed {self.seed}: {lines[-1]}", file=sys.stderr, flush=True)

    def failures(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [f"{line} ({self.rounding}, seed {self.seed})" for line in lines if line.startswith("FAILED ")]


@dataclass
class Margin:
    """Values of one comparison of a test in all runs."""

    bound: float
    side: str
    values: list[float] = field(default_factory=list)
    by_rounding: list[float] = field(default_factory=list)
    """Values of the runs with the original seeds."""

    @property
    def distance(self) -> float:
        """Distance of the mean from the bound, in standard deviations; positive inside.

        For positive values with a lower bound it is computed from their logarithms, because a larger upward spread does
        not bring such values closer to zero.
        """
        values, bound = self.values, self.bound
        if self.side == "above" and min(bound, *values) > 0:
            values, bound = [math.log(value) for value in values], math.log(bound)
        inside = (bound - statistics.fmean(values)) * (1 if self.side == "below" else -1)
        spread = deviation(values)
        return inside / spread if spread else math.copysign(math.inf, inside)

    def row(self) -> str:
        nearest, sign = (max(self.values), "<") if self.side == "below" else (min(self.values), ">")
        mean, spread, rounding = statistics.fmean(self.values), deviation(self.values), deviation(self.by_rounding)
        return (
            f"{self.distance:9.1f} {mean:11.4g} {spread:10.3g} {rounding:11.3g} {nearest:11.4g} {sign} {self.bound:.4g}"
        )


HEADING = f"{'distance':>9} {'mean':>11} {'deviation':>10} {'by rounding':>11} {'nearest':>11}   bound"


def deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def collect(runs: Iterable[Run]) -> dict[tuple[str, str, str, int], Margin]:
    """Return the margins by test, line and side of the comparison, and the count of its executions."""
    margins: dict[tuple[str, str, str, int], Margin] = {}
    for run in runs:
        made: Counter[tuple[str, str, str]] = Counter()
        for one in map(json.loads, run.values.read_text(encoding="utf-8").splitlines()):
            comparison = one["test"], one["line"], one["side"]
            margin = margins.setdefault((*comparison, made[comparison]), Margin(one["bound"], one["side"]))
            made[comparison] += 1
            margin.values.append(one["value"])
            if run.seed == 0:
                margin.by_rounding.append(one["value"])
    return margins


def table(margins: dict[tuple[str, str, str, int], Margin]) -> str:
    """Return two lines per comparison in a test function, for the parameters and iteration nearest to the bound."""
    groups: dict[tuple[str, str, str], list[tuple[Margin, str]]] = {}
    for (test, line, side, _), margin in margins.items():
        groups.setdefault((test.partition("[")[0], line, side), []).append((margin, test))
    nearest = [
        (*min(group, key=lambda one: one[0].distance), line, len(group)) for (_, line, _), group in groups.items()
    ]
    nearest.sort(key=lambda one: one[0].distance)
    rows = [f"{margin.row()}\n{'':10}{test}: {line} (1 of {number})\n" for margin, test, line, number in nearest]
    return f"{HEADING}\n{''.join(rows)}"


def main() -> None:
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for values and logs")
    parser.add_argument("--seeds", type=int, default=20, help="number of additional seeds")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs in parallel")
    arguments = parser.parse_args(sys.argv[1:split])
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kinds = list(ROUNDING)
    runs = [Run(arguments.folder, kinds[seed % len(kinds)], seed) for seed in range(1, arguments.seeds + 1)]
    runs += [Run(arguments.folder, kind, 0) for kind in kinds]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda run: run.measure(sys.argv[split + 1 :]), runs))
    margins, failures = collect(runs), [failure for run in runs for failure in run.failures()]
    print(table(margins), end="")
    print(f"{len(runs)} runs, {len(margins)} comparisons, {len(failures)} failures", *failures, sep="\n")


if __name__ == "__main__":
    main()

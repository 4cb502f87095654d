"""Export of a run's policy to a file that runs without this package."""

from __future__ import annotations

from pathlib import Path

from flows.export import FORMATS, ExportError
from softflow.errors import UserError, did_you_mean
from softflow.policies import BestOfN
from softflow.policies.native_export import export_greedy
from softflow.runs.assembly import load_run, require_new_file


def export_run(run: str, out: Path, format: str) -> tuple[BestOfN, float]:
    """Export the greedy choice of a run's policy.

    Args:
        run: Run folder, whose best policy is exported, or a checkpoint's folder in it.
        out: The file to write. It must not exist.
        format: One of `flows.export.FORMATS`.

    Returns:
        The deployed policy of the run, and the largest difference between actions of the file and the policy, in
        units of half the action range.

    Raises:
        UserError: The format is unknown, the run has no policy, its flow cannot be exported, or the file cannot be
            written.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}: {did_you_mean(format, FORMATS)}")
    require_new_file(out, "--out")
    loaded, _ = load_run(run)
    deployed = loaded.policy
    try:
        difference = export_greedy(deployed, out, format)
    except (ExportError, ImportError) as error:
        raise UserError(f"flow {deployed.policy.flow_name!r}: {error}") from error
    loaded.say_choice()
    return deployed, difference

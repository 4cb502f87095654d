"""Run folders written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

HEADER = "stage,step,source,seed,arm,success,ending,length,return,value,achieved,nll\n"


def write_run(
    path: Path, settings: str = "", success: Sequence[float] = (0.5, 0.6, 0.8), episodes: str | None = None
) -> str:
    """Write the folder of a run with an imitation of 100 updates and 400 own steps, evaluated after 0, 200 and 400."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(f"algo: softflow\nenv: wrong_mode\neval_episodes: 20\n{settings}")
    rows = ["stage,step,name,value", "imitation,50,flow/nll,1.5", "imitation,100,flow/nll,0.5"]
    rows += ["imitation,100,train/n_updates,100", f"imitation,100,eval/success_rate,{success[0]}"]
    for step, rate in zip((200, 400), success[1:], strict=False):
        rows += [f"online,{step},rollout/success_rate,{rate}", f"online,{step},critic/q_mean,0.5"]
        rows += [f"online,{step},train/n_updates,{100 + step // 4}", f"online,{step},eval/success_rate,{rate}"]
    (path / "metrics.csv").write_text("\n".join(rows) + "\n")
    if episodes is not None:
        (path / "episodes.csv").write_text(HEADER + episodes)
    return str(path)

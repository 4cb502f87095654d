"""Malformed input for every command, from a seed: flags, configurations, and files that have been damaged."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from softflow.cli.data import COMMANDS
from softflow.cli.demonstrate import DemoConfig
from softflow.cli.evaluate import EvalConfig
from softflow.cli.export import ExportConfig
from softflow.cli.guard import GuardConfig
from softflow.cli.robot import RunRobotConfig
from softflow.runs.config import config_class
from softflow.settings.fields import dotted_fields
from softflow.settings.presets import Selection
from tests.damage import FOREIGN, Attack, flip, sign

# Nothing here is a large number that would be honest: a million layers are no error, and take their time.
TEXTS = [
    "", " ", "-", "--", "-1", "0", "0.5", "nan", "inf", "-inf", "1e400", "true", "null", "[1, 2]", "{a: 1}", "{a: ",
    "run", "nowhere", "c.npz", "small.yaml", "..", "/", "/dev/null", "run/config.yaml/x", "a" * 300, "1" * 5_000, "é💥",
    "\udcff", "%s{}", "a\nb", "\x1b[31m", "&a [*a]", "*a", "2001-99-99", "!!int ''", "!!python/object:os.system {}",
    "'", "0x1F", "1:30", "yes", "~", "__class__", "name:Class", "..:Thing-v0", "Pendulum-v1", "CartPole-v1", "tape_cut",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, -1, 0, 0.5, float("nan"), float("inf"), -float("inf"), 10**400, "", "a", "a\0b", "\ud800", [], [1, "a"],
    {}, {"a": 1}, {1: 2}, [[]], "../../x", "nowhere", -(2**63),
]  # fmt: skip
DOCUMENTS = [
    "&a {flow_options: *a}", "&a [*a]", "[" * 3_000, "{[1]: 2}", "a: !!float ''", "? ", "\x00", "\ufeff:", "- 1",
    "3", "imitation: &a {updates: *a}", "<<: 3", "algorithm: [1]", "algorithm: {a: 1}", "env: 3\nflow: [x]",
    "flow_options: 7",
    "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nseed: [*e,*e,*e,*e,*e,*e,*e,*e,*e]",
]  # fmt: skip
PENDULUM = "softflow-train --env Pendulum-v1 --demos pendulum.npz --run-dir new --num-envs 2 --threads 1"
TRAIN = f"{PENDULUM} --config small.yaml"
CORRECT = f"{PENDULUM} --algo correction --base run --corrections c.npz"
STEER = f"{PENDULUM} --algo rfs --base run"
GUARDED = "softflow-eval run --guard guard --episodes 2"
LINES = {
    "softflow-train": [
        TRAIN,
        *(f"{PENDULUM} --algo {algo}" for algo in ("imitation", "sac_prior_data", "q_chunking", "filtered_imitation")),
        CORRECT,
        STEER,
        "softflow-train --env two_routes --num-demos 2 --config small.yaml --run-dir new",
        "softflow-train --resume run",
    ],
    "softflow-eval": ["softflow-eval run --episodes 2 --csv episodes.csv", "softflow-eval run/checkpoints/last --json"],
    "softflow-demo": [
        "softflow-demo --env two_routes --episodes 1 --out d.npz",
        "softflow-demo --episodes 1 --out d.npz --env-options.max_steps 5",
        "softflow-demo --env wrong_mode --episodes 1 --num-envs 1 --demonstrator-options.noise 0",
        "softflow-demo --corrections run --episodes 1 --out d.npz",
    ],
    "softflow-export": ["softflow-export run --format torchscript --out policy.pt"],
    "softflow-guard": ["softflow-guard run --demos held_out.npz --out new", GUARDED],
    "softflow-data": [
        "softflow-data info pendulum.npz --json",
        "softflow-data check pendulum.npz --env Pendulum-v1 --episodes 2",
        "softflow-data convert pendulum.npz d --to lerobot --rate 20",
        "softflow-data filter pendulum.npz d.npz --min-length 3",
        "softflow-data split pendulum.npz d.npz e.npz --env Pendulum-v1",
    ],
    "softflow-robot": [
        "softflow-robot run run --robot Pendulum-v1 --episodes 1 --clock simulated --out d.rec",
        "softflow-robot run run --robot tests.robot.scripted:ScriptedRobot --seconds 1 --guard guard",
    ],
}
CLASSES = {
    "softflow-eval": EvalConfig, "softflow-demo": DemoConfig, "softflow-export": ExportConfig,
    "softflow-guard": GuardConfig, "softflow-robot": RunRobotConfig,
}  # fmt: skip
OPTIONS = [
    "max_steps", "reward", "noise", "mode", "sloppiness", "render_mode", "name", "env", "rng", "seed", "make",
    "latency", "episodes", "id", "max_episode_steps", "disable_env_checker", "g", "randomize", "sensor_noise",
    "sparse_success", "camera", "height", "self", "environment", "layers", "components", "widht", "bounds", "", "a.b",
]  # fmt: skip
READERS = [
    "softflow-eval run --episodes 2", "softflow-export run --format torchscript --out policy.pt",
    "softflow-train --resume run", STEER, "softflow-demo --corrections run --out d.npz",
    "softflow-guard run --demos held_out.npz --out new",
]  # fmt: skip

DATASETS = ["lerobot", "minari", "robomimic.hdf5", "d4rl.hdf5", "ogbench.npz", "hour.rec"]
DATASET_READERS = ["softflow-data info {}", "softflow-data convert {} d.npz", f"{TRAIN} --demos {{}}"]


@dataclass(frozen=True)
class Attempt:
    """A command's line, to be run where `inflict` has been done to the files."""

    argv: list[str]
    inflict: Callable[[Path], object] = lambda folder: None
    what: str = ""

    def __str__(self) -> str:
        return f"{shlex.join(self.argv)[:300]!r} {self.what}"


def attempt(seed: int) -> Attempt:
    """The malformed input of this seed; now and then it is none, for not every change does harm."""
    rng = random.Random(seed)
    kinds = {_flags: 7, _configuration: 4, _archive: 4, _dataset: 4, _policy: 3, _training: 2, _run: 1}
    return rng.choices(list(kinds), list(kinds.values()))[0](rng)


def _flags(rng: random.Random) -> Attempt:
    argv = rng.choice(rng.choice(list(LINES.values()))).split()
    algo = argv[argv.index("--algo") + 1] if "--algo" in argv else "softflow"
    if argv[0] == "softflow-data":
        cls = COMMANDS[argv[1]].settings
    else:
        cls = CLASSES.get(argv[0]) or config_class(Selection(algo=algo))
    keys = [key.replace("_", "-") for key, _ in dotted_fields(cls)]
    for _ in range(rng.choice([1, 1, 2])):
        change, place = rng.randrange(6), rng.randrange(1, len(argv))
        if change == 0:
            argv[place] = rng.choice(TEXTS)
        elif change == 1:
            argv += [f"--{rng.choice(keys)}", rng.choice(TEXTS)]
        elif change == 2:
            argv += [f"--{rng.choice(keys)}={rng.choice(TEXTS)}"]
        elif change == 3 and (kinds := [key for key in keys if key.endswith("-options")]):
            kind = rng.choice(kinds)
            argv += [f"--{kind}.{rng.choice(OPTIONS)}", rng.choice([*TEXTS, "2", "sparse"])]
        elif change == 4 and len(argv) > 2:
            del argv[place]
        else:
            argv[place] = _edited(argv[place], rng)
    return Attempt(argv)


def _configuration(rng: random.Random) -> Attempt:
    source = rng.choice(["small.yaml", "run/config.yaml"])
    line = TRAIN.replace("small.yaml", "bad.yaml")
    lines = {"bad.yaml": [line, f"{PENDULUM} --algo bad.yaml"], "run/config.yaml": [*READERS[:3], READERS[4]]}
    target = "bad.yaml" if source == "small.yaml" else rng.choice(list(lines))

    def inflict(folder: Path) -> None:
        text = (folder / source).read_text()
        kind = rng.randrange(4)
        if kind == 0:
            text = _edited(text, rng)
        elif kind == 1:
            text = rng.choice(DOCUMENTS) if rng.random() < 0.5 else f"{text}\n{rng.choice(DOCUMENTS)}"
        else:
            text = yaml.dump(_nested(yaml.safe_load(text), rng), allow_unicode=False)
        content = rng.choice(list(FOREIGN.values())) if rng.random() < 0.1 else text.encode(errors="surrogatepass")
        (folder / target).write_bytes(content)

    return Attempt(rng.choice(lines[target]).split(), inflict, target)


def _archive(rng: random.Random) -> Attempt:
    name, line = rng.choice(
        [
            ("pendulum.npz", TRAIN),
            ("c.npz", CORRECT),
            ("held_out.npz", "softflow-guard run --demos held_out.npz --out new"),
            ("run/demonstrations.npz", "softflow-train --resume run"),
        ]
    )
    return Attempt(line.split(), lambda folder: _damage_archive(folder / name, rng), name)


def _dataset(rng: random.Random) -> Attempt:
    """A dataset of another format, one file of which is damaged."""
    name, line = rng.choice(DATASETS), rng.choice(DATASET_READERS)

    def inflict(folder: Path) -> None:
        path = folder / name
        _damage(rng.choice(sorted(file for file in path.rglob("*") if file.is_file())) if path.is_dir() else path, rng)

    return Attempt(line.format(name).split(), inflict, name)


def _damage_archive(path: Path, rng: random.Random) -> None:
    if rng.random() < 0.4:
        return _damage(path, rng)
    with np.load(path) as file:
        arrays: dict[str, Any] = dict(file)
    key = rng.choice(list(arrays))
    change = rng.randrange(8)
    if change == 0:
        arrays.pop(key)
    elif change == 1:
        arrays[f"{key}_"] = arrays[key]
    elif change == 2:
        arrays[key] = arrays[key].astype(rng.choice(["U4", "c16", "f2", "i1", "?", "S3", "M8[s]"]), casting="unsafe")
    elif change == 3:
        arrays[key] = rng.choice(
            [arrays[key][..., None], arrays[key].ravel()[:-1], arrays[key].ravel()[:0], arrays[key].T]
        )
    elif change == 4:
        arrays[key] = np.array([Attack()], dtype=object)
    elif change == 5:
        arrays["schema_version"] = np.array(rng.choice([0, 2, -1, 1.0, "1", [1], 2**62]))
    else:
        flat = np.array(arrays[key], ndmin=1)
        if flat.dtype.kind == "f":
            flat.flat[rng.randrange(flat.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e38, 5.0, -2.0])
        elif flat.dtype.kind == "b":
            flat.flat[rng.randrange(flat.size)] ^= True
        else:
            flat.flat[rng.randrange(flat.size)] = rng.choice([-5, 99, 2**40])
        arrays[key] = flat.reshape(arrays[key].shape)
    np.savez(path, **arrays)


def _damage(path: Path, rng: random.Random) -> None:
    """Damage any file: flipped, cut, grown, replaced by something else, gone, a folder."""
    content = path.read_bytes()
    change = rng.randrange(8)
    if change < 3:
        path.write_bytes(flip(content, rng))
    elif change == 3:
        path.write_bytes(content[: rng.randrange(len(content))])
    elif change == 4:
        start = rng.randrange(len(content))
        path.write_bytes(content[:start] + rng.randbytes(rng.randrange(1, 50)) + content[start:])
    elif change == 5:
        path.unlink()
        if rng.random() < 0.5:
            path.mkdir()
    else:
        path.write_bytes(rng.choice(list(FOREIGN.values())))


def _checkpoint(folder: Path, pointer: str) -> Path:
    checkpoints = folder / "run" / "checkpoints"
    return checkpoints / (checkpoints / pointer).read_text().strip()


def _policy(rng: random.Random) -> Attempt:
    what, line = rng.choice([*(("policy", line) for line in READERS), ("guard", GUARDED)])

    def inflict(folder: Path) -> None:
        read = "last" if "--resume" in line else "best"
        checkpoint = _checkpoint(folder, read) if what == "policy" else folder / "guard"
        if rng.random() < 0.5:
            return _damage(checkpoint / rng.choice([f"{what}.json", f"{what}.safetensors"]), rng)
        description = _nested(json.loads((checkpoint / f"{what}.json").read_text()), rng)
        (checkpoint / f"{what}.json").write_text(json.dumps(description))
        if isinstance(description, dict) and rng.random() < 0.7:
            sign(checkpoint, what)

    return Attempt(line.split(), inflict, what)


def _training(rng: random.Random) -> Attempt:
    def inflict(folder: Path) -> None:
        checkpoint = _checkpoint(folder, "last")
        file = checkpoint / rng.choice(["training.pt", "replay.npz"])
        if file.suffix == ".npz":
            return _damage_archive(file, rng)
        if rng.random() < 0.4:
            return _damage(file, rng)
        saved = torch.load(file, weights_only=True)
        torch.save(_nested(saved, rng) if rng.random() < 0.9 else {**saved, "more": Attack()}, file)

    return Attempt("softflow-train --resume run".split(), inflict, "training")


def _run(rng: random.Random) -> Attempt:
    def inflict(folder: Path) -> None:
        file = folder / "run" / rng.choice(["config.yaml", "checkpoints/last", "checkpoints/best"])
        if file.parent.name == "checkpoints" and rng.random() < 0.5:
            file.write_text(rng.choice(["../..", "", "a" * 300, "a\0b", "999", "-1", "²", "/"]))
        else:
            _damage(file, rng)

    return Attempt(rng.choice(READERS).split(), inflict, "run folder")


def _edited(text: str, rng: random.Random) -> str:
    """One character dropped, doubled, exchanged or added."""
    place = rng.randrange(len(text) + 1)
    instead = rng.choice(["", text[place : place + 1] * 2, *":{}[]-=.,\t\n'\"&*!%@`|>#\0é9"])
    return text[:place] + instead + text[place + 1 :]


def _nested(tree: Any, rng: random.Random) -> Any:
    """A nested mapping or list, with one value somewhere in it replaced, dropped, or under another key."""
    if not isinstance(tree, dict | list | tuple) or not tree or rng.random() < 0.05:
        return rng.choice(VALUES)
    if not isinstance(tree, dict):
        place = rng.randrange(len(tree))
        return [_nested(item, rng) if index == place else item for index, item in enumerate(tree)]
    changed = dict(tree)
    key = rng.choice(list(changed))
    if rng.random() < 0.15:
        changed.pop(key)
    elif rng.random() < 0.15:
        changed[f"{key}_"] = changed.pop(key)
    else:
        changed[key] = _nested(changed[key], rng)
    return changed

"""Render the stages of a task, from an episode of its demonstrator, side by side in one PNG file.

    MUJOCO_GL=egl python -m benchmarks.figures.render_task --env cube_rotate --out docs/images/cube_rotate.png

Needs softflow[plot] for Pillow and, except for `diagnostics_pixels`, OpenGL for MuJoCo (`MUJOCO_GL=egl` without a
display).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mujoco
import numpy as np
from PIL import Image, ImageDraw

from softflow.envs import (
    CubeRotateDemonstrator,
    CubeRotateEnv,
    TapeCutDemonstrator,
    TapeCutEnv,
    make_demonstrator,
    make_env,
)
from softflow.envs.diagnostics.tasks import PICTURE
from softflow.envs.tape_cut.env import CAMERAS

Frames = dict[str, np.ndarray]

WIDTH, HEIGHT = 400, 360  # pixels of one image
MAGNIFIED = 3  # magnification of a policy's observed images
FALL_STEPS = 6  # steps after the cut, for the ribbon to fall apart

TAPE_CUT = {
    "start": "scissors in their case",
    "grasped": "grasped",
    "lifted": "lifted",
    "at_tape": "ribbon between the blades",
    "cut": "cut",
}
CUBE_ROTATE = {
    "start": "held by four fingertips",
    "stroke": "thumb and middle turn it",
    "hand_over": "index and ring take over",
    "half": "half a turn",
    "full": "one turn",
}

DIAGNOSTICS = {name: name for name in ("two_routes", "delayed_corridor", "drifting_goal", "wrong_mode")}


def frames_of_tape_cut(seed: int, hand: str = "compact") -> Frames:
    """Render close-ups (height, width, 3) of the start and of each stage when it is first reached."""
    env = TapeCutEnv(terminate_on_success=False, hand=hand)
    camera = mujoco.MjvCamera()
    camera.azimuth, camera.elevation = 110, -22
    renderer = mujoco.Renderer(env.scene.model, HEIGHT, WIDTH)

    def look() -> np.ndarray:
        camera.lookat, camera.distance = env.geometry.pivot + np.array([0, 0, 0.03]), 0.45
        renderer.update_scene(env.scene.data, camera)
        return renderer.render()

    frames = _at_each_stage(env, seed, look)
    renderer.close()
    return frames


def frames_of_tape_cut_pixels(seed: int) -> Frames:
    """Render a policy's observed images, the overview above the hand's view, magnified by `MAGNIFIED`."""
    env = TapeCutEnv(observation="pixels", terminate_on_success=False)

    def look() -> np.ndarray:
        seen = env.set_state(env.get_state())
        return np.vstack([seen[name] for name in CAMERAS]).repeat(MAGNIFIED, 0).repeat(MAGNIFIED, 1)

    frames = _at_each_stage(env, seed, look)
    env.close()
    return frames


def _at_each_stage(env: TapeCutEnv, seed: int, look: Callable[[], np.ndarray]) -> Frames:
    env.reset(seed=seed)
    demonstrator = TapeCutDemonstrator(env, np.random.default_rng(seed), mode=0)
    frames, truncated = {"start": look()}, False
    while not truncated and "cut" not in frames:
        _, _, _, truncated, info = env.step(demonstrator.act())
        for stage, reached in info["stages"].items():
            if reached and stage not in frames:
                for _ in range(FALL_STEPS if stage == "cut" else 0):
                    env.step(demonstrator.act())
                frames[stage] = look()
    return frames


def frames_of_cube_rotate(seed: int) -> Frames:
    """Render the cube from below (height, width, 3).

    The frames show the start, the end of the first stroke, the end of the first hand-over, half a turn and a full turn.
    """
    env = CubeRotateEnv(render_mode="rgb_array", width=WIDTH, height=HEIGHT, camera="below")
    env.reset(seed=seed)
    demonstrator = CubeRotateDemonstrator(env, np.random.default_rng(seed), mode=2)
    frames, ended = {"start": env.render()}, False
    while not ended and "full" not in frames:
        phase = demonstrator.phase
        _, _, terminated, truncated, info = env.step(demonstrator.act())
        ended = terminated or truncated
        reached = {"half": info["turns"] >= 0.5, "full": info["turns"] >= 1}
        reached |= {stage: phase == stage != demonstrator.phase for stage in ("stroke", "hand_over")}
        frames |= {stage: env.render() for stage, now in reached.items() if now and stage not in frames}
    env.close()
    return frames


def frames_of_diagnostics(seed: int) -> Frames:
    """Render a policy's observed image at the start of each task, above one in the middle of a demonstration."""
    frames = {}
    for name in DIAGNOSTICS:
        env = make_env(name, observation="pixels").unwrapped
        seen, ended = [env.reset(seed=seed)[0][PICTURE]], False
        demonstrator = make_demonstrator(env, np.random.default_rng(seed), mode=0)
        while not ended:
            observation, _, terminated, truncated, _ = env.step(demonstrator.act())
            seen.append(observation[PICTURE])
            ended = terminated or truncated
        shown = [np.pad(seen[step], ((1, 1), (1, 1), (0, 0)), constant_values=255) for step in (0, len(seen) // 2)]
        frames[name] = np.vstack(shown).repeat(MAGNIFIED, 0).repeat(MAGNIFIED, 1)
    return frames


TASKS: dict[str, tuple[Callable[[int], Frames], dict[str, str], int]] = {
    "cube_rotate": (frames_of_cube_rotate, CUBE_ROTATE, 2),
    "diagnostics_pixels": (frames_of_diagnostics, DIAGNOSTICS, 1),
    "tape_cut": (frames_of_tape_cut, TAPE_CUT, 0),
    "tape_cut_adroit": (partial(frames_of_tape_cut, hand="adroit"), TAPE_CUT, 0),
    "tape_cut_pixels": (frames_of_tape_cut_pixels, TAPE_CUT, 0),
}
"""For each task, the function that renders it, the captions in order, and a seed in which the demonstrator succeeds."""


def contact_sheet(frames: Frames, captions: dict[str, str]) -> Image.Image:
    """Arrange the frames in a row with their captions below."""
    height, width, _ = next(iter(frames.values())).shape
    sheet = Image.new("RGB", (width * len(captions), height + 40), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (stage, caption) in enumerate(captions.items()):
        sheet.paste(Image.fromarray(frames[stage]), (column * width, 0))
        draw.text(((column + 0.5) * width, height + 20), caption, fill="black", anchor="mm", font_size=width // 15)
    return sheet.quantize(256, method=Image.Quantize.FASTOCTREE)  # a palette keeps the file small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=sorted(TASKS), default="tape_cut", help="task to render")
    parser.add_argument("--out", type=Path, help="PNG file to write (default: named after the task)")
    parser.add_argument("--seed", type=int, help="seed of the episode, in which the demonstrator must succeed")
    arguments = parser.parse_args()
    frames_of, captions, seed = TASKS[arguments.env]
    seed = seed if arguments.seed is None else arguments.seed
    out = arguments.out or Path(f"{arguments.env}.png")
    frames = frames_of(seed)
    if len(frames) < len(captions):
        raise SystemExit(f"with seed {seed} the demonstrator only reached {list(frames)}: try another seed")
    out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(frames, captions).save(out, optimize=True)
    print(out)


if __name__ == "__main__":
    main()

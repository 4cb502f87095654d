"""Draw the stages of tape_cut, from an episode of its demonstrator, side by side into one PNG.

    MUJOCO_GL=egl python benchmarks/render_task.py --out docs/images/tape_cut.png

Needs softflow[plot] for Pillow, and an OpenGL that MuJoCo can use (`MUJOCO_GL=egl` without a display).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mujoco
import numpy as np
from PIL import Image, ImageDraw

from softflow.envs import TapeCutDemonstrator, TapeCutEnv

CAPTIONS = {
    "start": "scissors in their case",
    "grasped": "grasped",
    "lifted": "lifted",
    "at_tape": "ribbon between the blades",
    "cut": "cut",
}
WIDTH, HEIGHT = 400, 360  # pixels of one picture
FALL_STEPS = 6  # after the cut, for the ribbon to fall apart


def frames_of_stages(seed: int) -> dict[str, np.ndarray]:
    """A close-up (height, width, 3) of the start and of each stage when it is first reached."""
    env = TapeCutEnv(terminate_on_success=False)
    env.reset(seed=seed)
    demonstrator = TapeCutDemonstrator(env, np.random.default_rng(seed), mode=0)
    camera = mujoco.MjvCamera()
    camera.azimuth, camera.elevation = 110, -22
    renderer = mujoco.Renderer(env.scene.model, HEIGHT, WIDTH)

    def look() -> np.ndarray:
        camera.lookat, camera.distance = env.geometry.pivot + np.array([0, 0, 0.03]), 0.45
        renderer.update_scene(env.scene.data, camera)
        return renderer.render()

    frames, truncated = {"start": look()}, False
    while not truncated and "cut" not in frames:
        _, _, _, truncated, info = env.step(demonstrator.act())
        for stage, reached in info["stages"].items():
            if reached and stage not in frames:
                for _ in range(FALL_STEPS if stage == "cut" else 0):
                    env.step(demonstrator.act())
                frames[stage] = look()
    renderer.close()
    return frames


def contact_sheet(frames: dict[str, np.ndarray]) -> Image.Image:
    """The frames in a row, captions below."""
    sheet = Image.new("RGB", (WIDTH * len(frames), HEIGHT + 40), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (stage, frame) in enumerate(frames.items()):
        sheet.paste(Image.fromarray(frame), (column * WIDTH, 0))
        draw.text(((column + 0.5) * WIDTH, HEIGHT + 20), CAPTIONS[stage], fill="black", anchor="mm", font_size=26)
    return sheet.quantize(256, method=Image.Quantize.FASTOCTREE)  # a palette keeps the file small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tape_cut.png"), help="PNG to write")
    parser.add_argument("--seed", type=int, default=0, help="of the episode; the demonstrator must succeed in it")
    arguments = parser.parse_args()
    frames = frames_of_stages(arguments.seed)
    if len(frames) < len(CAPTIONS):
        raise SystemExit(f"with seed {arguments.seed} the demonstrator only came to {list(frames)}: try another")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(frames).save(arguments.out, optimize=True)
    print(arguments.out)


if __name__ == "__main__":
    main()

"""Measure how fast a LeRobot dataset with two cameras is read, and how much memory it takes.

    python -m benchmarks.timing.lerobot_reading [episodes] [steps]

The dataset is made first, in a temporary folder: videos of 96 x 96 pixels as LeRobot encodes them, AV1 with a key frame
every 2 frames. Each frame is a gradient with a square that moves, and noise. Prints how many steps, of two frames each,
are read per second of CPU time in all threads, and the largest memory of the process beyond the episodes themselves.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softflow.data.readers import read_dataset, readers
from softflow.formats.lerobot.files import data_file, video_file

SIZE, FPS = 96, 10
CAMERAS = ("observation.images.wrist", "observation.images.front")


def write_video(path: Path, frames: int, rng: np.random.Generator) -> None:
    """Write a video of a moving square."""
    os.environ["SVT_LOG"] = "1"  # errors alone
    path.parent.mkdir(parents=True)
    background = np.broadcast_to(np.linspace(40, 200, SIZE)[:, None, None], (SIZE, SIZE, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libsvtav1", rate=FPS, options={"g": "2", "crf": "30", "preset": "12"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            image = (background + rng.normal(0, 4, background.shape)).clip(0, 255).astype(np.uint8)
            x, y = (index * 3) % (SIZE - 20), (index * 7) % (SIZE - 20)
            image[y : y + 20, x : x + 20] = (220, 30, 60)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_dataset(root: Path, episodes: int, steps: int) -> None:
    """Write a dataset of version 3.0 with all episodes in one table and one video for each camera."""
    rng = np.random.default_rng(0)
    count = episodes * steps
    columns = {
        "observation.state": rng.normal(size=(count, 7)).astype(np.float32),
        "action": rng.uniform(-1, 1, (count, 7)).astype(np.float32),
        "next.reward": np.zeros(count, np.float32),
        "frame_index": np.tile(np.arange(steps), episodes),
        "episode_index": np.repeat(np.arange(episodes), steps),
    }
    numbers = {
        name: {"dtype": str(array.dtype), "shape": list(array.shape[1:]) or [1], "names": None}
        for name, array in columns.items()
    }
    names = ["height", "width", "channels"]
    cameras = {name: {"dtype": "video", "shape": [SIZE, SIZE, 3], "names": names} for name in CAMERAS}
    listed = [
        {
            "episode_index": index,
            "length": steps,
            **dict.fromkeys(("data/chunk_index", "data/file_index"), 0),
            **{f"videos/{name}/{what}_index": 0 for name in CAMERAS for what in ("chunk", "file")},
            **{f"videos/{name}/from_timestamp": index * steps / FPS for name in CAMERAS},
        }
        for index in range(episodes)
    ]
    (root / "meta/episodes").mkdir(parents=True)
    (root / data_file(0, 0)).parent.mkdir(parents=True)
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "features": {**numbers, **cameras},
        "total_episodes": episodes,
        "total_frames": count,
    }
    action = columns["action"]
    stats = {"action": {"min": action.min(0).tolist(), "max": action.max(0).tolist()}}
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/stats.json").write_text(json.dumps(stats))
    pq.write_table(pa.Table.from_pylist(listed), root / "meta/episodes/file-000.parquet")
    pq.write_table(pa.table({name: list(array) for name, array in columns.items()}), root / data_file(0, 0))
    for name in CAMERAS:
        write_video(root / video_file(name, 0, 0), count, rng)


def main(episodes: int = 50, steps: int = 200) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        writer = multiprocessing.get_context("spawn").Process(target=write_dataset, args=(root, episodes, steps))
        writer.start()  # another process, because the encoder takes more memory than is measured here
        writer.join()
        megabytes = sum(file.stat().st_size for file in root.rglob("*.mp4")) / 1e6
        readers()  # imports torch, before anything is measured
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, clock = time.process_time(), time.perf_counter()
        dataset = read_dataset(root)
        used, passed = time.process_time() - start, time.perf_counter() - clock
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    result = sum(episode.observation.nbytes for episode in dataset.episodes) / 1e6
    count = episodes * steps
    print(
        f"{episodes} episodes of {steps} steps, {len(CAMERAS)} cameras of {SIZE} x {SIZE}, {megabytes:.1f} MB of video"
    )
    print(f"{count / used:.0f} steps of {len(CAMERAS)} frames per CPU-second, {count / passed:.0f} per second")
    print(f"memory: {result:.0f} MB of episodes, the peak grew by {peak:.0f} MB")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))

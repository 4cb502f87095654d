"""Measure how fast LeRobot datasets with two cameras are read, and how much memory they take, for several lengths.

    python -m benchmarks.timing.lerobot_reading --episodes 10 25 50 100 --steps 200

The datasets are made first, in a temporary folder: videos of 96 x 96 pixels as LeRobot encodes them, AV1 with a key
frame every 2 frames. Each frame is a gradient with a square that moves, and noise. A file holds 10 episodes; all files
are copies of the first one.

Each dataset is read, and batches of 256 windows are drawn from it, in a process of its own. Prints for each

* how many frames are read per second of CPU time in all threads;
* the size of its observations;
* by how much the memory of the process grows at most while it is read, and while the replay is made and batches are
  drawn. This is the sum of `RssAnon` and `RssShmem` in /proc/self/status, every few milliseconds: what the kernel
  cannot drop, unlike pages of a mapped file. It needs Linux;
* the CPU time of a batch, and that of one from a replay with all observations in memory, measured in turn.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.timing.interleaved import interleaved
from softflow.data import Episode, Replay, read_dataset
from softflow.data.readers import readers
from softflow.formats.lerobot.files import data_file, video_file

SIZE, FPS = 96, 10
CAMERAS = ("observation.images.wrist", "observation.images.front")
EPISODES_PER_FILE = 10
BATCH, HORIZON, BATCHES = 256, 8, 100
INTERVAL = 0.002
"""Seconds between two looks at the memory."""


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


def write_dataset(root: Path, episodes: int, steps: int, videos: Sequence[Path]) -> None:
    """Write a dataset of version 3.0 with all episodes in one table. `videos` has the first video of each camera."""
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
            **{f"videos/{name}/chunk_index": 0 for name in CAMERAS},
            **{f"videos/{name}/file_index": index // EPISODES_PER_FILE for name in CAMERAS},
            **{f"videos/{name}/from_timestamp": index % EPISODES_PER_FILE * steps / FPS for name in CAMERAS},
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
    for name, video in zip(CAMERAS, videos, strict=True):
        (root / video_file(name, 0, 0)).parent.mkdir(parents=True)
        for number in range(-(-episodes // EPISODES_PER_FILE)):
            shutil.copyfile(video, root / video_file(name, 0, number))


class MemoryWatch:
    """Watches the anonymous memory of this process in a thread until it is closed.

    Attributes:
        peak: By how many bytes the largest exceeds that at the start.
    """

    def __init__(self) -> None:
        self._start, self.peak, self._closed = anonymous_memory(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._closed.wait(INTERVAL):
            self.peak = max(self.peak, anonymous_memory() - self._start)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()


def anonymous_memory() -> int:
    """Return the bytes of this process that the kernel cannot drop, whether written or not."""
    status = Path("/proc/self/status").read_text()
    return 1024 * sum(int(size) for size in re.findall(r"^Rss(?:Anon|Shmem):\s*(\d+) kB", status, re.MULTILINE))


def measure(root: Path) -> None:
    """Read a dataset, draw batches of it, and print a line."""
    readers()  # imports torch, before anything is measured
    with closing(MemoryWatch()) as reading:
        start = time.process_time()
        dataset = read_dataset(root)
        used = time.process_time() - start
    steps = sum(map(len, dataset.episodes))
    rng = np.random.default_rng(0)
    with closing(MemoryWatch()) as learning:
        replay = replay_of(dataset.episodes, fixed=True)
        for _ in range(BATCHES):  # also reads every page once, so that later batches find it
            replay.sample(BATCH, HORIZON, rng)
    replays = {"file": replay, "memory": replay_of(dataset.episodes, fixed=False)}
    calls = {name: partial(one.sample, BATCH, HORIZON, rng) for name, one in replays.items()}
    times = {name: np.median(each) for name, each in interleaved(calls, BATCHES).items()}
    rows = sum(episode.observation.nbytes for episode in dataset.episodes)
    print(
        f"{len(dataset.episodes):>8} | {steps * len(CAMERAS) / used:>21,.0f} | {rows / 1e6:>12,.0f} | "
        f"{reading.peak / 1e6:>10,.0f} | {learning.peak / 1e6:>10,.0f} | {times['file']:>10.2f} | "
        f"{times['memory']:>10.2f}",
        flush=True,
    )


def replay_of(episodes: Sequence[Episode], fixed: bool) -> Replay:
    rows, first = sum(len(episode) + 1 for episode in episodes), episodes[0]
    replay = Replay(rows, first.observation_dim, first.action_dim, np.uint8, fixed=fixed)
    for episode in episodes:
        replay.add_episode(episode)
    return replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, nargs="+", default=[10, 25, 50, 100], help="lengths of the datasets")
    parser.add_argument("--steps", type=int, default=200, help="steps of an episode")
    arguments = parser.parse_args()
    processes = multiprocessing.get_context("spawn")  # the encoder takes more memory than is measured here
    with tempfile.TemporaryDirectory() as folder:
        rng, frames = np.random.default_rng(0), EPISODES_PER_FILE * arguments.steps
        videos = [Path(folder, name, "video.mp4") for name in CAMERAS]
        for video in videos:
            encoder = processes.Process(target=write_video, args=(video, frames, rng))
            encoder.start()
            encoder.join()
        print(
            f"{len(CAMERAS)} cameras of {SIZE} x {SIZE}, episodes of {arguments.steps} steps; sizes in MB, times in ms"
        )
        print(
            "episodes | frames per CPU-second | observations | in reading | in batches | from file  | from memory",
            flush=True,
        )
        for episodes in arguments.episodes:
            root = Path(folder, str(episodes))
            write_dataset(root, episodes, arguments.steps, videos)
            reader = processes.Process(target=measure, args=(root,))
            reader.start()
            reader.join()
            shutil.rmtree(root)


if __name__ == "__main__":
    main()

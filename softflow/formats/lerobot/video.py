"""Frames of the videos of a LeRobot dataset, decoded one after another by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from softflow.errors import one_line
from softflow.formats.lerobot.info import Feature

TOLERANCE = 0.25
"""How far the time of a frame may lie from that of its step, as a share of the time between two steps."""


class CameraFrames:
    """Reads the frames of one camera. An open file is read on if the next episode follows in it.

    Args:
        root: The folder of the dataset.
        camera: The feature of the camera.
        fps: The frame rate in hertz.
    """

    def __init__(self, root: Path, camera: Feature, fps: float) -> None:
        self._root, self._camera, self._fps = root, camera, fps
        if camera.frame_shape[2] != 3:
            raise ValueError(f"{camera.name} has {camera.frame_shape[2]} channels: videos of 3 channels are read alone")
        self._reformatter = VideoReformatter()  # kept, because building one takes longer than using it
        self._file: Path | None = None
        self._container: InputContainer | None = None
        self._frames: Iterator[tuple[float, VideoFrame]] = iter(())
        self._reached = 0.0

    def read(self, file: Path, start: float, count: int) -> np.ndarray:
        """Return `count` frames (count, height, width, 3) of uint8 from the time `start` on, in seconds.

        Raises:
            ValueError: The file is damaged, its frames have another size, or there is no frame for a step.
        """
        frames = np.empty((count, *self._camera.frame_shape), np.uint8)
        try:
            if file != self._file or start < self._reached:
                self._open(file, start)
            for index in range(count):
                frames[index] = self._pixels(file, self._next(file, start + index / self._fps, f"step {index}"))
        except (av.FFmpegError, OSError, MemoryError) as error:
            self.close()  # nothing can be read on, but an episode elsewhere in the file may be whole
            raise ValueError(f"{file} cannot be read ({one_line(error)}): copy the dataset again") from error
        return frames

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._file = self._container = None

    def _open(self, file: Path, start: float) -> None:
        self.close()
        # The format is given, because others name further files to be read.
        self._container = container = av.open(str(self._root / file), format="mp4")
        if not container.streams.video:
            raise ValueError(f"{file} has no video: copy the dataset again")
        stream = container.streams.video[0]
        height, width, _ = self._camera.frame_shape
        self._require_size(file, stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = {"max_pixels": str((height + 256) * (width + 256))}  # codecs pad their frames
        stream.codec_context.thread_count = 1
        if start > 0 and stream.time_base is not None:
            container.seek(int(start / stream.time_base), stream=stream)
        self._frames = ((frame.time, frame) for frame in container.decode(stream) if frame.time is not None)
        self._file, self._reached = file, 0.0

    def _next(self, file: Path, time: float, what: str) -> VideoFrame:
        """Return the frame of a time. Earlier ones are skipped."""
        slack = TOLERANCE / self._fps
        for found, frame in self._frames:
            self._reached = found + slack
            if found > time + slack:
                raise ValueError(f"{file} has no frame for {what} at {time:.3f} s, the next one is at {found:.3f} s")
            if found >= time - slack:
                return frame
        raise ValueError(f"{file} ends before {what} at {time:.3f} s: copy or record the dataset again")

    def _pixels(self, file: Path, frame: VideoFrame) -> np.ndarray:
        self._require_size(file, frame.width, frame.height)
        return self._reformatter.reformat(frame, format="rgb24").to_ndarray()

    def _require_size(self, file: Path, width: int, height: int) -> None:
        expected = self._camera.frame_shape
        if (height, width) != expected[:2]:
            raise ValueError(
                f"{file} has frames of {width} x {height} pixels, expected {expected[1]} x {expected[0]}, as "
                "meta/info.json says"
            )

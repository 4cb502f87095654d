"""A policy in an ONNX file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from softflow.errors import UserError, did_you_mean, one_line
from softflow.policies.bases.model import BaseModel
from softflow.policies.native_export import METADATA
from softflow.task import TaskSpec

NOISE, CHUNK = "noise", "chunk"
"""The names of the input for noise, and of the output if there are several."""


class OnnxFile(BaseModel):
    """A file whose inputs have the names of the task's parts, as `softflow-export` writes it.

    It may have an input `noise`, (batch, *noise_shape). Its only output, or the one called `chunk`, is the chunk. There
    is no gradient.

    Args:
        path: The path of the file.
        options: There are none.

    Raises:
        UserError: onnxruntime is missing, options are given, or the file cannot be read or is of another kind.
    """

    def __init__(self, path: str, options: Mapping[str, Any]) -> None:
        if options:
            raise UserError(f"base {path}: an ONNX file takes no base_options, got {', '.join(options)}")
        try:
            import onnx
            import onnxruntime  # type: ignore[import-untyped]
        except ImportError as error:
            raise UserError(f"base {path} needs onnxruntime ({error}): pip install 'softflow[onnx]'") from error
        if not Path(path).is_file():
            raise UserError(f"base {path}: no such file")
        content = Path(path).read_bytes()
        self._path, self._digest = path, hashlib.sha256(content).digest()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4  # errors are raised as well
        settings.intra_op_num_threads = torch.get_num_threads()
        try:
            tensors = onnx.load_from_string(content).graph.initializer
            if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
                raise ValueError("its weights are in other files: save it as one file")
            self._session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # of protobuf, or of onnxruntime
            raise UserError(f"base {path} cannot be read as ONNX: {one_line(error)}") from error
        shapes = {given.name: given.shape[1:] for given in self._session.get_inputs()}
        self.noise_shape = _noise_shape(path, shapes.pop(NOISE)) if NOISE in shapes else None
        self._parts, self._output = list(shapes), self._chunk_output()

    def _chunk_output(self) -> str:
        outputs = [given.name for given in self._session.get_outputs()]
        if len(outputs) > 1 and CHUNK not in outputs:
            raise UserError(f"base {self._path} has the outputs {', '.join(outputs)}: call that of actions {CHUNK!r}")
        return CHUNK if CHUNK in outputs else str(outputs[0])

    def __call__(self, observation: Mapping[str, NDArray[Any]], noise: Tensor | None, device: str) -> Any:
        inputs = {name: observation[name] for name in self._parts}
        if noise is not None:
            inputs[NOISE] = noise.numpy(force=True)
        return torch.from_numpy(self._session.run([self._output], inputs)[0]).to(device)

    def sha256(self) -> bytes:
        """Return the digest of the file as it was read."""
        return self._digest

    def require_task(self, task: TaskSpec) -> None:
        document = json.loads(self._session.get_modelmeta().custom_metadata_map.get(METADATA, "{}"))
        if document.get("task") is not None:
            task.require_same(TaskSpec.build(document["task"]), f"base {self._path}")
        names = [part.name for part in task.observation]
        for name in self._parts:
            if name not in names:
                hint = did_you_mean(name, names)
                raise UserError(f"base {self._path} has the input {name!r}, which the task does not observe: {hint}")


def _noise_shape(path: str, shape: list[Any]) -> tuple[int, ...]:
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise UserError(f"base {path}: its input {NOISE!r} must have a fixed shape after the batch, got {shape}")
    return tuple(shape)

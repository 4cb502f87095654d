"""Flows as files that run without this package: TorchScript, `torch.export` and ONNX.

>>> export(LatentToChunk(flow), {"latent": latent, "context": context}, "flow.onnx", "onnx")
>>> chunk = load_exported("flow.onnx", "onnx")(latent, context)  # the others: trusted=True

The batch size stays free. A file is compared with the module at several batch sizes before it is written; what a format
cannot express is an `ExportError`, never a file that answers something else. What can be written:

    flow                              torchscript   torch_export   onnx
    our own, with any option          yes           yes            yes
    nflows_realnvp                    yes           yes            yes
    zuko_maf, zuko_nice, zuko_nsf     yes           yes            yes
    nflows_nsf                        yes           no             no     branches on the numbers it is given

A flow of your own should read the batch size off `tensor.shape[0]`: `len(tensor)` is a constant to a tracer.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flows.base import ChunkFlow
from flows.mixing import LUMixing

TOLERANCE = 1e-5
Run = Callable[..., Tensor]


class ExportError(RuntimeError):
    """A format cannot express a module, or computes something else."""


class LatentToChunk(nn.Module):
    """A flow's `to_chunk` without its log-determinant: latent (B, H, A), context (B, C) -> chunk (B, H, A)."""

    def __init__(self, flow: ChunkFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, latent: Tensor, context: Tensor) -> Tensor:
        flat = self.flow.generate(latent.flatten(1).unsqueeze(1), self.flow.embed(context))
        return flat[:, 0].unflatten(-1, self.flow.latent_shape)


class ContextToMode(nn.Module):
    """A flow's `mode`: context (B, C) -> chunk (B, H, A)."""

    def __init__(self, flow: ChunkFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, context: Tensor) -> Tensor:
        return self.flow.mode(context)


def export(module: nn.Module, example: Mapping[str, Tensor], path: str | Path, format: str) -> float:
    """Write a module, as it is in `eval()` on the CPU, to one file.

    Args:
        module: from tensors to one tensor, all with the batch along their first axis.
        example: its arguments by name, in order, each of the same three or more rows; what the file is compared on,
            so give it what the module will see. An ONNX file's inputs bear these names, its output is "chunk".
        path: of the file; an existing one is replaced.
        format: one of `FORMATS`.

    Returns:
        The largest difference between the file's numbers and the module's; of a number beyond 1, in parts of it.

    Raises:
        ValueError: unknown format, or an example that is none.
        ImportError: the ONNX packages are missing.
        ExportError: the format cannot express the module, or the difference exceeds `TOLERANCE`. Nothing is written.
    """
    write, load = _find(format)
    sizes = {len(rows) for rows in example.values()}
    if len(sizes) != 1 or min(sizes) < 3:
        shapes = {name: tuple(rows.shape) for name, rows in example.items()}
        raise ValueError(f"example: expected the same three or more rows of every argument, got {shapes}")
    module = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    rows = {name: argument.cpu() for name, argument in example.items()}
    try:
        with _quiet(), torch.no_grad():
            data = write(_traceable(module), {name: argument[:2] for name, argument in rows.items()})
            difference = _difference(load(data), module, list(rows.values()))
    except ImportError:
        raise
    except Exception as error:  # whatever a tracer or a converter trips over
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"cannot be exported as {format}: {reason}") from error
    if not difference <= TOLERANCE:
        raise ExportError(f"exported as {format} it differs from the original by {difference:.1e}, over {TOLERANCE}")
    Path(path).write_bytes(data)
    return difference


def load_exported(path: str | Path, format: str, trusted: bool = False) -> Run:
    """A file of `export` as a function, from tensors in the order of its example to a tensor, on the CPU.

    ONNX Runtime is given as many threads as torch has.

    Args:
        path: of the file.
        format: of the file.
        trusted: the file comes from where your programs come from. An ONNX file is data; torch unpickles parts of the
            others whatever they hold, so that loading one may execute anything.

    Raises:
        ValueError: unknown format, or one that needs trust and is given none.
        ImportError: the ONNX packages are missing.
        ExportError: the file is not of this format.
    """
    load = _find(format)[1]
    if format != "onnx" and not trusted:
        raise ValueError(
            f"{path}: a {format} file may execute anything as it is loaded: say trusted=True of your own, or use onnx"
        )
    data = Path(path).read_bytes()
    try:
        return load(data)
    except ImportError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"{path}: no {format} file, or damaged: {reason}") from error


def _find(format: str) -> tuple[Callable[[nn.Module, dict[str, Tensor]], bytes], Callable[[bytes], Run]]:
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    return FORMATS[format]


def _difference(run: Run, module: nn.Module, arguments: list[Tensor]) -> float:
    """The largest one at three batch sizes, of which one is that of one row."""
    worst = torch.zeros(())
    for rows in (1, len(arguments[0]) - 1, len(arguments[0])):
        batch = [argument[:rows] for argument in arguments]
        expected = module(*batch)
        try:
            got = run(*batch)
        except Exception as error:
            raise ExportError(f"it fails for a batch of {rows}: is the batch size read by len()?") from error
        if got.shape != expected.shape:
            raise ExportError(f"for a batch of {rows} it gives {tuple(got.shape)}, not {tuple(expected.shape)}")
        worst = torch.maximum(worst, ((got - expected).abs() / expected.abs().clamp(min=1)).max())
    return worst.item()  # NaN if any was


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what tracers and converters say as they go: the comparison tells whether it mattered."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


# The formats, each a function from a module to a file's bytes and one from these to a function.


def _write_torchscript(module: nn.Module, example: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, tuple(example.values()), check_trace=False), buffer)
    return buffer.getvalue()


def _load_torchscript(data: bytes) -> Run:
    with _quiet():  # torch calls it deprecated
        return torch.jit.load(io.BytesIO(data))


def _program(module: nn.Module, example: dict[str, Tensor]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    return torch.export.export(module, tuple(example.values()), dynamic_shapes=tuple({0: batch} for _ in example))


def _write_torch_export(module: nn.Module, example: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_program(module, example), buffer)
    return buffer.getvalue()


def _load_torch_export(data: bytes) -> Run:
    return torch.export.load(io.BytesIO(data)).module()


def _write_onnx(module: nn.Module, example: dict[str, Tensor]) -> bytes:
    _import_onnxruntime()
    batch = torch.export.Dim("batch")
    program: Any = torch.onnx.export(
        _program(module, example),
        (),
        dynamo=True,
        verbose=False,
        input_names=list(example),
        output_names=["chunk"],
        dynamic_shapes=tuple({0: batch} for _ in example),  # names the axis in the file
    )
    return program.model_proto.SerializeToString()


def _load_onnx(data: bytes) -> Run:
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]

    def run(*arguments: Tensor) -> Tensor:
        (result,) = session.run(None, {name: x.numpy(force=True) for name, x in zip(names, arguments, strict=True)})
        return torch.from_numpy(result)

    return run


def _import_onnxruntime() -> Any:
    try:
        import onnx  # noqa: F401  # torch writes ONNX by these two
        import onnxruntime  # type: ignore[import-untyped]
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(f"ONNX needs the extra 'onnx' ({error}): pip install 'softflow[onnx]'") from error
    return onnxruntime


FORMATS = {
    "torchscript": (_write_torchscript, _load_torchscript),
    "torch_export": (_write_torch_export, _load_torch_export),
    "onnx": (_write_onnx, _load_onnx),
}


# What a format cannot express, and what stands for it in a file.


class _FixedMixing(nn.Module):
    """An `LUMixing` whose factors no longer change, as two matrices: ONNX cannot solve a triangular system."""

    matrix: Tensor
    inverse: Tensor

    def __init__(self, mixing: LUMixing) -> None:
        super().__init__()
        exact = copy.deepcopy(mixing).double()
        identity = torch.eye(len(mixing.factors), dtype=torch.float64)
        for name, inverse in (("matrix", False), ("inverse", True)):
            self.register_buffer(name, exact(identity, inverse).to(mixing.factors.dtype))

    def forward(self, x: Tensor, inverse: bool = False) -> Tensor:
        return x @ (self.inverse if inverse else self.matrix)


def _traceable(module: nn.Module) -> nn.Module:
    """A copy with every `LUMixing` replaced."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, part in parent.named_children():
            if type(part) is LUMixing:
                setattr(parent, name, _FixedMixing(part))
    return module

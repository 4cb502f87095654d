"""Flows as files that run without this package: TorchScript, `torch.export` and ONNX.

>>> export(LatentToChunk(flow), {"latent": latent, "context": context}, "flow.onnx", "onnx")
>>> chunk = load_exported("flow.onnx", "onnx")(latent, context)  # the others: trusted=True

An argument may be a mapping from names to tensors, such as the parts of an observation: a TorchScript or `torch.export`
file takes the same mapping, and an ONNX file has an input of each name.

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
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from flows.base import ChunkFlow
from flows.traceable import traceable

TOLERANCE = 1e-5
OUTPUT = "chunk"
"""Name of an ONNX file's output."""
Argument = Tensor | Mapping[str, Tensor]
Run = Callable[..., Tensor]


class ExportError(RuntimeError):
    """A format cannot express a module, or a file computes something else."""


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


def export(
    module: nn.Module,
    example: Mapping[str, Argument],
    path: str | Path,
    format: str,
    *,
    metadata: Mapping[str, str] | None = None,
    reference: Run | None = None,
    scale: Tensor | float = 1.0,
) -> float:
    """Write a module, as it is in `eval()` on the CPU, to one file.

    Args:
        module: Maps tensors, or mappings of them, to one tensor, all with the batch along their first axis.
        example: The arguments by name, in order, each with the same three or more rows. The file is compared on them,
            so give it what the module will see. The inputs of an ONNX file bear these names, or the keys of the
            mappings; its output is called `OUTPUT`.
        path: Path of the file; an existing one is replaced.
        format: One of `FORMATS`.
        metadata: Texts by name that the file carries and `read_metadata` reads: properties of an ONNX file, extra files
            of the others.
        reference: What the file is compared with, if not with the module.
        scale: What the numbers of the result are measured in, such as half the distance of an action's bounds; one
            number, or what broadcasts to the result.

    Returns:
        The largest difference between the file's numbers and the module's, in units of `scale`; of a number beyond
        `scale`, in parts of it.

    Raises:
        ValueError: The format is unknown, the example has no rows to compare, or two arguments, or an argument and the
            output, have one name.
        ImportError: The ONNX packages are missing.
        ExportError: The format cannot express the module, or the difference exceeds `TOLERANCE`. Nothing is written.
    """
    write, load = _find(format)
    names = [*_names(example), OUTPUT]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"example: two of the arguments and the output are called {twice[0]!r}: rename one")
    arguments = {name: _on_cpu(argument) for name, argument in example.items()}
    shapes = {name: tuple(rows.shape) for name, rows in zip(names, tree_leaves(arguments), strict=False)}
    sizes = {rows for rows, *_ in shapes.values()}
    if len(sizes) != 1 or min(sizes) < 3:
        raise ValueError(f"example: expected the same three or more rows of every argument, got {shapes}")
    module = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    try:
        with _quiet(), torch.no_grad():
            data = write(traceable(module), _first(2, arguments), dict(metadata or {}))
            difference = _difference(load(data), reference or module, arguments, min(sizes), scale)
    except ImportError:
        raise
    except Exception as error:  # whatever a tracer or a converter trips over
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"cannot be exported as {format}: {reason}") from error
    if not difference <= TOLERANCE:
        raise ExportError(f"exported as {format} it differs from the original by {difference:.1e}, over {TOLERANCE}")
    Path(path).write_bytes(data)
    return difference


def read_metadata(path: str | Path, format: str) -> dict[str, str]:
    """Read the texts that `export` was given. Nothing in the file is executed, whatever its format.

    Raises:
        ValueError: The format is unknown.
        ImportError: The ONNX packages are missing.
        ExportError: The file is damaged or not of this format.
    """
    _find(format)
    try:
        if format == "onnx":
            _import_onnxruntime()
            import onnx

            return {text.key: text.value for text in onnx.load(path, load_external_data=False).metadata_props}
        with zipfile.ZipFile(path) as archive:
            extra = [name.partition("/extra/") for name in archive.namelist() if "/extra/" in name]
            return {name: archive.read(folder + between + name).decode() for folder, between, name in extra}
    except ImportError:
        raise
    except Exception as error:
        raise _not_of(path, format, error) from error


def load_exported(path: str | Path, format: str, trusted: bool = False) -> Run:
    """Load a file of `export` as a function that takes the arguments of its example in their order, on the CPU.

    ONNX Runtime is given as many threads as torch has.

    Args:
        path: Path of the file.
        format: Format of the file.
        trusted: Whether the file comes from where your programs come from. An ONNX file is data; torch unpickles parts
            of the others whatever they hold, so that loading one may execute anything.

    Raises:
        ValueError: The format is unknown, or needs trust and is given none.
        ImportError: The ONNX packages are missing.
        ExportError: The file is damaged or not of this format.
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
        raise _not_of(path, format, error) from error


def _not_of(path: str | Path, format: str, error: Exception) -> ExportError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ExportError(f"{path}: no {format} file, or damaged: {reason}")


def _find(format: str) -> tuple[Write, Callable[[bytes], Run]]:
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    return FORMATS[format]


def _names(example: Mapping[str, Argument]) -> list[str]:
    """Return the names of all tensors, in order."""
    return [key for name, given in example.items() for key in (given if isinstance(given, Mapping) else (name,))]


def _on_cpu(argument: Argument) -> Tensor | dict[str, Tensor]:
    if isinstance(argument, Tensor):
        return argument.cpu()
    return {name: tensor.cpu() for name, tensor in argument.items()}


def _first(rows: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return tree_map(lambda argument: argument[:rows], arguments)


def _difference(run: Run, reference: Run, arguments: dict[str, Any], size: int, scale: Tensor | float) -> float:
    """Return the largest difference at three batch sizes, one of which is a single row."""
    worst, scale = torch.zeros(()), torch.as_tensor(scale).cpu()
    for rows in (1, size - 1, size):
        batch = _first(rows, arguments).values()
        expected = reference(*batch).cpu()
        try:
            got = run(*batch)
        except Exception as error:
            raise ExportError(f"it fails for a batch of {rows}: is the batch size read by len()?") from error
        if got.shape != expected.shape:
            raise ExportError(f"for a batch of {rows} it gives {tuple(got.shape)}, not {tuple(expected.shape)}")
        worst = torch.maximum(worst, ((got - expected).abs() / torch.maximum(expected.abs(), scale)).max())
    return worst.item()  # NaN if any was


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what tracers and converters say as they go: the comparison tells whether it mattered."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


# The formats, each a function from a module to a file's bytes and one from these to a function.


def _write_torchscript(module: nn.Module, example: dict[str, Any], metadata: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    traced = torch.jit.trace(module, tuple(example.values()), check_trace=False)
    torch.jit.save(traced, buffer, _extra_files=metadata)
    return buffer.getvalue()


def _load_torchscript(data: bytes) -> Run:
    with _quiet():  # torch calls it deprecated
        return torch.jit.load(io.BytesIO(data))


def _program(module: nn.Module, example: dict[str, Any]) -> torch.export.ExportedProgram:
    return torch.export.export(module, tuple(example.values()), dynamic_shapes=_free_batch(example))


def _free_batch(example: dict[str, Any]) -> Any:
    batch = torch.export.Dim("batch")
    return tree_map(lambda _: {0: batch}, tuple(example.values()))


def _write_torch_export(module: nn.Module, example: dict[str, Any], metadata: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_program(module, example), buffer, extra_files=metadata)
    return buffer.getvalue()


def _load_torch_export(data: bytes) -> Run:
    return torch.export.load(io.BytesIO(data)).module()


def _write_onnx(module: nn.Module, example: dict[str, Any], metadata: dict[str, str]) -> bytes:
    _import_onnxruntime()
    program: Any = torch.onnx.export(
        _program(module, example),
        (),
        dynamo=True,
        verbose=False,
        input_names=_names(example),
        output_names=[OUTPUT],
        dynamic_shapes=_free_batch(example),  # names the axis in the file
    )
    names, graph = {*_names(example), OUTPUT}, program.model.graph
    for value in (value for node in graph for value in node.outputs if value.name in names):
        if value not in graph.outputs:  # torch calls values by its operators, such as "linear"
            value.name += " inside"
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()


def _load_onnx(data: bytes) -> Run:
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]

    def run(*arguments: Argument) -> Tensor:
        inputs: dict[str, Tensor] = {}
        for argument in arguments:
            inputs |= argument if isinstance(argument, Mapping) else {names[len(inputs)]: argument}
        (result,) = session.run(None, {name: tensor.numpy(force=True) for name, tensor in inputs.items()})
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


Write = Callable[[nn.Module, dict[str, Any], dict[str, str]], bytes]
FORMATS: dict[str, tuple[Write, Callable[[bytes], Run]]] = {
    "torchscript": (_write_torchscript, _load_torchscript),
    "torch_export": (_write_torch_export, _load_torch_export),
    "onnx": (_write_onnx, _load_onnx),
}

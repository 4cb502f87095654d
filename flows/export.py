"""Export to files that run without this package: TorchScript, `torch.export` and ONNX.

>>> export(LatentToChunk(flow), {"latent": latent, "context": context}, "flow.onnx", "onnx")
>>> chunk = load_exported("flow.onnx", "onnx")(latent, context)  # other formats need trusted=True

An argument may be a mapping from names to tensors, such as the parts of an observation. A TorchScript or `torch.export`
file takes the same mapping; an ONNX file has one input per name.

The batch size is dynamic. Before a file is written, its results are compared with the module's at several batch sizes.
A module that a format cannot express raises an `ExportError` and never results in a wrong file. Supported flows:

    flow                              torchscript   torch_export   onnx
    built-in flows, any options       yes           yes            yes
    nflows_realnvp                    yes           yes            yes
    zuko_maf, zuko_nice, zuko_nsf     yes           yes            yes
    nflows_nsf                        yes           no             no     branches on its input

A custom flow should read the batch size from `tensor.shape[0]`, because tracers treat `len(tensor)` as a constant.
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
"""Name of the output of an ONNX file."""
Argument = Tensor | Mapping[str, Tensor]
Run = Callable[..., Tensor]


class ExportError(RuntimeError):
    """A format cannot express a module, or the exported file computes something else."""


class LatentToChunk(nn.Module):
    """The `to_chunk` of a flow without the log-determinant: latent (B, H, A), context (B, C) -> chunk (B, H, A)."""

    def __init__(self, flow: ChunkFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, latent: Tensor, context: Tensor) -> Tensor:
        flat = self.flow.generate(latent.flatten(1).unsqueeze(1), self.flow.embed(context))
        return flat[:, 0].unflatten(-1, self.flow.latent_shape)


class ContextToMode(nn.Module):
    """The `mode` of a flow: context (B, C) -> chunk (B, H, A)."""

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
    """Export a module, in `eval()` mode and on the CPU, to a single file.

    Args:
        module: Maps tensors, or mappings of tensors, to one tensor. The first axis of every tensor is the batch.
        example: Example arguments by name, in order, all with the same number of rows, at least three. The file is
            compared with the module on them, so they should be realistic. Their names, or the keys of the mappings,
            are the input names of an ONNX file; its output is called `OUTPUT`.
        path: Path of the file. An existing file is replaced.
        format: One of `FORMATS`.
        metadata: Texts by name to store in the file, for `read_metadata`. They become metadata properties of an ONNX
            file, or extra files in the other formats.
        reference: The function that the file is compared with. None compares it with the module.
        scale: Unit of the differences, such as half the range of an action; one number, or a tensor that broadcasts to
            the result.

    Returns:
        The largest difference between the results of the file and the module, in units of `scale`. For numbers larger
        than `scale`, it is the relative difference.

    Raises:
        ValueError: The format is unknown, the example has too few rows, or a name is used twice among the arguments and
            the output.
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
    except Exception as error:  # tracers and converters raise many kinds of errors
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"cannot be exported as {format}: {reason}") from error
    if not difference <= TOLERANCE:
        raise ExportError(f"exported as {format} it differs from the original by {difference:.1e}, over {TOLERANCE}")
    Path(path).write_bytes(data)
    return difference


def read_metadata(path: str | Path, format: str) -> dict[str, str]:
    """Read the metadata of an exported file. Nothing in the file is executed, whatever its format.

    Raises:
        ValueError: The format is unknown.
        ImportError: The ONNX packages are missing.
        ExportError: The file is damaged or has another format.
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
    """Load an exported file on the CPU, as a function that takes the arguments of the example in order.

    ONNX Runtime uses as many threads as torch.

    Args:
        path: Path of the file.
        format: Format of the file.
        trusted: Whether you trust the source of the file like that of a program. Loading a TorchScript or
            `torch.export` file may execute arbitrary code, because torch unpickles parts of it. An ONNX file is data.

    Raises:
        ValueError: The format is unknown, or it requires `trusted`.
        ImportError: The ONNX packages are missing.
        ExportError: The file is damaged or has another format.
    """
    load = _find(format)[1]
    if format != "onnx" and not trusted:
        raise ValueError(
            f"{path}: a {format} file may execute anything when loaded: pass trusted=True if you trust it, or use onnx"
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
    """Return the largest difference at three batch sizes, including a single row."""
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
    return worst.item()  # NaN if any difference is NaN


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence tracers and converters. The comparison of results replaces their warnings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


# Each format has a function that writes a module to bytes and one that loads it from bytes.


def _write_torchscript(module: nn.Module, example: dict[str, Any], metadata: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    traced = torch.jit.trace(module, tuple(example.values()), check_trace=False)
    torch.jit.save(traced, buffer, _extra_files=metadata)
    return buffer.getvalue()


def _load_torchscript(data: bytes) -> Run:
    with _quiet():  # torch warns that it is deprecated
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
    program = torch.export.load(io.BytesIO(data))
    run, examples = program.module(), (program.example_inputs or ((), {}))[0]

    def ordered(argument: Any, example: Any) -> Any:  # torch 2.8 takes the keys of a mapping in their order alone
        return {name: argument[name] for name in example} if isinstance(example, Mapping) else argument

    return lambda *arguments: run(*map(ordered, arguments, examples))


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
        if value not in graph.outputs:  # torch names values after operators, such as "linear"
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
        import onnx  # noqa: F401  # torch exports ONNX with these two
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

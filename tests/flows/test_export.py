"""Exported flows: equal to eager at any batch size, and a clear refusal where they would not be."""

from __future__ import annotations

import math
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flows import ChunkFlow, make_flow
from flows.export import FORMATS, ContextToMode, ExportError, LatentToChunk, export, load_exported, read_metadata
from tests.damage import EXECUTED, FOREIGN, PICKLE
from tests.flows.flow_cases import SMALL, few_layers, with_statistics

HORIZON, ACTION_DIM, CONTEXT_DIM = 3, 2, 5
TORCHSCRIPT_ONLY = {"nflows_nsf"}  # see the table in `flows.export`
QUICK = {("coupling", 5), ("coupling", 7), ("nflows_nsf", 0)}  # the other formats take seconds a flow


CASES = [
    pytest.param(
        *(name, options, format),
        id="-".join([format, name, *(x for x in options.values() if isinstance(x, str))]),
        marks=[] if format == "torchscript" or (name, variant) in QUICK else [pytest.mark.slow],
    )
    for format in FORMATS
    for name, variants in SMALL.items()
    for variant, options in enumerate(variants)
]


def random_flow(name: str, options: dict) -> ChunkFlow:
    """A flow whose every parameter is random, and its mixture's components far apart in weight."""
    torch.manual_seed(0)
    dims = dict(horizon=HORIZON, action_dim=ACTION_DIM, context_dim=CONTEXT_DIM)
    flow = make_flow(name, **dims, **few_layers(options))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(std=0.7 / math.sqrt(parameter.shape[-1]))
    return with_statistics(flow)


def arguments(rows: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(rows, HORIZON, ACTION_DIM, generator=generator)
    return {"latent": latent, "context": torch.randn(rows, CONTEXT_DIM, generator=generator)}


def context_only(rows: int, seed: int) -> dict[str, Tensor]:
    return {"context": arguments(rows, seed)["context"]}


def check(module: nn.Module, inputs: Callable[[int, int], dict], eager: Callable, path: Path, format: str) -> None:
    """The file answers as `eager` does, on rows and at batch sizes other than those that it was made with."""
    difference = export(module, inputs(16, 0), path, format)
    assert 0 <= difference <= 1e-5
    run = load_exported(path, format, trusted=True)
    for rows in (1, 2, 5, 64):
        batch = list(inputs(rows, rows).values())
        with torch.no_grad():
            expected = eager(*batch)
        assert expected.shape == (rows, HORIZON, ACTION_DIM)
        torch.testing.assert_close(run(*batch), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "options", "format"), CASES)
def test_flows_export_as_the_table_says(name: str, options: dict, format: str, tmp_path: Path) -> None:
    flow, path = random_flow(name, options), tmp_path / "flow"
    if name in TORCHSCRIPT_ONLY and format != "torchscript":
        for module, inputs in ((LatentToChunk(flow), arguments), (ContextToMode(flow), context_only)):
            with pytest.raises(ExportError, match=f"cannot be exported as {format}: "):
                export(module, inputs(16, 0), path, format)
        assert not path.exists()
        return
    check(LatentToChunk(flow), arguments, lambda *given: flow.to_chunk(*given)[0], path, format)
    check(ContextToMode(flow), context_only, flow.mode, path, format)


def test_the_module_stays_as_it_was(tmp_path: Path) -> None:
    flow = random_flow("coupling", dict(layers=3, width=8, base="gaussian", mixing="lu", dropout=0.5))
    before = [(name, type(part), part.training) for name, part in flow.named_modules()]
    export(ContextToMode(flow), context_only(4, 0), tmp_path / "flow", "torchscript")  # dropout would differ
    assert [(name, type(part), part.training) for name, part in flow.named_modules()] == before
    assert all(parameter.requires_grad for parameter in flow.parameters())


def test_an_onnx_file_says_what_it_takes(tmp_path: Path) -> None:
    import onnxruntime

    flow = random_flow("gaussian", dict(width=4, depth=1))
    export(LatentToChunk(flow), arguments(3, 0), tmp_path / "flow.onnx", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "flow.onnx")
    assert [(x.name, x.shape) for x in session.get_inputs()] == [
        ("latent", ["batch", HORIZON, ACTION_DIM]),
        ("context", ["batch", CONTEXT_DIM]),
    ]
    assert [(x.name, x.shape) for x in session.get_outputs()] == [("chunk", ["batch", HORIZON, ACTION_DIM])]
    assert [file.name for file in tmp_path.iterdir()] == ["flow.onnx"]  # weights included


class SumOfParts(nn.Module):
    def forward(self, parts: dict[str, Tensor], offset: Tensor) -> Tensor:
        return parts["linear"].float().flatten(1) + nn.functional.linear(parts["b/c"], torch.eye(2)).float() + offset


@pytest.mark.parametrize("format", FORMATS)
def test_an_argument_may_be_a_mapping_and_a_file_carries_texts(format: str, tmp_path: Path) -> None:
    module, path, texts = SumOfParts(), tmp_path / "file", {"softflow": '{"ü": 1}', "note": "two\nlines"}
    parts = {"linear": torch.arange(8, dtype=torch.int32).view(4, 2, 1), "b/c": torch.randn(4, 2)}
    export(module, {"parts": parts, "offset": torch.ones(4, 1)}, path, format, metadata=texts)
    run = load_exported(path, format, trusted=True)
    batch = {name: part[:3] for name, part in reversed(parts.items())}
    torch.testing.assert_close(run(batch, torch.zeros(3, 1)), module(batch, torch.zeros(3, 1)))
    assert read_metadata(path, format) == texts
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ExportError, match=f"no {format} file, or damaged"):
        read_metadata(path, format)


def test_a_file_may_be_compared_with_something_else(tmp_path: Path) -> None:
    def off(context: Tensor) -> Tensor:
        return context + 1e-4

    module, example, path = nn.Identity(), {"context": torch.zeros(4, 2)}, tmp_path / "file"
    with pytest.raises(ExportError, match=r"differs from the original by 1\.0e-04"):
        export(module, example, path, "torchscript", reference=off)
    with pytest.raises(ExportError, match=r"differs from the original by 1\.0e-01"):
        export(module, example, path, "torchscript", reference=off, scale=torch.tensor([100.0, 1e-3]))
    assert export(module, example, path, "torchscript", reference=off, scale=100.0) == pytest.approx(1e-6)


class FreezesTheBatch(nn.Module):
    def forward(self, context: Tensor) -> Tensor:
        return context + torch.zeros(len(context), 1)


class Branches(nn.Module):
    def forward(self, context: Tensor) -> Tensor:
        return context if len(context) < 3 or context.sum() > 1e9 else 2 * context


class IsNaN(nn.Module):
    """In the file and eagerly: a difference that is not a number is not small."""

    def forward(self, context: Tensor) -> Tensor:
        return context.log()


@pytest.mark.parametrize("format", ["torchscript", "torch_export"])
@pytest.mark.parametrize("module", [FreezesTheBatch(), Branches(), IsNaN()], ids=lambda module: type(module).__name__)
def test_a_file_that_would_differ_is_not_written(module: nn.Module, format: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"exported as {format}"):
        export(module, context_only(16, 0), tmp_path / "file", format)
    assert not (tmp_path / "file").exists()


def test_bad_input_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, path = FreezesTheBatch(), tmp_path / "file"
    with pytest.raises(ValueError, match="expected one of torchscript, torch_export, onnx, got 'caffe'"):
        export(module, context_only(4, 0), path, "caffe")
    with pytest.raises(ValueError, match="got 'caffe'"):
        load_exported(path, "caffe")
    for example in ({}, context_only(2, 0), arguments(4, 0) | context_only(3, 0)):
        with pytest.raises(ValueError, match="example: expected the same three or more rows"):
            export(module, example, path, "torchscript")
    with pytest.raises(ValueError, match="are called 'chunk': rename one"):
        export(module, {"chunk": torch.zeros(4, 2)}, path, "torchscript")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'softflow\[onnx\]'"):
        export(module, context_only(4, 0), path, "onnx")
    assert not path.exists()


@pytest.mark.parametrize("format", ["torchscript", "torch_export"])
def test_what_may_execute_code_is_not_loaded_unasked(format: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(FOREIGN["pickle in a zip"])
    with pytest.raises(ValueError, match=f"a {format} file may execute anything .* trusted=True"):
        load_exported(path, format)
    assert not EXECUTED


@pytest.mark.parametrize("content", FOREIGN)
def test_an_onnx_file_that_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(FOREIGN[content])
    with pytest.raises(ExportError, match="no onnx file, or damaged") as caught:
        load_exported(tmp_path / "file", "onnx")
    assert "\n" not in str(caught.value) and not EXECUTED


@pytest.mark.slow
def test_torch_unpickles_what_a_torch_export_file_holds(tmp_path: Path) -> None:
    """Why trust is asked for; where this fails, it need not be any more."""
    export(nn.Linear(CONTEXT_DIM, 1), context_only(4, 0), tmp_path / "good", "torch_export")
    with zipfile.ZipFile(tmp_path / "good") as good, zipfile.ZipFile(tmp_path / "bad", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, PICKLE if name.endswith("sample_inputs/model.pt") else good.read(name))
    with pytest.raises(ExportError):
        load_exported(tmp_path / "bad", "torch_export", trusted=True)
    assert EXECUTED.pop() == "unpickled"

"""The benchmarks name parts of the library that nothing else would notice the loss of."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("benchmarks/*/*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_a_benchmark_can_be_imported(module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name in ("matplotlib", "PIL"):  # of the extra `plot`
            pytest.skip(str(error))
        raise


def test_the_profile_finds_its_parts() -> None:
    from benchmarks.timing.profile_run import PARTS

    assert [name for parts in PARTS.values() for owner, name in parts if not hasattr(owner, name)] == []

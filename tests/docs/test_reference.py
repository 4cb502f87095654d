"""What the reference generates: every public name, setting and scalar is described."""

from __future__ import annotations

import importlib.util
import inspect
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from softflow.settings.fields import dotted_fields
from softflow.training.config import RunConfig

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
MODULES = ["softflow", "flows", "critics"]
MODULES += [f"softflow.{name}" for name in ("algos", "data", "envs", "policies", "robot", "task", "teleop")]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def undocumented(name: str, thing: Any) -> list[str]:
    """The public names of a class or a function that have no docstring, itself among them."""
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return []
    own = [] if vars(thing).get("__doc__") or (inspect.isfunction(thing) and thing.__doc__) else [name]
    if not inspect.isclass(thing):
        return own
    for attribute, value in vars(thing).items():
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        is_ours = inspect.isfunction(function) and function.__name__ == attribute
        if not attribute.startswith("_") and is_ours and not inspect.getdoc(getattr(thing, attribute)):
            own.append(f"{name}.{attribute}")
    return own


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_docstrings(name: str) -> None:
    module = import_module(name)
    missing = [one for public in module.__all__ for one in undocumented(public, getattr(module, public))]
    assert not missing


def test_every_module_has_its_page(generate: ModuleType) -> None:
    asked = [re.findall(r"generated: api (.*) -->", page.read_text()) for page in REFERENCE.glob("*.md")]
    assert sorted(module for modules in asked for module in modules) == sorted(MODULES)
    assert "::: softflow.robot.Robot\n" in generate.on_page_markdown("<!-- generated: api softflow.robot -->")


@pytest.mark.parametrize("page", ["settings.md", "commands.md"])
def test_pages_are_completed(page: str, generate: ModuleType) -> None:
    text = generate.on_page_markdown((REFERENCE / page).read_text())
    assert "generated:" not in text and text.count("\n| `") > 60


def test_settings_are_those_of_the_dataclass(generate: ModuleType) -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| (.*?) \| (.+) \|$", generate.table(RunConfig), re.MULTILINE)
    assert [name for name, *_ in rows] == [name for name, _ in dotted_fields(RunConfig)]
    by_name = {name: (value, default) for name, value, default, _ in rows}
    assert by_name["num_demos"] == ("INT", "`200`") and by_name["vectorization_mode"] == ("sync \\| async", '`"sync"`')


def test_every_scalar_is_described() -> None:
    sources = [*(ROOT / "softflow/algos").glob("*.py"), *(ROOT / "softflow/training").glob("*.py")]
    sources += [ROOT / "softflow/runs/ray_crew.py"]
    logged = {name for source in sources for name in re.findall(r'"([a-z_]+/[a-z_]+)"', source.read_text())}
    assert len(logged) > 30
    assert logged - set(re.findall(r"`([a-z_]+/[a-z_]+)`", (REFERENCE / "scalars.md").read_text())) == set()

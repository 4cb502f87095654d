"""What is installed: packages, presets, commands, and the guard against packages of the same name."""

from __future__ import annotations

import configparser
import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"flows": "flows", "critics": "critics", "softflow": "softflow", "configs": "softflow/configs"}
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
COMMANDS = SETUP["options.entry_points"]["console_scripts"].split("\n")[1:]
PIP = [sys.executable, "-m", "pip", "--quiet"]
MYPY = [sys.executable, "-m", "mypy", "--strict", "--config-file="]


def packaged_files() -> set[str]:
    """The paths in a wheel of all files in the checkout's packages."""
    files = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in SOURCES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in (".py", ".typed", ".yaml", ".xml") and "__pycache__" not in path.parts
    }
    assert len(files) > 20
    return files


def run_python(code: str, cwd: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


def test_setup_lists_every_package() -> None:
    packages = {str(Path(file).parent).replace("/", ".") for file in packaged_files() if file.endswith("/__init__.py")}
    assert set(SETUP["options"]["packages"].split()) == packages


@pytest.mark.parametrize("package", ["flows", "critics", "softflow"])
def test_packages_are_typed(package: str) -> None:
    assert (resources.files(package) / "py.typed").is_file()


@pytest.mark.parametrize("kind", ["algos", "envs", "presets"])
def test_presets_are_installed(kind: str) -> None:
    installed = sorted(file.name for file in (resources.files("softflow.configs") / kind).iterdir())
    assert installed == sorted(file.name for file in (ROOT / "configs" / kind).glob("*.yaml"))
    assert installed


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command: str) -> None:
    module, _, function = command.partition("=")[2].strip().partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_import_is_light(tmp_path: Path) -> None:
    result = run_python("import softflow, sys; print('torch' in sys.modules)", tmp_path, ROOT)
    assert (result.returncode, result.stdout.strip()) == (0, "False"), result.stderr


@pytest.mark.parametrize("shadow", ["flows.py", "critics.py", "flows/__init__.py"])
def test_a_shadowing_package_is_named(shadow: str, tmp_path: Path) -> None:
    (tmp_path / shadow).parent.mkdir(exist_ok=True)
    (tmp_path / shadow).write_text("raise RuntimeError('imported')\n")
    result = run_python("import softflow", tmp_path, tmp_path, ROOT)
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("ImportError: softflow needs its own package")
    assert str(tmp_path / shadow) in message and "rename or remove" in message


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that is built from the source distribution, as installers of other platforms do."""
    folder = tmp_path_factory.mktemp("distribution")
    source = folder / "source"
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / file, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, folder], check=True, cwd=source, capture_output=True)
    (archive,) = folder.glob("softflow-*.tar.gz")
    subprocess.run([*PIP, "wheel", "--no-build-isolation", "--no-deps", "-w", folder, archive], check=True, cwd=folder)
    (built,) = folder.glob("softflow-*.whl")
    return built


@pytest.mark.slow
def test_wheel_works_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    assert packaged_files() <= set(zipfile.ZipFile(wheel).namelist())

    subprocess.run([*PIP, "install", "--no-deps", "--target", site, wheel], check=True, cwd=tmp_path)
    empty.mkdir()
    code = """
import critics, flows, softflow
from softflow.settings.presets import available_presets, load_preset
print(*{module.__file__.rsplit("/", 2)[0] for module in (critics, flows, softflow)})
print(load_preset("algos", "softflow").source, *available_presets("envs"))
"""
    result = run_python(code, empty, site)
    assert result.returncode == 0, result.stderr
    places, presets = result.stdout.splitlines()
    assert places == str(site)
    assert presets.startswith("configs/algos/softflow.yaml ") and "tape_cut" in presets


@pytest.mark.slow
def test_a_program_that_uses_the_public_names_is_typed(wheel: Path, tmp_path: Path) -> None:
    """mypy reads the annotations of an installed package only if it has `py.typed`, and `--strict` refuses the rest."""
    environment = tmp_path / "venv"
    venv.create(environment)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    zipfile.ZipFile(wheel).extractall(site)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    shutil.copy(ROOT / "tests" / "outside_program.py", tmp_path)
    checked = subprocess.run(
        [*MYPY, f"--python-executable={environment}/bin/python", "outside_program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr

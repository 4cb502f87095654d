"""Flows by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import DEFAULT_FLOW, CouplingFlow, GaussianFlow, available_flows, make_flow, register_flow
from flows.registry import FLOWS
from tests.flows.flow_cases import SMALL
from tests.packages import describe, install

DIMS = dict(horizon=2, action_dim=3, context_dim=4)


def test_built_in_flows() -> None:
    assert available_flows() == sorted(SMALL)
    assert isinstance(make_flow(DEFAULT_FLOW, **DIMS), CouplingFlow)
    flow = make_flow("gaussian", width=7, **DIMS)
    assert isinstance(flow, GaussianFlow) and flow.net[0].out_features == 7
    assert (flow.horizon, flow.action_dim, flow.context_dim, flow.latent_shape) == (2, 3, 4, (2, 3))


def test_unknown_names_and_options_are_met_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown flow 'copling'; did you mean 'coupling'\?"):
        make_flow("copling", **DIMS)
    with pytest.raises(
        ValueError, match=r"unknown flow 'mine:Flow'.* known once its module is imported, or its package"
    ):
        make_flow("mine:Flow", **DIMS)
    with pytest.raises(ValueError, match=r"unknown option 'layer' of flow 'coupling'; did you mean 'layers'\?"):
        make_flow("coupling", layer=2, **DIMS)
    with pytest.raises(ValueError, match=r"unknown option 'base' of flow 'gaussian'"):
        make_flow("gaussian", base="mixture", **DIMS)


def test_registering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FLOWS, "_things", dict(FLOWS._things))

    @register_flow("mine")
    class Mine(GaussianFlow):
        pass

    assert available_flows() == sorted([*SMALL, "mine"])
    assert type(make_flow("mine", depth=1, **DIMS)) is Mine
    with pytest.raises(ValueError, match="already registered"):
        register_flow("gaussian")(Mine)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages, on Python's path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(FLOWS, "_announced", set())
    yield folder
    for package in ("shy_flows", "bold_flows"):
        sys.modules.pop(package, None)


def test_entry_points_are_loaded_when_asked_for(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "theirs = shy_flows:ShyFlow\nbroken = no_such_package:Flow\nno_flow = math:pi")
    assert available_flows() == sorted([*SMALL, "broken", "no_flow", "theirs"])
    assert "shy_flows" not in sys.modules and not caplog.messages
    assert isinstance(make_flow("theirs", **DIMS), GaussianFlow)
    make_flow("theirs", **DIMS)
    assert caplog.messages == ["flow 'theirs' comes from shy_flows:ShyFlow of the package 'shy-flows'"]
    with pytest.raises(ImportError, match=r"flow 'broken' cannot be imported from no_such_package:Flow .*No module"):
        make_flow("broken", **DIMS)
    with pytest.raises(ValueError, match=r"math:pi of the package 'shy-flows' is not a subclass of flows\.ChunkFlow"):
        make_flow("no_flow", **DIMS)


@pytest.mark.parametrize("name", ["gaussian", "zuko_nsf"])
def test_a_name_of_ours_means_ours(name: str, site: Path) -> None:
    install(site, f"{name} = shy_flows:ShyFlow")
    assert type(make_flow(name, **DIMS)).__module__ in ("flows.gaussian", "flows.zuko_backend")
    assert "shy_flows" not in sys.modules
    assert available_flows() == sorted(SMALL)


def test_a_name_that_two_packages_give_is_refused(site: Path) -> None:
    install(site, "theirs = shy_flows:ShyFlow")
    install(site, "theirs = bold_flows:BoldFlow", package="bold_flows")
    with pytest.raises(ValueError, match="flow 'theirs' is defined more than once") as raised:
        make_flow("theirs", **DIMS)
    assert "shy_flows:ShyFlow of the package 'shy-flows'" in str(raised.value)
    assert "bold_flows:BoldFlow of the package 'bold-flows'" in str(raised.value)
    assert available_flows() == sorted([*SMALL, "theirs"])  # the others can still be listed, and made
    make_flow("coupling", **DIMS)


def test_of_two_versions_of_a_package_the_first_on_the_path_counts(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "older"
    install(older, "theirs = shy_flows:GoneFlow\ngone = shy_flows:GoneFlow")
    monkeypatch.setattr(sys, "path", [*sys.path, str(older)])
    install(site, "theirs = shy_flows:ShyFlow")
    assert isinstance(make_flow("theirs", **DIMS), GaussianFlow)
    assert available_flows() == sorted([*SMALL, "theirs"])


@pytest.mark.parametrize("entry", ["", ".", "absolute", "link", "sub"])
def test_nothing_in_the_current_folder_is_installed(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python puts it on its path by `python -m` and `python -c`, and `PYTHONPATH` may name it."""
    stranger = tmp_path / "stranger"
    install(stranger / "sub" if entry == "sub" else stranger, "theirs = shy_flows:ShyFlow")
    (tmp_path / "link").symlink_to(stranger)
    entries = {"absolute": str(stranger), "link": str(tmp_path / "link")}
    monkeypatch.chdir(stranger)
    monkeypatch.setattr(sys, "path", [entries.get(entry, entry), *sys.path])
    with pytest.raises(ValueError, match="unknown flow 'theirs'"):
        make_flow("theirs", **DIMS)
    assert "shy_flows" not in sys.modules and available_flows() == sorted(SMALL)


def test_a_project_that_is_installed_from_the_current_folder_is_found(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editable installation describes the project beside the other packages, not in its own folder."""
    project = install(tmp_path / "project", "stale = shy_flows:GoneFlow")
    describe(site, "mine = shy_flows:ShyFlow")
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    assert isinstance(make_flow("mine", **DIMS), GaussianFlow)
    assert available_flows() == sorted([*SMALL, "mine"])


def test_sizes_may_be_taken_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FLOWS, "_things", dict(FLOWS._things))

    @register_flow("mine")
    class Mine(GaussianFlow):
        def __init__(self, *, scale: float = 1.0, **sizes: int) -> None:
            super().__init__(**sizes)

    assert make_flow("mine", scale=2.0, **DIMS).latent_shape == (2, 3)
    for option in ("sizes", "width"):
        with pytest.raises(ValueError, match=rf"unknown option '{option}' of flow 'mine'.*valid: bounds, .*scale\)"):
            make_flow("mine", **DIMS, **{option: 2})

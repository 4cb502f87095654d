"""Flows by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

import flows.registry
from flows import DEFAULT_FLOW, CouplingFlow, GaussianFlow, available_flows, make_flow, register_flow
from tests.flows.flow_cases import SMALL

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
    with pytest.raises(ValueError, match=r"unknown option 'layer' of flow 'coupling'; did you mean 'layers'\?"):
        make_flow("coupling", layer=2, **DIMS)
    with pytest.raises(ValueError, match=r"unknown option 'base' of flow 'gaussian'"):
        make_flow("gaussian", base="mixture", **DIMS)


def test_registering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.registry, "_registered", dict(flows.registry._registered))

    @register_flow("mine")
    class Mine(GaussianFlow):
        pass

    assert available_flows() == sorted([*SMALL, "mine"])
    assert type(make_flow("mine", depth=1, **DIMS)) is Mine
    with pytest.raises(ValueError, match="already registered"):
        register_flow("gaussian")(Mine)


def test_entry_points_are_loaded_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = {"theirs": "flows.gaussian:GaussianFlow", "broken": "no_such_package:Flow", "no_flow": "math:pi"}
    points = [EntryPoint(name, target, flows.registry.ENTRY_POINT_GROUP) for name, target in targets.items()]
    monkeypatch.setattr(flows.registry, "entry_points", lambda group: points)
    assert available_flows() == sorted([*SMALL, "broken", "no_flow", "theirs"])
    assert isinstance(make_flow("theirs", **DIMS), GaussianFlow)
    with pytest.raises(ImportError, match=r"flow 'broken' cannot be imported from no_such_package:Flow: .*No module"):
        make_flow("broken", **DIMS)
    with pytest.raises(ValueError, match=r"math:pi is not a subclass of flows\.ChunkFlow"):
        make_flow("no_flow", **DIMS)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("gaussian", "flows.gaussian:GaussianFlow"),
        ("zuko_nsf", "flows.zuko_backend:ZukoNSF"),
        ("theirs", "other_package:Flow"),
    ],
)
def test_a_name_with_two_owners_is_refused(name: str, owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [(name, "flows.gaussian:NoSuchFlow"), ("theirs", "other_package:Flow")]
    points = [EntryPoint(taken, target, flows.registry.ENTRY_POINT_GROUP) for taken, target in targets]
    monkeypatch.setattr(flows.registry, "entry_points", lambda group: points)
    with pytest.raises(ValueError, match=rf"flow '{name}' is defined more than once.*") as raised:
        make_flow(name, **DIMS)
    assert owner in str(raised.value) and "flows.gaussian:NoSuchFlow" in str(raised.value)
    assert set(available_flows()) == {*SMALL, "theirs"}  # the others can still be listed, and made
    make_flow("coupling", **DIMS)


def test_an_entry_point_to_a_registered_flow_is_no_second_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("gaussian", "flows.gaussian:GaussianFlow", flows.registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(flows.registry, "entry_points", lambda group: [point])
    assert isinstance(make_flow("gaussian", **DIMS), GaussianFlow)


def test_sizes_may_be_taken_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.registry, "_registered", dict(flows.registry._registered))

    @register_flow("mine")
    class Mine(GaussianFlow):
        def __init__(self, *, scale: float = 1.0, **sizes: int) -> None:
            super().__init__(**sizes)

    assert make_flow("mine", scale=2.0, **DIMS).latent_shape == (2, 3)
    for option in ("sizes", "width"):
        with pytest.raises(ValueError, match=rf"unknown option '{option}' of flow 'mine'.*valid: bounds, .*scale\)"):
            make_flow("mine", **DIMS, **{option: 2})

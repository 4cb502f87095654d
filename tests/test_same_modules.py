"""`softflow.flows` and `softflow.critics` are `flows` and `critics`, whichever name is imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest

SAME = """
import sys, pickle
import {first}
import {second}
import softflow.flows, softflow.critics
import flows, critics, flows.coupling, critics.ensemble
assert "torch" in sys.modules
assert softflow.flows is flows and softflow.critics is critics
import softflow.flows.coupling
assert sys.modules["softflow.flows.coupling"] is softflow.flows.coupling is flows.coupling
from softflow.flows import zuko_backend
from softflow.critics.ensemble import ChunkCritic
import flows.zuko_backend
assert zuko_backend is flows.zuko_backend and ChunkCritic is critics.ChunkCritic
for module in (flows, critics, flows.coupling, flows.zuko_backend, critics.ensemble):
    assert module.__spec__.name == module.__name__ and not module.__name__.startswith("softflow"), module.__spec__
assert flows.available_flows() == softflow.flows.available_flows()
flow = softflow.flows.make_flow("gaussian", horizon=2, action_dim=3, context_dim=4)
copy = pickle.loads(pickle.dumps(flow))
assert type(copy) is flows.GaussianFlow and b"softflow" not in pickle.dumps(flow)
try:
    import softflow.flows.no_such_module
except ModuleNotFoundError as error:
    assert error.name == "softflow.flows.no_such_module", error.name
    print("same")
"""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("softflow.flows.coupling", "flows.coupling"),
        ("flows.coupling", "softflow.flows.coupling"),
        ("softflow.critics", "softflow.flows.registry"),
    ],
)
def test_the_modules_are_the_same(first: str, second: str) -> None:
    code = SAME.format(first=first, second=second)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["same"], result.stderr


def test_importing_softflow_imports_neither() -> None:
    code = "import sys, softflow; print(sorted({'flows', 'critics', 'torch'} & {*sys.modules}))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"

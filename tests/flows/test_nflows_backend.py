"""nflows as a backend, and as an oracle of our coupling. The presets also pass tests/flows/test_flow_contract.py."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from nflows import transforms
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.nn.nets import ResidualNet
from torch import Tensor, nn

from flows import CouplingFlow, GaussianFlow, MixtureBase, make_flow, register_flow
from flows.nflows_backend import AffineCoupling, NflowsFlow

DIMS = dict(horizon=3, action_dim=2, context_dim=4)
FEATURES = 6
PRESETS = ["nflows_nsf", "nflows_realnvp"]


def net(inputs: int, outputs: int) -> nn.Module:
    return ResidualNet(inputs, outputs, 16, context_features=4)


def random(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.double()


def batch(*n: int, rows: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(rows, *n, 3, 2, dtype=torch.float64), torch.randn(rows, 4, dtype=torch.float64)


TRANSFORMS = {
    "autoregressive": lambda: transforms.MaskedAffineAutoregressiveTransform(FEATURES, 16, context_features=4),
    "inverse": lambda: transforms.InverseTransform(
        transforms.MaskedAffineAutoregressiveTransform(FEATURES, 16, context_features=4)
    ),
    "composite": lambda: transforms.CompositeTransform(
        [
            transforms.RandomPermutation(FEATURES),
            transforms.AdditiveCouplingTransform([0, 1, 0, 1, 0, 1], net),
            transforms.LULinear(FEATURES),
            transforms.PiecewiseRationalQuadraticCouplingTransform([1, 0, 1, 0, 1, 0], net, tails="linear"),
        ]
    ),
    "unconditional": lambda: transforms.CompositeTransform(
        [transforms.HouseholderSequence(FEATURES, 2), transforms.LeakyReLU()]
    ),
}


@pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated")  # by LULinear
@pytest.mark.parametrize("name", TRANSFORMS)
def test_any_transform_becomes_a_flow(name: str) -> None:
    torch.manual_seed(0)
    transform = TRANSFORMS[name]().double()
    flow = NflowsFlow(transform, **DIMS)
    theirs = Flow(transform, StandardNormal([FEATURES]))
    chunk, context = batch(3)
    for i in range(3):
        expected = theirs.log_prob(chunk[:, i].flatten(1), context)
        torch.testing.assert_close(flow.log_prob(chunk, context)[:, i], expected, rtol=0, atol=1e-12)
    latent, forward = flow.to_latent(chunk, context)
    back, backward = flow.to_chunk(latent, context)
    torch.testing.assert_close(back, chunk, rtol=0, atol=1e-10)
    torch.testing.assert_close(forward, -backward, rtol=0, atol=1e-10)
    assert flow.sample(context, n=2).shape == (5, 2, 3, 2)


def test_any_base() -> None:
    torch.manual_seed(0)
    base = MixtureBase(FEATURES, 4, components=3, width=8)
    flow = NflowsFlow(TRANSFORMS["composite"](), base=base, **DIMS).double()
    chunk, context = batch()
    latent, log_abs_det = flow.to_latent(chunk, context)
    expected = base.log_prob(latent.flatten(1).unsqueeze(1), base(context))[:, 0] + log_abs_det
    torch.testing.assert_close(flow.log_prob(chunk, context), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_have_the_flows_dtype(name: str, dtype: torch.dtype) -> None:
    flow = make_flow(name, layers=2, width=8, **DIMS).to(dtype)
    context = torch.randn(5, 4, dtype=dtype)
    chunk, log_prob = flow.rsample_and_log_prob(context, n=3)
    assert flow.sample(context).dtype == flow.mode(context).dtype == chunk.dtype == log_prob.dtype == dtype


@pytest.mark.parametrize("name", PRESETS)
def test_conditioners_run_once_in_a_pass(name: str) -> None:
    flow = make_flow(name, layers=4, width=8, **DIMS)
    runs: list[int] = []
    for module in flow.modules():
        if isinstance(module, ResidualNet):
            module.register_forward_hook(lambda *_: runs.append(1))
    flow.rsample_and_log_prob(torch.randn(5, 4), n=3)
    assert len(runs) == 4


def test_the_corrected_coupling_expands_and_that_of_nflows_cannot() -> None:
    class Constant(nn.Module):  # shift 0, unconstrained scale 100
        def forward(self, fixed: Tensor, context: Tensor) -> Tensor:
            return torch.tensor([0.0, 0.0, 0.0, 100.0, 100.0, 100.0], dtype=fixed.dtype).expand(len(fixed), -1)

    mask = [0, 0, 0, 1, 1, 1]
    x, context = torch.ones(1, FEATURES, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    theirs, _ = transforms.AffineCouplingTransform(mask, lambda *_: Constant())(x, context)
    assert theirs.max() <= 1.001
    for bound in (2.0, 0.5):
        log_scale = 100 / (1 + 100 / bound)
        ours, log_abs_det = AffineCoupling(mask, lambda *_: Constant(), log_scale_bound=bound)(x, context)
        expected = torch.tensor([[1.0] * 3 + [log_scale] * 3], dtype=torch.float64)
        expected[:, 3:] = expected[:, 3:].exp()
        torch.testing.assert_close(ours, expected)
        assert log_abs_det.item() == pytest.approx(3 * log_scale)


def test_a_new_realnvp_is_the_identity_and_its_layers_move_the_halves_in_turns() -> None:
    chunk, context = batch()
    flow = make_flow("nflows_realnvp", layers=2, width=8, **DIMS).double()
    latent, log_abs_det = flow.to_latent(chunk, context)
    assert torch.equal(latent, chunk) and torch.equal(log_abs_det, torch.zeros_like(log_abs_det))
    for layer, moved in enumerate([slice(1, 3), slice(0, 1)]):
        random(coupling := flow.transform._transforms[layer])
        changed = (coupling(chunk.flatten(1), context)[0] != chunk.flatten(1)).unflatten(1, (3, 2)).all(0).all(-1)
        assert changed.tolist() == [moved.start <= step < moved.stop for step in range(3)]


def test_our_coupling_flow_computes_what_nflows_does() -> None:
    torch.manual_seed(0)
    ours = random(CouplingFlow(layers=5, width=16, base="gaussian", log_scale_bound=1.5, **DIMS))

    class Net(nn.Module):
        """Our conditioner, its weights and its part of the context in the shape that nflows calls."""

        def __init__(self, layer: int) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, fixed: Tensor, context: Tensor) -> Tensor:
            embedding = ours.embed(context)[self.layer]
            log_scale, shift = ours.conditioners[self.layer](fixed, embedding).chunk(2, -1)
            return torch.cat((shift, log_scale), -1)

    masks = [torch.tensor([0, 0, 1, 1, 1, 1]), torch.tensor([1, 1, 0, 0, 0, 0])]
    couplings = [AffineCoupling(masks[i % 2], lambda *_, i=i: Net(i), log_scale_bound=1.5) for i in range(5)]
    theirs = Flow(transforms.CompositeTransform(couplings), StandardNormal([FEATURES]))
    chunk, context = batch()
    exact = dict(rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.log_prob(chunk, context), theirs.log_prob(chunk.flatten(1), context), **exact)
    for map_, oracle in ((ours.to_latent, theirs._transform), (ours.to_chunk, theirs._transform.inverse)):
        value, log_abs_det = map_(chunk, context)
        expected, expected_log_abs_det = oracle(chunk.flatten(1), context)
        assert (value - chunk).abs().max() > 0.1
        torch.testing.assert_close(value.flatten(1), expected, **exact)
        torch.testing.assert_close(log_abs_det, expected_log_abs_det, **exact)


def test_a_long_autoregressive_flow_warns() -> None:
    def build(features: int) -> None:
        transform = transforms.CompositeTransform([transforms.MaskedAffineAutoregressiveTransform(features, 16)])
        NflowsFlow(transform, horizon=features, action_dim=1, context_dim=4)

    with pytest.warns(UserWarning, match="one pass per dimension, 33 here"):
        build(33)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(32)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("bad", [dict(layers=0), dict(width=0), dict(blocks=0), dict(components=0),
                                 dict(base="uniform"), dict(dropout=1.5), dict(horizon=0)])  # fmt: skip
def test_bad_options_are_refused(name: str, bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        make_flow(name, **DIMS | bad)


def test_bad_bounds_and_bins_are_refused() -> None:
    for name, bad in (("nflows_realnvp", "log_scale_bound"), ("nflows_nsf", "tail_bound"), ("nflows_nsf", "bins")):
        with pytest.raises(ValueError, match=bad):
            make_flow(name, **DIMS, **{bad: 0})


def test_what_is_no_transform_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected an nflows\.transforms\.Transform, got Flow"):
        NflowsFlow(Flow(transforms.LeakyReLU(), StandardNormal([FEATURES])), **DIMS)


def test_a_presets_name_is_taken() -> None:
    with pytest.raises(ValueError, match=r"'nflows_nsf' is already registered, by flows\.nflows_backend:NflowsNSF"):
        register_flow("nflows_nsf")(GaussianFlow)


def test_nflows_is_imported_when_asked_for_and_missed_by_name() -> None:
    script = """
import sys, flows
assert "nflows" not in sys.modules
assert {"nflows_nsf", "nflows_realnvp"} <= set(flows.available_flows())
sys.modules["nflows"] = None  # as if it were not installed
try:
    flows.make_flow("nflows_nsf", horizon=2, action_dim=1, context_dim=1)
except ImportError as error:
    assert "pip install nflows" in str(error), error
else:
    raise SystemExit("no ImportError")
"""
    subprocess.run([sys.executable, "-c", script], check=True)

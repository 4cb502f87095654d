"""zuko as a backend, and as an oracle of our own coupling. The presets also pass tests/flows/test_flow_contract.py."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from flows import CouplingFlow, MixtureBase, make_flow
from flows.zuko_backend import ZukoFlow, zuko  # zuko itself through it: the plain import turns off validation

DIMS = dict(horizon=3, action_dim=2, context_dim=4)
FEATURES = 6
PRESETS = ["zuko_maf", "zuko_nice", "zuko_nsf"]


def random(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.double()


def batch(*n: int, rows: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(rows, *n, 3, 2, dtype=torch.float64), torch.randn(rows, 4, dtype=torch.float64)


# Flows, and the tolerance to which zuko inverts them: bisection and ODE solvers are not exact.
FLOWS: dict[str, tuple[Callable[[], zuko.flows.Flow], float]] = {
    "autoregressive NSF": (lambda: zuko.flows.NSF(FEATURES, 4, transforms=2), 1e-10),
    "MAF in three passes": (lambda: zuko.flows.MAF(FEATURES, 4, passes=3, randperm=True), 1e-10),
    "NICE": (lambda: zuko.flows.NICE(FEATURES, 4, randmask=True), 1e-10),
    "Gaussianization": (lambda: zuko.flows.GF(FEATURES, 4, transforms=2), 1e-4),
    "polynomials": (lambda: zuko.flows.SOSPF(FEATURES, 4, transforms=2), 1e-4),
    "continuous": (lambda: zuko.flows.CNF(FEATURES, 4, atol=1e-8, rtol=1e-7), 1e-4),
}


@pytest.mark.parametrize("name", FLOWS)
def test_any_flow_becomes_ours(name: str) -> None:
    torch.manual_seed(0)
    build, tolerance = FLOWS[name]
    theirs = build().double()
    flow = ZukoFlow(theirs, **DIMS)
    chunk, context = batch(3)
    log_prob = flow.log_prob(chunk, context)
    expected = theirs(context.unsqueeze(1)).log_prob(chunk.flatten(-2))
    torch.testing.assert_close(log_prob, expected, rtol=0, atol=1e-12)
    latent, forward = flow.to_latent(chunk, context)
    back, backward = flow.to_chunk(latent, context)
    torch.testing.assert_close(back, chunk, rtol=0, atol=tolerance)
    torch.testing.assert_close(forward, -backward, rtol=0, atol=tolerance)
    assert flow.sample(context, n=2).shape == (5, 2, 3, 2)


def test_any_transform_and_base_become_a_flow() -> None:
    torch.manual_seed(0)
    unconditional = zuko.lazy.UnconditionalTransform
    transform = zuko.lazy.LazyComposedTransform(
        unconditional(zuko.transforms.SoftclipTransform, bound=20.0),  # elementwise: a log-det for each dimension
        zuko.flows.GeneralCouplingTransform(FEATURES, 4).inv,
        unconditional(zuko.transforms.LULinearTransform, torch.eye(FEATURES) + 0.1 * torch.randn(FEATURES, FEATURES)),
    )
    base = MixtureBase(FEATURES, 4, components=3, width=8)
    flow = ZukoFlow(transform, base=base, **DIMS).double()
    chunk, context = batch()
    latent, log_abs_det = flow.to_latent(chunk, context)
    back, backward = flow.to_chunk(latent, context)
    torch.testing.assert_close(back, chunk, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_abs_det, -backward, rtol=0, atol=1e-10)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: flow.to_latent(x.view(1, 3, 2), context[:1])[0].flatten(), chunk[0].flatten()
    )
    assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(log_abs_det[0].item(), abs=1e-10)
    expected = base.log_prob(latent.flatten(1).unsqueeze(1), base(context))[:, 0] + log_abs_det
    torch.testing.assert_close(flow.log_prob(chunk, context), expected, rtol=0, atol=1e-12)


def test_an_elementwise_transform_alone() -> None:
    flow = ZukoFlow(zuko.lazy.UnconditionalTransform(zuko.transforms.SoftclipTransform, bound=3.0), **DIMS).double()
    chunk, context = batch(2)
    latent, log_abs_det = flow.to_latent(chunk, context)
    torch.testing.assert_close(latent, chunk / (1 + chunk.abs() / 3))
    torch.testing.assert_close(log_abs_det, -2 * (1 + chunk.abs() / 3).log().sum((-2, -1)))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_have_the_flows_dtype(name: str, dtype: torch.dtype) -> None:
    flow = make_flow(name, layers=2, width=8, **DIMS).to(dtype)
    context = torch.randn(5, 4, dtype=dtype)
    chunk, log_prob = flow.rsample_and_log_prob(context, n=3)
    assert flow.sample(context).dtype == flow.mode(context).dtype == chunk.dtype == log_prob.dtype == dtype


@pytest.mark.parametrize(
    ("flow", "ours", "theirs"),
    [
        (zuko.flows.NICE(FEATURES, 4), 9, 18),  # three conditioners of three linear layers
        (zuko.flows.MAF(FEATURES, 4, passes=2), 18, 27),
        (zuko.flows.NSF(FEATURES, 4), 54, 63),
    ],
)
def test_sampling_runs_the_conditioners_once_a_pass(flow: zuko.flows.Flow, ours: int, theirs: int) -> None:
    runs: list[int] = []
    for module in flow.modules():
        if isinstance(module, (nn.Linear, zuko.nn.Linear)):
            module.register_forward_hook(lambda *_: runs.append(1))
    context = torch.randn(5, 4)
    flow(context).rsample_and_log_prob()
    assert len(runs) == theirs
    runs.clear()
    ZukoFlow(flow, **DIMS).rsample_and_log_prob(context, n=3)
    assert len(runs) == ours


def test_our_coupling_flow_computes_what_zuko_does() -> None:
    bound = 1.5
    ours = random(CouplingFlow(layers=5, width=16, base="gaussian", log_scale_bound=bound, **DIMS))

    class Coupling(zuko.lazy.LazyTransform):
        """A zuko coupling of our conditioner's weights. zuko's slope is exp(-bound)."""

        def __init__(self, layer: int) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, c: Tensor | None = None) -> torch.distributions.Transform:
            embedding = ours.embed(c.squeeze(1))[self.layer]

            def affine(fixed: Tensor) -> torch.distributions.Transform:
                log_scale, shift = ours.conditioners[self.layer](fixed, embedding).chunk(2, -1)
                map_ = zuko.transforms.MonotonicAffineTransform(shift, log_scale, slope=math.exp(-bound))
                return zuko.transforms.DependentTransform(map_, 1)

            stays = torch.arange(FEATURES) < 2
            return zuko.transforms.CouplingTransform(affine, stays if self.layer % 2 == 0 else ~stays)

    theirs = ZukoFlow(zuko.lazy.LazyComposedTransform(*map(Coupling, range(5))), **DIMS)
    chunk, context = batch(3)
    exact = dict(rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.log_prob(chunk, context), theirs.log_prob(chunk, context), **exact)
    for map_, oracle in ((ours.to_latent, theirs.to_latent), (ours.to_chunk, theirs.to_chunk)):
        (value, log_abs_det), (expected, expected_log_abs_det) = map_(chunk, context), oracle(chunk, context)
        assert (value - chunk).abs().max() > 0.1
        torch.testing.assert_close(value, expected, **exact)
        torch.testing.assert_close(log_abs_det, expected_log_abs_det, **exact)


def test_log_scales_are_bounded() -> None:
    for name in ("zuko_maf", "zuko_nice"):
        flow = make_flow(name, layers=1, width=8, log_scale_bound=0.5, **DIMS)
        for parameter in flow.parameters():
            nn.init.normal_(parameter, std=100.0)
        _, log_abs_det = flow.to_latent(torch.randn(20, 3, 2), torch.randn(20, 4))
        assert 0.5 < log_abs_det.abs().max() <= 0.5 * FEATURES + 1e-5


def test_a_long_autoregressive_flow_warns() -> None:
    dims = dict(horizon=11, action_dim=3, context_dim=4, layers=1, width=40)
    with pytest.warns(UserWarning, match="inverts in 33 passes"):
        make_flow("zuko_maf", passes=33, **dims)
    with pytest.warns(UserWarning, match="inverts in 33 passes"):
        ZukoFlow(zuko.flows.NSF(33, 4), horizon=11, action_dim=3, context_dim=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_flow("zuko_maf", passes=32, **dims)
        for name in PRESETS:
            make_flow(name, **dims)


def test_a_flow_that_would_lose_its_base_is_refused() -> None:
    circular = zuko.flows.NCSF(FEATURES, 4)
    with pytest.raises(ValueError, match=r"base BoxUniform.* is no standard normal; give flow\.transform"):
        ZukoFlow(circular, **DIMS)
    scaled = zuko.flows.NICE(FEATURES, 4)
    two = torch.full((FEATURES,), 2.0)
    scaled.base = zuko.lazy.UnconditionalDistribution(zuko.distributions.DiagNormal, torch.zeros(FEATURES), two)
    with pytest.raises(ValueError, match="no standard normal"):
        ZukoFlow(scaled, **DIMS)
    with pytest.raises(ValueError, match=r"expected 6 features \(horizon \* action_dim\), got 7"):
        ZukoFlow(zuko.flows.NICE(7, 4), **DIMS)


def test_what_is_neither_flow_nor_transform_is_refused() -> None:
    for other in (zuko.flows.GMM(FEATURES, 4), zuko.transforms.SoftclipTransform()):
        with pytest.raises(TypeError, match=f"got {type(other).__name__}"):
            ZukoFlow(other, **DIMS)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("bad", [dict(layers=0), dict(width=0), dict(depth=0), dict(components=0),
                                 dict(base="uniform"), dict(horizon=0)])  # fmt: skip
def test_bad_options_are_refused(name: str, bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        make_flow(name, **DIMS | bad)


def test_bad_bounds_passes_and_bins_are_refused() -> None:
    for name, bad in (("maf", "log_scale_bound"), ("nice", "log_scale_bound"), ("nsf", "passes"), ("maf", "passes"),
                      ("nsf", "bins")):  # fmt: skip
        with pytest.raises(ValueError, match=bad):
            make_flow(f"zuko_{name}", **DIMS, **{bad: 0})


@pytest.mark.parametrize("validated", [True, False])
def test_importing_zuko_leaves_validation_as_it_was(validated: bool) -> None:
    script = f"""
import sys
from torch.distributions import Distribution, Normal
Distribution.set_default_validate_args({validated})
from flows import make_flow
make_flow("zuko_nice", horizon=2, action_dim=1, context_dim=1)
assert "zuko" in sys.modules
try:
    Normal(0.0, -1.0)
except ValueError:
    assert {validated}
else:
    assert not {validated}
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_zuko_is_imported_when_asked_for_and_missed_by_name() -> None:
    script = """
import sys, flows
assert "zuko" not in sys.modules
assert {"zuko_maf", "zuko_nice", "zuko_nsf"} <= set(flows.available_flows())
sys.modules["zuko"] = None  # as if it were not installed
try:
    flows.make_flow("zuko_nsf", horizon=2, action_dim=1, context_dim=1)
except ImportError as error:
    assert "pip install zuko" in str(error), error
else:
    raise SystemExit("no ImportError")
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", ["zuko_maf", "zuko_nice", "zuko_nsf"])
def test_a_depth_beyond_reason_is_refused_before_it_takes_memory(name: str) -> None:
    with pytest.raises(ValueError, match="depth: expected at most 1000 layers"):
        make_flow(name, horizon=2, action_dim=2, context_dim=2, depth=10**9)

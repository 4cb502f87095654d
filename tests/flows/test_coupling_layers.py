"""The coupling flows themselves: parts, mixing, start, bounds, options, and one layer against nflows."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F

from flows import CouplingFlow
from flows.coupling import Coupling, SplineCouplingFlow

Flow = TypeVar("Flow", bound=Coupling)
every_coupling = pytest.mark.parametrize("kind", [CouplingFlow, SplineCouplingFlow])


def coupling(kind: type[Flow] = CouplingFlow, **options: object) -> Flow:
    torch.manual_seed(0)
    return kind(**dict(horizon=5, action_dim=3, context_dim=4, width=16) | options)


def randomise(flow: Flow, std: float = 0.5) -> Flow:
    for conditioner in flow.conditioners:
        torch.nn.init.normal_(conditioner.output.weight, std=std)
    return flow


def test_weights_keep_their_names() -> None:
    """Trained policies must load."""
    flow = CouplingFlow(horizon=3, action_dim=2, context_dim=4)
    names = [f"conditioners.{i}.{name}" for i in range(8)
             for name in ("input.weight", "output.weight", "output.bias", "hidden.weight", "hidden.bias")]  # fmt: skip
    assert list(flow.state_dict()) == [
        *("context.weight", "context.bias", *names),
        *(f"base.{name}.{kind}" for name in ("hidden.0", "hidden.3", "logit", "mean", "log_scale")
          for kind in ("weight", "bias")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("split", "horizon", "action_dim", "sizes"),
    [("time", 5, 3, (6, 9)), ("time", 8, 15, (60, 60)), ("time", 1, 5, (2, 3)), ("time", 1, 1, (0, 1)),
     ("channel", 5, 3, (5, 10)), ("channel", 8, 15, (56, 64)), ("channel", 5, 1, (2, 3)), ("channel", 1, 5, (2, 3)),
     ("channel", 1, 1, (0, 1))],
)  # fmt: skip
def test_parts_are_those_of_time_or_channel_and_of_the_other_where_there_is_but_one(
    split: str, horizon: int, action_dim: int, sizes: tuple[int, int]
) -> None:
    flow = coupling(split=split, horizon=horizon, action_dim=action_dim)
    assert flow.sizes == sizes
    chunk = torch.randn(2, 3, horizon * action_dim)
    parts = flow._split(chunk)
    assert tuple(part.shape[-1] for part in parts) == sizes
    assert torch.equal(flow._join(parts, chunk), chunk)


@every_coupling
@pytest.mark.parametrize("split", ["time", "channel"])
def test_parts_take_turns(kind: type[Coupling], split: str) -> None:
    chunk, context = torch.randn(2, 5, 3), torch.randn(2, 4)
    one, _ = randomise(coupling(kind, layers=1, split=split)).to_latent(chunk, context)
    fixed = torch.zeros(5, 3, dtype=torch.bool)
    fixed[slice(2) if split == "time" else slice(None), slice(None) if split == "time" else slice(1)] = True
    assert torch.equal(one[:, fixed], chunk[:, fixed]) and (one[:, ~fixed] != chunk[:, ~fixed]).all()
    two, _ = randomise(coupling(kind, layers=2, split=split)).to_latent(chunk, context)
    assert (two != chunk).all()


@every_coupling
def test_a_new_flow_is_the_identity(kind: type[Coupling], measured: Any) -> None:
    chunk, context = 3 * torch.randn(2, 5, 3), torch.randn(2, 4)
    latent, log_abs_det = coupling(kind).to_latent(chunk, context)
    if kind is CouplingFlow:
        assert torch.equal(latent, chunk) and not log_abs_det.any()
    else:  # a knot is where rounding puts it
        assert measured((latent - chunk).abs().max()) < 1e-5
        assert measured(log_abs_det.abs().max()) < 1e-5


@pytest.mark.parametrize(("mixing", "changed"), [("none", 0.0), ("rotation", 1.0), ("lu", 1.0)])
def test_mixing_lets_every_number_depend_on_every_other(mixing: str, changed: float) -> None:
    # Two layers leave each number of the second part a function of itself and the first part alone.
    flow = randomise(coupling(layers=2, horizon=2, mixing=mixing)).double()
    for mixed in flow.mixings:
        for parameter in mixed.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    assert len(flow.mixings) == (mixing != "none")
    context = torch.randn(1, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: flow.to_latent(x.reshape(1, 2, 3), context)[0].flatten(), torch.randn(6, dtype=torch.float64)
    )
    apart = jacobian[3:, 3:] - jacobian[3:, 3:].diag().diag()
    assert (apart != 0).double().mean() == pytest.approx(changed * 6 / 9)


@every_coupling
@pytest.mark.parametrize(("mixing", "tolerance"), [("none", 1e-4), ("rotation", 1e-3), ("lu", 1e-3)])
@pytest.mark.parametrize("split", ["time", "channel"])
def test_float32_inverts_latents_far_out(
    kind: type[Coupling], split: str, mixing: str, tolerance: float, measured: Any
) -> None:
    for dtype, allowed in ((torch.float32, tolerance), (torch.float64, 1e-10)):
        flow = coupling(kind, horizon=8, action_dim=4, layers=4, split=split, mixing=mixing).to(dtype)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.normal_(std=0.5 / parameter.shape[-1] ** 0.5)
            latent, context = 12 * torch.rand(64, 8, 4, dtype=dtype) - 6, torch.randn(64, 4, dtype=dtype)
            chunk, forward = flow.to_chunk(latent, context)
            back, backward = flow.to_latent(chunk, context)
        assert (chunk - latent).abs().max() > 1.0
        assert measured((back - latent).abs().max()) < allowed
        assert measured((forward + backward).abs().max()) < allowed


@every_coupling
@pytest.mark.parametrize("mixing", ["rotation", "lu"])
def test_a_mixed_flow_cast_to_float64_is_exact(kind: type[Coupling], mixing: str) -> None:
    flow = randomise(coupling(kind, layers=4, mixing=mixing).float(), std=0.1).to(torch.float64)
    chunk, context = torch.randn(6, 5, 3, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    latent, log_abs_det = flow.to_latent(chunk, context)
    torch.testing.assert_close(flow.to_chunk(latent, context)[0], chunk, rtol=0, atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: flow.to_latent(x.reshape(1, 5, 3), context[:1])[0].flatten(), chunk[0].flatten()
    )
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_abs_det[0], rtol=0, atol=1e-12)


def test_splines_leave_what_is_beyond_the_box() -> None:
    flow = randomise(coupling(SplineCouplingFlow, layers=1, bound=2.0))
    chunk, context = torch.randn(2, 5, 3).clamp(-1.9, 1.9), torch.randn(2, 4)
    chunk[:, 3:] = torch.tensor([2.1, -40.0, 1e5])
    latent, log_abs_det = flow.to_latent(chunk, context)
    assert torch.equal(latent[:, 3:], chunk[:, 3:]) and (latent[:, 2] != chunk[:, 2]).all()
    assert latent[:, 2].abs().max() < 2.0 and log_abs_det.isfinite().all()


@pytest.mark.parametrize(("kind", "mixing"), [(CouplingFlow, "rotation"), (SplineCouplingFlow, "lu")])
def test_both_directions_compile_without_graph_breaks(kind: type[Coupling], mixing: str) -> None:
    flow = randomise(coupling(kind, layers=2, base="gaussian", split="channel", mixing=mixing))
    chunk, context = torch.randn(2, 3, 5, 3), torch.randn(2, 4)
    for method in (flow.to_latent, flow.to_chunk):
        compiled = torch.compile(method, fullgraph=True, backend="aot_eager")
        for ours, eager in zip(compiled(chunk, context), method(chunk, context), strict=True):
            torch.testing.assert_close(ours, eager)


def test_log_scales_are_bounded() -> None:
    flow = randomise(coupling(layers=1, log_scale_bound=0.5), std=1000.0)
    _, log_abs_det = flow.to_latent(torch.randn(20, 5, 3), torch.randn(20, 4))
    assert log_abs_det.abs().max() <= 0.5 * 9 + 1e-5  # nine dimensions move
    assert log_abs_det.abs().max() > 1.0


def test_dropout_acts_in_training_only() -> None:
    flow = randomise(coupling(dropout=0.5))
    chunk, context = torch.randn(2, 5, 3), torch.randn(2, 4)
    assert not torch.equal(flow.log_prob(chunk, context), flow.log_prob(chunk, context))
    flow.eval()
    assert torch.equal(flow.log_prob(chunk, context), flow.log_prob(chunk, context))


@pytest.mark.parametrize("n", [1, 16])
def test_the_context_is_embedded_once(n: int) -> None:
    flow = coupling()
    seen = []
    for module in (flow.context, flow.base):
        module.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    flow.rsample_and_log_prob(torch.randn(3, 4), n=n)
    assert seen == [(3, 4), (3, 4)]


@pytest.mark.parametrize("bad", [dict(layers=0), dict(width=0), dict(components=0), dict(log_scale_bound=0.0),
                                 dict(base="uniform"), dict(horizon=0), dict(dropout=1.5), dict(split="half"),
                                 dict(mixing="qr")])  # fmt: skip
def test_bad_options_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        coupling(**bad)


@pytest.mark.parametrize("bad", [dict(bins=1), dict(bins=17), dict(bins=4.5), dict(bound=0.0), dict(bound=float("inf")),
                                 dict(parameter_bound=-1.0), dict(layers=0), dict(mixing="qr")])  # fmt: skip
def test_bad_options_of_splines_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        coupling(SplineCouplingFlow, **bad)


def test_one_layer_is_that_of_nflows() -> None:
    nflows = pytest.importorskip("nflows.transforms")
    flow = randomise(coupling(layers=1, horizon=2)).double()
    conditioner, projected = flow.conditioners[0], flow.context

    class Net(torch.nn.Module):
        def forward(self, half: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            h = F.silu(F.linear(half, conditioner.input.weight) + projected(context))
            h = h + F.silu(conditioner.hidden(h))
            log_scale, shift = conditioner.output(h).chunk(2, -1)
            return torch.cat((shift, log_scale), -1)

    class Layer(nflows.AffineCouplingTransform):
        def _scale_and_shift(self, params: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            shift, log_scale = params.chunk(2, -1)
            return torch.exp(log_scale / (1 + log_scale.abs() / 2)), shift  # nflows' own scale cannot expand

    oracle = Layer(torch.tensor([0, 0, 0, 1, 1, 1]), lambda *_: Net())
    chunk, context = torch.randn(7, 2, 3, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    for ours, theirs in ((flow.to_latent, oracle), (flow.to_chunk, oracle.inverse)):
        value, log_abs_det = ours(chunk, context)
        expected, expected_log_abs_det = theirs(chunk.flatten(1), context)
        torch.testing.assert_close(value.flatten(1), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(log_abs_det, expected_log_abs_det, rtol=0, atol=1e-12)

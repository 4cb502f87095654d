"""The coupling flow itself: halves, start, bound, options, and one layer against nflows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flows import CouplingFlow


def coupling(**options: object) -> CouplingFlow:
    torch.manual_seed(0)
    return CouplingFlow(**dict(horizon=5, action_dim=3, context_dim=4, width=16) | options)


def randomise(flow: CouplingFlow, std: float = 0.5) -> CouplingFlow:
    for conditioner in flow.conditioners:
        torch.nn.init.normal_(conditioner.output.weight, std=std)
    return flow


@pytest.mark.parametrize(
    ("horizon", "action_dim", "sizes"), [(5, 3, (6, 9)), (8, 15, (60, 60)), (1, 5, (2, 3)), (1, 1, (0, 1))]
)
def test_halves_are_those_of_time_and_at_horizon_one_of_the_action(
    horizon: int, action_dim: int, sizes: tuple[int, int]
) -> None:
    assert coupling(horizon=horizon, action_dim=action_dim).sizes == sizes


def test_halves_take_turns() -> None:
    chunk, context = torch.randn(2, 5, 3), torch.randn(2, 4)
    one, _ = randomise(coupling(layers=1)).to_latent(chunk, context)
    assert torch.equal(one[:, :2], chunk[:, :2]) and (one[:, 2:] != chunk[:, 2:]).all()
    two, _ = randomise(coupling(layers=2)).to_latent(chunk, context)
    assert (two != chunk).all()


def test_a_new_flow_is_the_identity() -> None:
    chunk, context = torch.randn(2, 5, 3), torch.randn(2, 4)
    latent, log_abs_det = coupling().to_latent(chunk, context)
    assert torch.equal(latent, chunk) and torch.equal(log_abs_det, torch.zeros(2))


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
                                 dict(base="uniform"), dict(horizon=0), dict(dropout=1.5)])  # fmt: skip
def test_bad_options_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        coupling(**bad)


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

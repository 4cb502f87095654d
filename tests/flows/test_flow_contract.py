"""What every flow promises, for every registered flow and every base."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from flows import ChunkFlow, NormalizedFlow, available_flows, make_flow
from tests.flows.flow_cases import IDENTITY, OPEN_BOX, SMALL, SOLVER_ERROR, few_steps, with_statistics

CASES = [pytest.param(name, options, id="-".join([name, *(x for x in options.values() if isinstance(x, str)),
         *["normalized"] * ("normalize" in options)]))
         for name, variants in SMALL.items() for options in variants]  # fmt: skip
HORIZON, ACTION_DIM, CONTEXT_DIM = 3, 2, 5
LATENT = (HORIZON, ACTION_DIM)

every_flow = pytest.mark.parametrize(("name", "options"), CASES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def random_flow(name: str, options: dict, dtype: torch.dtype = torch.float64, seed: int = 0, **dims: int) -> ChunkFlow:
    """A flow whose every parameter is random: one that starts at the identity would hide mistakes."""
    torch.manual_seed(seed)
    dims = dict(horizon=HORIZON, action_dim=ACTION_DIM, context_dim=CONTEXT_DIM) | dims
    flow = make_flow(name, **dims, **options).to(dtype)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(std=1 / math.sqrt(max(parameter.shape[-1], 1)))
    return with_statistics(flow)


def batch(
    name: str, options: dict, *n: int, rows: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Chunks (rows, *n, H, A), of a flow made for the box [-1, 1] within it, and contexts (rows, C)."""
    torch.manual_seed(1)
    chunk, context = torch.randn(rows, *n, *LATENT, dtype=dtype), torch.randn(rows, CONTEXT_DIM, dtype=dtype)
    return (chunk.tanh() if name in OPEN_BOX or "bounds" in options else chunk), context


def inverse_error(options: dict, exact: float) -> float:
    """What `to_chunk` after `to_latent` may be wrong by: `exact`, or the error of the flow's solver."""
    return SOLVER_ERROR[options["solver"]] if "solver" in options else exact


def grid(name: str, options: dict, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Points (M, 2) around 2-D samples, and the area that each stands for (M,)."""
    centre, spread = drawn.mean(0), drawn.std(0)
    coarse = "solver" in options  # a point of these costs some hundred evaluations of a network
    points = 121 if coarse else 501 if name in OPEN_BOX else 251  # the box's are drawn together towards its bounds
    side = torch.linspace(-8, 8, points, dtype=torch.float64)
    sides = [m + s * side for m, s in zip(centre, spread, strict=True)]
    if name in OPEN_BOX:
        sides = [side.tanh()] * 2
    elif "bounds" in options:  # the mass near a bound lies dense, up to a little beyond
        edge = torch.linspace(1, 1.6, 101 if coarse else 301, dtype=torch.float64)
        sides = [torch.cat((-edge.flip(0), torch.linspace(-1, 1, 101, dtype=torch.float64)[1:-1], edge))] * 2
    widths = [(torch.cat((x[1:], x[-1:])) - torch.cat((x[:1], x[:-1]))) / 2 for x in sides]  # the trapezium rule
    return torch.cartesian_prod(*sides), torch.cartesian_prod(*widths).prod(-1)


def test_every_registered_flow_is_tested() -> None:
    assert set(SMALL) == set(available_flows())


@every_flow
@pytest.mark.parametrize("n", [(), (3,), (3, 2)])
def test_to_chunk_inverts_to_latent(name: str, options: dict, n: tuple[int, ...]) -> None:
    flow = random_flow(name, options)
    chunk, context = batch(name, options, *n)
    latent, forward = flow.to_latent(chunk, context)
    back, backward = flow.to_chunk(latent, context)
    tolerance = inverse_error(options, exact=1e-10)
    assert latent.shape == chunk.shape and flow.latent_shape == LATENT
    assert (latent - chunk).abs().max() > 0.1 or name in IDENTITY
    assert (back - chunk).abs().max() < tolerance
    assert (forward + backward).abs().max() < tolerance
    torch.testing.assert_close(flow.chunk_from(latent, context), back, rtol=0, atol=1e-12)


@every_flow
def test_log_det_is_that_of_autograds_jacobian(name: str, options: dict) -> None:
    flow = random_flow(name, few_steps(options))
    chunk, context = batch(name, options)
    for map_ in (flow.to_latent, flow.to_chunk):
        reported = map_(chunk, context)[1]
        for row in range(len(chunk)):
            jacobian = torch.autograd.functional.jacobian(
                lambda x, row=row, map_=map_: map_(x.reshape(1, *LATENT), context[row : row + 1])[0].flatten(),
                chunk[row].flatten(),
            )
            assert (torch.linalg.slogdet(jacobian).logabsdet - reported[row]).abs() < 1e-10


@every_flow
@pytest.mark.parametrize(("horizon", "action_dim"), [(2, 1), (1, 2)])
def test_density_integrates_to_one_and_samples_follow_it(
    name: str, options: dict, horizon: int, action_dim: int
) -> None:
    flow = random_flow(name, options, seed=3, horizon=horizon, action_dim=action_dim)
    context = torch.randn(1, CONTEXT_DIM, dtype=torch.float64)
    samples = 40_000
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(0.5)  # far from the identity still, without tails longer than a grid can hold
        drawn = flow.sample(context, samples).reshape(samples, 2)
        points, area = grid(name, options, drawn)
        mass = flow.log_prob(points.reshape(1, -1, horizon, action_dim), context)[0].exp() * area
    centre, spread = drawn.mean(0), drawn.std(0)
    assert mass.sum() == pytest.approx(1.0, abs=2e-3)
    for line in (-0.5, 0.2, 0.8):  # the share of samples on one side of a slanted line, against the density's
        expected = mass[((points - centre) / spread) @ points.new_tensor([1.0, 0.7]) > line].sum()
        share = (((drawn - centre) / spread) @ points.new_tensor([1.0, 0.7]) > line).double().mean()
        assert abs(share - expected) < 5 * 0.5 / math.sqrt(samples) + 2e-3


@every_flow
def test_rsample_reports_the_log_prob_of_its_sample(name: str, options: dict) -> None:
    flow = random_flow(name, options)
    _, context = batch(name, options)
    chunk, log_prob = flow.rsample_and_log_prob(context, n=7)
    assert chunk.shape == (4, 7, *LATENT)
    torch.testing.assert_close(
        log_prob, flow.log_prob(chunk, context), rtol=0, atol=inverse_error(options, exact=1e-10)
    )


@every_flow
def test_sample_at_temperature_one_is_rsample(name: str, options: dict) -> None:
    flow = random_flow(name, options)
    _, context = batch(name, options)
    torch.manual_seed(5)
    plain = flow.sample(context, n=3)
    torch.manual_seed(5)
    torch.testing.assert_close(plain, flow.rsample_and_log_prob(context, n=3)[0], rtol=0, atol=0)


@every_flow
def test_the_first_actions_are_those_of_the_whole_chunk(name: str, options: dict) -> None:
    """To the bit: whatever else is not made for them draws no random number and takes part in no sum."""
    flow, (_, context) = random_flow(name, few_steps(options)), batch(name, options)
    for n in (1, 3):
        for length in range(1, HORIZON + 1):
            torch.manual_seed(2)
            whole = flow.sample(context, n)
            torch.manual_seed(2)
            assert torch.equal(flow.sample(context, n, length=length), whole[:, :, :length])


@every_flow
def test_the_mode_is_the_chunk_of_the_bases_mode(name: str, options: dict) -> None:
    flow = random_flow(name, options)
    _, context = batch(name, options, rows=9)
    mode = flow.mode(context)
    assert mode.shape == (9, *LATENT)
    chunk, _ = flow.to_chunk(flow.base.mode(flow.base(context)).unflatten(-1, LATENT), context)
    torch.testing.assert_close(mode, chunk, rtol=0, atol=1e-12)
    # Without noise a sample is a base mean, and in enough of them the likeliest is found.
    distance = (flow.sample(context, 200, temperature=0.0) - mode.unsqueeze(1)).abs().amax((-2, -1))
    assert distance.amin(-1).max() < 1e-10
    assert torch.equal(flow.mode(context), mode)
    assert flow.mode(context[:0]).shape == (0, *LATENT)
    torch.testing.assert_close(flow.mode(context[2:3]), mode[2:3])
    with pytest.raises(ValueError, match=r"context: expected \(B, 5\), got \(9, 4\)"):
        flow.mode(context[:, :4])


@every_flow
def test_gradients_of_log_prob(name: str, options: dict) -> None:
    flow = random_flow(name, few_steps(options) | dict(width=5))
    chunk, context = batch(name, options, 2, rows=2)

    # gradcheck moves its inputs in place, parameters included.
    def log_prob(chunk: Tensor, context: Tensor, *_: Tensor) -> Tensor:
        return flow.log_prob(chunk, context)

    inputs = (chunk.requires_grad_(), context.requires_grad_(), *flow.parameters())
    assert torch.autograd.gradcheck(log_prob, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(log_prob, inputs[:2])


@every_flow
def test_gradients_of_rsample(name: str, options: dict) -> None:
    flow = random_flow(name, few_steps(options))
    _, context = batch(name, options, rows=2)

    def draw(context: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(2)
        return flow.rsample_and_log_prob(context, n=2)

    assert torch.autograd.gradcheck(draw, context.requires_grad_())


@every_flow
def test_extra_sample_axes_equal_a_loop(name: str, options: dict) -> None:
    flow = random_flow(name, few_steps(options))
    chunk, context = batch(name, options, 3, 2)
    latent, log_abs_det = flow.to_latent(chunk, context)
    log_prob = flow.log_prob(chunk, context)
    assert log_prob.shape == log_abs_det.shape == (4, 3, 2)
    close = dict(rtol=1e-12, atol=1e-12)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(log_prob[:, i, j], flow.log_prob(chunk[:, i, j], context), **close)
            one_latent, one_log_abs_det = flow.to_latent(chunk[:, i, j], context)
            torch.testing.assert_close(latent[:, i, j], one_latent, **close)
            torch.testing.assert_close(log_abs_det[:, i, j], one_log_abs_det, **close)
            back, _ = flow.to_chunk(latent, context)
            torch.testing.assert_close(back[:, i, j], flow.to_chunk(one_latent, context)[0], **close)


@every_flow
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_any_batch_size(name: str, options: dict, rows: int) -> None:
    flow = random_flow(name, options)
    chunk, context = batch(name, options, rows=rows)
    assert flow.log_prob(chunk, context).shape == (rows,)
    assert flow.sample(context, n=2).shape == (rows, 2, *LATENT)
    assert [x.shape for x in flow.rsample_and_log_prob(context)] == [(rows, 1, *LATENT), (rows, 1)]
    assert [x.shape for x in flow.to_chunk(chunk, context)] == [(rows, *LATENT), (rows,)]
    # A row does not depend on its neighbours.
    alone = [flow.log_prob(chunk[i : i + 1], context[i : i + 1]) for i in range(rows)]
    torch.testing.assert_close(flow.log_prob(chunk, context), torch.cat([chunk.new_empty(0), *alone]))


@every_flow
def test_a_chunk_of_one_number(name: str, options: dict) -> None:
    flow = random_flow(name, options, horizon=1, action_dim=1)
    _, context = batch(name, options)
    chunk, log_prob = flow.rsample_and_log_prob(context)
    torch.testing.assert_close(
        log_prob, flow.log_prob(chunk, context), rtol=0, atol=inverse_error(options, exact=1e-10)
    )
    log_prob.sum().backward()


@every_flow
@every_dtype
def test_log_prob_is_finite_on_and_beyond_the_action_bounds(name: str, options: dict, dtype: torch.dtype) -> None:
    flow = random_flow(name, options, dtype)
    value = torch.tensor([-10.0, -1.0, 0.0, 1.0, 10.0], dtype=dtype).view(1, 5, 1, 1)
    alternating = torch.ones(LATENT, dtype=dtype)
    alternating[::2] = -1
    chunk = (value * torch.stack((torch.ones_like(alternating), alternating)).unsqueeze(1)).flatten(0, 1)
    chunk = chunk.unsqueeze(0).repeat(4, 1, 1, 1).requires_grad_()
    _, context = batch(name, options, dtype=dtype)
    if name in OPEN_BOX:
        with pytest.raises(ValueError, match=r"strictly within \(-1, 1\)"):
            flow.log_prob(chunk, context)
        chunk = (chunk.detach().clamp(-1, 1) * (1 - torch.finfo(dtype).eps)).requires_grad_()
    log_prob = flow.log_prob(chunk, context)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert chunk.grad is not None and chunk.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in flow.parameters())


@every_flow
def test_copies_and_state_dicts_give_the_same_density(name: str, options: dict) -> None:
    flow = random_flow(name, options)
    chunk, context = batch(name, options)
    loaded = random_flow(name, options, seed=8)
    assert not torch.equal(loaded.log_prob(chunk, context), flow.log_prob(chunk, context))
    loaded.load_state_dict(flow.state_dict())
    for twin in (loaded, copy.deepcopy(flow)):
        assert torch.equal(twin.log_prob(chunk, context), flow.log_prob(chunk, context))


@every_flow
def test_loss_is_the_weighted_mean_per_dimension(name: str, options: dict) -> None:
    flow = random_flow(name, options)
    chunk, context = batch(name, options)
    if isinstance(flow, NormalizedFlow):
        flow.noise.zero_()  # what it adds in training is tested elsewhere
    if flow.loss_is_nll:
        log_prob = flow.log_prob(chunk, context)
        if isinstance(flow, NormalizedFlow):
            log_prob = flow.in_normalized_units(log_prob)
        torch.testing.assert_close(flow.loss(chunk, context), -log_prob.mean() / 6)
    torch.manual_seed(7)  # a regression loss draws what it regresses on, for each row that counts
    rows = flow.row_loss(chunk[::2], context[::2])
    expected = (2 * rows[0] + rows[1]) / 3 / 6
    weight = torch.tensor([2.0, 0.0, 1.0, 0.0])
    torch.manual_seed(7)
    torch.testing.assert_close(flow.loss(chunk, context, weight), expected)
    chunk[1], context[3] = torch.nan, torch.nan  # rows of weight zero may hold anything
    torch.manual_seed(7)
    loss = flow.loss(chunk, context, weight)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in flow.parameters() if p.grad is not None)


@every_flow
@pytest.mark.parametrize("weight", [[0.0] * 4, [1.0, -1.0, 1.0, 1.0], [1.0, math.nan, 1.0, 1.0], [1.0, 1.0]])
def test_loss_refuses_bad_weights(name: str, options: dict, weight: list[float]) -> None:
    flow = random_flow(name, options)
    with pytest.raises(ValueError, match="weight"):
        flow.loss(*batch(name, options), torch.tensor(weight))


@every_flow
def test_bad_shapes_are_named(name: str, options: dict) -> None:
    flow = random_flow(name, options)
    chunk, context = batch(name, options)
    with pytest.raises(ValueError, match=r"context: expected \(B, 5\), got \(4, 6\)"):
        flow.sample(torch.zeros(4, 6))
    with pytest.raises(ValueError, match=r"chunk: expected \(4, \*n, 3, 2\).* got \(4, 2, 3\)"):
        flow.log_prob(chunk.transpose(1, 2), context)
    with pytest.raises(ValueError, match=r"latent: expected \(4, \*n, 3, 2\).* got \(3, 3, 2\)"):
        flow.to_chunk(chunk[:3], context)
    with pytest.raises(ValueError, match=r"chunk: expected \(B, 3, 2\), got \(4, 1, 3, 2\)"):
        flow.loss(chunk.unsqueeze(1), context)
    with pytest.raises(ValueError, match="empty"):
        flow.loss(chunk[:0], context[:0])
    with pytest.raises(ValueError, match="n: expected"):
        flow.sample(context, n=0)
    for length in (0, HORIZON + 1):
        with pytest.raises(ValueError, match="length: expected 1 to 3"):
            flow.sample(context, length=length)
    with pytest.raises(ValueError, match="temperature"):
        flow.sample(context, temperature=-1.0)

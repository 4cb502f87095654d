"""Any horizon, one step included, any sizes, both precisions: shapes, inverses and densities of every flow."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.flows.flow_cases import OPEN_BOX, few_steps
from tests.flows.test_flow_contract import every_flow, inverse_error, random_flow

sizes = st.fixed_dictionaries(
    {"horizon": st.integers(1, 6), "action_dim": st.integers(1, 5), "context_dim": st.integers(1, 7)}
)


@every_flow
@settings(max_examples=8, derandomize=True)
@given(sizes=sizes, rows=st.integers(0, 4), n=st.integers(1, 3), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_any_dimensions(name: str, options: dict, sizes: dict, rows: int, n: int, dtype: torch.dtype) -> None:
    flow = random_flow(name, few_steps(options), dtype, **sizes)
    context = torch.randn(rows, sizes["context_dim"], dtype=dtype)
    latent_shape = sizes["horizon"], sizes["action_dim"]
    assert flow.latent_shape == latent_shape
    chunk, log_prob = flow.rsample_and_log_prob(context, n)
    assert chunk.shape == (rows, n, *latent_shape) and log_prob.shape == (rows, n)
    assert flow.sample(context, n).shape == chunk.shape and flow.mode(context).shape == (rows, *latent_shape)
    assert {chunk.dtype, log_prob.dtype, flow.sample(context, n).dtype} == {dtype}
    assert chunk.isfinite().all() and log_prob.isfinite().all()
    given = torch.rand(rows, n, *latent_shape, dtype=dtype) * 1.8 - 0.9
    latent, forward = flow.to_latent(given, context)
    assert latent.shape == given.shape and forward.shape == (rows, n)
    assert flow.log_prob(given, context).isfinite().all()
    if "solver" not in options:
        back, backward = flow.to_chunk(latent, context)
        close = dict(rtol=0, atol=inverse_error(options, 1e-8 if dtype == torch.float64 else 5e-3))
        torch.testing.assert_close(back, given, **close)
        torch.testing.assert_close(forward, -backward, **close)
    if rows and name not in OPEN_BOX:
        loss = flow.loss(given[:, 0], context)
        loss.backward()
        assert loss.shape == () and loss.isfinite()

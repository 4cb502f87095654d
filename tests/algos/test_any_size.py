"""SOFT-FLOW at every size: single numbers, chunks of one step, episodes of one step, one critic, any dtype."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from softflow.data import Episode
from tests.algos.softflow_toys import make_algorithm, make_data, train

FLOWS = {
    "coupling": {"layers": 2, "width": 8, "components": 2},
    "spline_coupling": {"layers": 2, "width": 8, "components": 1},
    "gaussian": {"width": 8, "depth": 1},
}
EVERY_TERM = dict(nll_weight=1.0, advantage_scale=1.0, q_weight=0.2, kl_weight=0.2)


@st.composite
def episodes(draw: st.DrawFn, observation_dim: int, action_dim: int) -> Episode:
    steps = draw(st.integers(1, 6))
    observation_dtype = draw(st.sampled_from([np.float16, np.float32, np.float64, np.int64]))
    entries = st.integers(-100, 100).map(observation_dtype)
    observation = draw(arrays.arrays(observation_dtype, (steps + 1, observation_dim), elements=entries))
    action = draw(arrays.arrays(np.float32, (steps, action_dim), elements=st.floats(-1, 1, width=32)))
    reward = draw(arrays.arrays(np.float32, steps, elements=st.sampled_from([-1.0, 0.0, 0.5, 1000.0])))
    reward[-1] = 1.0  # worth imitating
    terminated = draw(st.booleans())
    return Episode(observation, action, reward, terminated, not terminated, draw(st.booleans()))


@settings(max_examples=25)
@given(data=st.data())
def test_every_stage_learns_and_the_policy_acts(data: st.DataObject) -> None:
    draw = data.draw
    horizon, action_dim, observation_dim = (draw(st.integers(1, 4), name) for name in ("H", "A", "O"))
    n_action_steps = draw(st.integers(1, horizon), "executed")
    flow = draw(st.sampled_from(sorted(FLOWS)), "flow")
    algorithm = make_algorithm(
        observation_dim,
        action_dim,
        horizon=horizon,
        n_action_steps=n_action_steps,
        flow=flow,
        flow_options=FLOWS[flow],
        batch_size=draw(st.integers(2, 9), "batch"),
        critic_members=draw(st.integers(1, 3), "critics"),
        candidates=draw(st.integers(1, 3), "candidates"),
        target_candidates=draw(st.integers(1, 3), "target's candidates"),
        offline=EVERY_TERM,
        online=EVERY_TERM,
    )
    demonstrations, own = (
        draw(st.lists(episodes(observation_dim, action_dim), min_size=least, max_size=3)) for least in (1, 0)
    )
    replays = make_data(demonstrations, own)
    for stage in algorithm.schedule():
        for name, value in train(algorithm, stage.name, replays, 2).items():
            assert value.isfinite(), (stage.name, name)
        observation = replays.offline.sample(5, 1, np.random.default_rng(0)).observation
        chunk = algorithm.deployed.act(torch.as_tensor(observation))
        assert chunk.shape == (5, n_action_steps, action_dim)
        assert chunk.abs().max() <= 1

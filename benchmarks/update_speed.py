"""Time of one gradient update: our flows against the same with nflows' affine coupling, and the critic.

    python benchmarks/update_speed.py [rounds]

One thread, one interleaved run: each round times every case once, so that a noisy machine is noisy for all. Each case
is a whole update: loss, backward pass, fused Adam step. Every flow has the same conditioners (8 layers, 2 x 192,
residual); nflows gets them with the context concatenated to the input, as its interface wants it. Prints median
milliseconds of CPU time and their ratio to the first case of the group.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import AffineCouplingTransform, CompositeTransform
from torch import Tensor, nn

from critics import ChunkCritic, soft_update
from flows import ChunkFlow, make_flow

BATCH, HORIZON, ACTION_DIM, CONTEXT_DIM = 256, 8, 15, 153
LAYERS, WIDTH, COMPONENTS = 8, 192, 4
DIMS = dict(horizon=HORIZON, action_dim=ACTION_DIM, context_dim=CONTEXT_DIM)


class Conditioner(nn.Module):
    """The coupling flow's conditioner, in the form nflows calls."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.input = nn.Linear(inputs + CONTEXT_DIM, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = F.silu(self.input(torch.cat((x, context), -1)))
        return self.output(h + F.silu(self.hidden(h)))


def nflows_coupling() -> Flow:
    dim = HORIZON * ACTION_DIM
    second = torch.arange(dim) >= dim // 2
    layers = [AffineCouplingTransform((second if i % 2 == 0 else ~second).int(), Conditioner) for i in range(LAYERS)]
    return Flow(CompositeTransform(layers), StandardNormal([dim]))


def update(module: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def through_samples(flow: ChunkFlow, context: Tensor) -> Tensor:
    chunk, log_prob = flow.rsample_and_log_prob(context)
    return chunk.square().mean() + log_prob.mean()


def through_nflows_samples(flow: Flow, context: Tensor) -> Tensor:
    chunk, log_prob = flow.sample_and_log_prob(1, context=context)
    return chunk.square().mean() + log_prob.mean()


def cases() -> dict[str, dict[str, Callable[[], None]]]:
    context, chunk = torch.randn(BATCH, CONTEXT_DIM), torch.randn(BATCH, HORIZON, ACTION_DIM)
    target_value = torch.randn(BATCH)
    flat = chunk.flatten(1)
    theirs = nflows_coupling()
    gaussian = make_flow("coupling", **DIMS, layers=LAYERS, width=WIDTH, base="gaussian")
    mixture = make_flow("coupling", **DIMS, layers=LAYERS, width=WIDTH, base="mixture", components=COMPONENTS)
    critic = ChunkCritic(**DIMS, members=2, width=256, depth=2)
    target = critic.make_target()
    critic_step = update(critic, lambda: (critic(context, chunk) - target_value).square().mean())

    def critic_and_target() -> None:
        critic_step()
        soft_update(target, critic, 0.005)

    return {
        "negative log-likelihood": {
            "nflows, gaussian base": update(theirs, lambda: -theirs.log_prob(flat, context).mean()),
            "ours, gaussian base": update(gaussian, lambda: gaussian.loss(chunk, context)),
            "ours, mixture base": update(mixture, lambda: mixture.loss(chunk, context)),
        },
        "through a sample and its log-prob": {
            "nflows, gaussian base": update(theirs, lambda: through_nflows_samples(theirs, context)),
            "ours, gaussian base": update(gaussian, lambda: through_samples(gaussian, context)),
            "ours, mixture base": update(mixture, lambda: through_samples(mixture, context)),
        },
        "critic": {"2 members of 2 x 256, with target": critic_and_target},
    }


def main(rounds: int = 60, warm_up: int = 5) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    groups = cases()
    times: dict[tuple[str, str], list[float]] = {(g, c): [] for g, group in groups.items() for c in group}
    for i in range(warm_up + rounds):
        for group, case in times:
            start = time.process_time()
            groups[group][case]()
            if i >= warm_up:
                times[group, case].append(1e3 * (time.process_time() - start))
    print(f"torch {torch.__version__}, one thread, batch {BATCH}, chunk {HORIZON} x {ACTION_DIM}")
    for group, members in groups.items():
        print(group)
        medians = {case: statistics.median(times[group, case]) for case in members}
        first = next(iter(medians.values()))
        for case, median in medians.items():
            print(f"  {case:36s} {median:7.2f} ms  {median / first:5.2f}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))

"""Compare the speed of our affine coupling with nflows' and zuko's of the same size, for updates and for one chunk.

    python -m benchmarks.timing.flow_speed [rounds]

The benchmark uses one thread, and every round times each case once, so that load on the machine affects all cases
equally. Every flow has 6 layers, conditioners of 2 x 256 and a context of 64. nflows and zuko are used without our
wrappers, and concatenate the context to the conditioners' input, as their interfaces require. An update is a forward
and backward pass at batch size 256, either of the negative log-likelihood or through a sample and its log-density. A
chunk is drawn for one context in inference mode. Prints median milliseconds of CPU time, and the ratios of our flow on
a Gaussian base, like theirs, to each library's.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import AffineCouplingTransform, CompositeTransform
from torch import Tensor, nn

from benchmarks.timing.interleaved import Call, interleaved
from flows import make_flow
from flows.zuko_backend import zuko

BATCH, HORIZON, CONTEXT_DIM = 256, 8, 64
LAYERS, WIDTH = 6, 256
CASES = ("ours", "ours, mixture base", "nflows", "zuko")


class Conditioner(nn.Module):
    """The coupling flow's conditioner with the interface that nflows expects."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.input = nn.Linear(inputs + CONTEXT_DIM, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = F.silu(self.input(torch.cat((x, context), -1)))
        return self.output(h + F.silu(self.hidden(h)))


def nflows_coupling(dim: int) -> Flow:
    second = torch.arange(dim) >= dim // 2
    layers = [AffineCouplingTransform((second if i % 2 == 0 else ~second).int(), Conditioner) for i in range(LAYERS)]
    return Flow(CompositeTransform(layers), StandardNormal([dim]))


def work(dim: int) -> dict[str, dict[str, Call]]:
    """Return, for each kind of work, a call for each of `CASES`."""
    sizes = dict(horizon=HORIZON, action_dim=dim // HORIZON, context_dim=CONTEXT_DIM, layers=LAYERS, width=WIDTH)
    gaussian = make_flow("coupling", **sizes, base="gaussian")
    mixture = make_flow("coupling", **sizes, base="mixture")
    theirs = nflows_coupling(dim)
    zukos = zuko.flows.NICE(dim, CONTEXT_DIM, transforms=LAYERS, hidden_features=[WIDTH, WIDTH], activation=nn.SiLU)
    context, flat = torch.randn(BATCH, CONTEXT_DIM), torch.randn(BATCH, dim)
    chunk, one = flat.view(BATCH, HORIZON, -1), context[:1]

    def update(flow: nn.Module, loss: Callable[[], Tensor]) -> Call:
        def step() -> None:
            flow.zero_grad()
            loss().backward()

        return step

    def through(sample: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            drawn, log_prob = sample()
            return drawn.square().mean() + log_prob.mean()

        return loss

    likelihood = (
        update(gaussian, lambda: -gaussian.log_prob(chunk, context).mean()),
        update(mixture, lambda: -mixture.log_prob(chunk, context).mean()),
        update(theirs, lambda: -theirs.log_prob(flat, context).mean()),
        update(zukos, lambda: -zukos(context).log_prob(flat).mean()),
    )
    samples = (
        update(gaussian, through(lambda: gaussian.rsample_and_log_prob(context))),
        update(mixture, through(lambda: mixture.rsample_and_log_prob(context))),
        update(theirs, through(lambda: theirs.sample_and_log_prob(1, context=context))),
        update(zukos, through(lambda: zukos(context).rsample_and_log_prob())),
    )
    chunk_alone = (
        lambda: gaussian.sample(one),
        lambda: mixture.sample(one),
        lambda: theirs.sample(1, context=one),
        lambda: zukos(one).sample(),
    )
    chunk_with_density = (
        lambda: gaussian.rsample_and_log_prob(one),
        lambda: mixture.rsample_and_log_prob(one),
        lambda: theirs.sample_and_log_prob(1, context=one),
        lambda: zukos(one).rsample_and_log_prob(),
    )
    return {
        "update, likelihood": dict(zip(CASES, likelihood, strict=True)),
        "update, sample and log-density": dict(zip(CASES, samples, strict=True)),
        "one chunk": dict(zip(CASES, map(torch.inference_mode(), chunk_alone), strict=True)),
        "one chunk and its log-density": dict(zip(CASES, map(torch.inference_mode(), chunk_with_density), strict=True)),
    }


def main(rounds: int = 60, warm_up: int = 5) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, one thread; {rounds} rounds, medians in ms of CPU time")
    print(f"| | {' | '.join(CASES)} | ours / nflows | ours / zuko |")
    print("|---" * (3 + len(CASES)) + "|")
    for dim in (80, 200):
        for kind, calls in work(dim).items():
            times = interleaved(calls, 20 * rounds if "one chunk" in kind else rounds, warm_up=warm_up)
            ours, mixture, nflows, zukos = (statistics.median(times[case]) for case in CASES)
            cells = [f"{ms:.2f}" for ms in (ours, mixture, nflows, zukos, ours / nflows, ours / zukos)]
            print(f"| {kind}, D = {dim} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))

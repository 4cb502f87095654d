"""Algorithms of the environment two_routes, as the learner of a run has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from softflow.algos import Algorithm
from softflow.data import Episode
from softflow.runs.assembly import make_algorithm
from softflow.runs.config import TrainConfig, config_class
from softflow.settings.presets import Selection, preset_layers
from softflow.settings.typed import from_layers

SIZES = 2, 2
"""Sizes of observations and actions."""


def configuration(algo: str) -> TrainConfig[Any]:
    selection = Selection(algo=algo, env="two_routes", preset="diagnostic")
    config = from_layers(config_class(selection), preset_layers(selection))
    config.run.env = "two_routes"
    return config


def learner(config: TrainConfig[Any], seed: int, sizes: tuple[int, int] = SIZES) -> Algorithm:
    """An algorithm whose networks all differ from those of another seed."""
    torch.manual_seed(seed)
    algorithm = make_algorithm(config, *sizes)
    algorithm.fit_normalizer(torch.zeros(sizes[0]), torch.ones(sizes[0]))
    action = np.random.default_rng(seed).uniform(-1, 1, (50, sizes[1]))
    algorithm.fit_actions([Episode(np.zeros((51, sizes[0])), action, np.zeros(50), True, False, True)])
    for _, weight in algorithm.named_weights():
        weight.data += 0.1 * torch.randn_like(weight)
    return algorithm

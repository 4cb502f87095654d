"""Observation statistics: needed, and never lost."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from softflow.policies import ObservationNormalizer
from softflow.policies.normalizer import CLIP

MEAN, STD = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0])
OBSERVATION = torch.tensor([[1.0, -2.0], [2.0, 0.0], [0.75, -8.0]])
NORMALIZED = torch.tensor([[0.0, 0.0], [2.0, 0.5], [-0.5, -1.5]])


def fitted() -> ObservationNormalizer:
    normalizer = ObservationNormalizer(2)
    normalizer.fit(MEAN, STD)
    return normalizer


def test_by_hand() -> None:
    torch.testing.assert_close(fitted()(OBSERVATION), NORMALIZED)
    torch.testing.assert_close(fitted()(OBSERVATION.unsqueeze(1)), NORMALIZED.unsqueeze(1))


def test_what_was_never_seen_is_clipped() -> None:
    far = torch.tensor([[1e6, -1e6]])
    assert fitted()(far).tolist() == [[CLIP, -CLIP]]


def test_without_statistics_it_refuses_to_run() -> None:
    with pytest.raises(RuntimeError, match="no observation statistics"):
        ObservationNormalizer(2)(OBSERVATION)


def test_statistics_survive_saving_and_copying() -> None:
    loaded = ObservationNormalizer(2)
    loaded.load_state_dict(fitted().state_dict())
    for normalizer in (loaded, copy.deepcopy(fitted())):
        assert torch.equal(normalizer(OBSERVATION), NORMALIZED)


def test_a_checkpoint_without_statistics_takes_them_away() -> None:
    normalizer = fitted()
    normalizer(OBSERVATION)
    torch.nn.Sequential(normalizer).load_state_dict(torch.nn.Sequential(ObservationNormalizer(2)).state_dict())
    with pytest.raises(RuntimeError, match="no observation statistics"):
        normalizer(OBSERVATION)
    with pytest.raises(RuntimeError, match="Missing key"):
        normalizer.load_state_dict({"mean": MEAN})


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.0], [1.0, 1.0], r"mean: expected \(2,\)"),
        ([0.0, 0.0], [1.0], r"std: expected \(2,\)"),
        ([0.0, math.nan], [1.0, 1.0], "mean: expected .* finite"),
        ([0.0, 0.0], [1.0, math.inf], "std: expected .* finite"),
        ([0.0, 0.0], [1.0, 0.0], "std: expected positive"),
    ],
)
def test_bad_statistics_are_refused(mean: list[float], std: list[float], message: str) -> None:
    normalizer = ObservationNormalizer(2)
    with pytest.raises(ValueError, match=message):
        normalizer.fit(torch.tensor(mean), torch.tensor(std))
    with pytest.raises(RuntimeError, match="no observation statistics"):
        normalizer(OBSERVATION)

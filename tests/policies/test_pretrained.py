"""The pretrained encoder, with a small network where torchvision's would be."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import ImitationConfig
from softflow.policies import FlowPolicy
from softflow.task.layout import ObservationLayout, Part
from tests.test_packaging import SETUP

LAYOUT = ObservationLayout((Part("eye", (16, 16, 3), "uint8"), Part("joint", (2,), "float32")))


class SmallNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 5, 4, stride=4), nn.BatchNorm2d(5), nn.Linear(5, 1000)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(image)).mean((2, 3)))


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    models = ModuleType("torchvision.models")
    models.resnet18 = lambda weights: SmallNetwork()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    torch.manual_seed(1)
    save_file(SmallNetwork().state_dict(), tmp_path / "small.safetensors")
    torch.save(SmallNetwork().state_dict(), tmp_path / "small.pth")
    return tmp_path / "small.safetensors"


def make_policy(weights: object) -> FlowPolicy:
    options = {"weights": str(weights), "features": 8}
    policy = FlowPolicy(LAYOUT, 1, 2, "gaussian", encoder="resnet18", encoder_options=options)
    policy.normalizer.fit(torch.zeros(2), torch.ones(2))
    return policy


def observation() -> Tensor:
    return torch.randint(0, 256, (4, LAYOUT.size), dtype=torch.uint8).index_fill(1, torch.arange(768, 776), 0)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_the_file_and_stay(weights: Path, suffix: str) -> None:
    file = weights.with_suffix(suffix)
    expected = SmallNetwork()
    expected.load_state_dict(torch.load(file) if suffix == ".pth" else make_state(weights))
    expected.fc = nn.Identity()
    learner = PolicyLearner(make_policy(file), ImitationConfig(), 1.0)
    images = observation()[:, :768].unflatten(1, (16, 16, 3)).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (images - mean[:, None, None]) / std[:, None, None]
    for _ in range(2):
        trunk = learner.actor.encoder.trunks[0]
        torch.testing.assert_close(trunk(images), expected.eval()(normalised))
        learner.descend(learner.actor.train().bc_loss(observation(), torch.zeros(4, 2, 1)))
    learner.reinitialize()
    torch.testing.assert_close(learner.actor.encoder.trunks[0](images), expected(normalised))


def make_state(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(file)


def test_a_trained_policy_needs_the_file_no_more(weights: Path) -> None:
    policy = make_policy(weights).eval()
    weights.unlink()
    again = FlowPolicy.build(**policy.describe()).eval()
    again.load_state_dict(policy.state_dict())
    seen = observation()
    assert torch.equal(again.features(seen), policy.features(seen))


def test_what_is_wrong_with_the_weights_is_said(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("none")
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, message in (("missing.pth", "no such file"), ("text.pth", "not of a"), ("other.safetensors", "not of a")):
        with pytest.raises(ValueError, match=f"encoder 'resnet18': weights .*{name}: {message}"):
            make_policy(tmp_path / name)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert "vision" in SETUP["options.extras_require"]
    with pytest.raises(ImportError, match=r"pip install 'softflow\[vision\]'"):
        make_policy("weights.pth")

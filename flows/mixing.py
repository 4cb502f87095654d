"""Linear maps between the layers of a coupling flow, which mix its two parts.

Each takes row vectors x (..., D) to the mapped ones, or back; `log_abs_det` is the map's log|det|, a scalar.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flows.bases import bounded


class RotationMixing(nn.Module):
    """x -> x Q, with Q a random orthogonal matrix, drawn once; log|det Q| = 0.

    Q stays float64 whatever the module is cast to, and is cast where it is used: rounded once, it would no longer be
    orthogonal to float64's precision.

    Args:
        dim: D.
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
    """x -> x P L U, with P a random permutation, drawn once, and L unit lower and U upper triangular, learned.

    The diagonal of U is the exp of bounded numbers, so the map stays invertible; its log|det| is their sum. The inverse
    solves the two triangular systems. A new map is the permutation alone.

    Kingma and Dhariwal, Glow, NeurIPS 2018, arXiv 1807.03039 (section 3.2).

    Args:
        dim: D.
        log_scale_bound: the logarithms of U's diagonal stay within +- this.
    """

    permutation: Tensor

    def __init__(self, dim: int, log_scale_bound: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("permutation", torch.randperm(dim))
        # L below the diagonal, U above, and on it what becomes the logarithms of U's.
        self.factors = nn.Parameter(torch.zeros(dim, dim))
        self.log_scale_bound = log_scale_bound

    def forward(self, x: Tensor, inverse: bool = False) -> Tensor:
        log_diagonal = self._log_diagonal()
        lower = self.factors.tril(-1) + torch.ones_like(log_diagonal).diag()
        upper = self.factors.triu(1) + log_diagonal.exp().diag()
        if not inverse:
            return x[..., self.permutation] @ lower @ upper
        rows = x.flatten(0, -2)  # one system for all of them; leading axes would each repeat the matrix
        rows = torch.linalg.solve_triangular(upper, rows, upper=True, left=False)
        rows = torch.linalg.solve_triangular(lower, rows, upper=False, left=False, unitriangular=True)
        return rows[:, self.permutation.argsort()].reshape(x.shape)

    def log_abs_det(self) -> Tensor:
        return self._log_diagonal().sum()

    def _log_diagonal(self) -> Tensor:
        return bounded(self.factors.diagonal(), self.log_scale_bound)


MIXINGS: dict[str, Callable[[int], nn.Module]] = {"rotation": RotationMixing, "lu": LUMixing}

"""Conditional two-route paths with known density, a minimal model of the chunks that a policy's density must represent.

A scene of five numbers gives the position and size of an obstacle, the position of the goal, and the probabilities of
two smooth routes past the obstacle. A density sees the scene only through a context of 64 numbers. A chunk is a path of
eight steps: one of the routes, with smooth noise of 3 % (a Gaussian process over time) and white noise.

In the plane (D = 16) the white noise is 1 %. For D = 80, a fixed random linear map at each step lifts the routes from
two dimensions to ten, each with independent smooth noise and 2 % of white noise. In both cases a path is drawn from a
mixture of two Gaussians whose density is known exactly. Nearly all numbers lie in (-1, 1).

Shapes: B scenes, n paths for each, H = 8 steps, A = 2 or 10 dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCENE_DIM, CONTEXT_DIM, HORIZON = 5, 64, 8
SMOOTH_NOISE = 0.03
CORRELATED_STEPS = 2.0  # length scale of the smooth noise
RADIUS = (0.11, 0.30)  # of the smallest and the largest obstacle
REACH = 0.8  # paths start at x = -REACH and end at x = REACH


class RoutePaths:
    """Scenes, contexts, paths and their log-density, in float32 and drawn from one generator.

    Args:
        action_dim: A. 2 keeps the paths in the plane; any other number lifts them.
        seed: Seed of the scenes and paths. The lift and the map to the context do not depend on it.
    """

    def __init__(self, action_dim: int, seed: int) -> None:
        self.action_dim = action_dim
        self.generator = torch.Generator().manual_seed(seed)
        fixed = torch.Generator().manual_seed(0)
        self.embedding = torch.randn(SCENE_DIM, CONTEXT_DIM, generator=fixed)
        self.lift = torch.eye(2).expand(HORIZON, 2, 2)
        white_noise = 0.01
        if action_dim != 2:
            self.lift = torch.randn(HORIZON, 2, action_dim, generator=fixed) / 3
            white_noise = 0.02
        step = torch.arange(HORIZON, dtype=torch.float64)
        apart = (step - step.unsqueeze(1)) / CORRELATED_STEPS
        covariance = SMOOTH_NOISE**2 * (-0.5 * apart.square()).exp() + white_noise**2 * torch.eye(HORIZON)
        self.noise = torch.linalg.cholesky(covariance).float()  # (H, H), for each dimension independently

    def scenes(self, n: int) -> Tensor:
        """Draw scenes (n, 5), uniform in [-1, 1]."""
        return 2 * torch.rand(n, SCENE_DIM, generator=self.generator) - 1

    def context(self, scene: Tensor) -> Tensor:
        """Return the context of each scene: (B, 5) -> (B, 64)."""
        return torch.tanh(scene @ self.embedding)

    def routes(self, scene: Tensor) -> tuple[Tensor, Tensor]:
        """Return both routes and their probabilities: (B, 5) -> (B, 2, H, A), (B, 2)."""
        across, height, size, goal, preference = scene.unsqueeze(-1).unbind(1)  # (B, 1) each
        x = torch.linspace(-REACH, REACH, HORIZON)
        centre_x, centre_y = 0.3 * across, 0.3 * height
        radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * (size + 1) / 2
        line = 0.4 * goal * (x + REACH) / (2 * REACH)
        at_obstacle = 0.4 * goal * (centre_x + REACH) / (2 * REACH)
        near = (-0.5 * ((x - centre_x) / 0.3).square()).exp()
        y = torch.stack([line + near * (centre_y + side * radius - at_obstacle) for side in (-1, 1)], 1)
        plane = torch.stack((x.expand_as(y), y), -1)
        return torch.einsum("brhp,hpa->brha", plane, self.lift), torch.cat((preference, -preference), -1).softmax(-1)

    def paths(self, scene: Tensor, n: int = 1) -> Tensor:
        """Draw n paths for each scene: (B, 5) -> (B, n, H, A)."""
        routes, probability = self.routes(scene)
        route = torch.multinomial(probability, n, replacement=True, generator=self.generator)  # (B, n)
        mean = routes[torch.arange(len(scene)).unsqueeze(1), route]
        return mean + self.noise @ torch.randn(mean.shape, generator=self.generator)

    def log_prob(self, path: Tensor, scene: Tensor) -> Tensor:
        """Return the log-density of paths: (B, n, H, A), (B, 5) -> (B, n)."""
        routes, probability = self.routes(scene)
        error = path.unsqueeze(2) - routes.unsqueeze(1)  # (B, n, 2, H, A)
        standard = torch.linalg.solve_triangular(self.noise, error, upper=False)
        log_peak = -self.action_dim * (self.noise.diagonal().log().sum() + 0.5 * HORIZON * math.log(2 * math.pi))
        return torch.logsumexp(probability.log().unsqueeze(1) - 0.5 * standard.square().sum((-2, -1)), -1) + log_peak

    def side(self, path: Tensor, scene: Tensor) -> Tensor:
        """Project paths onto the line between the routes: (B, n, H, A), (B, 5) -> (B, n).

        The result is -1 on the first route and 1 on the second.
        """
        first, second = self.routes(scene)[0].unsqueeze(1).unbind(2)
        half = (second - first) / 2
        return ((path - (first + second) / 2) * half).sum((-2, -1)) / half.square().sum((-2, -1))

"""Scripted demonstrator of gymnasium-robotics' PointMaze: a PD controller follows a shortest path of cells."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError

Cell = tuple[int, int]

# Gains of D4RL's waypoint controller (arXiv 2004.07219). An action of 1 accelerates the ball by 24 m/s2.
GAIN, DAMPING = 10.0, 1.0  # action per m and per m/s
REACHED = 0.2  # m, distance from a waypoint at which the next one becomes the target


class PointMazeDemonstrator:
    """Demonstrates one episode with a fixed goal; make a new one after each ``reset``.

    Args:
        env: A PointMaze environment, wrapped or not.
        rng: Source of the noise, and of the choice between equally short paths.
        noise: Standard deviation of the noise on both components of each action, which lie in [-1, 1].

    Attributes:
        mode: Always -1, because the paths through a maze are not numbered.
        waypoints: Points (2,) in m still to be passed: the centres of cells, then the goal.

    Raises:
        UserError: No path leads to the goal.
    """

    mode = -1

    def __init__(self, env: gymnasium.Env[Any, Any], rng: np.random.Generator, noise: float = 0.3) -> None:
        self._env = cast(Any, env.unwrapped)
        self._rng, self._noise = rng, noise
        maze, goal = self._env.maze, self._env.goal
        start, end = ((int(i), int(j)) for i, j in map(maze.cell_xy_to_rowcol, (self._env.data.qpos[:2], goal)))
        way = shortest_way(maze.maze_map, start, end, rng)
        self.waypoints = [*(maze.cell_rowcol_to_xy(cell) for cell in way[1:-1]), goal.copy()]

    def act(self) -> NDArray[np.floating]:
        """Return the action (2,) in [-1, 1] for the environment's current state; every call draws new noise."""
        position, velocity = self._env.data.qpos[:2], self._env.data.qvel[:2]
        while len(self.waypoints) > 1 and np.linalg.norm(self.waypoints[0] - position) < REACHED:
            self.waypoints.pop(0)
        force = GAIN * (self.waypoints[0] - position) - DAMPING * velocity
        return np.clip(force + self._rng.normal(0, self._noise, 2), -1, 1)


def shortest_way(maze_map: list[list[Any]], start: Cell, end: Cell, rng: np.random.Generator) -> list[Cell]:
    """Return the cells (row, column) of a shortest path, including both ends, by breadth-first search; 1 is a wall.

    The neighbours of each cell are tried in random order, which decides between equally short paths.

    Raises:
        UserError: There is no path.
    """
    free = {(i, j) for i, row in enumerate(maze_map) for j, cell in enumerate(row) if cell != 1}
    came_from: dict[Cell, Cell | None] = {start: None}
    queue = deque([start])
    while queue and end not in came_from:
        row, column = queue.popleft()
        neighbours = [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
        for index in rng.permutation(4):
            neighbour = neighbours[index]
            if neighbour in free and neighbour not in came_from:
                came_from[neighbour] = (row, column)
                queue.append(neighbour)
    if end not in came_from:
        raise UserError(f"no way leads from cell {start} of the maze to cell {end}")
    way = [end]
    while (before := came_from[way[-1]]) is not None:
        way.append(before)
    return way[::-1]

"""A scripted demonstrator of gymnasium-robotics' PointMaze: a shortest way through the cells, followed by a PD law."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError

Cell = tuple[int, int]

# Those of D4RL's waypoint controller (arXiv 2004.07219); the force of an action of 1 accelerates the ball by 24 m/s2.
GAIN, DAMPING = 10.0, 1.0  # of an action per m and per m/s
REACHED = 0.2  # m from a cell's centre, where the next one becomes the aim


class PointMazeDemonstrator:
    """Demonstrates one episode to a goal that stays where it is; make one after each ``reset``.

    Attributes:
        mode: -1, the ways through a maze have no numbers.
        waypoints: (2,) each, in m: the cells' centres still to be passed, and the goal.

    Args:
        env: a PointMaze environment, wrapped or not.
        rng: source of the noise, and of the choice where several ways are equally short.
        noise: standard deviation of the noise on both components of each action.

    Raises:
        UserError: walls lie all round the goal.
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
        """The action (2,) in [-1, 1] for the environment's current state; the noise makes each call a new draw."""
        position, velocity = self._env.data.qpos[:2], self._env.data.qvel[:2]
        while len(self.waypoints) > 1 and np.linalg.norm(self.waypoints[0] - position) < REACHED:
            self.waypoints.pop(0)
        force = GAIN * (self.waypoints[0] - position) - DAMPING * velocity
        return np.clip(force + self._rng.normal(0, self._noise, 2), -1, 1)


def shortest_way(maze_map: list[list[Any]], start: Cell, end: Cell, rng: np.random.Generator) -> list[Cell]:
    """The cells (row, column) of a shortest way, both ends included, by breadth-first search; 1 is a wall.

    Of several, which one is decided by the order in which neighbours are tried, a new one for each cell.

    Raises:
        UserError: there is none.
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

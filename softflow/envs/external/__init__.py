"""Tasks from other packages, which register their environments on import, and demonstrators for these tasks."""

from softflow.envs.tasks import register_task

register_task(
    "gymnasium_robotics:AdroitHandDoor-v1",
    short_name="adroit_door",
    install="softflow[robotics]",
)
for _maze, _short_name in {"UMaze": "point_maze", "Open": None, "Medium": None, "Large": "point_maze_large"}.items():
    register_task(
        f"gymnasium_robotics:PointMaze_{_maze}-v3",
        short_name=_short_name,
        demonstrator=f"{__name__}.point_maze:PointMazeDemonstrator",
        install="softflow[robotics]",
    )
_cubes: dict[str, str | None] = {
    **{f"cube-single-singletask-task{_number}-v0": None for _number in (1, 3, 4, 5)},
    "cube-single-singletask-task2-v0": "ogbench_cube",
    "cube-double-singletask-task2-v0": "ogbench_cube_double",
    "cube-triple-singletask-task2-v0": "ogbench_cube_triple",
}
for _id, _short_name in _cubes.items():
    register_task(
        f"ogbench:{_id}",
        short_name=_short_name,
        demonstrator=f"{__name__}.ogbench_cube:OgbenchCubeDemonstrator",
        install="softflow[ogbench]",
    )
# These have no demonstrator: benchmarks/tasks/ogbench_play.py records play data for them.
for _scene, _short_name in {"puzzle-3x3": "ogbench_puzzle", "scene": "ogbench_scene"}.items():
    register_task(f"ogbench:{_scene}-singletask-task2-v0", short_name=_short_name, install="softflow[ogbench]")

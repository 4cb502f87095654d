"""Tasks from other packages, which register their environments on import, and demonstrators for these tasks."""

from softflow.envs.tasks import register_task

register_task(
    "gymnasium_robotics:AdroitHandDoor-v1",
    short_name="adroit_door",
    install="softflow[robotics]",
)
for _maze in ("UMaze", "Open", "Medium", "Large"):
    register_task(
        f"gymnasium_robotics:PointMaze_{_maze}-v3",
        short_name="point_maze" if _maze == "UMaze" else None,
        demonstrator=f"{__name__}.point_maze:PointMazeDemonstrator",
        install="softflow[robotics]",
    )
for _number in range(1, 6):
    register_task(
        f"ogbench:cube-single-singletask-task{_number}-v0",
        short_name="ogbench_cube" if _number == 2 else None,
        demonstrator=f"{__name__}.ogbench_cube:OgbenchCubeDemonstrator",
        install="softflow[ogbench]",
    )

"""What is said of a cluster without room for all actors, and of an actor whose process ended."""

from __future__ import annotations

import pytest

from softflow.errors import UserError
from softflow.runs.ray_cluster import lack_of_room, require_cluster
from softflow.runs.ray_crew import reason_of
from softflow.training.config import RunConfig

NODES = [
    {"Alive": True, "Resources": {"CPU": 3.0, "robot": 1.0, "GPU": 2.0}},
    {"Alive": True, "Resources": {"CPU": 3.0}},
    {"Alive": False, "Resources": {"CPU": 64.0, "robot": 9.0}},
]


@pytest.mark.parametrize(
    ("actors", "reserved", "room", "needs", "has"),
    [
        (7, {"CPU": 1.0}, 6, "1 CPU", "6 CPU"),
        (3, {"CPU": 2.0}, 2, "2 CPU", "6 CPU"),  # no actor has its cores on two nodes
        (61, {"CPU": 0.1}, 60, "0.1 CPU", "6 CPU"),
        (2, {"CPU": 1.0, "robot": 1.0}, 1, "1 CPU, 1 robot", "6 CPU, 1 robot"),
        (3, {"CPU": 0.0, "GPU": 0.6}, 2, "0.6 GPU", "6 CPU, 2 GPU"),  # no actor has parts of two
        (1, {"arm": 1.0, "CPU": 0.0}, 0, "1 arm", "6 CPU, 0 arm"),
    ],
)
def test_a_cluster_lacks_room(actors, reserved, room, needs, has):
    assert lack_of_room(RunConfig(actors=actors, actor_resources=reserved), NODES) == (
        f"the cluster has room for {room} of {actors} actors: each reserves {needs}, and all nodes together have "
        f"{has}; the others start when more nodes have joined"
    )
    if room:
        assert lack_of_room(RunConfig(actors=room, actor_resources=reserved), NODES) is None


def test_a_resumed_run_cannot_have_more_environments():
    with pytest.raises(UserError, match=r"5 actors share 4 environments, .*: give --actors 4 or fewer$"):
        require_cluster(RunConfig(actors=5, num_envs=4, resume="run"))


def test_actors_that_reserve_nothing_have_room():
    assert lack_of_room(RunConfig(actors=99, actor_resources={"CPU": 0.0}), NODES) is None


def test_an_actor_whose_process_ended_is_named_with_the_place_of_its_output():
    died = """The actor died unexpectedly before finishing this task.
	class_name: _RemoteActor
	actor_id: 7e992d68f197a00526b25e5a01000000
	pid: 21421
	namespace: 683a2a18-abe9-45ca-b5f2-25bf895ac991
	ip: 192.0.2.2
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: ..."""
    assert reason_of(RuntimeError(died)) == (
        "process 21421 of an actor on 192.0.2.2 ended, probably because its environment ended it or memory ran out; "
        "its output is there, in /tmp/ray/session_*/logs/worker-*-21421.err"
    )


def test_other_reasons_are_those_of_ray():
    lost = "class_name: A pid: 3 ip: 192.0.2.2 The actor is dead because its node has died. Node Id: 4"
    assert reason_of(RuntimeError(lost)) == "The actor is dead because its node has died. Node Id: 4"

"""The folder of a learner and its robots, across machines: Ray carries what a shared file system otherwise would.

On the learner's machine `serve` gives the folder of `softflow-train --robots` to the cluster. On a robot's machine
`link` keeps a copy of it, with which `softflow-robot run` works as with the folder itself. Both are processes of their
own, because Ray ends a process whose cluster is gone: the robot and the learner go on without them.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from softflow import __version__
from softflow.console import remark
from softflow.errors import UserError, did_you_mean, one_line
from softflow.files import written_whole
from softflow.runs.ray_cluster import connected
from softflow.training.spool import ACTING, EPISODES, LEARNT, RUN, SUFFIX, Spool

NAMESPACE, PREFIX = "softflow", "folder "
ROBOT = "robot"
"""The resource that a link reserves, so that each robot has one link."""
PERIOD = 1.0
"""Seconds between two looks for what is new."""
ANSWER = 60.0
"""Seconds that an answer may take before the other side counts as away."""
EPISODE = re.compile(rf"[\w.-]+{re.escape(SUFFIX)}")
REMINDER = 10.0
"""Seconds after which a line says that the robot is waited for."""
Stamp = tuple[int, int]
"""When a file was changed, in nanoseconds, and its size."""


class LearnerAway(UserError):
    """The learner, or its folder, is out of reach for now."""


def serve(folder: str, cluster: str, name: str | None) -> None:
    """Give the learner's folder to the cluster until this process ends. Raise `UserError` like `Serving`."""
    name = name or Path(folder).absolute().name
    with connected(cluster) as ray, closing(Serving(ray, folder, name)):
        remark(f"{folder} is in the cluster as {name!r}, until ^C")
        while True:
            time.sleep(PERIOD)


def link(folder: str, cluster: str, name: str | None) -> None:
    """Keep the copy of a learner's folder up to date until this process ends. Raise `UserError` like `Link`."""
    with connected(cluster) as ray, closing(Link(ray, folder, name)) as linked:
        said = None
        while True:
            try:
                news = linked.synchronize()
            except LearnerAway as error:
                news = f"{one_line(error)}; episodes wait in {folder}"
                if news == said:  # it is still away
                    news = None
            if news is not None:
                remark(news)
                said = news
            time.sleep(PERIOD)


class _Server:
    """Gives the learner's folder to links. It runs on the learner's machine.

    Episodes that it receives are files of the recording format, whose readers execute nothing.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def version(self) -> str:
        return __version__

    def changed(self, known: Mapping[str, Stamp]) -> dict[str, tuple[Stamp, bytes]]:
        """Return the settings and the networks, each with its stamp, as far as they are newer than what is known."""
        return {
            name: (stamp, (self._folder / name).read_bytes())
            for name in (RUN, ACTING)
            if (stamp := _stamp(self._folder / name)) is not None and stamp != known.get(name)
        }

    def lacks(self, names: Iterable[str]) -> list[str]:
        """Return those episodes that have not come yet."""
        return [name for name in names if not self._has(name)]

    def put(self, name: str, content: bytes) -> None:
        """Keep an episode. One that has come already is left as it is."""
        if not EPISODE.fullmatch(name):
            raise ValueError(f"not the name of an episode: {name!r}")
        if not self._has(name):
            with written_whole(self._folder / EPISODES / name) as file:
                file.write_bytes(content)

    def learnt(self, names: Iterable[str]) -> list[str]:
        """Return those episodes that a checkpoint of the learner contains."""
        return [name for name in names if (self._folder / LEARNT / name).exists()]

    def _has(self, name: str) -> bool:
        return any((self._folder / part / name).exists() for part in (EPISODES, LEARNT))


class Serving:
    """The learner's folder in a cluster, until `close`.

    Args:
        ray: The module, connected to the cluster on the learner's machine.
        folder: The folder of `softflow-train --robots`.
        name: By what name links find it.

    Raises:
        UserError: There is no such folder, or another one is served by this name.
    """

    def __init__(self, ray: Any, folder: str, name: str) -> None:
        if not (Path(folder) / RUN).is_file():
            raise UserError(f"{folder} is no folder of a learner: start softflow-train --robots {folder} first")
        kind = ray.remote(num_cpus=0, scheduling_strategy=_here(ray))(_Server)
        self._ray = ray
        try:
            self._server = kind.options(name=PREFIX + name, namespace=NAMESPACE).remote(str(Path(folder).absolute()))
            ray.get(self._server.version.remote(), timeout=ANSWER)
        except ValueError as error:  # the name is taken
            raise UserError(f"another folder is served as {name!r}: end that, or give another --name") from error
        except ray.exceptions.RayError as error:
            raise UserError(f"{folder} cannot be served: {one_line(error)}") from error

    def close(self) -> None:
        self._ray.kill(self._server)


class _Link:
    """Holds the robot of its node. It does nothing: what is reserved for it no other link can have."""

    def hold(self) -> None:
        return None


class Link:
    """Keeps a copy of a learner's folder up to date, and brings the episodes in it to the learner.

    Args:
        ray: The module, connected to the cluster on the robot's machine.
        folder: The copy. It is created.
        name: The name of the learner's folder. None takes the only one that is served.

    Raises:
        UserError: This node has no robot. If another link has it, this waits.
    """

    def __init__(self, ray: Any, folder: str, name: str | None) -> None:
        self._ray, self._spool, self._name = ray, Spool(folder), name
        self._known: dict[str, Stamp] = {}
        self._server: Any = None
        node = _node(ray)
        if node["Resources"].get(ROBOT, 0.0) < 1:
            host = socket.gethostname()
            raise UserError(f"the node {host} has no robot: start it with ray start --resources='{{\"{ROBOT}\": 1}}'")
        kind = ray.remote(num_cpus=0, resources={ROBOT: 1}, scheduling_strategy=_here(ray))(_Link)
        self._holder = kind.remote()
        held = self._holder.hold.remote()
        while not ray.wait([held], timeout=REMINDER)[0]:
            remark("waiting for the robot of this node, which another link may have")

    def synchronize(self) -> str | None:
        """Exchange what is new. Return what happened in words, None if nothing did.

        Raises:
            LearnerAway: The learner is out of reach, or cannot take an episode now. Nothing is lost.
            UserError: It has another version of softflow, or which of several folders is meant is not known.
        """
        try:
            if self._server is None:
                self._server = self._found()
            return self._exchange()
        except self._ray.exceptions.RayTaskError as error:
            raise LearnerAway(f"the learner's machine cannot take it: {one_line(error.cause)}") from error
        except self._ray.exceptions.RayError as error:
            self._server = None
            raise LearnerAway(f"the learner is out of reach: {one_line(error)}") from error

    def close(self) -> None:
        self._ray.kill(self._holder)

    def _exchange(self) -> str | None:
        server, said = self._server, []
        for name, (stamp, content) in self._ask(server.changed, self._known).items():
            with written_whole(self._spool.path / name) as file:
                file.write_bytes(content)
            self._known[name] = stamp
            said.append(f"new {'networks' if name == ACTING else 'settings'}")
        here = self._spool.episodes()
        for name in self._ask(server.lacks, here) if here else ():
            self._ask(server.put, name, (self._spool.path / EPISODES / name).read_bytes())
            said.append(f"{name} brought")
        self._spool.keep(self._ask(server.learnt, here) if here else ())
        return ", ".join(said) or None

    def _ask(self, method: Any, *arguments: Any) -> Any:
        return self._ray.get(method.remote(*arguments), timeout=ANSWER)

    def _found(self) -> Any:
        served = [
            one["name"].removeprefix(PREFIX)
            for one in self._ray.util.list_named_actors(all_namespaces=True)
            if one["namespace"] == NAMESPACE and one["name"].startswith(PREFIX)
        ]
        if not served:
            raise LearnerAway("the cluster has no learner's folder: softflow-robot serve FOLDER gives it one")
        if self._name is None and len(served) > 1:
            raise UserError(f"the cluster has several folders: give --name, one of {', '.join(served)}")
        name = served[0] if self._name is None else self._name
        if name not in served:
            raise LearnerAway(f"the cluster has no folder {name!r}: {did_you_mean(name, served)}")
        server = self._ray.get_actor(PREFIX + name, NAMESPACE)
        if (theirs := self._ask(server.version)) != __version__:
            raise UserError(
                f"the learner has softflow {theirs}, this machine {__version__}: install the same version on both"
            )
        return server


def _stamp(path: Path) -> Stamp | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _node(ray: Any) -> Mapping[str, Any]:
    """Return Ray's description of the node to which this process is connected."""
    number = ray.get_runtime_context().get_node_id()
    return next(node for node in ray.nodes() if node["NodeID"] == number)


def _here(ray: Any) -> Any:
    """Return the strategy that keeps an actor on the node to which this process is connected."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(_node(ray)["NodeID"], soft=False)

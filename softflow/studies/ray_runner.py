"""Jobs as tasks of Ray, on the nodes of a cluster."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import chdir
from pathlib import Path
from typing import Any

from softflow import __version__
from softflow.console import remark
from softflow.errors import UserError, one_line
from softflow.studies.jobs import Job
from softflow.studies.runners import Runner


class RayRunner(Runner):
    """Tasks on a cluster. The nodes must share the file system of the study.

    Args:
        ray: The module, connected to a cluster.
        resources: What Ray reserves for each job, by Ray's names.
        mark: An existing file of the study, which each node must see.
    """

    def __init__(self, ray: Any, resources: Mapping[str, float], mark: Path) -> None:
        others = {name: number for name, number in resources.items() if name not in ("CPU", "GPU")}
        cpus, gpus = (resources.get(name, 0) for name in ("CPU", "GPU"))
        self._ray, self._place = ray, (Path.cwd(), mark.absolute(), __version__)
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, resources=others, max_retries=0)(_run)
        self._references: list[Any] = []
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= number for name, number in resources.items()) for node in nodes):
            needed = ", ".join(f"{number:g} {name}" for name, number in resources.items())
            remark(f"no node of the cluster has what each run needs, {needed}: the runs wait for one, or press ^C")

    def submit(self, job: Job) -> Future[bool]:
        reference = self._task.remote(job, *self._place)
        self._references.append(reference)
        future = Future[bool]()
        reference.future().add_done_callback(lambda done: self._pass_on(done, future))
        return future

    def close(self) -> None:
        for reference in self._references:
            self._ray.cancel(reference)  # a KeyboardInterrupt in the task; nothing if it has ended
        self._ray.wait(self._references, num_returns=len(self._references))

    def _pass_on(self, done: Future[bool], future: Future[bool]) -> None:
        """Pass on the result of Ray's future to ours, and the error of our own code without Ray's description of it."""
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        elif isinstance(error, self._ray.exceptions.RayTaskError):
            future.set_exception(error.cause)
        else:
            future.set_exception(UserError(f"its node or its process was lost: {one_line(error)}"))


def _run(job: Job, working_folder: Path, mark: Path, version: str) -> bool:
    """Run a job on a node.

    Raises:
        UserError: The node has another version of softflow, or another file system.
    """
    node = socket.gethostname()
    if version != __version__:
        raise UserError(
            f"the node {node} has softflow {__version__}, but this study {version}: install the same version on all "
            "nodes"
        )
    if not mark.is_file():
        raise UserError(f"the node {node} does not see {mark}: keep a study on a file system that all nodes share")
    with chdir(working_folder):  # files are named relative to it
        return job.run()

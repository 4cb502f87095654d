"""The processes of this machine, as Linux describes them in /proc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process that runs."""

    number: int
    parent: int
    session: int
    command: str


def processes() -> Iterator[Process]:
    """Yield the processes that run. Those that have ended and wait for their parent are left out."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            state, parent, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if state != "Z":
            yield Process(int(folder.name), int(parent), int(session), command)


def descendants(number: int) -> list[Process]:
    """Return the processes that a process started, directly or not."""
    running, found = list(processes()), list[Process]()
    parents = {number}
    while parents:
        children = [one for one in running if one.parent in parents]
        found += children
        parents = {one.number for one in children}
    return found

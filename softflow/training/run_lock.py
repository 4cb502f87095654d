"""A lock on a run folder, so that one process at a time writes to it.

    <run>/lock/<process>-<start>-<boot>-<machine>-<namespace>-<host>

The lock is a folder with one empty file, whose name says which process holds it. Locks of the operating system are not
used: many network file systems ignore them, or forget them with the connection. What every file system does atomically
is rename, so both ways to get the lock are one rename:

* a free lock: rename a prepared folder to `lock`, which fails if there is one with a file in it;
* a lock left by a process that has ended: rename the file in it. Its name belongs to that process alone, so only the
  first of several renames finds it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

from softflow.errors import UserError

_NAME, _PREPARED = "lock", ".lock-"
ATTEMPTS = 100
"""Times that a lock may change hands while it is asked for."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    process: int
    start: str
    """When it started, in ticks since the machine did; process numbers are used again. Empty if unknown."""
    boot: str
    """Which start of the machine that was."""
    machine: str
    namespace: str
    """Containers on one machine count processes separately."""
    host: str

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        return cls(os.getpid(), _start_of(os.getpid()) or "", *_place())

    @classmethod
    def read(cls, name: str) -> Holder | None:
        """The holder that a file name says; None if it is not one of a lock."""
        process, *rest = name.split("-", 5)
        return cls(int(process), *rest) if process.isdecimal() and len(rest) == 5 else None

    @property
    def name(self) -> str:
        return "-".join(map(str, astuple(self)))

    def can_be_checked(self) -> bool:
        """Whether this process can see if that one is alive."""
        boot, machine, namespace, host = _place()
        if (self.machine, self.host) != (machine, host):
            return False
        return self.boot != boot or self.namespace == namespace

    def is_alive(self) -> bool:
        """Whether it runs, given that it `can_be_checked`; if in doubt, yes."""
        if self.boot != _place()[0]:  # the machine was restarted since
            return False
        if os.name == "nt":  # where signal 0 would end it
            return True
        try:
            os.kill(self.process, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:  # it is another user's
            pass
        return _start_of(self.process) in (None, self.start)


class RunLock:
    """The lock of the run folder `folder`.

    Attributes:
        path: of the lock, in the folder.
    """

    def __init__(self, folder: Path, shown: str) -> None:
        self.path, self._folder, self._shown = folder / _NAME, folder, shown
        self._me: Holder | None = None

    def acquire(self) -> None:
        """Take the lock, also from a process that has ended without giving it back.

        Raises:
            UserError: another process holds it, or may hold it. Nothing was changed.
            OSError: the folder cannot be written.
        """
        me = Holder.here()
        for _ in range(ATTEMPTS):
            holder = self._holder()
            if holder is None:
                taken = self._take(me)
            else:
                self._require_ended(holder)
                taken = self._take_over(holder, me)
            if taken:
                self._me = me
                for leftover in self._folder.glob(f"{_PREPARED}*"):  # of a process that was killed while it asked
                    shutil.rmtree(leftover, ignore_errors=True)
                return
        raise UserError(f"{self._shown}: its lock cannot be read: remove {self.path} if no run uses the folder")

    def release(self) -> None:
        """Give it back, if it is held. The folder may be gone."""
        if self._me is not None:
            with suppress(OSError):
                (self.path / self._me.name).unlink()
                self.path.rmdir()
            self._me = None

    def _holder(self) -> Holder | None:
        try:
            holders = [Holder.read(name) for name in os.listdir(self.path)]
        except FileNotFoundError:
            return None
        return next(filter(None, holders), None)

    def _require_ended(self, holder: Holder) -> None:
        who = f"{self._shown} is in use by process {holder.process} on {holder.host}"
        if not holder.can_be_checked():
            raise UserError(f"{who}, which cannot be checked from here: if that run has ended, remove {self.path}")
        if holder.is_alive():
            raise UserError(f"{who}: wait until it has ended, or stop it")

    def _take(self, me: Holder) -> bool:
        prepared = self._folder / f"{_PREPARED}{me.name}"
        try:
            prepared.mkdir(exist_ok=True)
            (prepared / me.name).touch()
            prepared.rename(self.path)
        except OSError as error:
            shutil.rmtree(prepared, ignore_errors=True)
            swept_away = isinstance(error, FileNotFoundError) and self._folder.is_dir()
            if not self.path.exists() and not swept_away:  # not because another was faster
                raise
            return False
        return True

    def _take_over(self, holder: Holder, me: Holder) -> bool:
        try:
            (self.path / holder.name).rename(self.path / me.name)
        except FileNotFoundError:  # another was faster
            return False
        return True


def is_lock(path: Path) -> bool:
    """Whether an entry of a run folder is its lock, or what a process prepared to lock it."""
    return path.name == _NAME or path.name.startswith(_PREPARED)


def _place() -> tuple[str, str, str, str]:
    """The `boot`, `machine`, `namespace` and `host` of this process; what the system does not tell is empty."""
    boot = _read("/proc/sys/kernel/random/boot_id")[:8]
    machine = _read("/etc/machine-id")[:8]
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    host = re.sub(r"[^\w.-]", "_", socket.gethostname(), flags=re.ASCII)[:100]
    return boot, machine, re.sub(r"\D", "", namespace), host


def _start_of(process: int) -> str | None:
    """When a process started, "ended" if it only waits for its parent to notice, None if the system does not tell."""
    status = _read(f"/proc/{process}/stat").rpartition(")")[2].split()  # the name before it may hold anything
    if not status:
        return None
    return "ended" if status[0] in "ZX" else status[19]


def _read(file: str) -> str:
    try:
        return Path(file).read_text(errors="replace").strip()
    except OSError:
        return ""

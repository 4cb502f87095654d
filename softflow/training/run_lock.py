"""A lock on a run folder, so that only one process at a time writes to it.

    <run>/lock/<process>-<start>-<boot>-<machine>-<namespace>-<host>

The lock is a folder with one empty file, whose name identifies the process that holds it. Locks of the operating system
are not used, because many network file systems ignore them or lose them with the connection. All file systems rename
atomically, so both ways to acquire the lock use a single rename:

* A free lock: rename a prepared folder to `lock`, which fails if a folder with a file in it exists.
* A lock left by a process that has ended: rename the file in it. The file's name is unique to that process, so only the
  first of several renames succeeds.
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
"""Number of attempts to acquire a lock while it changes hands."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    process: int
    start: str
    """Start time of the process in clock ticks since boot, because process ids are reused. Empty if unknown."""
    boot: str
    """Boot id of the machine."""
    machine: str
    namespace: str
    """PID namespace, because containers on one machine number their processes separately."""
    host: str

    @classmethod
    def here(cls) -> Holder:
        """Return the holder that describes this process."""
        return cls(os.getpid(), _start_of(os.getpid()) or "", *_place())

    @classmethod
    def read(cls, name: str) -> Holder | None:
        """Parse the name of a file in a lock. Return None if it does not name a holder."""
        process, *rest = name.split("-", 5)
        return cls(int(process), *rest) if process.isdecimal() and len(rest) == 5 else None

    @property
    def name(self) -> str:
        return "-".join(map(str, astuple(self)))

    def can_be_checked(self) -> bool:
        """Return whether this process can determine if the holder is alive."""
        boot, machine, namespace, host = _place()
        if (self.machine, self.host) != (machine, host):
            return False
        return self.boot != boot or self.namespace == namespace

    def is_alive(self) -> bool:
        """Return whether the holder is running, if it `can_be_checked`. Return True in case of doubt."""
        if self.boot != _place()[0]:  # the machine has been restarted since
            return False
        if os.name == "nt":  # where signal 0 would end the process
            return True
        try:
            os.kill(self.process, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:  # the process belongs to another user
            pass
        return _start_of(self.process) in (None, self.start)


class RunLock:
    """The lock of a run folder.

    Args:
        folder: The run folder.
        shown: The path of the folder in error messages.

    Attributes:
        path: The path of the lock in the folder.
    """

    def __init__(self, folder: Path, shown: str) -> None:
        self.path, self._folder, self._shown = folder / _NAME, folder, shown
        self._me: Holder | None = None

    def acquire(self) -> None:
        """Acquire the lock, even if a process ended without releasing it.

        Raises:
            UserError: Another process holds the lock, or may hold it. Nothing was changed.
            OSError: The folder cannot be written.
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
                for leftover in self._folder.glob(f"{_PREPARED}*"):  # left by a process that was killed in `acquire`
                    shutil.rmtree(leftover, ignore_errors=True)
                return
        raise UserError(f"{self._shown}: its lock cannot be read: remove {self.path} if no run uses the folder")

    def release(self) -> None:
        """Release the lock if it is held. The folder may no longer exist."""
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
            if not self.path.exists() and not swept_away:  # not because another process was faster
                raise
            return False
        return True

    def _take_over(self, holder: Holder, me: Holder) -> bool:
        try:
            (self.path / holder.name).rename(self.path / me.name)
        except FileNotFoundError:  # another process was faster
            return False
        return True


def is_lock(path: Path) -> bool:
    """Return whether an entry of a run folder is its lock or a folder prepared as its lock."""
    return path.name == _NAME or path.name.startswith(_PREPARED)


def _place() -> tuple[str, str, str, str]:
    """Return the `boot`, `machine`, `namespace` and `host` of this process. Unknown values are empty."""
    boot = _read("/proc/sys/kernel/random/boot_id")[:8]
    machine = _read("/etc/machine-id")[:8]
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    host = re.sub(r"[^\w.-]", "_", socket.gethostname(), flags=re.ASCII)[:100]
    return boot, machine, re.sub(r"\D", "", namespace), host


def _start_of(process: int) -> str | None:
    """Return the start time of a process in clock ticks since boot, "ended" for a zombie, or None if unknown."""
    status = _read(f"/proc/{process}/stat").rpartition(")")[2].split()  # the name in front may contain anything
    if not status:
        return None
    return "ended" if status[0] in "ZX" else status[19]


def _read(file: str) -> str:
    try:
        return Path(file).read_text(errors="replace").strip()
    except OSError:
        return ""

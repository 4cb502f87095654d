"""Text attributes of HDF5 files.

HDF5 stores a text in a global heap collection. Its library may loop for ever or crash if the collection is damaged, so
a process of its own reads the text. This file is also the program of that process, which needs h5py alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SECONDS = 60
"""Time that the process may take. It usually takes less than one second."""
PROCESSOR_SECONDS = 10
"""Time that it may compute."""
MEMORY = 4 * 2**30
"""Bytes of address space that the process may take."""
LONGEST = 100_000
"""Maximum length of a text in characters."""


def text_attribute(path: Path, group: str, name: str) -> str | None:
    """Return the text of an attribute of a group, or None if the group has no such attribute.

    Raises:
        ValueError: The attribute is no text, too long, or damaged.
    """
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # more would take address space
    command = [sys.executable, "-P", __file__, str(path), group, name, str(PROCESSOR_SECONDS)]
    what = f"the attribute {name} of {group}"
    try:
        ended = subprocess.run(command, capture_output=True, timeout=SECONDS, env=os.environ | threads)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{what} takes more than {SECONDS} s to read: copy or record the file again") from error
    if ended.returncode:
        raise ValueError(f"{what} cannot be read: copy or record the file again")
    text = json.loads(ended.stdout)
    if text is not None and (not isinstance(text, str) or len(text) > LONGEST):
        raise ValueError(f"{what} is not a text of at most {LONGEST:,} characters")
    return text


def _print(path: str, group: str, name: str, seconds: str) -> None:
    import h5py

    try:
        import resource
    except ImportError:  # on Windows, where only the time is limited
        pass
    else:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with h5py.File(path, "r") as file:
        value = file[group].attrs.get(name)
    if isinstance(value, str):
        value = value[: LONGEST + 1]
    elif value is not None:
        value = False  # anything that is no text
    print(json.dumps(value))


if __name__ == "__main__":
    _print(*sys.argv[1:])

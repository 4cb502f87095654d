"""What holds for all tests: a core for each worker of pytest-xdist, and SIGINT interrupts."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, here and in processes that tests start

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # the tests are a job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

"""What holds for every test: one thread a worker, set before NumPy and torch are loaded, and the fixtures."""

from __future__ import annotations

import os

# sums have one order with one thread, tiny networks are faster so, and two workers share two cores
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
    os.environ[name] = "1"

pytest_plugins = ["tests.photographs"]  # which loads them

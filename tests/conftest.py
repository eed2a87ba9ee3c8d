"""What every test shares: one BLAS thread per worker, no windows, reproducible examples."""

from __future__ import annotations

import os
import signal

# before NumPy is imported: the workers of pytest-xdist already use every core
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from hypothesis import settings

# started in the background (nohup), Python leaves Ctrl-C ignored, as it finds it; tests send it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# no deadline: the first example may compile a graph; derandomised: CI sees what a developer saw
settings.register_profile("pymc_sph", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("pymc_sph")

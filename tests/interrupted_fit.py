"""A fit that waits for Ctrl-C; prints its steps, and at the end what is left of it, as JSON.

python tests/interrupted_fit.py {force,pressure} CHECKPOINT
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
import time
import warnings

import numpy as np
import pymc as pm

from gradient_blocker import block_gradient
from threadpoolctl import threadpool_info, threadpool_limits

from pymc_sph import SPH, engines

SETTINGS = {"fluids": 2, "particles": 3, "tol": 1e-6, "window": 4, "cooling": 5, "paths": 2}


def make_model(form):
    y = 1 + 0.3 * np.random.default_rng(0).standard_normal(30)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 5), pm.HalfNormal("sigma"), observed=y)
    if form == "pressure":
        block_gradient(model, guard=slow)
    return model


def slow(theta):
    time.sleep(2e-4)


def workers(form):
    """Threads or processes that evaluate the log density, while the fit is under way."""
    if form == "pressure":
        return len(multiprocessing.active_children())
    return len([t for t in threading.enumerate() if t.name.startswith("pymc_sph")])


def blas_threads():
    return [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]


def main(form, path):
    engines.MIN_SECONDS_PER_THREAD = 1e-9  # always over threads, however small the model
    share = {"cores": 2} if form == "pressure" else {"threads": 2}
    method = SPH(make_model(form), 7, checkpoint=path, every=3, **share, **SETTINGS)
    seen = []

    def look(approx, losses, i):
        seen.append(workers(form))
        print(f"step {i}", flush=True)

    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        approx = method.fit(100_000, progressbar=False, callbacks=[look])
        after = blas_threads()
    print(json.dumps({
        "status": approx.status,
        "verdict": approx.verdict.grade,
        "steps": len(approx.hist),
        "n_steps": approx.result.n_steps,
        "workers_before": max(seen),
        "workers_after": workers(form),
        "children": [p.pid for p in multiprocessing.active_children()],
        "blas": [before, after],
    }), flush=True)  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])

"""Fits killed by SIGKILL at random moments; prints what their checkpoints were worth, as JSON.

    python tests/killed_fits.py SUFFIX KILLS [SEED]

Each fit runs in a process of its own, forked from this one, where the model is compiled already.
After each kill the checkpoint is compared with the states of a fit that nobody killed, and after
the last one a fit is resumed from it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import warnings

from pathlib import Path

import numpy as np
import pymc as pm

from same_bits import differences

from pymc_sph import SPH, checkpoint, files

SETTINGS = {"fluids": 2, "particles": 3, "tol": 1e-6, "window": 4, "cooling": 5, "paths": 2}
N = 40


def make_model():
    y = 1 + 0.3 * np.random.default_rng(0).standard_normal(30)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 5), pm.HalfNormal("sigma"), observed=y)
    return model


def killed(work, seconds):
    """Run `work` in a forked process, and kill it after some time; True if it came to its end."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1] == 0


def main(suffix, kills, seed=0):
    rng = np.random.default_rng(seed)
    model, states = make_model(), {}
    method = SPH(model, 7, threads=1, **SETTINGS)

    def remember(approx, losses, i):
        states[i] = method._ensemble

    method.fit(1, progressbar=False)  # compiles
    method.fit(N, progressbar=False, callbacks=[remember])
    states[0] = None
    hist, result = method.hist, method.approx.result
    report = {"kills": 0, "before_the_first": 0, "in_a_write": 0, "steps": [], "resumed": 0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"run.{suffix}"
        began = time.perf_counter()
        method.fit(N, progressbar=False, checkpoint=path, every=1)
        seconds = time.perf_counter() - began
        path.unlink()
        # on a busy machine several may come to the same step: go on until they were at three
        while report["kills"] < kills or not path.exists() or len(set(report["steps"])) < 3:
            if path.exists() and rng.random() < 0.5:
                path.unlink()
            ended = killed(lambda: method.fit(N, progressbar=False), rng.uniform(0, seconds))
            report["kills"] += not ended
            left = [p for p in Path(folder).iterdir() if p != path]
            report["in_a_write"] += bool(left)
            files.clear_leftovers(path)
            assert not [p for p in Path(folder).iterdir() if p != path], left
            if not path.exists():
                report["before_the_first"] += 1
                continue
            saved = checkpoint.read(path)
            step = saved.ensemble.n_steps
            report["steps"].append(step)
            assert np.array_equal(saved.losses, hist[:step])
            assert not step or differences(states[step], saved.ensemble) == []
        again = SPH.resume(path, model, progressbar=False, threads=1)
        assert np.array_equal(again.hist, hist)
        assert differences(result, again.approx.result) == []
        report["resumed"] += 1
    print(json.dumps(report))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:]))

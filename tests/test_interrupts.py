"""However a fit ends: what is kept, what passes on, and that no worker outlives it."""

from __future__ import annotations

import dataclasses
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

from pathlib import Path

import interrupted_fit
import numpy as np
import pytest

from interrupted_fit import SETTINGS, make_model
from same_bits import differences

import pymc_sph

from pymc_sph import SPH, LostWorkersError, checkpoint, engines
from pymc_sph.ensemble import Ensemble

HERE = os.path.dirname(__file__)
N = 30
OTHERS: set[str] = set()

pytestmark = pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning")


@pytest.fixture(scope="module", params=["force", "pressure"])
def fits(request):
    """A method whose workers are always in use, and how it ends if nothing happens."""
    OTHERS.update(children())
    patch = pytest.MonkeyPatch()
    patch.setattr(engines, "MIN_SECONDS_PER_THREAD", 1e-9)
    patch.setattr(interrupted_fit, "slow", lambda theta: None)
    share = {"cores": 2} if request.param == "pressure" else {"threads": 2}
    method = SPH(make_model(request.param), 7, **share, **SETTINGS)
    seen = []
    method.fit(N, progressbar=False, callbacks=[lambda *a: seen.append(working())])
    assert max(seen) == 2 and no_worker_is_left()
    whole = {"hist": method.hist, "result": method.approx.result}
    yield method, whole
    patch.undo()


def working():
    named = [t for t in threading.enumerate() if t.name.startswith("pymc_sph")]
    return len(named) + len(multiprocessing.active_children())


def no_worker_is_left():
    """No thread of this package or of its executors, and no child process, not even a dead one.

    Those that other tests have left behind (a resource tracker of `spawn` or loky) do not count.
    """
    names = [t.name for t in threading.enumerate()]
    ours = [n for n in names if n.startswith(("pymc_sph", "ExecutorManager", "QueueFeeder"))]
    left = set(children()) - OTHERS
    return not ours and not left and not multiprocessing.active_children()


def children():
    """Ids of this process's children; a thread that ends meanwhile hands its own to another one."""
    while True:
        try:
            return [
                child
                for task in os.listdir("/proc/self/task")
                for child in Path(f"/proc/self/task/{task}/children").read_text().split()
            ]
        except (FileNotFoundError, ProcessLookupError):
            continue


def resumed(method, path):
    """The same fit from its checkpoint; in this process, where the model is compiled already."""
    again = SPH(method.model, 7, checkpoint=path, cores=method.cores, threads=method.threads,
                **SETTINGS)  # fmt: skip
    again._target, again._options = method._target, method._options
    saved = checkpoint.read(path)
    again._take_up(saved, again._target)
    again._run(saved.score, [], False, None)
    again._target.release()
    return again


ENDS = {
    "stop": (StopIteration("enough"), "stopped"),
    "interrupt": (KeyboardInterrupt(), "interrupted"),
    "error": (ZeroDivisionError("mine"), "failed"),
    "memory": (MemoryError("mine"), "failed"),
    "exit": (SystemExit(3), "failed"),
}


WAYS = [(where, end) for where in ("callback", "target") for end in ENDS]
WAYS.remove(("target", "stop"))  # StopIteration is what callbacks raise


@pytest.mark.parametrize(("where", "end"), WAYS)
def test_whatever_ends_a_fit_it_is_kept_and_goes_on(end, where, fits, tmp_path, monkeypatch):
    method, whole = fits
    error, status = ENDS[end]
    path, step = tmp_path / "run.npz", 13
    method.fit(0, progressbar=False)

    def callback(approx, losses, i):
        if i == step:
            raise error

    target = type(method._target).__call__

    def failing(self, theta):
        if method._ensemble.n_steps == step:
            monkeypatch.setattr(type(self), "__call__", target)  # whole again for the check
            raise error
        return target(self, theta)

    if where == "target":
        monkeypatch.setattr(type(method._target), "__call__", failing)
    settings = {"checkpoint": path, "every": 1000, "progressbar": False}
    callbacks = [callback] if where == "callback" else []
    if status == "failed":
        with pytest.raises(type(error)) as caught:
            method.fit(N, callbacks=callbacks, **settings)
        assert caught.value is error
    else:
        method.fit(N, callbacks=callbacks, **settings)
    monkeypatch.undo()
    approx = method.approx
    assert no_worker_is_left()
    assert approx.status == status and len(approx.hist) == len(method.hist) == step
    assert checkpoint.read(path).ensemble.n_steps == step
    assert (approx.result is None) == (end == "exit")
    assert np.isfinite(approx.sample(5, random_seed=1)["posterior"]["mu"].values).all()
    again = resumed(method, path)
    assert differences(whole["hist"], again.hist) == []
    assert differences(whole["result"], again.approx.result) == []
    method.fit(0, progressbar=False, checkpoint=None)
    assert no_worker_is_left()


def test_an_error_of_the_start_leaves_no_worker_and_the_last_fit(fits, monkeypatch):
    method, whole = fits
    method.fit(N, progressbar=False)

    for error in (ZeroDivisionError, KeyboardInterrupt):

        def start(target, points, *arguments, error=error):
            target(points)
            assert working()
            raise error("start")

        monkeypatch.setattr(Ensemble, "start", start)
        with pytest.raises(error, match="start"):
            method.fit(N, progressbar=False)
        assert no_worker_is_left()
        monkeypatch.undo()
    assert method.approx.status == "max_steps" and len(method.hist) == N
    method.refine(3, progressbar=False)
    assert len(method.hist) == N + 3
    np.testing.assert_array_equal(method.hist[:N], whole["hist"])
    assert no_worker_is_left()


def test_a_worker_that_is_killed_costs_the_fit_no_step(fits, tmp_path):
    method, whole = fits
    if method.cores == 1:
        pytest.skip("threads cannot be killed")

    def kill(approx, losses, i):
        if i == 9:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            time.sleep(0.1)

    path = tmp_path / "run.npz"
    with pytest.raises(LostWorkersError, match="cores=2"):
        method.fit(N, progressbar=False, callbacks=[kill], checkpoint=path)
    assert method.approx.status == "failed" and len(method.hist) == 9
    assert no_worker_is_left()
    again = resumed(method, path)
    assert differences(whole["hist"], again.hist) == []
    assert differences(whole["result"], again.approx.result) == []
    method.fit(0, progressbar=False, checkpoint=None)


def alarm(number, frame):
    """Ctrl-C, by a clock."""
    signal.raise_signal(signal.SIGINT)


def interrupted_at_random(method, path, trials, seed):
    """Interrupt fits at random moments, and check each time what is left; return how they ended."""
    states, ends = {}, []

    def remember(approx, losses, i):
        states[i] = method._ensemble

    method.fit(N, progressbar=False, callbacks=[remember], checkpoint=None)
    hist, rng = method.hist, np.random.default_rng(seed)
    began = time.perf_counter()
    method.fit(N, progressbar=False, checkpoint=path, every=2)
    seconds = time.perf_counter() - began
    limits = interrupted_fit.blas_threads()
    before = signal.signal(signal.SIGALRM, alarm)
    try:
        for _ in range(trials):
            path.unlink(missing_ok=True)
            method._ensemble = None
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-3, seconds))
                method.fit(N, progressbar=False)
                ends.append(method.approx.status)
            except KeyboardInterrupt:
                ends.append("passed on")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert no_worker_is_left() and interrupted_fit.blas_threads() == limits
            assert [p for p in path.parent.iterdir() if p != path] == []
            steps = 0 if method._ensemble is None else method._ensemble.n_steps
            if ends[-1] != "passed on":
                assert len(method.hist) == len(method.approx.hist) == steps
                assert checkpoint.read(path).ensemble.n_steps == steps
            if steps:
                # the check that follows counts its evaluations
                spent = method._ensemble.n_evaluations
                state = dataclasses.replace(states[steps], n_evaluations=spent)
                assert differences(state, method._ensemble) == []
                assert np.array_equal(method.hist, hist[: len(method.hist)])
            if path.exists():
                saved = checkpoint.read(path)
                step = saved.ensemble.n_steps
                assert np.array_equal(saved.losses, hist[:step])
                assert not step or differences(states[step], saved.ensemble) == []
    finally:
        signal.signal(signal.SIGALRM, before)
    return ends


@pytest.mark.slow
# Python drops an interrupt that comes in a callback of its garbage collector (Hypothesis has one),
# and a file between open() and `with` is nobody's: it tells of both by this warning
@pytest.mark.filterwarnings("ignore:Exception ignored in")
def test_ctrl_c_at_any_moment(fits, tmp_path):
    method, _ = fits
    trials = 25 if method.cores == 1 else 12  # forking takes its time
    ends = interrupted_at_random(method, tmp_path / "run.npz", trials, seed=0)
    assert set(ends) <= {"interrupted", "passed on", "max_steps"}
    assert {"interrupted", "passed on"} <= set(ends)  # in the steps; in the start or the check
    method.fit(0, progressbar=False, checkpoint=None)
    gc.collect()  # what was cut off is told of here, and not in a test that comes after


@pytest.mark.parametrize("form", ["force", "pressure"])
def test_ctrl_c_keeps_the_fit(form, tmp_path):
    """A real SIGINT, to the whole group of processes as from a terminal."""
    path = tmp_path / "run.npz"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(HERE), HERE])}
    script = os.path.join(HERE, "interrupted_fit.py")
    process = subprocess.Popen(
        [sys.executable, script, form, str(path)], env=env, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        steps = 0
        for line in process.stdout:
            steps += 1
            if line.startswith("step 10"):
                break
        time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err
    report = json.loads(out.splitlines()[-1])
    assert report["status"] == "interrupted" and report["verdict"] != "reliable"
    assert report["steps"] == report["n_steps"] >= 10
    assert report["workers_before"] == 2 and report["workers_after"] == 0
    assert report["children"] == []
    assert report["blas"] == [[2] * len(report["blas"][0])] * 2
    assert "Traceback" not in err
    saved = checkpoint.read(path)
    assert saved.ensemble.n_steps == report["steps"]
    if form == "force":
        ends = []

        def stop(approx, losses, i):
            ends.append(i)
            raise StopIteration

        approx = pymc_sph.resume(path, make_model(form), progressbar=False, callbacks=[stop])
        assert ends == [report["steps"] + 1] and approx.status == "stopped"

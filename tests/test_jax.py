"""``backend="jax"``: its checks on eight simulated devices, and what needs no JAX."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

from pathlib import Path

import numpy as np
import pytest

from small_models import eight_schools

from pymc_sph import BackendError, compile_target
from pymc_sph.fluid import masks, schedule
from pymc_sph.fluid.schedule import Plan, Schedule
from pymc_sph.fluid.step import Observation, Rates

TESTS = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_the_checks_on_eight_devices():
    # unoptimised: half the time goes into compiling
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "jax_checks.py"]
    done = subprocess.run(
        command,
        cwd=TESTS,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_the_benchmark_for_accelerators_runs_on_a_cpu(tmp_path):
    out = tmp_path / "rows.json"
    sizes = "--n 300 --d 3 --particles 8 --probes 32 --stein-steps 50".split()
    methods = ["nuts", "sph jax", "sph numba cpu", "steinvi"]
    command = [sys.executable, "benchmarks/gpu.py", *sizes, "--json", str(out)]
    command += ["--methods", *methods]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {row["method"]: row for row in json.loads(out.read_text())}
    assert list(rows) == methods
    one, two = rows["sph jax"], rows["sph numba cpu"]
    np.testing.assert_allclose(one["mean"], two["mean"], atol=0.05 * min(two["sd"]))
    assert one["log_evidence"] == pytest.approx(two["log_evidence"], abs=0.05)
    if importlib.util.find_spec("numpyro") is None:
        assert "numpyro" in rows["nuts"]["error"] and "numpyro" in rows["steinvi"]["error"]
    else:
        np.testing.assert_allclose(one["mean"], rows["nuts"]["mean"], atol=0.3 * min(two["sd"]))
        assert "error" not in rows["steinvi"]


def test_jax_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "pymc_sph.jax_engine", raising=False)
    with pytest.raises(BackendError, match=r"package jax.*pymc-sph\[jax\].*backend=None"):
        compile_target(eight_schools(), backend="jax")


@pytest.mark.parametrize("n_used", [0, 1, 6, 7, 12])
def test_means_and_medians_of_some_are_those_without_the_others(n_used):
    rng = np.random.default_rng(n_used)
    x, used = rng.standard_normal(12), np.arange(12) < n_used
    order = rng.permutation(12)
    mean, median = masks.mean(x[order], used[order]), masks.median(x[order], used[order])
    if n_used == 0:
        assert mean == 0 and median == np.inf and masks.count(used) == 1
        return
    assert masks.count(used) == n_used
    assert mean == pytest.approx(np.mean(x[:n_used]), rel=1e-14)
    assert median == np.median(x[:n_used])


@pytest.mark.parametrize("flat", [None, 3])
def test_a_schedule_keeps_its_rates_for_the_steps_that_are_assured(flat):
    plan = Plan(2.0, cooling=4, window=5, halvings=2, tol=0.1, rates=Rates(), flat=flat)
    # whatever the steps see: every step of the worst kind, and of some mixed ones
    kinds = [Observation(0.0, 0.0, 1.0, 0), Observation(0.0, 9.0, 0.1, 0),
             Observation(-np.inf, np.inf, 0.0, 8)]  # fmt: skip
    for seed in range(30):
        rng = np.random.default_rng(seed)
        now = Schedule()
        while now.status == schedule.RUNNING and now.step < 200:
            n, level = schedule.assured(plan, now), now.level
            assert n >= 1
            for i in range(n):
                assert now.status == schedule.RUNNING and now.level == level, i
                kind = seed if seed < 3 else rng.integers(3)
                now = schedule.advance(plan, now, kinds[kind], 8)

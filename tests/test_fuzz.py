"""Random models: what holds for every fit, and models that once failed."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

from pathlib import Path

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

from fuzzed_fits import check_fit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_fuzz import FuzzedModel, models

from pymc_sph import SPH, UnreliableFitWarning
from pymc_sph.start import elbo_noise, fit_gaussians, with_elbo

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
SHORT = {"fluids": 2, "particles": 3, "probes": 2, "paths": 2, "temperature": 1, "draws": 100}
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=4, suppress_health_check=CHECKS)
@given(models(), SEEDS)
def test_a_few_random_models(fuzzed: FuzzedModel, seed: int) -> None:
    check_fit(fuzzed, seed)


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=CHECKS)
@given(models(), SEEDS)
def test_random_models(fuzzed: FuzzedModel, seed: int) -> None:
    check_fit(fuzzed, seed)


@pytest.mark.slow
def test_the_command_fits_models_by_seed() -> None:
    command = [sys.executable, str(Path(__file__).with_name("model_fuzz.py")), "--n", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=os.environ.copy()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("2 models, 0 failures")


# --- models that failed


def test_draws_that_replace_others_may_all_miss() -> None:
    """Redrawing one row, into the void again, warned that log p is finite nowhere."""
    with pm.Model() as model:
        x = pm.Normal("x", 0, 1, initval=1.0)
        pm.Potential("bound", pt.switch(x > 0, 0.0, -np.inf))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableFitWarning)
        approx = SPH(model, random_seed=0, **SHORT).fit(1, progressbar=False)
    assert 0.05 < approx.result.void < 0.9
    lowest = [
        approx.sample(3, random_seed=seed)["posterior"]["x"].values.min() for seed in range(30)
    ]
    assert min(lowest) > 0


def test_a_path_that_ends_in_the_neck_of_a_funnel_is_a_start_as_well() -> None:
    """No curvature is left there, and no Gaussian was tried anywhere on the path."""

    def target(theta):
        t, x = theta[:, 0], theta[:, 1:]
        with np.errstate(all="ignore"):
            scaled = x * np.exp(-t)[:, None]
            logp = t - 0.5 * np.exp(2 * t) - 2 * t - 0.5 * np.sum(scaled**2, axis=1)
            slope = -1 - np.exp(2 * t) + np.sum(scaled**2, axis=1)
            grad = np.column_stack([slope, -scaled * np.exp(-t)[:, None]])
        return logp, grad

    path = np.array([[-30.0, 0, 0], [-4.0, 0.1, 0.1], [0.0, 0.5, 0.5]])
    found, _ = fit_gaussians(target, path, elbo_noise(np.random.default_rng(0), 3))
    assert max(gaussian.elbo for gaussian in found) > -10


def test_a_log_density_of_minus_1e200_does_not_warn() -> None:
    """Warnings are errors in the suite; the squares of such numbers overflow."""
    noise = elbo_noise(np.random.default_rng(0), 1)
    start = [(np.zeros(1), np.eye(1))]

    def target(theta):
        return np.where(theta[:, 0] > 1, -1e200, 0.0), np.zeros_like(theta)

    [gaussian] = with_elbo(target, start, noise)
    assert gaussian.divergence == np.inf and not gaussian.calm

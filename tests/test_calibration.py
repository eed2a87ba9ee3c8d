"""Simulation-based calibration with few fits, and the arithmetic of ``examples/sbc.py``."""

from __future__ import annotations

import numpy as np
import pytest
import sbc

from scipy import stats

RANKS = sbc.DRAWS + 1


def test_histogram_and_p_value():
    assert (sbc.histogram(np.arange(RANKS)) == RANKS // sbc.BINS).all()
    assert sbc.chi_square(np.arange(RANKS)) == 1
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(256, 1))
    p = {
        scale: sbc.chi_square(np.sum(scale * rng.normal(size=(256, sbc.DRAWS)) < truth, axis=1))
        for scale in (1.0, 0.7)
    }
    assert p[1.0] > 1e-3 and p[0.7] < 1e-4  # draws that are too narrow are found out


def test_ranks_count_draws_below_the_truth():
    outcome = sbc.Outcome(sbc.REGRESSION)
    outcome.note("q", {"a": np.array([0.5])}, {"a": np.array([0.1, 0.7, 0.2])})
    assert outcome.ranks == {"q": {"a": [2]}}


def test_log_likelihood_of_the_process_is_scipys():
    rng = np.random.default_rng(1)
    draws = {k: np.exp(0.3 * rng.normal(size=3)) for k in ("mean", "length", "amplitude", "noise")}
    y = rng.normal(size=16)
    for i, value in enumerate(sbc.gp_log_likelihood(draws, y)):
        mean, length, amplitude, noise = (draws[k][i] for k in draws)
        cov = amplitude**2 * np.exp(-0.5 * (sbc.GAP / length) ** 2) + noise**2 * np.eye(16)
        exact = stats.multivariate_normal(np.full(16, mean), cov).logpdf(y)
        np.testing.assert_allclose(value, exact, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("case", sbc.CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_ranks_are_uniform(case):
    outcome = sbc.calibrate(case, 48, seed=11)
    assert not outcome.failed and len(outcome.grades) == 48
    assert set(outcome.ranks) == set(sbc.SERIES)
    for series, ranks in outcome.ranks.items():
        for name, values in ranks.items():
            # uniform on 0..127 within (0, 1): the steps of 1/128 are far below what 48 ranks show
            p = stats.kstest((np.asarray(values) + 0.5) / RANKS, "uniform").pvalue
            # ten comparisons in each of three models, correlated: one in 300 runs by chance
            assert p > 1e-4, f"{case.name}, {name}, {sbc.SERIES[series]}: p = {p:.1e}"

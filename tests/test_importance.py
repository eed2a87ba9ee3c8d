"""Importance weights: invariances, closed forms, and both signs of a tail."""

from __future__ import annotations

import numpy as np
import pytest

from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from pymc_sph import importance


def evidence(log_weights):
    return importance.log_evidence(log_weights, importance.psis(log_weights)[0])


def test_k_is_larger_for_the_heavier_right_tail():
    x = np.random.default_rng(0).standard_normal(10_000)
    light, heavy = importance.psis(0.1 * x)[1], importance.psis(3.0 * x)[1]
    assert light < 0.4 < 0.7 < heavy
    # a long left tail, weights near zero, is harmless: with the sign wrong these two would swap
    skew = np.random.default_rng(1).exponential(size=10_000)
    left, right = importance.psis(-2 * skew)[1], importance.psis(2 * skew)[1]
    assert left < 0 and right > 0.7  # weights u^2, and u^-2 whose k is 2


def test_k_of_a_normal_proposal_too_narrow():
    # p N(0, 1), q N(0, s): weights have a Pareto tail of k = 1 - s^2
    for s, k in ((0.5**0.5, 0.5), (0.2**0.5, 0.8)):
        x = s * np.random.default_rng(2).standard_normal(100_000)
        log_w = -0.5 * x**2 + 0.5 * (x / s) ** 2 + np.log(s)
        # 950 tail draws: standard error .05; a slowly varying factor biases k down a little
        assert importance.psis(log_w)[1] == pytest.approx(k, abs=0.2)


def test_smoothing_keeps_order_and_bounds_the_largest():
    log_w = 2.0 * np.random.default_rng(3).standard_normal(4_000)
    smoothed, _ = importance.psis(log_w)
    order = np.argsort(log_w)
    assert (np.diff(smoothed[order]) >= -1e-12).all()
    assert logsumexp(smoothed) == pytest.approx(0, abs=1e-10)
    body = order[:3_000]  # only the tail is smoothed: the body keeps its ratios
    np.testing.assert_allclose(np.diff(smoothed[body]), np.diff(log_w[body]), atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(-1e3, 1e3))
def test_a_constant_of_the_log_weights_moves_the_evidence_alone(seed, constant):
    log_w = np.random.default_rng(seed).standard_normal(200)
    value, error = evidence(log_w)
    moved, same = evidence(log_w + constant)
    assert moved == pytest.approx(value + constant, abs=1e-9)
    assert same == pytest.approx(error, rel=1e-6)
    assert importance.relative_ess(log_w + constant) == pytest.approx(
        importance.relative_ess(log_w)
    )
    np.testing.assert_allclose(
        importance.psis(log_w + constant)[0], importance.psis(log_w)[0], atol=1e-8
    )


def test_one_wild_weight_does_not_decide_the_evidence():
    # p N(0, 1), q N(0, .6^2): log Z = 0, and the weights' tail is too heavy for their plain mean
    x = 0.6 * np.random.default_rng(6).standard_normal(4_000)
    log_w = -0.5 * x**2 + 0.5 * (x / 0.6) ** 2 + np.log(0.6)
    value, error = evidence(log_w)
    wild, wild_error = evidence(np.r_[log_w, 9.0])  # as large as all the others together
    plain = logsumexp(np.r_[log_w, 9.0]) - np.log(4_001)
    assert plain > 0.9 and wild == pytest.approx(value, abs=0.1)
    assert value == pytest.approx(0, abs=4 * error) and wild_error < 0.05


@given(st.lists(st.floats(-700, 700), min_size=1, max_size=50))
def test_relative_ess_is_kishs_and_between_its_bounds(log_w):
    log_w = np.array(log_w)
    w = np.exp(log_w - log_w.max())
    expected = w.sum() ** 2 / np.sum(w**2) / len(w)
    assert importance.relative_ess(log_w) == pytest.approx(expected, rel=1e-9)
    assert 1 / len(w) - 1e-12 <= expected <= 1 + 1e-12


@pytest.mark.parametrize("broken", [np.nan, -np.inf])
def test_broken_weights_weigh_nothing_but_are_counted(broken):
    log_w = np.random.default_rng(4).standard_normal(1000)
    half = np.r_[log_w, np.full(1000, broken)]
    ess = importance.relative_ess(log_w)
    assert importance.relative_ess(half) == pytest.approx(ess / 2)
    value, _ = evidence(log_w)
    assert evidence(half)[0] == pytest.approx(value - np.log(2))
    smoothed, _ = importance.psis(half)
    assert (smoothed[1000:] == -np.inf).all() and logsumexp(smoothed) == pytest.approx(0, abs=1e-9)
    assert evidence(np.full(3, broken)) == (-np.inf, np.inf)


def test_stated_error_of_the_evidence_is_its_scatter():
    rng = np.random.default_rng(5)
    runs = [evidence(0.7 * rng.standard_normal(500)) for _ in range(400)]
    values, errors = np.array(runs).T
    # 400 runs: standard error of a standard deviation 3.5 %, the delta method some more
    assert np.mean(errors) == pytest.approx(values.std(), rel=0.15)


def test_inputs_are_left_as_they_are():
    log_w = np.random.default_rng(6).standard_normal(500)
    log_w.setflags(write=False)
    importance.psis(log_w)
    importance.relative_ess(log_w)
    evidence(log_w)


def test_r_hat_is_gelman_and_rubins_formula():
    theta = np.random.default_rng(8).standard_normal((3, 50, 2)) + np.array([[[0]], [[0.5]], [[1]]])
    expected = []
    for j in range(2):
        x = theta[:, :, j]
        within = np.mean([np.var(chain, ddof=1) for chain in x])
        between = 50 * np.var([chain.mean() for chain in x], ddof=1)
        expected.append(np.sqrt((49 / 50 * within + between / 50) / within))
    assert importance.r_hat(theta) == pytest.approx(max(expected), rel=1e-10)


def test_a_tail_of_equal_weights_is_bounded():
    log_w = np.log(np.repeat([0.6, 1.4], 2000))
    smoothed, k = importance.psis(log_w)
    assert k == -np.inf
    np.testing.assert_allclose(smoothed, log_w - logsumexp(log_w))

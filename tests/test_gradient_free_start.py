"""The start without gradients: CMA-ES runs and the Gaussians made of them."""

from __future__ import annotations

import numpy as np
import pytest

from fluids import banana, gaussian, ill_conditioned

from pymc_sph.gradient_free_start import Run, candidates, climb, find_starts, spread


def counted(target):
    """The target without gradient, and a list to which it adds the size of every batch."""
    sizes = []

    def counting(theta):
        sizes.append(len(theta))
        return target(theta)[0], None

    return counting, sizes


@pytest.mark.parametrize("d", [1, 2, 6])
def test_a_gaussian_target_is_found_exactly(d):
    """A quadratic is fitted without error, so that the best ELBO is log Z = 0."""
    mean, cov = ill_conditioned(d)
    target, sizes = counted(gaussian(mean, cov))
    points = mean + 3 * np.random.default_rng(d).standard_normal((2, d))
    starts, spent = find_starts(target, points, (0,))
    assert spent == sum(sizes)
    best = starts[0]
    assert best.elbo == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(best.mu, mean, atol=1e-4)
    np.testing.assert_allclose(best.L @ best.L.T, cov, rtol=1e-3, atol=1e-3 * np.abs(cov).max())


def test_a_population_is_one_batch_and_runs_are_short():
    target, sizes = counted(banana)
    run = climb(target, np.array([2.0, -3.0]), np.ones(2), np.random.default_rng(0))
    assert sizes == list(np.diff([0, *run.stop])) and sizes[0] > 1
    assert len(run.theta) == run.stop[-1] == sum(sizes) < 500
    np.testing.assert_allclose(run.logp, banana(run.theta)[0])
    np.testing.assert_allclose(run.mean[-1], 0, atol=0.7)


def test_same_seed_same_starts_and_the_global_state_is_left_alone():
    points = np.random.default_rng(3).standard_normal((2, 2))
    np.random.seed(0)
    before = np.random.get_state()
    one, two = (find_starts(lambda x: (banana(x)[0], None), points, (5,))[0] for _ in range(2))
    after = np.random.get_state()
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2] == after[2]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.mu, b.mu)
        np.testing.assert_array_equal(a.L, b.L)
    other = find_starts(lambda x: (banana(x)[0], None), points, (6,))[0]
    assert not np.array_equal(one[0].mu, other[0].mu)


def test_a_run_sees_through_points_without_density():
    def walled(theta):
        logp = -0.5 * np.sum((theta - 3) ** 2, axis=1)
        return np.where(theta[:, 0] <= 0, np.nan, logp), None

    starts, _ = find_starts(walled, np.array([[0.5, 30.0], [1.0, -2.0]]), (0,))
    for found in starts:
        cov, gap = found.L @ found.L.T, found.mu - 3
        divergence = 0.5 * (np.trace(cov) + gap @ gap - 2 - np.linalg.slogdet(cov)[1])
        # the best of a few Gaussians, told apart by 32 draws, of which one or two hit the wall
        assert divergence < 0.15


def test_no_finite_point_gives_no_start():
    starts, spent = find_starts(lambda x: (np.full(len(x), np.nan), None), np.zeros((1, 2)), (0,))
    assert starts == [] and spent > 0


def test_the_covariance_of_the_run_is_rescaled_to_the_posterior():
    """A run far narrower than the posterior, too short for a quadratic, of the right shape."""
    cov = np.array([[4.0, 1.0], [1.0, 1.0]])
    factor = np.linalg.cholesky(cov)
    theta = 0.01 * np.random.default_rng(1).standard_normal((8, 2)) @ factor.T
    logp, _ = gaussian(np.zeros(2), cov)(theta)
    run = Run(theta, logp, np.array([8]), np.zeros((1, 2)), 1e-4 * cov[None])
    [(mean, L)] = candidates(run)
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_allclose(L @ L.T, cov, rtol=1e-6)


def test_the_first_steps_are_as_long_as_the_points_are_apart():
    points = np.array([[0.0, 1.0, 5.0], [10.0, 1.0, 5.2]])
    np.testing.assert_allclose(spread(points), [5.0, 1.0, 0.1])
    np.testing.assert_array_equal(spread(points[:1]), 1.0)

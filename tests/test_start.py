"""The start: Hessians, factors, paths and the ELBO that chooses, against closed forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fluids import banana, gaussian, ill_conditioned
from hypothesis import given
from hypothesis import strategies as st

from pymc_sph import start
from pymc_sph.exploration import distance
from pymc_sph.placing import choose
from pymc_sph.start import (
    Gaussian,
    covariance_factor,
    find_starts,
    fit_gaussians,
    hessians,
    landings,
    lbfgs_path,
    polish,
    thin,
)


def counted(target):
    """The target, and a list to which it adds the size of every batch."""
    sizes = []

    def counting(theta):
        sizes.append(len(theta))
        return target(theta)

    return counting, sizes


def test_hessians_by_differences_are_the_analytic_ones():
    points = np.random.default_rng(0).standard_normal((5, 2))
    H, spent = hessians(banana, points, np.array([1e-4, 1e-4]))
    x, y = points.T
    # of -x^2 / 2 - (y - x^2 / 2)^2
    expected = np.array([[-1 + 2 * (y - x**2 / 2) - 2 * x**2, 2 * x], [2 * x, -2 + 0 * x]])
    np.testing.assert_allclose(H, expected.transpose(2, 0, 1), atol=1e-6)
    assert spent == 2 * 2 * 5


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_covariance_factor_is_the_inverse_of_a_definite_hessian(seed, d):
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    scale = np.exp(3 * rng.standard_normal(d))
    cov = (axes * np.geomspace(1, 50, d)) @ axes.T * scale * scale[:, None]
    L = covariance_factor(-np.linalg.inv(cov))
    sd = np.sqrt(np.diag(cov))
    found = L @ L.T / sd / sd[:, None]
    np.testing.assert_allclose(found, cov / sd / sd[:, None], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("correlation", [1 - 1e-4, 1 - 1e-9])
def test_covariance_factor_has_the_width_of_a_narrow_ridge(correlation):
    # precision with unit diagonal: along x0 = -x1 the sd is 1 / sqrt(1 - correlation) times larger
    L = covariance_factor(-np.array([[1.0, correlation], [correlation, 1.0]]))
    widths = np.sqrt(np.linalg.eigvalsh(L @ L.T))
    np.testing.assert_allclose(
        widths, [1 / np.sqrt(1 + correlation), 1 / np.sqrt(1 - correlation)], rtol=1e-4
    )


@pytest.mark.parametrize("d", [1, 5])
def test_elbo_of_a_gaussian_candidate_is_exact(d):
    mean, cov = ill_conditioned(d)
    half = np.random.default_rng(1).standard_normal((16, d))
    noise = np.concatenate([half, -half])
    points = np.stack([mean, mean + 0.3])
    target, sizes = counted(gaussian(mean, cov))
    found, spent = fit_gaussians(target, points, noise)
    assert spent == sum(sizes)
    gap = points[1] - mean
    # at a point off the mean, minus the Kullback-Leibler divergence from N(point, cov)
    expected = [0, 0, -0.5 * gap @ np.linalg.solve(cov, gap), 0]
    np.testing.assert_allclose([g.elbo for g in found], expected, atol=1e-6)
    np.testing.assert_allclose(found[3].mu, mean, atol=1e-5)  # one Newton step further


def test_every_gradient_of_the_start_is_counted():
    target, sizes = counted(banana)
    starts, spent = find_starts(target, np.random.default_rng(2).standard_normal((3, 2)), (0,))
    assert spent == sum(sizes) and len(starts) == 3
    elbos = [s.elbo for s in starts]
    assert elbos == sorted(elbos, reverse=True)


def test_same_seed_same_starts():
    points = np.random.default_rng(3).standard_normal((2, 2))
    one, two = (find_starts(banana, points, (5,))[0] for _ in range(2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.mu, b.mu)
        np.testing.assert_array_equal(a.L, b.L)
        assert a.elbo == b.elbo
    np.testing.assert_array_equal(points, np.random.default_rng(3).standard_normal((2, 2)))


def test_a_path_climbs_and_begins_at_its_point():
    point = np.array([2.0, -3.0])
    run = lbfgs_path(banana, point)
    path, count = run.points, run.n_evaluations
    logp = banana(path)[0]
    assert run.known is None
    np.testing.assert_array_equal(path[0], point)
    assert (np.diff(logp) >= -1e-12).all() and count >= len(path) - 1
    np.testing.assert_allclose(path[-1], 0, atol=1e-3)


def test_a_path_to_a_close_mode_runs_in_its_frame():
    # log p = -log(1 + |x|^2) with |x| in units of sds that differ by a factor of 10^4
    cov = np.diag([1e4, 1.0, 1e-4])
    precision = np.linalg.inv(cov)

    def heavy(theta):
        inner = 1 + np.sum((theta @ precision) * theta, axis=1)
        return -np.log(inner), -2 * (theta @ precision) / inner[:, None]

    point = np.array([300.0, -5.0, 0.04])
    frame = Gaussian(np.full(3, 1e3), np.linalg.cholesky(cov), 0.0, divergence=0.01)
    assert frame.close
    # a Gaussian elsewhere, so that no iterate belongs to it: the frame alone makes the difference
    plain = lbfgs_path(heavy, point)
    within = lbfgs_path(heavy, point, until=[frame], near=0.0)
    np.testing.assert_array_equal(within.points[0], point)
    assert within.known is None
    np.testing.assert_allclose(within.points[-1] / np.sqrt(np.diag(cov)), 0, atol=1e-3)
    assert within.n_evaluations < plain.n_evaluations / 2
    vague = dataclasses.replace(frame, divergence=5.0)
    assert lbfgs_path(heavy, point, until=[vague], near=0.0).n_evaluations == plain.n_evaluations


def test_a_newton_step_tells_the_mode_of_a_far_point():
    target = gaussian(np.array([1.0, -2.0]), np.array([[4.0, 1.9], [1.9, 1.0]]))
    here = Gaussian(np.array([1.0, -2.0]), np.linalg.cholesky([[4.0, 1.9], [1.9, 1.0]]), 0.0)
    there = Gaussian(np.array([30.0, 30.0]), np.eye(2), 0.0)
    points = np.array([[40.0, -35.0], [0.0, 0.0], [30.0, 30.0]])
    _, grad = target(points)
    assert landings([there, here], points, grad, 0.01) == [1, 1, 0]  # the last lies in its middle
    assert landings([], points, grad, 0.01) == [None] * 3
    # the gradient of another mode, half as wide, points elsewhere
    _, other = gaussian(np.array([20.0, 5.0]), np.eye(2) / 4)(points[:2])
    assert landings([here], points[:2], other, 0.5) == [None, None]


def test_a_path_ends_where_a_newton_step_leads_into_a_known_gaussian():
    mean, cov = ill_conditioned(4)
    known = Gaussian(mean, np.linalg.cholesky(cov), 0.0)
    run = lbfgs_path(gaussian(mean, cov), mean + 30.0, until=[known])
    assert run.known == 0 and len(run.points) == 2


def test_a_path_that_stops_on_a_ridge_goes_on_to_the_mode():
    mean, cov = ill_conditioned(3)

    def high(theta):  # so high that L-BFGS takes 1e-3 nats for nothing
        logp, grad = gaussian(mean, cov)(theta)
        return logp - 1e6, grad

    target, sizes = counted(high)
    root = np.linalg.cholesky(cov)
    short = mean + root @ np.array([1.0, -1.0, 1.0])
    path, spent = polish(target, short[None])
    assert spent == sum(sizes)
    np.testing.assert_array_equal(path[0], short)
    np.testing.assert_allclose(np.linalg.solve(root, path[-1] - mean), 0, atol=0.05)
    stay, _ = polish(target, mean[None])
    np.testing.assert_array_equal(stay, mean[None])


def test_one_path_is_enough_where_the_posterior_is_a_gaussian():
    mean, cov = ill_conditioned(5)
    points = mean + np.random.default_rng(4).standard_normal((8, 5))
    starts, spent = find_starts(gaussian(mean, cov), points, (0,))
    assert len(starts) == 1 and starts[0].elbo == pytest.approx(0, abs=1e-6)
    _, alone = find_starts(gaussian(mean, cov), points[:1], (0,))
    assert spent < alone + 7 * 10


@pytest.mark.parametrize("length", [1, 2, 5, 8, 200])
def test_thinned_paths_keep_the_end_and_are_short(length):
    path = np.arange(float(length))[:, None]
    kept = thin(path)[:, 0]
    assert kept[0] == length - 1 and len(kept) <= start.CANDIDATES
    assert (np.diff(kept) < 0).all()


def walled(theta):
    """A normal in the half plane x > 0, NaN elsewhere."""
    out = theta[:, 0] <= 0
    logp = np.where(out, np.nan, -0.5 * np.sum((theta - 3) ** 2, axis=1))
    return logp, np.where(out[:, None], np.nan, 3 - theta)


def test_a_wall_on_the_way_does_not_end_the_path():
    for point in ([0.1, 40.0], [0.5, -2.0]):
        (found,), _ = find_starts(walled, np.array([point]), (0,))
        np.testing.assert_allclose(found.mu, 3, atol=0.1)
        np.testing.assert_allclose(found.L @ found.L.T, np.eye(2), atol=1e-2)


def test_no_finite_point_gives_no_start():
    starts, spent = find_starts(walled, np.array([[-3.0, 0.0]]), (0,))
    assert starts == [] and spent > 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 8))
def test_every_fluid_gets_a_start_the_first_the_best(seed, n_starts, n_fluids):
    rng = np.random.default_rng(seed)
    elbos = np.sort(10 * rng.standard_normal(n_starts))[::-1]
    starts = [Gaussian(5 * rng.standard_normal(2), np.eye(2), float(e)) for e in elbos]
    chosen = choose(starts, n_fluids)
    assert len(chosen) == n_fluids and chosen[0] is starts[0]
    assert all(s.elbo > elbos[0] - 10 - 2 for s in chosen)
    near = [s for s in starts if s.elbo > elbos[0] - 12]
    # none twice before every eligible one has been taken
    assert len({id(s) for s in chosen}) == min(n_fluids, len(near))


def test_distance_is_by_the_wider_gaussian_and_per_dimension():
    narrow = Gaussian(np.zeros(2), 0.1 * np.eye(2), 0.0)
    wide = Gaussian(np.array([3.0, 4.0]), np.diag([2.0, 2.0]), 0.0)
    assert distance(narrow, wide) == distance(wide, narrow) == pytest.approx(25 / 4 / 2)


def test_where_the_support_cuts_off_most_of_every_gaussian_narrower_ones_are_tried():
    # 95 % of each coordinate lies inside, .39 of the whole: the mode's own Gaussian has no ELBO
    d = 20

    def cut(theta):
        logp, grad = gaussian(np.zeros(d), np.eye(d))(theta)
        return np.where((np.abs(theta) < 2).all(axis=1), logp, -np.inf), grad

    half = np.random.default_rng(1).standard_normal((16, d))
    target, sizes = counted(cut)
    found, spent = fit_gaussians(target, np.zeros((1, d)), np.concatenate([half, -half]))
    assert spent == sum(sizes)
    # half as wide: 2d (1/2 - 1/8) nats of the energy are not spent, d log 2 of the entropy are lost
    square = np.mean(half**2) * d
    expected = 0.5 * square * (1 - 0.25) - d * np.log(2)
    assert found[0].elbo == pytest.approx(expected, abs=1e-6)


def test_what_is_cut_off_costs_its_share():
    def half_line(theta):
        logp, grad = gaussian(np.zeros(1), np.eye(1))(theta)
        return np.where(theta[:, 0] > -0.5, logp, -np.inf), grad

    noise = np.linspace(-2, 2, 200)[:, None]
    share = np.mean(noise > -0.5)
    (found,) = start.with_elbo(half_line, [(np.zeros(1), np.eye(1))], noise)
    assert found.elbo == pytest.approx(np.log(share), abs=1e-6)

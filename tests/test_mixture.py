"""The pooled fluids: every fluid alone, closed-form moments, shares against the best ELBO."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fluids import brute_log_rho, factors, random_fluid
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal

from pymc_sph.fluid.state import to_frame
from pymc_sph.mixture import FluidMixture, displaced, fit_shares


@pytest.fixture
def mixture():
    rng = np.random.default_rng(0)
    fluids = (random_fluid(rng, n=3), random_fluid(rng, n=5, full=False))
    return FluidMixture(fluids, np.log([0.3, 0.7]))


def components(mixture):
    """Every particle of every fluid as a normal of the unconstrained space: weight, mean, cov."""
    for log_share, f in zip(mixture.log_weights, mixture.fluids, strict=True):
        for log_m, z, A in zip(f.log_m, f.z, factors(f), strict=True):
            yield np.exp(log_share + log_m), f.mu + f.L @ z, f.L @ A @ A.T @ f.L.T


def test_q_is_a_mixture_of_normals_in_unconstrained_space(mixture):
    theta = 2 * np.random.default_rng(1).standard_normal((9, 2))
    q = sum(w * multivariate_normal(m, C).pdf(theta) for w, m, C in components(mixture))
    np.testing.assert_allclose(np.exp(mixture.log_density(theta)), q, rtol=1e-8)


def test_moments_are_those_of_the_normals(mixture):
    parts = list(components(mixture))
    mean = sum(w * m for w, m, _ in parts)
    cov = sum(w * (C + np.outer(m - mean, m - mean)) for w, m, C in parts)
    np.testing.assert_allclose(mixture.mean(), mean, rtol=1e-10)
    np.testing.assert_allclose(mixture.cov(), cov, rtol=1e-10)


def test_one_fluid_alone_is_drawn_and_has_its_own_density(mixture):
    draws = mixture.sample(20_000, np.random.default_rng(2), fluid=0)
    assert (draws.fluid == 0).all() and draws.particle.max() == 2
    alone = dataclasses.replace(mixture, fluids=mixture.fluids[:1], log_weights=np.zeros(1))
    f = mixture.fluids[0]
    expected = brute_log_rho(f, to_frame(f, draws.theta[:50])) - np.log(abs(np.linalg.det(f.L)))
    np.testing.assert_allclose(mixture.log_density(draws.theta[:50], 0), expected, rtol=1e-7)
    sd = np.sqrt(np.diag(alone.cov()))
    # standard error of a mean of 20,000 independent draws: .007 sd
    np.testing.assert_allclose((draws.theta.mean(axis=0) - alone.mean()) / sd, 0, atol=0.03)


def test_every_draw_comes_from_the_particle_it_names(mixture):
    draws = mixture.sample(5_000, np.random.default_rng(3))
    for i, f in enumerate(mixture.fluids):
        rows = draws.fluid == i
        own, A = draws.particle[rows], factors(f)
        gap = to_frame(f, draws.theta[rows]) - f.z[own]
        e = np.linalg.solve(A[own], gap[:, :, None])[:, :, 0]
        # whitened by its own particle a draw is standard normal: 1,500 draws, errors .026, .052
        np.testing.assert_allclose(e.mean(axis=0), 0, atol=0.13)
        np.testing.assert_allclose(np.cov(e.T), np.eye(2), atol=0.2)


def test_same_generator_same_draws_and_none_are_no_trouble(mixture):
    one, two = (mixture.sample(10, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one.theta, two.theta)
    assert mixture.sample(0, np.random.default_rng(4)).theta.shape == (0, 2)


def test_without_some_particles_the_others_keep_their_proportions(mixture):
    lost = np.array([False, True, False, False, False, False, True, False])
    left = mixture.without(lost)
    assert [f.n_particles for f in left.fluids] == [2, 4]
    expected = np.exp(mixture.log_masses[~lost])
    np.testing.assert_allclose(np.exp(left.log_masses), expected / expected.sum(), rtol=1e-12)
    np.testing.assert_array_equal(left.centres, mixture.centres[~lost])
    all_of_one = mixture.without(np.arange(8) < 3)
    np.testing.assert_allclose(all_of_one.log_masses, mixture.log_masses)


def test_a_fluid_without_mass_leaves_no_trace(mixture):
    only = FluidMixture(mixture.fluids, np.array([0.0, -1e3]))
    theta = np.random.default_rng(5).standard_normal((6, 2))
    np.testing.assert_allclose(only.log_density(theta), only.log_density(theta, 0), rtol=1e-12)
    assert (only.sample(2_000, np.random.default_rng(6)).fluid == 0).all()


@pytest.mark.parametrize("full", [True, False])
def test_displacements_are_products_with_the_own_tensor(full):
    rng = np.random.default_rng(7)
    fluid = random_fluid(rng, full=full)
    own, e = rng.integers(0, 4, 20), rng.standard_normal((20, 2))
    expected = np.stack([factors(fluid)[i] @ x for i, x in zip(own, e, strict=True)])
    np.testing.assert_allclose(displaced(fluid, own, e), expected, rtol=1e-12)


def normal(x, mean, sd):
    return -0.5 * ((x - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)


def test_shares_of_separate_gaussians():
    x = np.array([[-8.0], [8.0]]) + np.random.default_rng(8).standard_normal((2, 400))
    log_q = np.stack([normal(x, -8, 1), normal(x, 8, 1)])
    logp = np.logaddexp(np.log(0.3) + log_q[0], np.log(0.7) + log_q[1])
    np.testing.assert_allclose(np.exp(fit_shares(logp, log_q)), [0.3, 0.7], rtol=1e-6)
    # and a constant of the target's is of no account
    np.testing.assert_allclose(np.exp(fit_shares(logp + 1e3, log_q)), [0.3, 0.7], rtol=1e-6)


def test_shares_of_overlapping_fluids_maximise_the_pooled_elbo():
    rng = np.random.default_rng(9)
    x = np.stack([rng.standard_normal(2000) - 1, 1.5 * rng.standard_normal(2000) + 1])
    log_q = np.stack([normal(x, -1, 1), normal(x, 1, 1.5)])
    logp = normal(x, 0.2, 1.4)

    # brute force: the ELBO of the pool by quadrature, over the share
    grid = np.linspace(-14, 14, 4001)
    parts = np.exp([normal(grid, -1, 1), normal(grid, 1, 1.5)])

    def loss(share):
        q = share * parts[0] + (1 - share) * parts[1]
        return -np.sum(q * (normal(grid, 0.2, 1.4) - np.log(q))) * (grid[1] - grid[0])

    best = minimize_scalar(loss, bounds=(1e-3, 1 - 1e-3), method="bounded").x
    found = np.exp(fit_shares(logp, log_q))
    # 2,000 draws a fluid and an ELBO of curvature about 1: standard error about .02
    assert found[0] == pytest.approx(best, abs=0.06)
    assert loss(found[0]) == pytest.approx(loss(best), abs=2e-3)


def test_broken_draws_and_broken_fluids():
    x = np.array([[-8.0], [8.0]]) + np.random.default_rng(10).standard_normal((2, 400))
    log_q = np.stack([normal(x, -8, 1), normal(x, 8, 1)])
    logp = np.logaddexp(np.log(0.3) + log_q[0], np.log(0.7) + log_q[1])
    some = logp.copy()
    some[:, ::2] = [[np.nan], [-np.inf]]
    np.testing.assert_allclose(np.exp(fit_shares(some, log_q)), [0.3, 0.7], rtol=1e-6)
    np.testing.assert_allclose(np.exp(fit_shares(np.full((2, 9), np.nan), log_q[..., :9])), 0.5)
    log_q[1, 0] = np.nan  # a fluid whose density is not finite there adds nothing
    np.testing.assert_allclose(np.exp(fit_shares(logp, log_q)), [0.3, 0.7], rtol=1e-6)
    assert fit_shares(logp[:1], log_q[:1, :1]).tolist() == [0.0]

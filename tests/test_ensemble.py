"""Start, schedule, pooling, importance and the whole fit, against closed forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from fluids import brute_log_rho, gaussian, ill_conditioned, random_fluid
from scipy.special import logsumexp
from scipy.stats import genpareto

from pymc_sph import importance, resampling
from pymc_sph.density_fit import fit_density
from pymc_sph.ensemble import Ensemble, StartError
from pymc_sph.fluid import schedule
from pymc_sph.fluid.schedule import Plan, Schedule
from pymc_sph.fluid.state import to_frame
from pymc_sph.fluid.step import Observation, Rates
from pymc_sph.mixture import FluidMixture, fit_shares
from pymc_sph.placing import choose
from pymc_sph.settings import Settings
from pymc_sph.start import Gaussian, covariance_factor, find_starts, lbfgs_path

SEED = 20  # of every fit here; no other was tried


# --- start


def test_start_of_a_gaussian_is_exact():
    mean, cov = ill_conditioned(6)
    points = np.random.default_rng(0).standard_normal((3, 6))
    starts, spent = find_starts(gaussian(mean, cov), points, (0,))
    # the other paths end in the same mode, and look for nothing better
    assert len(starts) == 1 and spent > 0
    best = starts[0]
    assert best.calm
    np.testing.assert_allclose(best.mu, mean, atol=1e-3)
    np.testing.assert_allclose(best.L @ best.L.T, cov, rtol=1e-3, atol=1e-3)
    # 32 antithetic draws of which the entropy knows the norms: no noise on a Gaussian
    assert best.elbo == pytest.approx(0.0, abs=1e-6)


def funnel(theta):
    """Neal's funnel, ten dimensions, with its mode at v = -40.5 deep in the neck."""
    v, x = theta[:, 0], theta[:, 1:]
    with np.errstate(over="ignore", invalid="ignore"):
        square = np.sum(x**2, axis=1) * np.exp(-v)
        grad = np.column_stack([-v / 9 + 0.5 * square - 4.5, -x * np.exp(-v)[:, None]])
    return -(v**2) / 18 - 0.5 * square - 4.5 * v, grad


def test_start_is_not_the_mode():
    points = np.random.default_rng(1).standard_normal((4, 10))
    path = lbfgs_path(funnel, points[0]).points
    starts, _ = find_starts(funnel, points, (0,))
    assert path[:, 0].min() < -12  # four sds down, and on towards the mode
    assert starts[0].mu[0] > -8  # within three standard deviations of v


def test_covariance_factor_survives_saddles_and_flat_directions():
    L = covariance_factor(np.diag([-4.0, 4.0, 0.0]))
    np.testing.assert_allclose(np.diag(L)[:2], 0.5)
    assert np.isfinite(L).all() and L[2, 2] > 1e3


def test_fluids_start_apart_and_not_at_far_worse_places():
    here = [Gaussian(np.full(2, 0.01 * i), np.eye(2), -0.1 * i) for i in range(6)]
    there = Gaussian(np.array([9.0, 9.0]), np.eye(2), -5.0)
    hopeless = Gaussian(np.array([-9.0, 9.0]), np.eye(2), -100.0)
    assert choose([*here, there, hopeless], 4) == [here[0], there, here[1], here[2]]
    assert choose([here[0], hopeless], 3) == [here[0]] * 3


# --- schedule


PLAN = Plan(temperature=16.0, cooling=4, window=5, halvings=2, tol=0.01, rates=Rates())


def run(elbos, variance=1.0, plan=PLAN):
    state, levels = Schedule(), []
    for elbo in elbos:
        if state.status != schedule.RUNNING:
            break
        state = schedule.advance(plan, state, Observation(elbo, variance, 0.5, 0), 10_000)
        levels.append(state.level)
    return state, levels


def test_temperature_falls_geometrically_to_one():
    values = [schedule.temperature(PLAN, t) for t in range(6)]
    np.testing.assert_allclose(values, [16, 8, 4, 2, 1, 1])
    assert schedule.rates(PLAN, Schedule(step=2)).temperature == 4
    assert schedule.rates(PLAN, Schedule(step=9, level=2)).dt == Rates().dt / 4


def test_a_plateau_halves_the_steps_and_then_ends_the_fit():
    state, levels = run([-3.0] * 1000)
    # four hot steps, a first window of 5, then windows of 5, 10 and 20 without progress
    assert state.status == schedule.CONVERGED
    assert state.step == 4 + 5 + 5 + 10 + 20
    assert max(levels) == 3


def test_progress_goes_on():
    state, levels = run(np.linspace(-100, 0, 400))
    assert state.status == schedule.RUNNING and max(levels) == 0


def test_flat_weights_end_the_fit_at_once():
    state, _ = run([-3.0] * 100, variance=0.015)
    assert state.status == schedule.CONVERGED and state.step == 4 + 5
    # where a plan is content with fewer, after the four hot steps
    state, _ = run([-3.0] * 100, variance=0.015, plan=dataclasses.replace(PLAN, flat=3))
    assert state.status == schedule.CONVERGED and state.step == 4 + 3


def test_flat_steps_must_follow_one_another():
    plan = dataclasses.replace(PLAN, flat=3)
    state = Schedule(step=PLAN.cooling)
    for variance in (0.015, 0.015, 0.03, 0.015, 0.015):
        state = schedule.advance(plan, state, Observation(-3.0, variance, 0.5, 0), 10_000)
        running = state.status
    # not three in a row; but the window of five is flat on average
    assert state.count == 0 and running == schedule.CONVERGED
    state = Schedule(step=PLAN.cooling)
    for variance in (0.015, 0.015, 0.3, 0.015, 0.015):
        state = schedule.advance(plan, state, Observation(-3.0, variance, 0.5, 0), 10_000)
    assert state.status == schedule.RUNNING


def test_fifty_barren_steps_are_the_end():
    state, _ = run([-math.inf] * 1000)
    assert state.status == schedule.NON_FINITE and state.step == schedule.STALL


def test_reopened_schedule_runs_at_its_last_rates():
    stopped, _ = run([-3.0] * 1000)
    state = schedule.reopen(PLAN, stopped)
    assert state.status == schedule.RUNNING and state.level == PLAN.halvings
    assert schedule.reopen(PLAN, Schedule()) == Schedule()


# --- mixture


@pytest.fixture
def mixture():
    rng = np.random.default_rng(2)
    fluids = (random_fluid(rng), random_fluid(rng, full=False))
    return FluidMixture(fluids, np.log([0.3, 0.7]))


def test_mixture_density_is_the_sum_over_fluids(mixture):
    theta = np.random.default_rng(3).standard_normal((7, 2))
    density = 0.0
    for share, f in zip((0.3, 0.7), mixture.fluids, strict=True):
        jacobian = abs(np.linalg.det(f.L))
        density += share * np.exp(brute_log_rho(f, to_frame(f, theta))) / jacobian
    np.testing.assert_allclose(mixture.log_density(theta), np.log(density), rtol=1e-8)


def test_mixture_draws_have_its_moments(mixture):
    draws = mixture.sample(40_000, np.random.default_rng(4))
    sd = np.sqrt(np.diag(mixture.cov()))
    # standard errors: .005 sd of a mean, about .01 of a relative variance, .0023 of a share
    np.testing.assert_allclose((draws.theta.mean(axis=0) - mixture.mean()) / sd, 0, atol=0.025)
    np.testing.assert_allclose(np.cov(draws.theta.T) / np.outer(sd, sd),
                               mixture.cov() / np.outer(sd, sd), atol=0.05)  # fmt: skip
    assert np.mean(draws.fluid == 1) == pytest.approx(0.7, abs=0.012)
    m = np.exp(mixture.fluids[0].log_m)
    counts = np.bincount(draws.particle[draws.fluid == 0], minlength=4) / np.sum(draws.fluid == 0)
    np.testing.assert_allclose(counts, m, atol=0.025)


def test_shares_are_the_masses_of_separate_modes():
    rng = np.random.default_rng(5)
    centres = np.array([-10.0, 10.0])
    x = centres[:, None] + rng.standard_normal((2, 500))
    log_q = -0.5 * (x[None] - centres[:, None, None]) ** 2 - 0.5 * np.log(2 * np.pi)
    logp = np.logaddexp(log_q[0] + np.log(0.2), log_q[1] + np.log(0.8))
    np.testing.assert_allclose(np.exp(fit_shares(logp, log_q)), [0.2, 0.8], rtol=1e-6)
    logp[0] = np.nan
    assert np.exp(fit_shares(logp, log_q))[0] < 1e-6


# --- importance


def test_psis_smooths_the_right_tail_of_the_weights():
    # weights from a generalised Pareto: k is its shape; with the sign wrong it would be below 0
    w = genpareto(0.5).rvs(20_000, random_state=6)
    smoothed, k = importance.psis(np.log(w))
    assert k == pytest.approx(0.5, abs=0.15)  # 400 tail draws: standard error about .07
    assert np.exp(smoothed).sum() == pytest.approx(1)
    assert np.argmax(smoothed) == np.argmax(w)
    bounded = 1 + np.random.default_rng(6).random(20_000)
    assert importance.psis(np.log(bounded))[1] < 0


def test_psis_of_few_equal_or_broken_weights():
    assert importance.psis(np.zeros(1000))[1] == -np.inf
    smoothed, k = importance.psis(np.r_[np.zeros(10), -np.inf, np.nan])
    assert np.isnan(k)
    np.testing.assert_allclose(np.exp(smoothed), np.r_[np.full(10, 0.1), 0, 0])


def test_evidence_and_ess_of_lognormal_weights():
    # mean of exp(s x) is exp(s^2 / 2); ESS / n is exp(-s^2)
    s, n = 0.5, 100_000
    log_w = s * np.random.default_rng(7).standard_normal(n) + 3
    value, error = importance.log_evidence(log_w, importance.psis(log_w)[0])
    assert error == pytest.approx(np.sqrt((np.exp(s**2) - 1) / n), rel=0.05)
    assert value == pytest.approx(3 + s**2 / 2, abs=5 * error)
    assert importance.relative_ess(log_w) == pytest.approx(np.exp(-(s**2)), rel=0.02)
    assert importance.relative_ess(np.full(3, -np.inf)) == 0


def test_r_hat():
    rng = np.random.default_rng(8)
    chains = rng.standard_normal((4, 1000, 2))
    assert importance.r_hat(chains) == pytest.approx(1, abs=0.01)
    chains[0, :, 1] += 2
    assert importance.r_hat(chains) > 1.3
    assert np.isnan(importance.r_hat(chains[:1]))


# --- the whole fit


@pytest.mark.parametrize("dim", [2, 10, 50])
def test_exact_on_a_gaussian_of_condition_100(dim):
    mean, cov = ill_conditioned(dim)
    result = fit_density(gaussian(mean, cov), dim, random_seed=SEED)
    # 4,000 draws and ESS > .95: the standard error of both figures is below .004
    assert result.elbo == pytest.approx(0, abs=0.02)
    assert result.log_evidence == pytest.approx(0, abs=0.02)
    assert result.importance_ess > 0.95
    assert result.verdict.grade == "reliable" and result.status == "converged"
    white = np.linalg.inv(np.linalg.cholesky(cov))
    np.testing.assert_allclose(white @ (result.mixture.mean() - mean), 0, atol=0.1)
    np.testing.assert_allclose(white @ result.mixture.cov() @ white.T, np.eye(dim), atol=0.15)


def two_modes(theta):
    """Masses 1/4 and 3/4 at -5 and 5 in both coordinates, normalised."""
    gap = np.stack([theta + 5, theta - 5])
    parts = -0.5 * np.sum(gap**2, axis=2) + np.log([[0.25], [0.75]]) - np.log(2 * np.pi)
    logp = np.logaddexp(*parts)
    return logp, -np.einsum("mk,mkd->kd", np.exp(parts - logp), gap)


def test_two_modes_get_their_masses():
    points = np.random.default_rng(9).standard_normal((8, 2)) + np.tile([[-5.0], [5.0]], (4, 1))
    result = fit_density(two_modes, 2, points=points, random_seed=SEED)
    assert result.log_evidence == pytest.approx(0, abs=0.02)
    draws = result.mixture.sample(20_000, np.random.default_rng(10)).theta
    assert np.mean(draws[:, 0] < 0) == pytest.approx(0.25, abs=0.02)  # standard error .003


def test_same_seed_same_bits_and_extending_goes_on():
    target, points = gaussian(*ill_conditioned(3)), np.zeros((2, 3))
    settings = Settings(fluids=2, tol=1e-12, window=4)

    def steps(n, extended=0):
        ensemble = Ensemble.start(target, points, settings, SEED, n)
        while not ensemble.done:
            ensemble, info = ensemble.step(target)
        if extended:
            ensemble = ensemble.extend(extended)
            while not ensemble.done:
                ensemble, info = ensemble.step(target)
        return ensemble, info

    one, info = steps(8)
    two, again = steps(8)
    np.testing.assert_array_equal(info.elbos, again.elbos)
    for a, b in zip(one.simulations, two.simulations, strict=True):
        np.testing.assert_array_equal(a.fluid.A, b.fluid.A)
    assert one.status == "max_steps" and one.n_steps == 8
    longer, _ = steps(8, extended=5)
    assert longer.n_steps == 13
    assert longer.n_evaluations > one.n_evaluations
    other = Ensemble.start(target, points, settings, SEED + 1, 8)
    assert not np.array_equal(other.simulations[0].fluid.z, one.simulations[0].fluid.z)


def test_fluids_differ_and_half_of_them_start_hot():
    ensemble = Ensemble.start(funnel, np.zeros((1, 3)), Settings(), SEED, 100)
    assert [s.plan.temperature for s in ensemble.simulations] == [4, 1, 4, 1]
    z = [s.fluid.z for s in ensemble.simulations]
    assert not np.array_equal(z[0], z[1])
    # on a Gaussian none does, unless it is asked for
    target = gaussian(*ill_conditioned(3))
    calm = Ensemble.start(target, np.zeros((1, 3)), Settings(), SEED, 100)
    assert [s.plan.temperature for s in calm.simulations] == [1, 1, 1, 1]
    hot = Ensemble.start(target, np.zeros((1, 3)), Settings(temperature=4.0), SEED, 100)
    assert [s.plan.temperature for s in hot.simulations] == [4, 4, 4, 4]


def test_no_finite_start_is_an_error_with_a_remedy():
    with pytest.raises(StartError, match="give other points"):
        fit_density(lambda x: (np.full(len(x), np.nan), x * np.nan), 2)


def test_beyond_a_wall_there_is_nothing():
    def half(theta):
        logp, grad = -0.5 * np.sum(theta**2, axis=1), -theta
        out = theta[:, 0] < 0
        return np.where(out, -np.inf, logp), np.where(out[:, None], np.nan, grad)

    result = fit_density(half, 2, points=np.full((2, 2), 0.5), random_seed=SEED)
    assert result.n_nonfinite > 0
    # half of a Gaussian: without the void the fluid is exact, and so are its evidence and draws
    assert result.log_evidence == pytest.approx(np.log(np.pi), abs=0.05)
    assert result.elbo <= result.log_evidence + 1e-9
    assert result.importance_ess > 0.95 and result.verdict.grade == "reliable"
    draw = resampling.draw_pooled(
        result.mixture, lambda x: half(x)[0], 4000, np.random.default_rng(SEED), result.void
    )
    assert (draw.theta[:, 0] > 0).all()
    # |x| has mean sqrt(2 / pi) and standard deviation .60: standard error .01
    assert draw.theta[:, 0].mean() == pytest.approx(np.sqrt(2 / np.pi), abs=0.04)
    log_z = logsumexp(draw.lp - draw.log_q) - np.log(4000)
    assert log_z == pytest.approx(np.log(np.pi), abs=0.05)
    chains = resampling.draw_by_share(
        result.mixture, lambda x: half(x)[0], 400, np.random.default_rng(SEED)
    )
    assert (chains.theta[:, 0] > 0).all()


def test_an_undefined_region_is_counted_and_reported():
    def torn(theta):
        logp, grad = -0.5 * np.sum(theta**2, axis=1), -theta
        out = theta[:, 0] < 0
        return np.where(out, np.nan, logp), np.where(out[:, None], np.nan, grad)

    result = fit_density(torn, 2, points=np.full((2, 2), 0.5), random_seed=SEED)
    assert result.n_nonfinite > 0 and result.verdict.grade != "reliable"

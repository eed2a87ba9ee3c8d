"""The final check: what draws from q and from beyond it show of errors that are known exactly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fluids import gaussian
from scipy.special import logsumexp

from pymc_sph.density_fit import fit_density
from pymc_sph.ensemble import Ensemble
from pymc_sph.final_check import check, leave_behind, widened
from pymc_sph.fluid.state import Fluid, new_fluid
from pymc_sph.mixture import FluidMixture
from pymc_sph.settings import Settings
from pymc_sph.start import Gaussian

SEED = 31
N = 4000


def round_fluid(centre, sd=1.0):
    centre = np.asarray(centre, dtype="float64")
    d = len(centre)
    return new_fluid(centre, sd * np.eye(d), np.zeros((1, d)), full=True)


def one(centre, sd=1.0):
    return FluidMixture((round_fluid(centre, sd),), np.zeros(1))


def around(centre, elbo=0.0):
    return Gaussian(np.asarray(centre, dtype="float64"), np.eye(len(centre)), elbo)


def looked(mixture, target, modes):
    return check(mixture, target, modes, N, np.random.default_rng(SEED))


@pytest.mark.parametrize("d", [1, 4, 40])
def test_an_exact_q_shows_no_error_at_all(d):
    seen = looked(one(np.zeros(d)), gaussian(np.zeros(d), np.eye(d)), [around(np.zeros(d))])
    # only the smoothing of the weights of p differs from those of q
    assert seen.error < 0.01 and seen.uncovered == 0 and seen.void == 0
    assert seen.ess == pytest.approx(1)
    # equal weights: what is left is the noise of 4,000 draws, .016 each
    assert seen.left < 0.08


@pytest.mark.parametrize(("shift", "clear"), [(0.0, True), (0.5, False)])
def test_a_first_look_ends_the_check_only_if_it_is_clear(shift, clear):
    d, sizes = 3, []
    target = gaussian(np.zeros(d), np.eye(d))

    def counting(theta):
        sizes.append(len(theta))
        return target(theta)

    rng = np.random.default_rng(SEED)
    seen = check(one(np.full(d, shift)), counting, [around(np.zeros(d))], N, rng, glance=True)
    # draws from q, half as many from its wider twins, a quarter from the mode
    assert seen.n_evaluations == sum(sizes) == (N // 4 + (0 if clear else N)) * 1.75
    assert seen.clear == clear and seen.error == pytest.approx(shift, abs=0.05)


@pytest.mark.parametrize(("sd", "shift"), [(0.7, 0.0), (1.3, 0.0), (1.0, 0.5)])
def test_the_error_of_a_wrong_gaussian(sd, shift):
    d = 3
    target = gaussian(np.zeros(d), np.eye(d))
    seen = looked(one(np.full(d, shift), sd), target, [around(np.zeros(d))])
    assert seen.error == pytest.approx(max(abs(np.log(sd)), shift), abs=0.05)
    assert seen.left < 0.2


def test_particles_left_behind_are_taken_away_and_small_modes_are_not():
    places = np.array([[0.0, 0.0], [8.0, 0.0], [60.0, 60.0], [0.5, 0.0]])
    log_m = np.log([0.9988, 4e-4, 4e-4, 4e-4])
    A = np.tile(np.eye(2), (4, 1, 1))
    fluid = Fluid(z=places, u=0 * places, A=A, log_m=log_m, mu=np.zeros(2), L=np.eye(2))
    q = FluidMixture((fluid,), np.zeros(1))
    # p has the second particle's mode, and nothing at the third's
    exact = q.without(np.array([False, False, True, False]))
    sizes = []

    def target(theta):
        sizes.append(len(theta))
        return exact.log_density(theta), np.zeros_like(theta)

    kept, spent = leave_behind(q, target, 0.0)
    np.testing.assert_array_equal(kept.centres, places[[0, 1, 3]])
    np.testing.assert_allclose(kept.log_masses, exact.log_masses)
    assert spent == sum(sizes) == 3
    assert leave_behind(kept, target, 0.0)[0] is kept


def two_modes(share):
    """N(-20, 1) and N(20, 1) in the plane, the second of this share."""
    centres = np.array([[-20.0, 0.0], [20.0, 0.0]])
    fluids = tuple(round_fluid(c) for c in centres)
    exact = FluidMixture(fluids, np.log([1 - share, share]))
    return centres, lambda theta: (exact.log_density(theta), np.zeros_like(theta))


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_a_lost_mode_shows_where_it_is_known(share):
    centres, target = two_modes(share)
    q = one(centres[0])
    blind = looked(q, target, [around(centres[0])])
    assert blind.ess > 0.99 and blind.error < 0.02 and blind.uncovered == 0  # so it would be
    seen = looked(q, target, [around(c) for c in centres])
    assert seen.uncovered == pytest.approx(share, rel=0.15)
    sd = np.sqrt(1 + share * (1 - share) * 40**2)
    assert seen.error == pytest.approx(max(40 * share / sd, np.log(sd)), rel=0.1)
    assert seen.left == pytest.approx(seen.error, abs=0.1)  # weights mend nothing


def test_a_wrong_share_is_mended_by_the_weights():
    centres, target = two_modes(0.3)
    q = FluidMixture(tuple(round_fluid(c) for c in centres), np.log([0.5, 0.5]))
    seen = looked(q, target, [around(c) for c in centres])
    sd = np.sqrt(1 + 0.21 * 1600)
    assert seen.error == pytest.approx(40 * 0.2 / sd, abs=0.03)
    assert seen.left < 0.05 and seen.uncovered == 0


def test_the_void_is_no_part_of_q():
    def half(theta):
        logp, grad = gaussian(np.zeros(2), np.eye(2))(theta)
        return np.where(theta[:, 0] > 0, logp, -np.inf), grad

    seen = looked(one(np.zeros(2)), half, [around(np.array([0.5, 0.0]))])
    assert seen.void == pytest.approx(0.5, abs=0.03)
    assert seen.error < 0.01 and seen.ess == pytest.approx(1)
    # all that is uncertain is the share inside: its error by the binomial distribution
    error = np.sqrt(0.5 / (0.5 * N))
    assert seen.log_evidence_se == pytest.approx(error, rel=0.05)
    assert seen.log_evidence == pytest.approx(np.log(0.5), abs=4 * error)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_where_log_p_is_nowhere_finite_every_figure_is_the_worst(value):
    def broken(theta):
        return np.full(len(theta), value), theta

    seen = looked(one(np.zeros(2)), broken, [around(np.zeros(2))])
    assert seen.ess == 0 and seen.error == np.inf and seen.left == np.inf
    assert max(seen.void, seen.unknown) == 1 and seen.n_nonfinite == N


def test_every_evaluation_is_counted():
    rows = []

    def counting(theta):
        rows.append(len(theta))
        return gaussian(np.zeros(2), np.eye(2))(theta)

    seen = looked(one(np.zeros(2)), counting, [around(np.zeros(2))] * 3)
    assert seen.n_evaluations == sum(rows) <= 2 * N


@pytest.mark.parametrize("d", [1, 9, 100])
def test_wider_kernels_lie_as_many_sds_further_out(d):
    theta = (
        widened(one(np.zeros(d)), 1 + 2 / np.sqrt(d)).sample(N, np.random.default_rng(SEED)).theta
    )
    radius = np.sqrt(np.mean(np.sum(theta**2, axis=1)))
    assert radius == pytest.approx(np.sqrt(d) + 2, rel=0.05)


def mode_pair(theta):
    centres = np.array([[0.0, 0.0], [12.0, 0.0]])
    gap = theta[:, None] - centres
    parts = -0.5 * np.sum(gap**2, axis=2)
    logp = logsumexp(parts, axis=1)
    return logp, -np.sum(np.exp(parts - logp[:, None])[:, :, None] * gap, axis=1)


def test_a_cold_fit_that_misses_a_mode_hears_of_it():
    points = 0.1 * np.random.default_rng(SEED).standard_normal((8, 2))
    result = fit_density(mode_pair, 2, points=points, temperature=1.0, random_seed=SEED)
    assert abs(result.mixture.mean()[0]) < 0.1 and result.importance_ess > 0.9
    assert result.verdict.grade == "unreliable" and "not covered" in result.verdict.reason
    assert "temperature" in result.verdict.advice


def test_a_mode_lost_on_the_way_is_missed():
    points = np.random.default_rng(SEED).standard_normal((8, 2))
    ensemble = Ensemble.start(mode_pair, points, Settings(), SEED, 10_000)
    while not ensemble.done:
        ensemble, _ = ensemble.step(mode_pair)
    assert ensemble.finish(mode_pair).verdict.grade == "reliable"
    one_left = [
        dataclasses.replace(s, fluid=new_fluid(np.zeros(2), np.eye(2), np.zeros((1, 2)), full=True))
        for s in ensemble.simulations
    ]
    maimed = dataclasses.replace(ensemble, simulations=tuple(one_left), witness=None, together=None)
    assert maimed.finish(mode_pair).verdict.grade == "unreliable"

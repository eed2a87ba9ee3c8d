"""Fluids together: the pooled density, its forces, the shares, and what the fluids witness."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fluids import banana, brute_log_rho, gaussian, random_fluid
from scipy.special import logsumexp

from pymc_sph import confluence
from pymc_sph.confluence import Confluence, join, meet
from pymc_sph.density_fit import fit_density
from pymc_sph.ensemble import Ensemble
from pymc_sph.fluid import schedule
from pymc_sph.fluid import step as step_module
from pymc_sph.fluid.density import draw_noise
from pymc_sph.fluid.schedule import Plan, Schedule
from pymc_sph.fluid.simulate import Simulation
from pymc_sph.fluid.state import Fluid, log_det_frame, new_fluid, to_frame
from pymc_sph.fluid.step import Rates, step
from pymc_sph.mixture import FluidMixture, pooled_field
from pymc_sph.settings import Settings

SEED = 30
PLAN = Plan(temperature=4.0, cooling=5, window=6, halvings=3, tol=0.01, rates=Rates())


def two_fluids(full=True, seed=0):
    rng = np.random.default_rng(seed)
    fluids = tuple(random_fluid(rng, n=n, full=full) for n in (2, 3))
    return FluidMixture(fluids, np.log([0.3, 0.7]))


def brute_log_q(mixture, theta):
    parts = [brute_log_rho(f, to_frame(f, theta)) - log_det_frame(f) for f in mixture.fluids]
    return logsumexp(np.stack(parts) + mixture.log_weights[:, None], axis=0)


@pytest.mark.parametrize("full", [True, False])
def test_the_pooled_field_is_the_mixtures_density_and_its_gradient(full):
    mixture = two_fluids(full)
    theta = mixture.sample(40, np.random.default_rng(1)).theta
    log_q, grad = pooled_field(mixture)(theta)
    np.testing.assert_allclose(log_q, brute_log_q(mixture, theta), rtol=1e-10)
    h = 1e-5
    for j in range(2):
        up, down = (brute_log_q(mixture, theta + s * h * np.eye(2)[j]) for s in (1, -1))
        np.testing.assert_allclose(grad[:, j], (up - down) / (2 * h), rtol=1e-5, atol=1e-6)


AXIS = np.linspace(-9, 9, 241)
GRID = np.stack(np.meshgrid(AXIS, AXIS), axis=-1).reshape(-1, 2)


def smooth(theta):
    logp, grad = banana(theta)
    return logp / 2, grad / 2


def brute_elbo(mixture):
    log_q = brute_log_q(mixture, GRID)
    return np.sum(np.exp(log_q) * (smooth(GRID)[0] - log_q)) * (AXIS[1] - AXIS[0]) ** 2


@pytest.mark.parametrize("full", [True, False])
def test_the_force_on_a_particle_is_the_gradient_of_the_pooled_elbo(full):
    mixture = two_fluids(full)
    small = tuple(
        dataclasses.replace(f, z=0.7 * f.z, u=0 * f.u, L=np.eye(2), mu=0 * f.mu)
        for f in mixture.fluids
    )
    mixture = dataclasses.replace(mixture, fluids=small)
    fluid = small[1]
    seen = {}

    def keep(fluid, f, damping):
        seen["force"] = f
        return 0 * f

    # 200,000 probes: the forces' standard errors are about .01, and they are of order 1
    noise = draw_noise(np.random.default_rng(2), 200_000, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module.forces, "accelerate", keep)
        patch.setattr(step_module.forces, "clip_acceleration", lambda r, *_: r)
        step(fluid, noise, smooth, Rates(), around=pooled_field(mixture))
    h = 1e-3
    for i in range(3):
        for j in range(2):
            slopes = []
            for sign in (1, -1):
                z = fluid.z.copy()
                z[i, j] += sign * h
                moved = dataclasses.replace(fluid, z=z)
                slopes.append(brute_elbo(dataclasses.replace(mixture, fluids=(small[0], moved))))
            slope = (slopes[0] - slopes[1]) / (2 * h)
            share = 0.7 * np.exp(fluid.log_m[i])
            assert seen["force"][i, j] == pytest.approx(slope / share, abs=0.05)


def modes_of(weights):
    """Two normal modes twelve apart, and two fluids of one particle exactly on them."""
    centres = np.array([[-6.0, 0.0], [6.0, 0.0]])
    fluids = tuple(new_fluid(c, np.eye(2), np.zeros((1, 2)), full=True) for c in centres)
    exact = FluidMixture(fluids, np.log(weights))
    return FluidMixture(fluids, np.log([0.5, 0.5])), lambda theta: pooled_field(exact)(theta)


def test_shares_go_to_where_the_density_says():
    equal, target = modes_of([0.93, 0.07])
    met, witness, divergence = meet(equal, target, 200, np.random.default_rng(SEED))
    np.testing.assert_allclose(np.exp(met.log_weights), [0.93, 0.07], atol=1e-6)
    np.testing.assert_allclose(witness.fluid_elbo, np.log([0.93, 0.07]), atol=1e-6)
    assert witness.n_agreeing == 2 and divergence < 1e-9
    assert witness.r_hat > 3  # they agree on nothing but that both are needed
    # the steps find the shares as well, from equal ones
    together = Confluence(equal, PLAN, Schedule(step=10), 64, (SEED,))
    for _ in range(60):
        together, _, _ = confluence.advance(together, target)
    np.testing.assert_allclose(np.exp(together.mixture.log_weights), [0.93, 0.07], atol=1e-3)


def test_divergence_estimates_kl():
    # one fluid N(0, 1) and the target N(a, 1): KL = a^2 / 2 = half the variance of a x
    a = 0.6
    fluid = new_fluid(np.zeros(1), np.eye(1), np.zeros((1, 1)), full=True)
    mixture = FluidMixture((fluid,), np.zeros(1))
    target = gaussian(np.array([a]), np.eye(1))
    _, witness, divergence = meet(mixture, target, 100_000, np.random.default_rng(SEED))
    assert divergence == pytest.approx(a**2 / 2, rel=0.03)
    assert witness.fluid_elbo[0] == pytest.approx(-(a**2) / 2, abs=0.01)
    assert witness.n_agreeing == 1 and np.isnan(witness.r_hat)


@pytest.mark.parametrize(("a", "centred"), [(0.2, True), (1.0, False)])
def test_where_q_is_close_the_mean_of_the_weighted_draws_is_exact(a, centred):
    # N(a, 1) in each of three coordinates, by two fluids; the target has its mean at 0
    d = 3
    shape = np.array([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.3, 0.1, 4.0]])
    fluid = new_fluid(shape @ np.full(d, a), shape, np.zeros((1, d)), full=True)
    mixture = FluidMixture((fluid, fluid), np.log([0.5, 0.5]))
    target = gaussian(np.zeros(d), shape @ shape.T)
    rng = np.random.default_rng(SEED)
    met, _, divergence = meet(mixture, target, 1_000, rng, settling=False, centring=True)
    assert divergence == pytest.approx(d * a**2 / 2, rel=0.1)
    left = np.linalg.solve(shape, met.mean())
    # the difference of the two means has a standard error of .01: (w - 1) x over 2,000 draws,
    # with w lognormal of variance .12 and x correlated with it
    np.testing.assert_allclose(left, 0 if centred else a, atol=0.04 if centred else 1e-9)
    rest, _, _ = meet(mixture, target, 1_000, np.random.default_rng(SEED), settling=False)
    np.testing.assert_allclose(np.linalg.solve(shape, rest.mean()), a)


def test_a_superfluous_fluid_agrees_and_a_lost_one_does_not():
    mean, cov = np.zeros(2), np.eye(2)
    same = [new_fluid(mean, np.eye(2), np.zeros((1, 2)), full=True) for _ in range(3)]
    lost = dataclasses.replace(same[0], mu=np.array([30.0, 0.0]))
    mixture = FluidMixture((*same, lost), np.full(4, -np.log(4)))
    met, witness, _ = meet(mixture, gaussian(mean, cov), 100, np.random.default_rng(SEED))
    assert witness.n_agreeing == 3 and witness.r_hat < 1.1
    assert met.log_weights[3] < np.log(1e-6)


def test_fluids_without_a_share_rest():
    equal, target = modes_of([0.5, 0.5])
    counted = []

    def counting(theta):
        counted.append(len(theta))
        return target(theta)

    alone = dataclasses.replace(equal, log_weights=np.log([1 - 1e-5, 1e-5]))
    together = Confluence(alone, PLAN, Schedule(step=10), 64, (SEED,))
    after, seen, elbos = confluence.advance(together, counting)
    assert counted == [64] and together.cost == 64
    assert after.mixture.fluids[1] is equal.fluids[1] and np.isnan(elbos[1])
    assert seen.n_nonfinite == 0


def test_together_they_fit_better_than_apart():
    # a bent target and few particles: each fluid alone leaves some KL
    settings = {"fluids": 4, "particles": 2, "probes": 128, "temperature": 1.0}
    points = np.random.default_rng(SEED).standard_normal((8, 2))
    ensemble = Ensemble.start(banana, points, Settings(**settings), SEED, 10_000)
    while ensemble.together is None:
        ensemble, _ = ensemble.step(banana)
    before = ensemble.finish(banana)
    assert ensemble.together.running
    while not ensemble.done:
        ensemble, info = ensemble.step(banana)
    after = ensemble.finish(banana)
    assert after.status == "converged" and after.n_steps > before.n_steps
    assert after.elbo > before.elbo + 0.005 and after.importance_ess > before.importance_ess
    assert info.elbo == pytest.approx(after.elbo, abs=0.05)
    assert after.log_evidence == pytest.approx(0, abs=4 * after.log_evidence_se + 0.005)
    # what the fluids witnessed apart stays as it was
    np.testing.assert_array_equal(after.fluid_elbo, before.fluid_elbo)
    assert after.r_hat == before.r_hat


def test_a_fit_that_is_good_already_takes_no_common_steps():
    mean, cov = np.array([1.0, 2.0]), np.diag([1.0, 4.0])
    points = np.random.default_rng(SEED).standard_normal((4, 2))
    ensemble = Ensemble.start(gaussian(mean, cov), points, Settings(), SEED, 10_000)
    while not ensemble.done:
        ensemble, _ = ensemble.step(gaussian(mean, cov))
    assert ensemble.together.schedule.step == 0 and ensemble.status == "converged"
    # refining it takes some after all
    longer = ensemble.extend(5)
    while not longer.done:
        longer, _ = longer.step(gaussian(mean, cov))
    assert longer.n_steps == ensemble.n_steps + 5 and longer.status == "max_steps"


def test_an_unmet_ensemble_can_be_finished():
    points = np.random.default_rng(SEED).standard_normal((4, 2))
    ensemble = Ensemble.start(banana, points, Settings(fluids=2), SEED, 3)
    for _ in range(2):
        ensemble, _ = ensemble.step(banana)
    result = ensemble.finish(banana, "interrupted")
    assert ensemble.witness is None and result.status == "interrupted"
    assert np.exp(result.mixture.log_weights).sum() == pytest.approx(1)
    assert np.isfinite(result.fluid_elbo).all()


def test_a_target_lost_on_the_way_ends_the_common_steps():
    equal, _ = modes_of([0.5, 0.5])

    def broken(theta):
        return np.full(len(theta), np.nan), theta * np.nan

    together = join(equal, [run_of(equal.fluids[0])], (SEED,), flat=False)
    for _ in range(schedule.STALL):
        assert together.running
        together, seen, elbos = confluence.advance(together, broken)
    assert together.schedule.status == schedule.NON_FINITE
    assert seen.n_nonfinite == 2 * 64 and (elbos == -np.inf).all()
    for a, b in zip(together.mixture.fluids, equal.fluids, strict=True):
        for field in dataclasses.fields(Fluid):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))


def run_of(fluid):
    return Simulation(fluid, PLAN, Schedule(step=40), 64, (SEED, 0, 0))


def test_joined_fluids_have_no_temperature_and_their_frames_rest():
    together = join(two_fluids(), [run_of(two_fluids().fluids[0])], (SEED,), flat=False)
    rates = schedule.rates(together.plan, together.schedule)
    assert rates.temperature == 1 and rates.frame == 0 and rates.dt == PLAN.rates.dt / 2
    after, _, _ = confluence.advance(together, banana)
    for a, b in zip(after.mixture.fluids, together.mixture.fluids, strict=True):
        np.testing.assert_array_equal(a.L, b.L)
        assert not np.array_equal(a.z, b.z)
    again, _, _ = confluence.advance(together, banana)
    np.testing.assert_array_equal(after.mixture.fluids[1].z, again.mixture.fluids[1].z)


def test_one_fluid_meets_nobody():
    result = fit_density(banana, 2, fluids=1, random_seed=SEED)
    assert result.mixture.log_weights == pytest.approx([0.0]) and np.isnan(result.r_hat)

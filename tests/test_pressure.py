"""The pressure form: pushes against differences of a brute-force ELBO, and the reuse of probes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fluids import banana, brute_log_rho, factors, gaussian, ill_conditioned, random_fluid
from scipy.special import logsumexp

from pymc_sph.density_fit import fit_density
from pymc_sph.fluid import equation_of_state, formulation, interpolation
from pymc_sph.fluid.density import density, draw_noise, draw_probes, log_density
from pymc_sph.fluid.pressure_step import pressure_step
from pymc_sph.fluid.reuse import BATCHES, Memory
from pymc_sph.fluid.state import Fluid, log_det_frame, new_fluid, to_frame, to_unconstrained
from pymc_sph.fluid.step import Rates

AXIS = np.linspace(-7, 7, 281)
GRID = np.stack(np.meshgrid(AXIS, AXIS), axis=-1).reshape(-1, 2)
CELL = (AXIS[1] - AXIS[0]) ** 2


def smooth(theta):
    """A target that a grid integrates well: bent, but with light tails."""
    return banana(theta)[0] / 2


def values(theta):
    """The banana without its gradient."""
    return banana(theta)[0], None


def brute_elbo(fluid, temperature):
    """Minus the free energy by quadrature: integral of rho (l - T log rho)."""
    log_rho = brute_log_rho(fluid, GRID)
    return (
        np.sum(np.exp(log_rho) * (smooth(to_unconstrained(fluid, GRID)) - temperature * log_rho))
        * CELL
    )


def expected_push(fluid, temperature):
    """Push of the pressure form by quadrature instead of probes."""
    field = density(fluid, GRID)
    rho = np.exp(field.log_rho) * CELL
    logp = smooth(to_unconstrained(fluid, GRID))
    phi = equation_of_state.potential(logp, field.log_rho, temperature)
    weights = field.R * rho / np.exp(fluid.log_m)[:, None]
    return formulation.pressure_form(fluid, field, weights, GRID, phi)


def slope(fluid, change, temperature, h=1e-4):
    """Central difference of the brute-force ELBO along a change of the fluid."""
    up, down = (brute_elbo(change(fluid, s * h), temperature) for s in (1, -1))
    return (up - down) / (2 * h)


def unit(i, j):
    """Symmetric unit matrix of the element (i, j)."""
    e = np.zeros((2, 2))
    e[i, j] = e[j, i] = 1.0
    return e


@pytest.fixture(params=[True, False], ids=["full", "diagonal"])
def fluid(request):
    fluid = random_fluid(np.random.default_rng(0), n=3, full=request.param)
    return dataclasses.replace(
        fluid, z=fluid.z * 0.7, A=fluid.A * 0.8, L=np.eye(2), mu=fluid.mu * 0
    )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_pushes_are_the_gradient_of_the_elbo(fluid, temperature):
    push = expected_push(fluid, temperature)
    mass = np.exp(fluid.log_m)
    close = {"rel": 2e-4, "abs": 2e-5}  # of the differences; the quadrature is exact to 1e-8
    for i in range(3):
        for j in range(2):

            def move(f, h, i=i, j=j):
                z = f.z.copy()
                z[i, j] += h
                return dataclasses.replace(f, z=z)

            expected = mass[i] * push.force[i, j]
            assert slope(fluid, move, temperature) == pytest.approx(expected, **close)
        for j, k in [(0, 0), (1, 1), (0, 1)] if fluid.full else [(0, 0), (1, 1)]:

            def swell(f, h, i=i, j=j, k=k):
                A = f.A.copy()
                if f.full:
                    A[i] = A[i] @ (np.eye(2) + h * unit(j, k))
                else:
                    A[i, j] *= np.exp(h)
                return dataclasses.replace(f, A=A)

            own = push.tensor[i, j, k] * (1 if j == k else 2) if fluid.full else push.tensor[i, j]
            assert slope(fluid, swell, temperature) == pytest.approx(mass[i] * own, **close)
    # the frame stretches kernels around particles that stay
    for j, k in [(0, 0), (1, 1), (0, 1)]:
        change = unit(j, k)

        def widen(f, h, change=change):
            return dataclasses.replace(f, A=(np.eye(2) + h * change) @ factors(f))

        expected = np.sum(push.frame * change)
        assert slope(fluid, widen, temperature) == pytest.approx(expected, **close)


def test_both_forms_agree_on_probes_of_a_linear_potential(fluid):
    """A linear potential has the same gradient everywhere, so that only noise separates them."""
    slope_, k = np.array([0.3, -0.7]), 200_000
    y, own = draw_probes(fluid, draw_noise(np.random.default_rng(1), k, 2))
    field = density(fluid, y)
    weights = interpolation.smoothing_weights(fluid, field.R)
    force = formulation.force_form(fluid, field, weights, y, own, np.tile(slope_, (k, 1)))
    pressure = formulation.pressure_form(fluid, field, weights, y, y @ slope_)
    # standard error: |slope| sqrt(2 / (k m_i)) / s, below .006 for the lightest kernel
    np.testing.assert_allclose(pressure.force, force.force, atol=0.03)
    np.testing.assert_allclose(pressure.tensor, force.tensor, atol=0.03)
    np.testing.assert_allclose(pressure.frame, force.frame, atol=0.03)


def run(fluid, target=values, steps=3, seed=0, k=64, rates=None):
    memory = Memory()
    for step in range(steps):
        noise = draw_noise(np.random.default_rng([seed, step]), k, fluid.dim)
        fluid, memory, seen = pressure_step(fluid, memory, noise, target, rates or Rates())
    return fluid, memory, seen


def test_same_noise_same_bits_and_states_are_left_alone(fluid):
    one, _, seen = run(fluid)
    two, _, again = run(fluid)
    for field in dataclasses.fields(Fluid):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))
    assert seen == again
    assert not np.array_equal(one.z, fluid.z)


def test_at_equilibrium_nothing_moves():
    mean, cov = np.array([1.0, -2.0]), np.array([[2.0, 0.6], [0.6, 0.5]])
    target = gaussian(mean, cov)
    for full in (True, False):
        fluid = new_fluid(mean, np.linalg.cholesky(cov), np.zeros((1, 2)), full=full)
        after, _, seen = run(fluid, lambda theta: (target(theta)[0], None))
        for field in dataclasses.fields(Fluid):
            np.testing.assert_allclose(
                getattr(after, field.name), getattr(fluid, field.name), atol=1e-12
            )
        assert seen.elbo == pytest.approx(0, abs=1e-12) and seen.ess == pytest.approx(1)


def test_the_gradient_is_never_looked_at(fluid):
    one, _, _ = run(fluid)
    two, _, _ = run(fluid, lambda theta: (banana(theta)[0], np.full(theta.shape, np.nan)))
    np.testing.assert_array_equal(one.z, two.z)


def test_non_finite_probes_are_set_aside_and_counted(fluid):
    def broken(value):
        def target(theta):
            return np.where(theta[:, 0] > fluid.mu[0], value, banana(theta)[0]), None

        return target

    ones, _, seen = run(fluid, broken(np.nan), steps=1)
    others, _, _ = run(fluid, broken(np.inf), steps=1)
    y, _ = draw_probes(fluid, draw_noise(np.random.default_rng([0, 0]), 64, 2))
    bad = int(np.sum(to_unconstrained(fluid, y)[:, 0] > fluid.mu[0]))
    assert 0 < bad < 64 and seen.n_nonfinite == bad
    for field in dataclasses.fields(Fluid):
        assert np.isfinite(getattr(ones, field.name)).all()
        # what the broken probes returned went nowhere
        np.testing.assert_array_equal(getattr(ones, field.name), getattr(others, field.name))


def test_a_void_pushes_the_fluid_out(fluid):
    """Where p is zero for x > mu, the mean of the density moves to the left."""

    def half(theta):
        return np.where(theta[:, 0] > fluid.mu[0] + 0.5, -np.inf, 0.0), None

    after, _, seen = run(fluid, half, steps=5)
    assert seen.n_nonfinite > 0 and np.isfinite(seen.elbo)
    before = np.exp(fluid.log_m) @ to_unconstrained(fluid, fluid.z)
    assert (np.exp(after.log_m) @ to_unconstrained(after, after.z))[0] < before[0] - 0.1


def test_a_fluid_alone_is_its_own_surroundings(fluid):
    memory, noise = Memory(), draw_noise(np.random.default_rng(2), 64, 2)

    def own(theta):
        return log_density(fluid, to_frame(fluid, theta)) - log_det_frame(fluid), None

    one, _, seen = pressure_step(fluid, memory, noise, values, Rates())
    two, _, same = pressure_step(fluid, memory, noise, values, Rates(), around=own)
    np.testing.assert_allclose(one.z, two.z, rtol=1e-9)
    np.testing.assert_allclose(one.A, two.A, rtol=1e-9)
    assert seen.elbo == pytest.approx(same.elbo)


def test_without_a_finite_probe_the_fluid_stays(fluid):
    after, _, seen = run(fluid, lambda theta: (np.full(len(theta), np.nan), None), steps=1)
    assert after is fluid and seen.n_nonfinite == 64 and seen.elbo == -np.inf


def test_a_step_out_of_the_finite_numbers_is_not_taken(fluid):
    after, _, _ = run(fluid, steps=1, rates=Rates(tensor=np.nan))
    assert after is fluid


def test_old_probes_weigh_as_a_sample_of_the_present_fluid():
    rng = np.random.default_rng(5)
    fluids = [
        dataclasses.replace(random_fluid(rng), mu=0.3 * rng.standard_normal(2), L=np.eye(2))
        for _ in range(3)
    ]
    memory, points = Memory(), []
    for i, fluid in enumerate(fluids):
        y, _ = draw_probes(fluid, draw_noise(np.random.default_rng(i), 2000, 2))
        points.append(to_unconstrained(fluid, y))
        memory = memory.add(fluid, points[-1], np.where(y[:, 0] > 3, np.nan, 0.0))
    theta, logp, weights = memory.recall()
    np.testing.assert_array_equal(theta, np.concatenate(points))
    # by SciPy's densities
    log_q = np.stack([brute_log_rho(f, theta - f.mu) - log_det_frame(f) for f in fluids])
    expected = np.exp(log_q[-1] - logsumexp(log_q, axis=0) + np.log(3))
    finite = np.isfinite(logp)
    np.testing.assert_allclose(weights[finite], expected[finite], rtol=1e-9)
    assert (weights[~finite] == 0).all() and not finite.all()
    # unbiased: a mean of 6,000 weighted draws against the exact one
    exact = np.exp(fluids[-1].log_m) @ fluids[-1].z + fluids[-1].mu
    np.testing.assert_allclose(expected @ theta / 6000, exact, atol=0.08)


def test_the_memory_forgets_the_oldest():
    fluid = random_fluid(np.random.default_rng(6))
    memory = Memory()
    for i in range(BATCHES + 2):
        memory = memory.add(fluid, np.full((4, 2), float(i)), np.zeros(4))
    assert [float(batch[0, 0]) for batch in memory.theta] == list(range(2, BATCHES + 2))
    assert len(memory.recall()[0]) == 4 * BATCHES
    np.testing.assert_allclose(memory.recall()[2], 1.0)


BARS = {
    "2": (gaussian(*ill_conditioned(2)), 2),
    "5": (gaussian(*ill_conditioned(5)), 5),
    "10": (gaussian(*ill_conditioned(10)), 10),
}


@pytest.mark.parametrize("name", BARS)
def test_a_fit_without_gradients_knows_the_evidence(name):
    target, d = BARS[name]
    result = fit_density(lambda theta: target(theta)[0], d, random_seed=1)
    assert result.formulation == "pressure"
    # log Z = 0; the standard error of a mean of 4,000 log weights of variance < .02 is .002
    assert result.elbo == pytest.approx(0, abs=0.05)
    assert result.log_evidence == pytest.approx(0, abs=0.02)
    assert result.verdict.grade == "reliable", str(result.verdict)


def test_the_form_follows_from_what_the_function_returns():
    both = {"n": 20, "random_seed": 0, "fluids": 1, "paths": 1}
    assert fit_density(banana, 2, **both).formulation == "force"
    without = fit_density(banana, 2, formulation="pressure", **both)
    same = fit_density(values, 2, formulation="pressure", **both)
    assert without.formulation == "pressure" and without.elbo == same.elbo

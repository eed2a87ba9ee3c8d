"""The step: forces against the gradient of a brute-force ELBO, and the engine's rules."""

from __future__ import annotations

import dataclasses

from unittest import mock

import numpy as np
import pytest

from fluids import banana, brute_log_rho, factors, gaussian, random_fluid
from hypothesis import given
from hypothesis import strategies as st

from pymc_sph.fluid import equation_of_state, frame, interpolation, resolution
from pymc_sph.fluid import step as step_module
from pymc_sph.fluid.density import density, draw_noise, draw_probes
from pymc_sph.fluid.state import Fluid, new_fluid, to_unconstrained
from pymc_sph.fluid.step import Rates, step

AXIS = np.linspace(-7, 7, 281)
GRID = np.stack(np.meshgrid(AXIS, AXIS), axis=-1).reshape(-1, 2)
CELL = (AXIS[1] - AXIS[0]) ** 2


def smooth(theta):
    """A target that a grid integrates well: bent, but with light tails."""
    logp, grad = banana(theta)
    return logp / 2, grad / 2


def brute_elbo(fluid, temperature=1.0):
    """Minus the free energy by quadrature: integral of rho (l - T log rho)."""
    log_rho = brute_log_rho(fluid, GRID)
    logp, _ = smooth(to_unconstrained(fluid, GRID))
    return np.sum(np.exp(log_rho) * (logp - temperature * log_rho)) * CELL


def expected_forces(fluid, temperature):
    """Force, tensor moment, excess and frame moment by quadrature instead of probes."""
    field = density(fluid, GRID)
    rho = np.exp(field.log_rho) * CELL
    logp, grad = smooth(to_unconstrained(fluid, GRID))
    phi = equation_of_state.potential(logp, field.log_rho, temperature)
    r = equation_of_state.acceleration(grad @ fluid.L, field.grad, temperature)
    weights = field.R * rho / np.exp(fluid.log_m)[:, None]
    moment = interpolation.tensor_moment(fluid, field.A_inv, weights, GRID, r)
    whole = np.zeros((2, 2))
    for i, m in enumerate(np.exp(fluid.log_m)):
        whole += m * np.einsum("k,kj,kl->jl", weights[i], r, GRID - fluid.z[i])
    return weights @ r, moment, weights @ phi - rho @ phi, (whole + whole.T) / 2


def slope(fluid, change, temperature, h=1e-4):
    """Central difference of the brute-force ELBO along a change of the fluid."""
    up, down = (brute_elbo(change(fluid, s * h), temperature) for s in (1, -1))
    return (up - down) / (2 * h)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_forces_are_the_gradient_of_the_elbo(full, temperature):
    fluid = random_fluid(np.random.default_rng(0), n=3, full=full)
    fluid = dataclasses.replace(
        fluid, z=fluid.z * 0.7, A=fluid.A * 0.8, L=np.eye(2), mu=fluid.mu * 0
    )
    force, moment, excess, stretch = expected_forces(fluid, temperature)
    mass = np.exp(fluid.log_m)
    close = {"rel": 2e-4, "abs": 2e-5}  # of the differences; the quadrature is exact to 1e-8
    for i in range(3):
        for j in range(2):

            def move(f, h, i=i, j=j):
                z = f.z.copy()
                z[i, j] += h
                return dataclasses.replace(f, z=z)

            assert slope(fluid, move, temperature) == pytest.approx(mass[i] * force[i, j], **close)

            def swell(f, h, i=i, j=j):
                A = f.A.copy()
                if full:
                    A[i] = A[i] @ (np.eye(2) + h * np.diag(np.eye(2)[j]))
                else:
                    A[i, j] *= np.exp(h)
                return dataclasses.replace(f, A=A)

            own = moment[i, j, j] if full else moment[i, j]
            assert slope(fluid, swell, temperature) == pytest.approx(mass[i] * own, **close)

        def reweigh(f, h, i=i):
            m = np.exp(f.log_m + h * np.eye(3)[i])
            return dataclasses.replace(f, log_m=np.log(m / m.sum()))

        assert slope(fluid, reweigh, temperature) == pytest.approx(mass[i] * excess[i], **close)
    # the frame stretches theta, so that log q = log rho - log |det L| enters the ELBO
    for j in range(2):

        def widen(f, h, j=j):
            change = np.eye(2) + h * np.diag(np.eye(2)[j])
            A = change @ factors(f)
            return dataclasses.replace(f, z=f.z @ change.T, A=A)

        assert slope(fluid, widen, temperature) == pytest.approx(
            stretch[j, j] + np.sum(mass * force[:, j] * fluid.z[:, j]), **close
        )


def run_step(fluid, target, seed=0, k=64, rates=None):
    noise = draw_noise(np.random.default_rng(seed), k, fluid.dim)
    return step(fluid, noise, target, rates or Rates())


@pytest.mark.parametrize("full", [True, False])
def test_same_noise_same_bits_and_states_are_left_alone(full):
    fluid = random_fluid(np.random.default_rng(1), full=full)  # its arrays are read-only
    one, seen = run_step(fluid, banana)
    two, again = run_step(fluid, banana)
    for field in dataclasses.fields(Fluid):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))
    assert seen == again
    assert not np.array_equal(one.z, fluid.z)


@pytest.mark.parametrize("full", [True, False])
def test_at_equilibrium_nothing_moves(full):
    mean, cov = np.array([1.0, -2.0]), np.array([[2.0, 0.6], [0.6, 0.5]])
    fluid = new_fluid(mean, np.linalg.cholesky(cov), np.zeros((1, 2)), full=full)
    after, seen = run_step(fluid, gaussian(mean, cov))
    for field in dataclasses.fields(Fluid):
        np.testing.assert_allclose(
            getattr(after, field.name), getattr(fluid, field.name), atol=1e-12
        )
    assert seen.elbo == pytest.approx(0, abs=1e-12) and seen.variance < 1e-20
    assert seen.ess == pytest.approx(1)


def test_non_finite_probes_are_set_aside_and_counted():
    fluid = random_fluid(np.random.default_rng(2))

    def broken(value):
        def target(theta):
            logp, grad = banana(theta)
            bad = theta[:, 0] > fluid.mu[0]
            return np.where(bad, value, logp), np.where(bad[:, None], value, grad)

        return target

    ones, seen = run_step(fluid, broken(np.nan))
    others, _ = run_step(fluid, broken(np.inf))
    y, _ = draw_probes(fluid, draw_noise(np.random.default_rng(0), 64, 2))
    bad = int(np.sum(to_unconstrained(fluid, y)[:, 0] > fluid.mu[0]))
    assert 0 < bad < 64 and seen.n_nonfinite == bad
    assert np.isfinite(seen.elbo)
    for field in dataclasses.fields(Fluid):
        value = getattr(ones, field.name)
        assert np.isfinite(value).all()
        # what the broken probes returned went nowhere
        np.testing.assert_array_equal(value, getattr(others, field.name))


def test_without_a_finite_probe_the_fluid_stays():
    fluid = random_fluid(np.random.default_rng(3))
    after, seen = run_step(fluid, lambda x: (np.full(len(x), np.nan), x * np.nan))
    assert after is fluid
    assert seen.n_nonfinite == 64 and seen.elbo == -np.inf and seen.ess == 0


@pytest.mark.parametrize("name", ["z", "u", "A", "log_m", "mu", "L"])
def test_a_step_out_of_the_finite_numbers_is_not_taken(name):
    fluid = random_fluid(np.random.default_rng(8))
    broken = dataclasses.replace(fluid, **{name: getattr(fluid, name) * np.inf})
    with mock.patch.object(step_module, "move", lambda *arguments: broken):
        after, seen = run_step(fluid, banana)
    assert after is fluid and np.isfinite(seen.elbo)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.floats(1e-3, 1e6))
def test_steps_stay_in_the_trust_region(seed, full, scale):
    rng = np.random.default_rng(seed)
    fluid = random_fluid(rng, full=full)

    def steep(theta):
        logp, grad = banana(theta)
        return scale * logp, scale * grad

    rates = Rates(frame=0.0)
    with mock.patch.object(resolution, "SPENT", 1e-300):  # a split moves a particle at one go
        after, _ = run_step(fluid, steep, seed, rates=rates)
    moved = np.linalg.solve(factors(fluid), (after.z - fluid.z)[:, :, None])[:, :, 0]
    assert (0.5 * np.sum(moved**2, axis=1) <= rates.trust * (1 + 1e-6)).all()
    assert np.exp(after.log_m).sum() == pytest.approx(1)
    assert all(np.isfinite(getattr(after, f.name)).all() for f in dataclasses.fields(Fluid))


def test_the_frame_stretches_around_particles_that_stay():
    fluid = random_fluid(np.random.default_rng(4), d=3)
    moment = np.diag([0.5, -0.2, 0.1])
    after = frame.stretch_frame(fluid, moment, 0.1, bound=1.0)
    np.testing.assert_allclose(
        to_unconstrained(after, after.z), to_unconstrained(fluid, fluid.z), rtol=1e-12
    )
    np.testing.assert_allclose(after.L, fluid.L @ (np.eye(3) + 0.1 * moment), rtol=1e-12)
    short = frame.stretch_frame(fluid, 100 * moment, 1.0, bound=0.05)
    change = np.linalg.solve(fluid.L, short.L) - np.eye(3)
    assert 0.5 * np.sum(change**2) == pytest.approx(0.05)


LOOKS = np.random.default_rng(9).standard_normal((resolution.LOOKS, 2))


def test_a_spent_particle_takes_half_of_the_neediest():
    fluid = random_fluid(np.random.default_rng(5))
    fluid = dataclasses.replace(fluid, log_m=np.log([0.005, 0.4, 0.3, 0.295]))
    # particle 0 lies where the others are: it costs little
    fluid = dataclasses.replace(fluid, z=fluid.z * 0.1, A=fluid.A * 0 + np.eye(2))
    after = resolution.split(fluid, np.array([9.0, 0.1, 1.0, 0.1]), LOOKS)
    m = np.exp(after.log_m)
    assert m[0] == pytest.approx(m[2]) and m.sum() == pytest.approx(1)
    ahead = np.linalg.solve(fluid.A[2], after.z[0] - fluid.z[2])
    np.testing.assert_allclose(ahead, fluid.u[2] / np.linalg.norm(fluid.u[2]), rtol=1e-9)
    np.testing.assert_array_equal(after.A[0], fluid.A[2])
    np.testing.assert_array_equal(after.z[1:], fluid.z[1:])
    busy = dataclasses.replace(fluid, log_m=np.log(np.full(4, 0.25)))
    assert resolution.split(busy, np.ones(4), LOOKS) is busy
    # alone far away it stays, unless it has no mass to speak of
    alone = dataclasses.replace(fluid, z=fluid.z + np.array([[30.0, 0], [0, 0], [0, 0], [0, 0]]))
    assert resolution.split(alone, np.array([9.0, 0.1, 1.0, 0.1]), LOOKS) is alone
    gone = dataclasses.replace(alone, log_m=np.log([1e-6, 0.4, 0.3, 0.3 - 1e-6]))
    assert resolution.split(gone, np.array([9.0, 0.1, 1.0, 0.1]), LOOKS) is not gone


def test_removal_loss_is_the_fall_of_the_elbo():
    fluid = random_fluid(np.random.default_rng(6), n=3)
    fluid = dataclasses.replace(fluid, z=fluid.z * 0.5)
    looks = np.random.default_rng(7).standard_normal((100_000, 2))
    loss = resolution.removal_loss(fluid, np.array([0, 2]), looks)
    for found, i in zip(loss, (0, 2), strict=True):
        rest = fluid.log_m.copy()
        rest[i] = -np.inf  # the others keep their masses: their sum falls below 1
        log_rho = brute_log_rho(fluid, GRID)
        without = brute_log_rho(dataclasses.replace(fluid, log_m=rest), GRID)
        own = np.exp(brute_log_rho(dataclasses.replace(fluid, log_m=only(fluid, i)), GRID))
        # integral of m_i W_i (log rho - log rho without i)
        assert found == pytest.approx(np.sum(own * (log_rho - without)) * CELL, rel=0.02)


def only(fluid, i):
    """Log masses of particle i alone, its mass kept."""
    return np.where(np.arange(fluid.n_particles) == i, fluid.log_m, -np.inf)


@pytest.mark.parametrize("weight", [0.01, 0.001])
def test_a_particle_alone_on_a_small_mode_keeps_it(weight):
    # two modes, two particles, each exactly in place: the lighter one is not spent
    modes = np.array([[-4.0, 0.0], [4.0, 0.0]])
    fluid = Fluid(
        modes,
        np.zeros((2, 2)),
        np.broadcast_to(np.eye(2), (2, 2, 2)),
        np.log([1 - weight, weight]),
        np.zeros(2),
        np.eye(2),
    )

    def target(theta):
        field = density(fluid, theta)
        return field.log_rho, field.grad

    moved = fluid
    for t in range(200):
        moved, _ = step(moved, draw_noise(np.random.default_rng([1, t]), 64, 2), target, Rates())
    np.testing.assert_allclose(moved.z, modes, atol=1e-6)
    assert np.exp(moved.log_m)[1] == pytest.approx(weight, rel=1e-6)


def test_a_minority_off_its_place_is_moved_though_the_rest_is_at_rest():
    # .7 of the mass sits on its mode exactly, .3 is one sd off: most accelerations are zero
    modes = np.array([[-8.0, 0.0], [8.0, 0.0]])
    exact = Fluid(
        modes,
        np.zeros((2, 2)),
        np.broadcast_to(np.eye(2), (2, 2, 2)),
        np.log([0.7, 0.3]),
        np.zeros(2),
        np.eye(2),
    )

    def target(theta):
        field = density(exact, theta)
        return field.log_rho, field.grad

    moved = dataclasses.replace(exact, z=modes + np.array([[0, 0], [0, 1.0]]))
    for t in range(40):
        noise = draw_noise(np.random.default_rng([2, t]), 64, 2)
        moved, _ = step(moved, noise, target, Rates(frame=0.0))
    np.testing.assert_allclose(moved.z, modes, atol=0.02)

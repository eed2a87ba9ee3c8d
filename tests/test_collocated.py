"""The collocated step: conservation, order, rest at p, and what each literal form rests at."""

from __future__ import annotations

import dataclasses
import math

from functools import partial
from unittest import mock

import numpy as np
import pytest

from fluids import gaussian
from particles import nothing, standard_normal, three, two_modes

from pymc_sph.fluid import collocated, neighbours
from pymc_sph.fluid.collocated import (
    Equations,
    Particles,
    begin,
    bounds,
    step,
    time_step,
    to_fluid,
    total_energy,
)
from pymc_sph.fluid.density import log_density
from pymc_sph.fluid.equation_of_state import Isothermal, Linear, Tait
from pymc_sph.fluid.external import FORMS, bound_level
from pymc_sph.fluid.momentum import PRESSURE_FORCES
from pymc_sph.fluid.radial_kernels import SHAPES, radial_kernel
from pymc_sph.fluid.relaxation import Relaxation, RestCheck, at_temperature
from pymc_sph.fluid.smoothing_length import RULES

ORIGIN, AXES = np.zeros(2), np.eye(2)
AXIS = np.linspace(-8, 8, 241)
GRID = np.stack(np.meshgrid(AXIS, AXIS), axis=-1).reshape(-1, 2)
CELL = (AXIS[1] - AXIS[0]) ** 2


def cloud(n=60, d=2, seed=0, *, moving=False):
    """Positions, and velocities if moving, of n particles."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, d))
    return z, rng.standard_normal((n, d)) if moving else np.zeros((n, d))


def run(n_steps, target, equations, z, v=None):
    """All states of a run in the identity frame, the first one included."""
    d = z.shape[1]
    states = [begin(z, np.zeros(d), np.eye(d), target, equations, v)]
    for _ in range(n_steps):
        states.append(step(states[-1], target, equations)[0])
    return states


def relax(target, equations, n=256, spread=2.0, n_steps=600, check=None, d=2):
    """Particles from a wide start, until they rest or the steps are spent."""
    z = spread * np.random.default_rng(1).standard_normal((n, d))
    first = begin(z, np.zeros(d), np.eye(d), target, equations)
    sim = Relaxation(first, equations, check or RestCheck())
    while sim.running and sim.n_steps < n_steps:
        sim, seen = sim.advance(target)
    return sim, seen


def kl(particles, target):
    """KL(q || p) of the returned density by quadrature."""
    log_q = log_density(to_fluid(particles), GRID)
    return float(np.sum(np.exp(log_q) * (log_q - target(GRID)[0])) * CELL)


# --- the bars


@pytest.mark.parametrize("viscosity", [0.0, 0.3])
@pytest.mark.parametrize(
    ("kernel", "smoothing"), [("gaussian", "constant"), ("wendland2", "nearest")]
)
def test_momentum_is_conserved(kernel, smoothing, viscosity):
    equations = Equations(
        kernel=kernel, smoothing=smoothing, viscosity=viscosity, damping=0.0, external="force"
    )
    z, v = cloud(moving=True)
    for state in run(200, nothing, equations, z, v):
        np.testing.assert_allclose(state.v.mean(axis=0), v.mean(axis=0), atol=1e-10)


@pytest.mark.parametrize("kernel", sorted(SHAPES))
@pytest.mark.parametrize("eos", [Isothermal(1.0), Linear(1.0, 0.02)])
def test_energy_drifts_less_than_a_percent_over_1000_verlet_steps(kernel, eos):
    equations = Equations(eos=eos, kernel=kernel, damping=0.0)
    z, v = cloud(moving=True)
    states = run(1000, nothing, equations, z, v)
    energy = np.array([total_energy(s, equations) for s in states])
    # the scale is the kinetic energy: the constant of log rho is arbitrary
    kinetic = max(0.5 * np.mean(np.sum(s.v**2, axis=1)) for s in states)
    assert np.abs(energy - energy[0]).max() < 0.01 * kinetic


def test_energy_is_conserved_in_the_field_of_the_target():
    equations = Equations(damping=0.0)
    z, v = cloud(moving=True)
    states = run(1000, standard_normal, equations, z, v)
    energy = np.array([total_energy(s, equations) for s in states])
    kinetic = np.mean([0.5 * np.mean(np.sum(s.v**2, axis=1)) for s in states])
    assert np.abs(energy - energy[0]).max() < 0.01 * kinetic


@pytest.mark.parametrize("pressure_force", sorted(PRESSURE_FORCES))
def test_gaussian_and_mixture_in_two_dimensions(pressure_force):
    equations = Equations(pressure_force=pressure_force)
    sim, _ = relax(standard_normal, equations)
    assert sim.status == "converged" and kl(sim.particles, standard_normal) < 0.05
    sim, _ = relax(two_modes, equations)
    assert kl(sim.particles, two_modes) < 0.1


# --- order of the integrators


def test_verlet_is_of_second_order_and_euler_of_first():
    z, v = cloud(20, moving=True)

    def error(integrator, n):
        equations = Equations(integrator=integrator, dt=0.4 / n, damping=0.0)
        return np.abs(run(n, standard_normal, equations, z, v)[-1].z - exact).max()

    exact = run(512, standard_normal, Equations(dt=0.4 / 512, damping=0.0), z, v)[-1].z
    for integrator, order in (("verlet", 2), ("euler", 1)):
        ratio = error(integrator, 8) / error(integrator, 16)
        assert math.log2(ratio) == pytest.approx(order, abs=0.2)


def test_one_step_by_hand():
    """Verlet with damping on a single particle, whose own pressure does not push it."""
    equations = Equations(dt=0.1, damping=0.5)
    z, v = np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]])
    state = run(1, standard_normal, equations, z, v)[-1]
    half = v - 0.05 * z
    place = z + 0.1 * half
    np.testing.assert_allclose(state.z, place, rtol=1e-12)
    np.testing.assert_allclose(state.v, (half - 0.05 * place) * math.exp(-0.05), rtol=1e-12)
    assert state.time == pytest.approx(0.1)


def test_time_step_bounds():
    z, v, _, _ = three()
    equations = Equations(viscosity=3.0, diffusion=0.2, density="continuity", courant=0.5)
    state = begin(z, ORIGIN, AXES, standard_normal, equations, v)
    found, h = bounds(state, equations), state.h[0]
    flow, push = (np.linalg.norm(x, axis=1) for x in (v, state.a))
    assert found.convective == pytest.approx(h / (1 + flow.max()))
    assert found.force == pytest.approx(math.sqrt(h / push.max()))
    assert found.viscous == pytest.approx(h**2 / 6)
    assert found.diffusive == pytest.approx(h / 0.4)
    least = min(found.convective, found.force, found.viscous, found.diffusive)
    assert time_step(state, equations) == pytest.approx(0.5 * least)
    assert time_step(state, dataclasses.replace(equations, dt=0.3)) == 0.3
    rest = bounds(begin(z, ORIGIN, AXES, nothing, Equations()), Equations())
    assert rest.viscous == rest.diffusive == math.inf


# --- every combination runs, purely


@pytest.mark.parametrize("external", FORMS)
@pytest.mark.parametrize("density", ["summation", "continuity"])
def test_states_are_left_alone_and_frames_do_not_matter(external, density):
    """A target in an affine frame behaves as the same target without one."""
    equations = Equations(
        external=external, density=density, diffusion=0.1, viscosity=0.1, kernel="wendland4"
    )
    z, v = cloud(30, moving=True)
    mu, L = np.array([1.0, -3.0]), np.array([[2.0, 0.3], [-0.5, 0.7]])
    framed = begin(z, mu, L, gaussian(mu, L @ L.T), equations, v)
    plain = begin(z, ORIGIN, AXES, standard_normal, equations, v)
    for field in dataclasses.fields(Particles):
        value = getattr(framed, field.name)
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    for _ in range(5):
        framed, seen = step(framed, gaussian(mu, L @ L.T), equations)
        plain, other = step(plain, standard_normal, equations)
    np.testing.assert_allclose(framed.z, plain.z, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(framed.rho, plain.rho, rtol=1e-8)
    assert seen.elbo == pytest.approx(other.elbo, rel=1e-8)
    assert seen.kinetic == pytest.approx(0.5 * np.mean(framed.v**2))


@pytest.mark.parametrize("smoothing", sorted(RULES))
def test_listed_neighbours_change_nothing(smoothing):
    equations = Equations(
        kernel="wendland2", smoothing=smoothing, scale=0.5, neighbours=8, viscosity=0.1,
        density="continuity", diffusion=0.1,
    )  # fmt: skip
    z, v = cloud(80, moving=True)
    dense = run(3, standard_normal, equations, z, v)[-1]
    with mock.patch.object(neighbours, "LISTED_PARTICLES", 1):
        listed = run(3, standard_normal, equations, z, v)[-1]
    for name in ("z", "v", "a", "rho"):
        np.testing.assert_allclose(
            getattr(listed, name), getattr(dense, name), rtol=1e-8, atol=1e-9
        )


def test_continuity_keeps_up_with_the_sum():
    equations = Equations(density="continuity", damping=0.5)
    z, v = cloud(moving=True)
    state = run(300, standard_normal, equations, z, v)[-1]
    summed = begin(state.z, ORIGIN, AXES, standard_normal, Equations()).rho
    # second order in dt, over 300 steps
    np.testing.assert_allclose(state.rho, summed, rtol=0.01)


def test_particles_stay_where_the_target_is_finite():
    def half_space(theta):
        logp, grad = standard_normal(theta)
        return np.where(theta[:, 0] > 0, logp, np.nan), np.where(theta[:, :1] > 0, grad, np.nan)

    z = np.abs(cloud()[0])
    states = run(60, half_space, Equations(), z)
    assert all((s.z[:, 0] > 0).all() and np.isfinite(s.v).all() for s in states)
    first = begin(cloud()[0], ORIGIN, AXES, half_space, Equations())  # starts outside, too
    after, seen = step(first, half_space, Equations())
    assert seen.n_nonfinite > 0 and np.isfinite(after.z).all() and np.isfinite(seen.elbo)


def test_a_step_out_of_the_finite_numbers_is_not_taken():
    state = begin(cloud()[0], ORIGIN, AXES, standard_normal, Equations())
    with mock.patch.object(collocated, "acceleration", lambda p, *_: np.full_like(p.z, np.inf)):
        after, seen = step(state, standard_normal, Equations())
        sim, _ = Relaxation(state, Equations(), RestCheck()).advance(standard_normal)
    assert after is state and seen.elbo == -math.inf
    assert sim.status == "non_finite" and not sim.running


# --- coming to rest


def test_rest_check_cooling_and_reopening():
    equations = Equations()
    z = cloud()[0]
    first = begin(z, ORIGIN, AXES, standard_normal, equations)
    sim = Relaxation(first, equations, RestCheck(steps=4), hot=16.0, cooling=4)
    temperatures = []
    while sim.running:
        temperatures.append(sim.temperature)
        sim, seen = sim.advance(standard_normal)
    np.testing.assert_allclose(temperatures[:6], [16, 8, 4, 2, 1, 1])
    assert sim.status == "converged" and seen.kinetic < 1e-4 and seen.change < 0.01
    assert sim.cost == len(z) and sim.reopen().running
    # rest is a property of the state: the same step without damping barely moves it
    still = dataclasses.replace(equations, damping=0.0)
    after, _ = step(sim.particles, standard_normal, still)
    assert np.abs(after.z - sim.particles.z).max() < 0.02
    assert at_temperature(equations, 3.0).eos.c2 == 3.0 * equations.eos.c2


def test_velocities_of_the_returned_fluid():
    z, v, _, _ = three()
    state = begin(z, ORIGIN, AXES, standard_normal, Equations(smoothing="nearest"), v)
    fluid = to_fluid(state)
    np.testing.assert_allclose(fluid.A * fluid.u, v)
    np.testing.assert_allclose(fluid.A, np.repeat(state.h[:, None], 2, axis=1))
    assert np.exp(fluid.log_m).sum() == pytest.approx(1)


# --- where the literal forms rest: radial profiles of the summed density, far from sampling error


def profile_error(sim, expected):
    """Root mean square relative error of rho against a function of |z|, over the inner half."""
    p = sim.particles
    radius = np.linalg.norm(p.z, axis=1)
    inner = radius < np.median(radius)
    ratio = p.rho[inner] / expected(radius[inner])
    return float(np.sqrt(np.mean((ratio - 1) ** 2)))


def gaussian_profile(r, var=1.0):
    return np.exp(-0.5 * r**2 / var) / (2 * np.pi * var)


@pytest.mark.slow
def test_isothermal_gas_rests_at_a_power_of_p():
    for alpha in (1.0, 4.0):  # alpha / c^2 = 4: a Gaussian of variance 1 / 4
        sim, _ = relax(standard_normal, Equations(alpha=alpha, scale=0.5), n=400)
        # c^2 grad log rho = alpha grad log p; rho is smoothed by h^2 = .0325 at most
        expected = partial(gaussian_profile, var=1 / alpha)
        assert profile_error(sim, expected) < 0.15


@pytest.mark.slow
def test_tait_rests_at_a_flat_profile_with_an_edge():
    """rho^(gamma - 1) = (gamma - 1) rho0^(gamma - 1) / c^2 (log p + C), the mass fixing C."""
    rho0, gamma = 0.04, 7.0
    sim, _ = relax(standard_normal, Equations(eos=Tait(1.0, rho0, gamma), scale=0.5), n=400)

    def closed(r, level):
        inside = np.maximum((gamma - 1) * (level - 0.5 * r**2), 0.0)
        return rho0 * inside ** (1 / (gamma - 1))

    r = np.linspace(0, 8, 4001)
    levels = np.linspace(0.1, 10, 1000)
    masses = [np.sum(2 * np.pi * r * closed(r, c)) * (r[1] - r[0]) for c in levels]
    level = levels[np.argmin(np.abs(np.array(masses) - 1))]
    assert profile_error(sim, lambda x: closed(x, level)) < 0.1
    # and that is far from p, and from the edge on there is nothing
    assert profile_error(sim, gaussian_profile) > 0.2
    assert np.linalg.norm(sim.particles.z, axis=1).max() < 1.1 * math.sqrt(2 * level)


@pytest.mark.slow
def test_pressure_of_minus_log_p_rests_at_a_parabola():
    """c^2 rho = log p + C where positive: rho = (R^2 - r^2) / 2 with pi R^4 / 4 = 1."""
    R2 = math.sqrt(4 / math.pi)
    level = -math.log(2 * math.pi) - R2 / 2  # total pressure 0 at the edge
    assert bound_level(2, 1.0, 1.0) == pytest.approx(level)
    equations = Equations(external="pressure", log_z=level, scale=0.5)
    sim, _ = relax(standard_normal, equations, n=400, spread=0.5)
    assert profile_error(sim, lambda r: (R2 - r**2) / 2) < 0.1
    # beyond the edge the total pressure is positive: what overshoots it is driven off for good
    inside = np.linalg.norm(sim.particles.z, axis=1) < 1.15 * math.sqrt(R2)
    assert 0.85 < np.mean(inside) < 1


@pytest.mark.parametrize(
    "equations",
    [
        Equations(external="density_pressure", scale=0.5),
        Equations(external="density_force", eos=Tait(0.1, 0.01, 2.0), alpha=10.0, scale=0.5),
        Equations(external="potential", pressure_force="plain", scale=0.5),
    ],
)
def test_forms_that_rest_at_p(equations):
    sim, _ = relax(standard_normal, equations, n=400, spread=1.2)
    assert profile_error(sim, gaussian_profile) < 0.2


def test_force_of_grad_p_does_not_hold_an_isothermal_gas():
    sim, _ = relax(standard_normal, Equations(external="density_force"), n=200, spread=1.0)
    assert sim.particles.z.std() > 3.0


def test_diffusing_the_density_itself_levels_it_out():
    """The label goes to a constant, and n = rho_c / 2 (log p + C) takes the particles' place."""
    common = {"density": "continuity", "diffusion": 0.2}
    excess, _ = relax(standard_normal, Equations(**common), n=200, spread=1.0)
    plain, _ = relax(standard_normal, Equations(**common, diffused="density"), n=200, spread=1.0)
    spread = [np.std(s.particles.rho) / np.mean(s.particles.rho) for s in (plain, excess)]
    assert spread[0] < 0.1 < 0.4 < spread[1]
    found, biased = (kl(s.particles, standard_normal) for s in (excess, plain))
    assert found < 0.02 < 0.05 < biased


def test_kernel_is_made_once():
    assert radial_kernel("cubic", 3) is radial_kernel("cubic", 3)
    assert collocated.radial_kernel is radial_kernel

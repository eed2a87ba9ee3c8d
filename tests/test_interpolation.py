"""Interpolation where probes are few or set aside, and the moments' off-diagonal directions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fluids import banana, brute_log_rho, random_fluid
from hypothesis import given
from hypothesis import strategies as st

from pymc_sph.fluid import equation_of_state, frame, interpolation
from pymc_sph.fluid.density import density
from pymc_sph.fluid.state import log_det_frame, to_unconstrained

AXIS = np.linspace(-7, 7, 281)
GRID = np.stack(np.meshgrid(AXIS, AXIS), axis=-1).reshape(-1, 2)
CELL = (AXIS[1] - AXIS[0]) ** 2
SYMMETRIC = np.array([[0.3, -0.7], [-0.7, 0.5]])


def test_a_particle_that_few_probes_reach_is_not_thrown_by_one_of_them():
    fluid = random_fluid(np.random.default_rng(0), n=2)
    fluid = dataclasses.replace(fluid, log_m=np.log([0.5, 0.5]))
    R = np.array([[0.1, 0.0, 0.0, 0.0], [0.9, 1.0, 1.0, 1.0]])
    weights = interpolation.smoothing_weights(fluid, R)
    # sum of R is .1 for the first particle, half of its expectation 4 * .5 is 1
    np.testing.assert_allclose(weights[0], [0.1, 0, 0, 0])
    np.testing.assert_allclose(weights[1].sum(), 1)


def test_probes_set_aside_leave_the_others_to_stand_for_them():
    fluid = random_fluid(np.random.default_rng(1))
    y = np.random.default_rng(2).standard_normal((12, 2))
    R, kept = density(fluid, y).R, np.arange(12) % 3 > 0
    zeroed = interpolation.smoothing_weights(fluid, R * kept)
    np.testing.assert_allclose(
        zeroed[:, kept], interpolation.smoothing_weights(fluid, R[:, kept]), rtol=1e-12
    )
    assert (zeroed[:, ~kept] == 0).all()


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_weights_are_shares_and_a_constant_stays_one(seed, full):
    rng = np.random.default_rng(seed)
    fluid = random_fluid(rng, full=full)
    R = density(fluid, fluid.z + 0.1 * rng.standard_normal((4, 2))).R
    weights = interpolation.smoothing_weights(fluid, R)
    assert (weights >= 0).all() and (weights.sum(axis=1) <= 1 + 1e-12).all()
    reached = R.sum(axis=1) >= 0.5 * 4 * np.exp(fluid.log_m)
    constant = interpolation.interpolate(weights, np.full(4, 3.0))
    np.testing.assert_allclose(constant[reached], 3.0, rtol=1e-12)


def light_tailed(theta):
    logp, grad = banana(theta)
    return logp / 2, grad / 2


def elbo(fluid, temperature):
    """Quadrature of rho (l - T log q), log q = log rho - log |det L|."""
    log_rho = brute_log_rho(fluid, GRID)
    logp, _ = light_tailed(to_unconstrained(fluid, GRID))
    log_q = log_rho - log_det_frame(fluid)
    return np.sum(np.exp(log_rho) * (logp - temperature * log_q)) * CELL


def field_and_acceleration(fluid, temperature):
    field = density(fluid, GRID)
    _, grad = light_tailed(to_unconstrained(fluid, GRID))
    return field, equation_of_state.acceleration(grad @ fluid.L, field.grad, temperature)


@pytest.fixture
def compact():
    fluid = random_fluid(np.random.default_rng(3), n=3)  # its frame is skew and off the origin
    return dataclasses.replace(fluid, z=0.7 * fluid.z, A=0.8 * fluid.A)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_tensor_moment_off_the_diagonal_is_the_slope_of_the_elbo(compact, temperature):
    field, r = field_and_acceleration(compact, temperature)
    mass = np.exp(compact.log_m)
    weights = field.R * np.exp(field.log_rho) * CELL / mass[:, None]
    moment = interpolation.tensor_moment(compact, field.A_inv, weights, GRID, r)
    for i in range(3):
        values = []
        for h in (1e-4, -1e-4):
            A = compact.A.copy()
            A[i] = A[i] @ (np.eye(2) + h * SYMMETRIC)
            values.append(elbo(dataclasses.replace(compact, A=A), temperature))
        slope = (values[0] - values[1]) / 2e-4
        expected = mass[i] * np.sum(moment[i] * SYMMETRIC)
        assert slope == pytest.approx(expected, rel=2e-4, abs=2e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_frame_moment_is_the_slope_of_the_elbo_along_stretch_frame(compact, temperature):
    field, r = field_and_acceleration(compact, temperature)
    joint = field.R * np.exp(field.log_rho) * CELL  # m_i W_i: the law of (own, y), by quadrature
    moment = sum(
        frame.frame_moment(len(GRID) * joint[i][:, None] * r, GRID - compact.z[i]) for i in range(3)
    )
    values = [
        elbo(frame.stretch_frame(compact, SYMMETRIC, h, bound=1.0), temperature)
        for h in (1e-4, -1e-4)
    ]
    slope = (values[0] - values[1]) / 2e-4
    assert slope == pytest.approx(np.sum(moment * SYMMETRIC), rel=2e-4, abs=2e-5)


def test_frame_moment_is_the_mean_over_probes():
    rng = np.random.default_rng(4)
    r, offset = rng.standard_normal((5, 3)), rng.standard_normal((5, 3))
    mean = sum(np.outer(a, b) for a, b in zip(r, offset, strict=True)) / 5
    np.testing.assert_allclose(frame.frame_moment(r, offset), (mean + mean.T) / 2, rtol=1e-12)

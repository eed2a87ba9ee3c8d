"""Kernel, density, probes and interpolation against quadrature, SciPy and double loops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fluids import brute_log_rho, factors, random_fluid
from hypothesis import given
from hypothesis import strategies as st

from pymc_sph.fluid import density as density_module
from pymc_sph.fluid import interpolation
from pymc_sph.fluid.density import (
    ProbeNoise,
    density,
    draw_noise,
    draw_probes,
    log_density,
    pick,
)
from pymc_sph.fluid.state import log_det_frame, to_frame, to_unconstrained

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_density_is_the_brute_force_mixture(seed, n, d, full):
    rng = np.random.default_rng(seed)
    fluid, y = random_fluid(rng, n, d, full=full), 2 * rng.standard_normal((6, d))
    field = density(fluid, y)
    np.testing.assert_allclose(field.log_rho, brute_log_rho(fluid, y), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(log_density(fluid, y), field.log_rho, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(field.R.sum(axis=0), 1, rtol=1e-12)


@pytest.mark.parametrize("full", [True, False])
def test_density_integrates_to_one(full):
    fluid = random_fluid(np.random.default_rng(0), full=full)
    axis = np.linspace(-12, 12, 481)  # trapezoidal: error far below 1e-6 for smooth decay
    y = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    assert np.exp(log_density(fluid, y)).sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1)


@pytest.mark.parametrize("full", [True, False])
def test_gradient_is_the_finite_difference(full):
    rng = np.random.default_rng(1)
    fluid, y = random_fluid(rng, d=3, full=full), rng.standard_normal((5, 3))
    for j, step in enumerate(1e-5 * np.eye(3)):
        slope = (brute_log_rho(fluid, y + step) - brute_log_rho(fluid, y - step)) / 2e-5
        np.testing.assert_allclose(density(fluid, y).grad[:, j], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("full", [True, False])
def test_blocks_change_nothing(full, monkeypatch):
    rng = np.random.default_rng(2)
    fluid, y = random_fluid(rng, full=full), rng.standard_normal((10, 2))
    whole = density(fluid, y)
    weights = interpolation.smoothing_weights(fluid, whole.R)
    moment = interpolation.tensor_moment(fluid, whole.A_inv, weights, y, whole.grad)
    monkeypatch.setattr(density_module, "BLOCK", 1)
    parts = density(fluid, y)
    for name in ("log_rho", "grad", "R"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)
    np.testing.assert_allclose(log_density(fluid, y), whole.log_rho, rtol=1e-12)
    blocked = interpolation.tensor_moment(fluid, whole.A_inv, weights, y, whole.grad)
    np.testing.assert_allclose(blocked, moment, rtol=1e-10, atol=1e-12)


def test_frame_and_back():
    rng = np.random.default_rng(3)
    fluid, y = random_fluid(rng, d=3), rng.standard_normal((4, 3))
    np.testing.assert_allclose(to_frame(fluid, to_unconstrained(fluid, y)), y, rtol=1e-10)
    assert log_det_frame(fluid) == pytest.approx(np.log(abs(np.linalg.det(fluid.L))))


@given(seeds, st.floats(0, 0.999), st.integers(1, 40))
def test_probes_are_systematic_and_antithetic(seed, offset, half):
    fluid = random_fluid(np.random.default_rng(seed))
    e = np.random.default_rng(seed).standard_normal((half, 2))
    y, own = draw_probes(fluid, ProbeNoise(offset, e))
    expected = half * np.exp(fluid.log_m)
    counts = np.bincount(own[:half], minlength=4)
    assert (np.abs(counts - expected) < 1 + 1e-9).all()
    np.testing.assert_array_equal(own[:half], own[half:])
    np.testing.assert_allclose(y[:half] + y[half:], 2 * fluid.z[own[:half]], atol=1e-12)


def test_probes_have_the_moments_of_the_mixture():
    fluid = random_fluid(np.random.default_rng(4))
    y, _ = draw_probes(fluid, draw_noise(np.random.default_rng(5), 40_000, 2))
    m = np.exp(fluid.log_m)
    mean = m @ fluid.z
    A = factors(fluid)
    offset = fluid.z - mean
    cov = np.einsum("n,nij,nkj->ik", m, A, A) + (m * offset.T) @ offset
    # antithetic and systematic draws have less error than the .005 sd of independent ones
    np.testing.assert_allclose(y.mean(axis=0), mean, atol=0.025)
    np.testing.assert_allclose(np.cov(y.T), cov, atol=0.05)


def test_pick_covers_rounding():
    log_m = np.log(np.full(7, 1 / 7))
    assert pick(log_m, np.array([0.0, 1 - 1e-16, 1.0])).tolist() == [0, 6, 6]


@pytest.mark.parametrize("full", [True, False])
def test_interpolation_is_the_double_loop(full):
    rng = np.random.default_rng(6)
    fluid, y = random_fluid(rng, full=full), rng.standard_normal((9, 2))
    r, A = rng.standard_normal((9, 2)), factors(fluid)
    field = density(fluid, y)
    weights = interpolation.smoothing_weights(fluid, field.R)
    value = interpolation.interpolate(weights, r)
    moment = interpolation.tensor_moment(fluid, field.A_inv, weights, y, r)
    for i in range(fluid.n_particles):
        divisor = max(field.R[i].sum(), 0.5 * len(y) * np.exp(fluid.log_m[i]))
        expected, spread = np.zeros(2), np.zeros((2, 2))
        for k in range(len(y)):
            e = np.linalg.solve(A[i], y[k] - fluid.z[i])
            expected += field.R[i, k] * r[k] / divisor
            spread += field.R[i, k] * np.outer(e, A[i].T @ r[k]) / divisor
        np.testing.assert_allclose(value[i], expected, rtol=1e-9)
        if full:
            np.testing.assert_allclose(moment[i], (spread + spread.T) / 2, rtol=1e-8, atol=1e-10)
        else:
            np.testing.assert_allclose(moment[i], np.diag(spread), rtol=1e-8, atol=1e-10)


def test_a_diagonal_is_a_full_tensor():
    rng = np.random.default_rng(7)
    thin, y = random_fluid(rng, full=False), rng.standard_normal((5, 2))
    thick = dataclasses.replace(thin, A=factors(thin))
    np.testing.assert_allclose(density(thin, y).grad, density(thick, y).grad, rtol=1e-9)
    np.testing.assert_allclose(density(thin, y).R, density(thick, y).R, rtol=1e-9)

"""Forces against a hand-made case of three particles, derivatives of the energy, and integrals."""

from __future__ import annotations

import numpy as np
import pytest

from particles import brute_density, kernel_gradient, lattice, pair_sum, standard_normal, three

from pymc_sph.fluid.equation_of_state import Isothermal, Linear, Tait
from pymc_sph.fluid.external import (
    FORMS,
    GRADIENT,
    corrected_gradient,
    external_force,
    external_pressure,
)
from pymc_sph.fluid.momentum import (
    plain_pressure_force,
    symmetric_pressure_force,
    viscous_force,
)
from pymc_sph.fluid.neighbours import Neighbours
from pymc_sph.fluid.radial_kernels import SHAPES, radial_kernel
from pymc_sph.fluid.summation import summed_density

ALL = Neighbours(3)
RHO, P = np.array([0.2, 0.5, 0.3]), np.array([0.7, -0.4, 1.1])


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("d", [1, 2, 5])
def test_symmetric_pressure_force_of_three_particles(name, d):
    z, _, h, _ = three(d)

    def term(i, j):
        x = z[i] - z[j]
        mine = P[i] / RHO[i] ** 2 * kernel_gradient(name, x, h[j])
        return -(mine + P[j] / RHO[j] ** 2 * kernel_gradient(name, x, h[i])) / 3

    a = symmetric_pressure_force(z, RHO, P, h, radial_kernel(name, d), ALL)
    np.testing.assert_allclose(a, pair_sum(3, term), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(a.sum(axis=0), 0, atol=1e-14)


@pytest.mark.parametrize("name", ["gaussian", "cubic", "wendland6"])
def test_plain_pressure_force_of_three_particles(name):
    z, _, h, _ = three()
    expected = pair_sum(
        3, lambda i, j: -P[j] / RHO[j] * kernel_gradient(name, z[i] - z[j], h[j]) / (3 * RHO[i])
    )
    a = plain_pressure_force(z, RHO, P, h, radial_kernel(name, 2), ALL)
    np.testing.assert_allclose(a, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("eos", [Isothermal(1.3), Linear(1.3, 0.2), Tait(1.3, 0.2, 3.0)])
@pytest.mark.parametrize("name", ["gaussian", "cubic", "wendland2"])
def test_symmetric_pressure_force_is_the_derivative_of_the_energy(eos, name):
    z, _, h, _ = three()
    kernel, eps = radial_kernel(name, 2), 1e-6
    rho = summed_density(z, h, kernel, ALL)
    a = symmetric_pressure_force(z, rho, eos.pressure(rho), h, kernel, ALL)
    for i in range(3):
        for k in range(2):
            shift = np.zeros_like(z)
            shift[i, k] = eps
            energies = [np.sum(eos.energy(brute_density(name, z + s * shift, h))) for s in (1, -1)]
            assert a[i, k] == pytest.approx((energies[1] - energies[0]) / (2 * eps), rel=1e-5)


def test_plain_isothermal_force_is_the_gradient_of_the_log_density():
    z, _, h, _ = three()
    kernel, eps = radial_kernel("gaussian", 2), 1e-6
    rho = summed_density(z, h, kernel, ALL)
    a = plain_pressure_force(z, rho, 1.3 * rho, h, kernel, ALL)

    def log_rho(y):
        return np.log(np.mean(kernel.value(np.sum((y - z) ** 2, axis=1), h)))

    for i in range(3):
        for k in range(2):
            e = np.eye(2)[k] * eps
            slope = (log_rho(z[i] + e) - log_rho(z[i] - e)) / (2 * eps)
            assert a[i, k] == pytest.approx(-1.3 * slope, rel=1e-6)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_viscous_force_of_three_particles(d):
    z, v, h, _ = three(d)
    name = "wendland4"

    def term(i, j):
        x, u = z[i] - z[j], v[j] - v[i]
        F = -sum(kernel_gradient(name, x, s) @ x / (x @ x) for s in (h[i], h[j])) / 2
        e = x / np.linalg.norm(x)
        return 2 / 3 / (RHO[i] + RHO[j]) * F * (5 / 3 * u + (d + 2) / 3 * e * (e @ u))

    a = viscous_force(z, v, RHO, h, radial_kernel(name, d), ALL)
    np.testing.assert_allclose(a, pair_sum(3, term), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(a.sum(axis=0), 0, atol=1e-13)
    assert np.sum(a * v) < 0  # it takes kinetic energy away


def test_viscous_force_is_the_navier_stokes_operator():
    """On a fine lattice: lap v + grad(div v) / 3 of quadratic velocity fields."""
    z = lattice(41, 0.05)  # wider than the kernel's support of .84
    n = len(z)
    h, rho = np.full(n, 0.2), np.full(n, 1 / (n * 0.05**2))
    kernel, (x, y) = radial_kernel("wendland4", 2), z.T
    middle = np.argmin(np.sum(z**2, axis=1))
    for v, expected in [
        (np.stack([x**2, 0 * x], 1), [2 + 2 / 3, 0]),  # lap (2, 0), div 2 x
        (np.stack([y**2, 0 * x], 1), [2, 0]),  # shear: no divergence
        (np.stack([0 * x, x * y], 1), [1 / 3, 0]),  # lap 0, div x
        (np.stack([y, -x], 1), [0, 0]),  # rotation
    ]:
        a = viscous_force(z, v, rho, h, kernel, Neighbours(n))
        # the lattice sum for the integral: h is four spacings
        np.testing.assert_allclose(a[middle], expected, atol=0.01)


# --- the target


def test_corrected_gradient_of_three_particles():
    z, _, h, values = three()
    kernel = radial_kernel("gaussian", 2)

    def slope(i, j):
        gradient = kernel_gradient("gaussian", z[i] - z[j], h[j])
        return (values[j] - values[i]) / RHO[j] * gradient / 3

    def moment(i, j):
        x = z[j] - z[i]
        return np.outer(x, kernel_gradient("gaussian", z[i] - z[j], h[j])) / RHO[j] / 3

    size, axes = np.linalg.eigh(pair_sum(3, moment))
    plain = pair_sum(3, slope)
    expected = [
        e @ np.diag(1 / np.maximum(s, 0.1)) @ e.T @ g
        for s, e, g in zip(size, axes, plain, strict=True)
    ]
    found = corrected_gradient(z, values, RHO, h, kernel, ALL)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
    assert (size < 0.1).any() and (size > 0.1).any()  # the floor is met, and not always


def test_corrected_gradient_is_exact_for_linear_functions():
    z = np.random.default_rng(1).standard_normal((60, 3))
    h, kernel, slope = np.full(60, 0.9), radial_kernel("wendland4", 3), np.array([1.0, -2.0, 0.5])
    rho = summed_density(z, h, kernel, Neighbours(60))
    found = corrected_gradient(z, 7.0 + z @ slope, rho, h, kernel, Neighbours(60))
    inner = np.linalg.norm(z, axis=1) < 1.5  # where no eigenvalue is below the floor
    assert inner.sum() > 20
    np.testing.assert_allclose(found[inner], np.tile(slope, (inner.sum(), 1)), rtol=1e-9)


def test_forms_of_the_target():
    z, _, h, _ = three()
    kernel = radial_kernel("gaussian", 2)
    logp, score = standard_normal(z)
    p = np.exp(logp)

    def force(form):
        return external_force(form, 1.5, logp, score, z, RHO, h, kernel, ALL)

    np.testing.assert_allclose(force("force"), -1.5 * z)
    np.testing.assert_allclose(force("density_force"), -1.5 * p[:, None] * z)
    assert force("pressure") is None and force("density_pressure") is None
    assert external_pressure("force", 1.5, logp) is None
    assert external_pressure("potential", 1.5, logp) is None
    np.testing.assert_allclose(external_pressure("pressure", 1.5, logp), -1.5 * logp)
    np.testing.assert_allclose(external_pressure("density_pressure", 1.5, logp), -1.5 * p)
    for form in FORMS:  # one of the two, never both
        pressure = external_pressure(form, 1.5, logp)
        assert (pressure is None) == (force(form) is not None)
        if form not in GRADIENT and pressure is None:
            nothing = external_force(form, 1.5, logp, score * np.nan, z, RHO, h, kernel, ALL)
            assert np.isfinite(nothing).all()
    assert np.isfinite(external_pressure("density_pressure", 1.0, np.array([1e6]))).all()

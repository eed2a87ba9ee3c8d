"""Equations of state, and the density by summation and by the continuity equation."""

from __future__ import annotations

import numpy as np
import pytest

from particles import brute_density, kernel_gradient, lattice, pair_sum, three

from pymc_sph.fluid.continuity import density_diffusion, density_rate
from pymc_sph.fluid.density import log_density
from pymc_sph.fluid.equation_of_state import Isothermal, Linear, Tait, reference_density
from pymc_sph.fluid.neighbours import Neighbours
from pymc_sph.fluid.radial_kernels import SHAPES, radial_kernel
from pymc_sph.fluid.state import Fluid
from pymc_sph.fluid.summation import summed_density

ALL = Neighbours(3)
KERNELS = ["gaussian", "cubic", "wendland4"]


@pytest.mark.parametrize(
    "eos", [Isothermal(1.7), Linear(1.7, 0.3), Tait(1.7, 0.3), Tait(0.8, 2.0, 2.0)]
)
def test_energy_and_sound_speed_follow_from_the_pressure(eos):
    rho, eps = np.array([0.1, 0.4, 1.5]), 1e-6
    slope = (eos.energy(rho + eps) - eos.energy(rho - eps)) / (2 * eps)
    np.testing.assert_allclose(slope, eos.pressure(rho) / rho**2, rtol=1e-7)
    slope = (eos.pressure(rho + eps) - eos.pressure(rho - eps)) / (2 * eps)
    np.testing.assert_allclose(eos.sound_speed(rho) ** 2, slope, rtol=1e-7)


def test_equations_of_state_agree_at_the_reference_density():
    rho0 = np.array([0.3])
    assert Linear(2.0, 0.3).pressure(rho0) == pytest.approx(0)
    assert Tait(2.0, 0.3).pressure(rho0) == pytest.approx(0)
    assert Tait(2.0, 0.3).sound_speed(rho0) == pytest.approx(np.sqrt(2.0))
    # the integral of a unit Gaussian's square
    axis = np.linspace(-9, 9, 2001)
    density = np.exp(-0.5 * axis**2) / np.sqrt(2 * np.pi)
    assert reference_density(1) == pytest.approx(np.sum(density**2) * (axis[1] - axis[0]))
    assert reference_density(3) == pytest.approx(reference_density(1) ** 3)


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("d", [1, 3])
def test_density_by_summation_of_three_particles(name, d):
    z, _, h, _ = three(d)
    rho = summed_density(z, h, radial_kernel(name, d), ALL)
    np.testing.assert_allclose(rho, brute_density(name, z, h), rtol=1e-12)


def test_density_by_summation_is_the_returned_field_at_the_particles():
    z, v, h, _ = three()
    fluid = Fluid(
        z, v, np.repeat(h[:, None], 2, axis=1), np.full(3, -np.log(3)), np.zeros(2), np.eye(2)
    )
    rho = summed_density(z, h, radial_kernel("gaussian", 2), ALL)
    np.testing.assert_allclose(np.log(rho), log_density(fluid, z), rtol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_continuity_of_three_particles(name):
    z, v, h, _ = three()
    expected = pair_sum(
        3, lambda i, j: (v[i] - v[j]) @ kernel_gradient(name, z[i] - z[j], h[j]) / 3
    )
    rate = density_rate(z, v, h, radial_kernel(name, 2), ALL)
    np.testing.assert_allclose(rate, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", KERNELS)
def test_continuity_is_the_derivative_of_the_summed_density(name):
    z, v, h, _ = three()
    kernel, eps = radial_kernel(name, 2), 1e-6
    ahead, behind = (summed_density(z + s * eps * v, h, kernel, ALL) for s in (1, -1))
    rate = density_rate(z, v, h, kernel, ALL)
    np.testing.assert_allclose(rate, (ahead - behind) / (2 * eps), rtol=1e-7, atol=1e-8)


def test_density_diffusion_of_three_particles():
    z, _, h, level = three()
    rho, c, name = np.array([0.2, 0.5, 0.3]), np.array([1.0, 2.0, 1.5]), "wendland2"

    def term(gap):
        def value(i, j):
            x = z[i] - z[j]
            F = -sum(kernel_gradient(name, x, s) @ x / (x @ x) for s in (h[i], h[j])) / 2
            length = (h[i] + h[j]) / 2 * (c[i] + c[j]) / 2
            return 2 / 3 * length * gap(i, j) * F / rho[j]

        return value

    kernel = radial_kernel(name, 2)
    plain = density_diffusion(z, rho, h, c, kernel, ALL)
    np.testing.assert_allclose(plain, pair_sum(3, term(lambda i, j: rho[j] - rho[i])), rtol=1e-7)
    excess = density_diffusion(z, rho, h, c, kernel, ALL, level)
    phi = level - np.log(rho)
    expected = pair_sum(3, term(lambda i, j: (rho[i] + rho[j]) / 2 * (phi[i] - phi[j])))
    np.testing.assert_allclose(excess, expected, rtol=1e-7)
    for D in (plain, excess):
        assert abs(np.sum(D / rho)) < 1e-14 * np.abs(D / rho).max() * 10
    # the form of the excess rests where log rho is the hydrostatic level, the plain one does not
    at_rest = density_diffusion(z, rho, h, c, kernel, ALL, np.log(rho) + 7.0)
    np.testing.assert_allclose(at_rest, 0, atol=1e-14)
    assert np.abs(plain).max() > 0.01


def test_density_diffusion_is_a_laplacian():
    """On a lattice, of rho = 1 + x^2 / 10, whose Laplacian is 1 / 5."""
    z = lattice(41, 0.1)
    n, h = len(z), np.full(len(z), 0.15)
    rho = (1 + 0.1 * z[:, 0] ** 2) / (n * 0.1**2)  # in units of the lattice's own number density
    kernel = radial_kernel("wendland4", 2)
    # volumes are m / rho: with rho close to the lattice's density the sum is an integral
    D = density_diffusion(z, rho, h, np.ones(n), kernel, Neighbours(n)) * (n * 0.1**2)
    middle = np.argmin(np.sum(z**2, axis=1))
    assert D[middle] == pytest.approx(0.15 * 0.2, rel=0.02)

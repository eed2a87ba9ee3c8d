"""Kernels: normalised, with unit variance at h = 1, and with the gradient that they claim."""

from __future__ import annotations

import math

from itertools import pairwise

import numpy as np
import pytest

from scipy.integrate import quad
from scipy.special import gamma

from pymc_sph.fluid.radial_kernels import SHAPES, radial_kernel

NAMES = sorted(SHAPES)


def reach(kernel):
    """Radius at h = 1 beyond which nothing is left."""
    return min(kernel.support, 12.0 + math.sqrt(kernel.dim))


def value(kernel, r, h=1.0):
    return float(kernel.value(np.array(r**2), np.array(h)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_integral_over_a_grid_is_one(name, dim):
    kernel = radial_kernel(name, dim)
    n = {1: 4001, 2: 401, 3: 121}[dim]
    axis = np.linspace(-reach(kernel), reach(kernel), n)
    cell = (axis[1] - axis[0]) ** dim
    squared = sum(np.meshgrid(*[axis**2] * dim, indexing="ij"))
    W = kernel.value(squared, np.array(1.0))
    # the trapezoidal rule on functions whose second derivative, at least, is bounded
    assert W.sum() * cell == pytest.approx(1, abs=2e-4)
    assert (squared * W).sum() * cell / dim == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 8, 13, 20])
def test_radial_integrals(name, dim):
    """Integral 1 and variance h^2 per dimension, by adaptive quadrature over the radius."""
    kernel, h = radial_kernel(name, dim), 0.7
    sphere = 2 * math.pi ** (dim / 2) / gamma(dim / 2)

    def integral(power):
        edges = [0, h * reach(kernel) / 4, h * reach(kernel) / 2, h * reach(kernel)]
        f = lambda r: sphere * value(kernel, r, h) * r ** (dim - 1 + power)  # noqa: E731
        return sum(quad(f, a, b, epsabs=1e-13)[0] for a, b in pairwise(edges))

    assert integral(0) == pytest.approx(1, rel=1e-9)
    assert integral(2) == pytest.approx(dim * h**2, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 2, 7])
def test_decay_is_the_slope_over_the_distance(name, dim):
    kernel, h = radial_kernel(name, dim), 0.6
    r = np.linspace(0.02, 0.98, 37) * h * min(kernel.support, 4.0)
    eps = 1e-6
    slope = [(value(kernel, x + eps, h) - value(kernel, x - eps, h)) / (2 * eps) for x in r]
    decay = kernel.decay(r**2, np.array(h))
    np.testing.assert_allclose(decay, -np.array(slope) / r, rtol=1e-6, atol=1e-7 * decay.max())
    # finite where particles meet, and zero outside the support
    assert np.isfinite(kernel.decay(np.zeros(1), np.array(h)))
    if np.isfinite(kernel.support):
        outside = np.array([(1.001 * kernel.support * h) ** 2])
        assert kernel.value(outside, np.array(h)) == 0 == kernel.decay(outside, np.array(h))


def test_constants_of_the_literature():
    """Normalisations of Dehnen and Aly (2012), table 1, with their unit of the support's radius."""
    expected = {
        ("cubic", 2): 80 / (7 * math.pi),
        ("cubic", 3): 16 / math.pi,
        ("wendland2", 2): 7 / math.pi,
        ("wendland2", 3): 21 / (2 * math.pi),
        ("wendland4", 2): 9 / math.pi,
        ("wendland4", 3): 495 / (32 * math.pi),
        ("wendland6", 2): 78 / (7 * math.pi),
        ("wendland6", 3): 1365 / (64 * math.pi),
    }
    for (name, dim), norm in expected.items():
        kernel = radial_kernel(name, dim)
        # theirs multiplies w(0) = 1 (1/2 for their cubic spline, (1 - x)^3 - 4 (1/2 - x)^3)
        factor = 0.5 if name == "cubic" else 1.0
        assert kernel.norm == pytest.approx(norm * factor, rel=1e-12)
    # their table's ratio of support and standard deviation
    assert radial_kernel("cubic", 3).support / 2 == pytest.approx(1.825742, abs=1e-6)
    assert radial_kernel("wendland2", 3).support / 2 == pytest.approx(1.936492, abs=1e-6)


def test_wendlands_functions_are_positive_definite():
    """The matrix of kernel values at random points has no negative eigenvalue, in any dimension."""
    rng = np.random.default_rng(0)
    for dim in (1, 2, 5, 20):
        z = rng.standard_normal((60, dim))
        squared = np.sum((z[:, None] - z) ** 2, axis=-1)
        for name in ("wendland2", "wendland4", "wendland6"):
            W = radial_kernel(name, dim).value(squared, np.array(0.8))
            assert np.linalg.eigvalsh(W)[0] > -1e-12 * W[0, 0]

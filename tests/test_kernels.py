"""The Gaussian kernel alone: quadrature, SciPy, plain linear algebra, loss of digits."""

from __future__ import annotations

import numpy as np
import pytest

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from pymc_sph.fluid import kernels

seeds = st.integers(0, 2**32 - 1)


def random_tensors(rng, n, d, full):
    if full:  # a bound from below on the singular values keeps the brute force well conditioned
        u, s, v = np.linalg.svd(rng.standard_normal((n, d, d)))
        return (u * (0.3 + s)[:, None, :]) @ v
    return 0.3 + rng.random((n, d))


def factor(A, i):
    return A[i] if A.ndim == 3 else np.diag(A[i])


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("d", [1, 2])
def test_every_kernel_integrates_to_one(d, full):
    rng = np.random.default_rng(0)
    A, z = random_tensors(rng, 3, d, full), rng.standard_normal((3, d))
    axis = np.linspace(-25, 25, 1001)  # step .05, sd above .3: trapezoidal error below 1e-12
    y = np.stack(np.meshgrid(*[axis] * d), axis=-1).reshape(-1, d)
    log_w = kernels.log_kernel(A, kernels.inverse(A), z, y)
    volume = np.exp(log_w).sum(axis=1) * (axis[1] - axis[0]) ** d
    np.testing.assert_allclose(volume, 1, rtol=1e-8)


@given(seeds, st.integers(1, 4), st.integers(1, 5), st.booleans())
def test_kernels_are_scipys_normal_densities(seed, n, d, full):
    rng = np.random.default_rng(seed)
    A, z = random_tensors(rng, n, d, full), rng.standard_normal((n, d))
    y = 2 * rng.standard_normal((6, d))
    log_w = kernels.log_kernel(A, kernels.inverse(A), z, y)
    assert log_w.shape == (n, 6)
    for i in range(n):
        factor_i = factor(A, i)
        expected = multivariate_normal(z[i], factor_i @ factor_i.T).logpdf(y)
        np.testing.assert_allclose(log_w[i], expected, rtol=1e-8, atol=1e-8)


@given(seeds, st.integers(1, 4), st.integers(1, 5), st.booleans())
def test_linear_maps_are_those_of_the_factors(seed, n, d, full):
    rng = np.random.default_rng(seed)
    A, v = random_tensors(rng, n, d, full), rng.standard_normal((n, d))
    for i in range(n):
        F = factor(A, i)
        np.testing.assert_allclose(kernels.stretch(A, v)[i], F @ v[i], atol=1e-12)
        np.testing.assert_allclose(kernels.pull(A, v)[i], F.T @ v[i], atol=1e-12)
        expected = np.linalg.solve(F, v[i])
        back = kernels.stretch(kernels.inverse(A), v)[i]
        np.testing.assert_allclose(back, expected, rtol=1e-8, atol=1e-8)
        assert kernels.log_det(A)[i] == pytest.approx(np.log(abs(np.linalg.det(F))), abs=1e-9)


@pytest.mark.parametrize("full", [True, False])
def test_pull_back_is_the_gradient_of_the_log_kernels(full):
    rng = np.random.default_rng(1)
    A, z = random_tensors(rng, 3, 2, full), rng.standard_normal((3, 2))
    A_inv, y, weights = kernels.inverse(A), rng.standard_normal((4, 2)), rng.random((3, 4))
    pulled = kernels.pull_back(A_inv, z, y, weights)
    for j, step in enumerate(1e-4 * np.eye(2)):
        up, down = (kernels.log_kernel(A, A_inv, z, y + s * step) for s in (1, -1))
        slope = np.sum(weights * (up - down), axis=0) / 2e-4
        # a difference of a quadratic is exact: only rounding, 1e-16 / 1e-4 of numbers near 10
        np.testing.assert_allclose(-pulled[:, j], slope, atol=1e-9)


@pytest.mark.parametrize("full", [True, False])
def test_given_whitened_offsets_are_used_as_they_are(full):
    rng = np.random.default_rng(2)
    A, z = random_tensors(rng, 3, 2, full), rng.standard_normal((3, 2))
    A_inv, y = kernels.inverse(A), rng.standard_normal((4, 2))
    e = kernels.whiten(A_inv, z, y) if full else None
    given_e = kernels.squared_distances(A_inv, z, y, e)
    np.testing.assert_array_equal(given_e, kernels.squared_distances(A_inv, z, y))
    weights = rng.random((3, 4))
    given_e = kernels.pull_back(A_inv, z, y, weights, e)
    np.testing.assert_array_equal(given_e, kernels.pull_back(A_inv, z, y, weights))


@given(seeds, st.floats(-1e4, 1e4), st.floats(1e-2, 1e2))
def test_expanded_distances_keep_their_digits_far_from_the_origin(seed, shift, width):
    # the diagonal tensors' expanded square cancels: about the mean of the particles it loses only
    # eps (spread / width)^2, wherever in space the fluid lies
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((4, 3))
    y, A_inv = z[[0, 1]] + width * rng.standard_normal((2, 3)), np.full((4, 3), 1 / width)
    exact = np.sum(((y - z[:, None]) / width) ** 2, axis=2)
    found = kernels.squared_distances(A_inv, z + shift, y + shift)
    assert (found >= 0).all()
    # rounding of z + shift itself moves a point by eps |shift|, in units of the kernel
    moved = 4e-16 * (1 + abs(shift)) / width
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-10 + 20 * moved * exact.max())

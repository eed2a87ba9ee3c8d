"""Particles and brute-force pair sums that the tests of the collocated scheme share."""

from __future__ import annotations

import numpy as np

from scipy.special import logsumexp

from pymc_sph.fluid.radial_kernels import radial_kernel

STEP = 1e-5
"""Step of the central differences that stand in for the kernels' own gradients."""


def three(d=2):
    """Three particles with nothing special about them: positions, velocities, lengths, values."""
    rng = np.random.default_rng(0)
    z, v = 0.7 * rng.standard_normal((3, d)), rng.standard_normal((3, d))
    h, values = np.array([0.5, 0.8, 0.65]), np.array([0.3, -1.2, 0.9])
    for array in (z, v, h, values):
        array.setflags(write=False)
    return z, v, h, values


def kernel_value(name, x, h):
    """W of one offset x (d,)."""
    return float(radial_kernel(name, len(x)).value(np.array(x @ x), np.array(h)))


def kernel_gradient(name, x, h):
    """Gradient of W at one offset x (d,), by central differences of its value."""
    out = np.zeros(len(x))
    for k in range(len(x)):
        e = np.zeros(len(x))
        e[k] = STEP
        out[k] = (kernel_value(name, x + e, h) - kernel_value(name, x - e, h)) / (2 * STEP)
    return out


def pair_sum(n, term):
    """Sum over j, j != i, of term(i, j), for every i."""
    return np.stack([sum(term(i, j) for j in range(n) if j != i) for i in range(n)])


def brute_density(name, z, h):
    """Densities by summation, a pair at a time."""
    n = len(z)
    return (
        np.array([sum(kernel_value(name, z[i] - z[j], h[j]) for j in range(n)) for i in range(n)])
        / n
    )


def lattice(n_side, spacing):
    """Points of a square lattice, (n_side^2, 2), about the origin."""
    axis = spacing * (np.arange(n_side) - (n_side - 1) / 2)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


def standard_normal(theta):
    """Normalised log density and gradient of N(0, I)."""
    d = theta.shape[1]
    return -0.5 * np.sum(theta**2, axis=1) - 0.5 * d * np.log(2 * np.pi), -theta


def nothing(theta):
    """A target without any force."""
    return np.zeros(len(theta)), np.zeros_like(theta)


def two_modes(theta):
    """Normalised log density and gradient of two overlapping Gaussians with weights .3 and .7."""
    means, sd = np.array([[-2.0, 0.0], [2.0, 0.0]]), 0.8
    gap = theta[:, None] - means
    each = -0.5 * np.sum(gap**2, axis=-1) / sd**2 - np.log(2 * np.pi * sd**2)
    each = each + np.log([0.3, 0.7])
    logp = logsumexp(each, axis=1)
    share = np.exp(each - logp[:, None])
    return logp, -np.sum(share[..., None] * gap, axis=1) / sd**2

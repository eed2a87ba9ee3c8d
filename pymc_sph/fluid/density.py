"""The fluid's density field rho(y) = sum_i m_i W(y - z_i; A_i): its value, gradient and samples.

rho is normalised in the frame; q(theta) = rho(y) / |det L| is the approximation of the posterior.
"""

from __future__ import annotations

import dataclasses
import math

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pymc_sph.fluid import kernels
from pymc_sph.fluid.state import Array, Fluid, namespace

BLOCK = 100_000
"""Numbers in the largest temporary array, over particles, probes and, for full tensors, d."""
COMPILED = 1_000
"""How many times as many in compiled code: blocks fit a core's cache, and accelerators want more
at once, as do probes that are spread over devices."""


@dataclass(frozen=True)
class Density:
    """The density field at K probes.

    Attributes
    ----------
    log_rho : (K,)
        Log density, in the frame.
    grad : (K, d)
        Its gradient, in the frame.
    R : (N, K)
        Responsibilities m_i W_i(y_k) / rho(y_k); every column sums to 1.
    A_inv : (N, d, d) or (N, d)
        Inverse smoothing tensors.
    """

    log_rho: Array
    grad: Array
    R: Array
    A_inv: Array

    def only(self, used: Array) -> Density:
        """Return the field with no responsibility for probes that `used` (K,) leaves out."""
        return dataclasses.replace(self, R=namespace(self.R).where(used, self.R, 0.0))


def blocks(fluid: Fluid, n_probes: int, per_probe: int | None = None) -> list[slice]:
    """Slices of the probes that keep every temporary array below `BLOCK` numbers.

    A probe takes `per_probe` of them; by default one for each particle, or d with full tensors.
    """
    if per_probe is None:
        per_probe = fluid.n_particles * (fluid.dim if fluid.full else 1)
    numbers = BLOCK if isinstance(fluid.z, np.ndarray) else COMPILED * BLOCK
    size = max(1, numbers // per_probe)
    return [slice(i, i + size) for i in range(0, max(n_probes, 1), size)]


def density(fluid: Fluid, y: Array, A_inv: Array = None) -> Density:
    """Density, its gradient and the responsibilities at probes y (K, d) of the frame.

    `A_inv` are the inverse smoothing tensors, where the caller has them.
    """
    xp = namespace(y)
    A_inv = kernels.inverse(fluid.A) if A_inv is None else A_inv
    parts = [_density_block(fluid, A_inv, y[block]) for block in blocks(fluid, len(y))]
    if len(parts) == 1:
        return parts[0]
    return Density(
        xp.concat([p.log_rho for p in parts]),
        xp.concat([p.grad for p in parts]),
        xp.concat([p.R for p in parts], axis=1),
        A_inv,
    )


def _density_block(fluid: Fluid, A_inv: Array, y: Array) -> Density:
    xp = namespace(y)
    e = kernels.whiten(A_inv, fluid.z, y) if fluid.full else None
    log_part = fluid.log_m[:, None] + kernels.log_kernel(fluid.A, A_inv, fluid.z, y, e)
    top = xp.max(log_part, axis=0)
    R = xp.exp(log_part - top)
    total = xp.sum(R, axis=0)
    R = R / total
    grad = -kernels.pull_back(A_inv, fluid.z, y, R, e)
    return Density(top + xp.log(total), grad, R, A_inv)


def log_density(fluid: Fluid, y: Array) -> Array:
    """Log rho at points y (K, d) of the frame, in blocks."""
    return log_densities(fluid, y, (1.0,))[0]


def log_densities(fluid: Fluid, y: Array, widths: Sequence[float]) -> Array:
    """Log rho (len(widths), K) at points of the frame, with kernels so many times as wide.

    The distances, most of the work, are the same for all widths.
    """
    xp = namespace(y)
    A_inv = kernels.inverse(fluid.A)
    constant = fluid.log_m - kernels.log_det(fluid.A) - 0.5 * fluid.dim * kernels.LOG_2PI
    out = []
    for block in blocks(fluid, len(y)):
        half = -0.5 * kernels.squared_distances(A_inv, fluid.z, y[block])
        rows = []
        for width in widths:
            log_part = half / width**2 + (constant - fluid.dim * math.log(width))[:, None]
            top = xp.max(log_part, axis=0)
            rows.append(top + xp.log(xp.sum(xp.exp(log_part - top), axis=0)))
        out.append(xp.stack(rows))
    return xp.concat(out, axis=1) if len(out) != 1 else out[0]


@dataclass(frozen=True)
class ProbeNoise:
    """The random numbers of one batch of probes.

    Attributes
    ----------
    offset : float
        Uniform on [0, 1): the offset of the systematic resampling.
    e : (K / 2, d)
        Standard normal numbers.
    """

    offset: float
    e: Array


def draw_noise(rng: Any, n_probes: int, dim: int) -> ProbeNoise:
    """Random numbers for `n_probes` probes (even), from a NumPy Generator."""
    return ProbeNoise(float(rng.random()), rng.standard_normal((n_probes // 2, dim)))


def draw_probes(fluid: Fluid, noise: ProbeNoise) -> tuple[Array, Array]:
    """Probes y ~ rho, in antithetic pairs, and the particle that each came from.

    Particles are picked by systematic resampling of the masses: particle i gets K m_i probes,
    rounded up or down, and the probes y = z_i + A_i e and z_i - A_i e.

    Returns
    -------
    y : (K, d)
        Probes, in the frame; probe k and probe k + K / 2 are antithetic twins.
    own : (K,) int
        Their particles.
    """
    xp = namespace(fluid.z)
    half = noise.e.shape[0]
    own = pick(fluid.log_m, (xp.arange(half) + noise.offset) / half)
    step = kernels.stretch(fluid.A[own], noise.e)
    y = xp.concat([fluid.z[own] + step, fluid.z[own] - step])
    return y, xp.concat([own, own])


def pick(log_m: Array, uniform: Array) -> Array:
    """Particles whose share of the cumulated masses the uniform numbers (K,) fall into."""
    xp = namespace(log_m)
    cumulated = xp.cumulative_sum(xp.exp(log_m))
    return xp.clip(xp.searchsorted(cumulated, uniform * cumulated[-1]), 0, log_m.shape[0] - 1)

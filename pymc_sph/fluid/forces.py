"""Forces on the particles, and how velocities follow from them."""

from __future__ import annotations

import math

from pymc_sph.fluid import kernels, masks
from pymc_sph.fluid.state import Array, Fluid, namespace


def clip_acceleration(r: Array, grad_log_rho: Array, used: Array, times: float = 5.0) -> Array:
    """Shorten the accelerations (K, d) longer than `times` their usual length.

    A probe far out in a tail must not throw the particles that it reaches. The usual length is the
    median of those `used` (K,), but no less than the acceleration of a kernel one width off its
    place, which is |grad log rho| / sqrt(d): when nearly all probes are at rest, the few that are
    not still count.
    """
    xp = namespace(r)
    length = xp.linalg.vector_norm(r, axis=1)
    width = xp.linalg.vector_norm(grad_log_rho, axis=1) / math.sqrt(r.shape[1])
    limit = times * xp.maximum(masks.median(length, used), masks.median(width, used))
    return r * xp.minimum(1.0, limit / xp.maximum(length, 1e-300))[:, None]


def viscous(fluid: Fluid, A_inv: Array, R: Array, u: Array, viscosity: float) -> Array:
    """Velocities u (N, d) drawn towards the mean velocity of each particle's neighbours.

    Neighbours are weighted by the overlap of their kernels, sum_k R_ik R_jk. It damps the noise
    between overlapping particles, and leaves a common motion as it is.
    """
    if viscosity == 0 or fluid.n_particles == 1:
        return u
    xp = namespace(u)
    overlap = R @ R.T
    overlap = overlap / (xp.sum(overlap, axis=1, keepdims=True) + 1e-300)
    velocity = kernels.stretch(fluid.A, u)
    neighbours = overlap @ velocity
    return kernels.stretch(A_inv, (1 - viscosity) * velocity + viscosity * neighbours)


def accelerate(fluid: Fluid, f: Array, damping: float) -> Array:
    """Velocities after a damped push: u <- (1 - gamma) u + gamma A' f, in units of the kernel."""
    return (1 - damping) * fluid.u + damping * kernels.pull(fluid.A, f)


INVERTIBLE = 0.125
"""Bound below which I + step, for a matrix step, is well away from singular: |step| <= 1 / 2."""


def bounded(step: Array, bound: float) -> Array:
    """Each particle's step, (N, ...), shortened to half its squared length <= `bound`."""
    xp = namespace(step)
    axes = tuple(range(1, step.ndim))
    half_square = 0.5 * xp.sum(step * step, axis=axes, keepdims=True)
    return step * xp.minimum(1.0, xp.sqrt(bound / xp.maximum(half_square, 1e-300)))

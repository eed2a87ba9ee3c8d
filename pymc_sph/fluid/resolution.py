"""Resolution: the smoothing tensors, and how many particles and probes a dimension needs."""

from __future__ import annotations

from pymc_sph.fluid.forces import bounded
from pymc_sph.fluid.state import Array, namespace


def resize(A: Array, moment: Array, rate: float, bound: float) -> Array:
    """Smoothing tensors after one step along their moment (see `interpolation.tensor_moment`).

    A <- A (I + rate M / 2), or s <- s exp(rate D / 2) for diagonal ones. On a Gaussian target of
    covariance C the full step is Newton's for A A' = C.
    """
    xp = namespace(A)
    step = bounded(0.5 * rate * moment, bound)
    if A.ndim == 3:
        return A + A @ step
    return A * xp.exp(step)


def default_particles(dim: int) -> int:
    """Particles per fluid: many where curvature can be resolved, few where the frame does most."""
    if dim <= 3:
        return 64
    return 32 if dim <= 30 else 16


def default_probes(dim: int, particles: int) -> int:
    """Probes per step and fluid."""
    return max(2 * particles, 128 if dim <= 30 else 256)

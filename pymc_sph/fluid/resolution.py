"""Resolution: the smoothing tensors, and how many particles and probes a dimension needs."""

from __future__ import annotations

import dataclasses
import math

from pymc_sph.fluid import kernels, mass
from pymc_sph.fluid.forces import INVERTIBLE, bounded
from pymc_sph.fluid.state import Array, Fluid, namespace

SPENT = 0.2
"""Mass, in units of the mean mass, below which a particle is taken to where it is needed."""


def resize(A: Array, moment: Array, rate: float, bound: float) -> Array:
    """Smoothing tensors after one step along their moment (see `interpolation.tensor_moment`).

    A <- A (I + rate M / 2), or s <- s exp(rate D / 2) for diagonal ones. On a Gaussian target of
    covariance C the full step is Newton's for A A' = C.
    """
    xp = namespace(A)
    if A.ndim == 3:
        return A + A @ bounded(0.5 * rate * moment, min(bound, INVERTIBLE))
    return A * xp.exp(bounded(0.5 * rate * moment, bound))


def split(fluid: Fluid, residual: Array) -> Fluid:
    """Move the lightest particle, if it is spent, to where the fluid lacks resolution.

    The particle with the largest mass times residual is split in two: the spent one takes half of
    its mass and a place one kernel width ahead, where its velocity points. A particle without
    mass has no probes, and would never find such a place by itself.

    Parameters
    ----------
    fluid : Fluid
        The fluid after its step.
    residual : (N,)
        Variance of the potential within each kernel; it vanishes at equilibrium.
    """
    xp = namespace(fluid.z)
    lightest = int(xp.argmin(fluid.log_m))
    if fluid.n_particles == 1 or fluid.log_m[lightest] > math.log(SPENT / fluid.n_particles):
        return fluid
    parent = int(xp.argmax(fluid.log_m + xp.log(residual + 1e-300)))
    if parent == lightest:
        return fluid
    ahead = fluid.u[parent] / xp.maximum(xp.linalg.vector_norm(fluid.u[parent]), 1e-300)
    place = fluid.z[parent] + kernels.stretch(fluid.A[parent][None], ahead[None])[0]
    index = xp.arange(fluid.n_particles)
    source = xp.where(index == lightest, parent, index)
    halved = (index == lightest) | (index == parent)
    moved = (index == lightest)[:, None]
    return dataclasses.replace(
        fluid,
        z=xp.where(moved, place, fluid.z),
        u=fluid.u[source],
        A=fluid.A[source],
        log_m=mass.normalise(fluid.log_m[source] - math.log(2.0) * halved),
    )


def default_particles(dim: int) -> int:
    """Particles per fluid: enough for a bent posterior; a straight one needs few."""
    if dim <= 3:
        return 64
    return 32 if dim <= 30 else 48


def default_probes(dim: int, particles: int) -> int:
    """Probes per step and fluid; many where diagonal tensors must be told from noise."""
    return max(2 * particles, 128) if dim <= 30 else 16 * particles

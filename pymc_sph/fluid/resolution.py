"""Resolution: the smoothing tensors, and how many particles and probes a dimension needs."""

from __future__ import annotations

import dataclasses
import math

from typing import Any

from pymc_sph.fluid import kernels, mass
from pymc_sph.fluid.density import density
from pymc_sph.fluid.forces import INVERTIBLE, bounded
from pymc_sph.fluid.state import Array, Fluid, branch, indices, namespace

SPENT = 0.2
"""Mass, in units of the mean mass, below which a particle may be taken to where it is needed."""
GAIN = 0.25
"""Share of half the variance of the potential that one more particle is expected to explain."""
HOLE = 1e-9
"""Share of the density left at a place that no other particle reaches: 20 nats below."""
LOOKS = 8
"""Points of a kernel at which its loss is looked at."""


def resize(A: Array, moment: Array, rate: float, bound: float) -> Array:
    """Smoothing tensors after one step along their moment (see `interpolation.tensor_moment`).

    A <- A (I + rate M / 2), or s <- s exp(rate D / 2) for diagonal ones. On a Gaussian target of
    covariance C the full step is Newton's for A A' = C.
    """
    xp = namespace(A)
    if A.ndim == 3:
        return A + A @ bounded(0.5 * rate * moment, min(bound, INVERTIBLE))
    return A * xp.exp(bounded(0.5 * rate * moment, bound))


def split(fluid: Fluid, residual: Array, e: Array) -> Fluid:
    """Move one light particle, if it is not needed where it is, to where resolution is lacking.

    The particle with the largest mass times residual is split in two: the light one takes half of
    its mass and a place one kernel width ahead, where its velocity points. Half of that product
    estimates what KL(rho || p) could lose there (nats); a share of it, `GAIN`, is compared with
    what taking the light one away costs (`removal_loss`). So a particle alone on a small mode
    stays, and one whose place others cover, or that has no mass, goes.

    Parameters
    ----------
    fluid : Fluid
        The fluid after its step.
    residual : (N,)
        Variance of the potential within each kernel; it vanishes at equilibrium.
    e : (S, d)
        Standard normal numbers: where within a kernel its loss is looked at.
    """
    light = fluid.log_m < math.log(SPENT / fluid.n_particles)
    some = namespace(light).any(light)
    return branch(some, lambda: _split_lightest(fluid, light, residual, e), fluid)


def _split_lightest(fluid: Fluid, light: Array, residual: Array, e: Array) -> Fluid:
    """Move one of the particles that `light` (N,) picks, if it pays; see `split`."""
    xp = namespace(fluid.z)
    which = indices(light)
    loss = xp.where(light[which], removal_loss(fluid, which, e), float("inf"))
    spent = which[xp.argmin(loss)]
    need = fluid.log_m + xp.log(residual + 1e-300)
    parent = xp.argmax(need)
    pays = (parent != spent) & (xp.min(loss) <= 0.5 * GAIN * xp.exp(need[parent]))
    return branch(pays, lambda: _replace(fluid, spent, parent), fluid)


def _replace(fluid: Fluid, spent: Any, parent: Any) -> Fluid:
    """Fluid with the particle `spent` taken away, and `parent` split in two."""
    xp = namespace(fluid.z)
    ahead = fluid.u[parent] / xp.maximum(xp.linalg.vector_norm(fluid.u[parent]), 1e-300)
    place = fluid.z[parent] + kernels.stretch(fluid.A[parent][None], ahead[None])[0]
    index = xp.arange(fluid.n_particles)
    source = xp.where(index == spent, parent, index)
    halved = (index == spent) | (index == parent)
    moved = (index == spent)[:, None]
    return dataclasses.replace(
        fluid,
        z=xp.where(moved, place, fluid.z),
        u=fluid.u[source],
        A=fluid.A[source],
        log_m=mass.normalise(fluid.log_m[source] - math.log(2.0) * halved),
    )


def removal_loss(fluid: Fluid, particles: Array, e: Array) -> Array:
    """Cost of taking each of these particles away, in nats of the ELBO, (len(particles),).

    Without particle i its points lose the share R_i of their density: the loss is
    m_i <-log(1 - R_i)>_i, here with the mean over the points z_i + A_i e. It is close to
    m_i R_i where others cover the place, and m_i times the depth of the hole where none does.
    """
    xp = namespace(fluid.z)
    n = e.shape[0]
    own = xp.repeat(particles, n)
    y = fluid.z[own] + kernels.stretch(fluid.A[own], xp.tile(e, (len(particles), 1)))
    R = density(fluid, y).R[own, xp.arange(len(own))]
    hole = -xp.log(xp.maximum(1.0 - R, HOLE))
    return xp.exp(fluid.log_m[particles]) * xp.mean(xp.reshape(hole, (-1, n)), axis=1)


def default_particles(dim: int) -> int:
    """Particles per fluid: enough for a bent posterior; a straight one needs few."""
    if dim <= 3:
        return 64
    return 32 if dim <= 30 else 96


def default_probes(dim: int, particles: int) -> int:
    """Probes per step and fluid; many where diagonal tensors must be told from noise."""
    return max(2 * particles, 128) if dim <= 30 else 8 * particles

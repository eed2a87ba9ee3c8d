"""How the target enters the collocated scheme: as a force, or as a pressure from its values alone.

l is the log density of the target in the frame, g its gradient, p = exp(l - log_z) with a constant
log_z that should be its log evidence. At rest the fluid's acceleration balances them; for an
isothermal gas, P = c^2 rho:

================== ======================================== ==============================
name               acceleration                             density at rest
================== ======================================== ==============================
force              alpha grad log p                         p^(alpha / c^2)
potential          the same, by an SPH gradient of values   p^(alpha / c^2)
density_force      alpha grad p                             exp(alpha p / c^2): not p
pressure           P_ext = -alpha log p in (1 / rho) grad P (alpha / c^2) log p + constant,
                                                            cut off at 0: not p
density_pressure   P_ext = -alpha p in (1 / rho) grad P     (alpha / c^2) p + constant
================== ======================================== ==============================

The level of an external pressure matters, although in the continuum only its gradient does: a
fluid is bound only if its total pressure falls to 0 at its edge, and a stray particle beyond an
edge of "pressure" is driven off. The last form is p at alpha = c^2 if log_z is right: the constant
is then 0. With a smaller alpha, or log_z too large, part of the fluid is not bound and drifts away;
with a larger one the tails are cut off. ``docs/paper.md`` derives all of them.
"""

from __future__ import annotations

import math

from pymc_sph.fluid.neighbours import Neighbours, squared_distances
from pymc_sph.fluid.radial_kernels import RadialKernel
from pymc_sph.fluid.state import Array, namespace

GRADIENT = ("force", "density_force")
"""Forms that need the target's gradient."""
FORMS = ("force", "potential", "density_force", "pressure", "density_pressure")
"""Ways in which the target can enter, by name."""
LEAST_MOMENT = 0.1
"""Least eigenvalue by which an SPH gradient is corrected."""
LARGEST_LOG = 300.0
"""Largest log p that is exponentiated: a wrong log_z must not overflow."""


def external_pressure(form: str, alpha: float, logp: Array) -> Array | None:
    """P_ext (N,) for log p (N,), or None for the forms that have none."""
    if form == "pressure":
        return -alpha * logp
    return -alpha * _density(logp) if form == "density_pressure" else None


def bound_level(dim: int, alpha: float, c2: float) -> float:
    """Level log_z at which "pressure" binds all of an isothermal gas, for p = N(0, I).

    c^2 rho = alpha (log p - log_z) = alpha (R^2 - r^2) / 2, the ball of radius R, has the mass 1.
    """
    ball = math.exp(0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1.0))
    radius2 = ((dim + 2) * c2 / (alpha * ball)) ** (2.0 / (dim + 2))
    return -0.5 * dim * math.log(2.0 * math.pi) - 0.5 * radius2


def external_force(
    form: str,
    alpha: float,
    logp: Array,
    score: Array,
    z: Array,
    rho: Array,
    h: Array,
    kernel: RadialKernel,
    neighbours: Neighbours,
) -> Array | None:
    """Acceleration (N, d) by the target, or None for the forms that enter as a pressure.

    Parameters
    ----------
    form : str
        One of `FORMS`.
    alpha : float
        Amplification.
    logp, score : (N,), (N, d)
        log p in the frame, and its gradient there; "potential" does not look at the latter.
    z, rho, h : (N, d), (N,), (N,)
        Positions, densities, smoothing lengths.
    kernel, neighbours
        Kernel and pairs of the particles.
    """
    if form == "force":
        return alpha * score
    if form == "density_force":
        return alpha * _density(logp)[:, None] * score
    if form == "potential":
        return alpha * corrected_gradient(z, logp, rho, h, kernel, neighbours)
    return None


def corrected_gradient(
    z: Array, values: Array, rho: Array, h: Array, kernel: RadialKernel, neighbours: Neighbours
) -> Array:
    """SPH gradient (N, d) of values (N,), exact for linear functions (Bonet and Lok 1999).

    M_i^-1 sum_j (m_j / rho_j) (B_j - B_i) grad_i W_ij, M_i = sum_j (m_j / rho_j) F_ij x_ij x_ij'.
    M is the identity in the continuum. At the edge of the fluid half of the kernel is empty, and
    without the correction the target would push there with half its strength. Eigenvalues of M are
    kept above 1 / 10: a particle without neighbours in some direction feels little force there,
    and one without any neighbours none at all.
    """
    xp = namespace(z)
    n, d = z.shape
    z = z - xp.mean(z, axis=0)
    products = xp.reshape(z[:, :, None] * z[:, None, :], (n, d * d))
    out = []
    for block in neighbours.blocks():
        own = z[block.rows]
        F = kernel.decay(squared_distances(block, z), block.j(h)) / (n * block.j(rho))
        c = F * (block.i(values) - block.j(values))
        gradient = block.sum(c)[:, None] * own - block.weigh(c, z)
        cross = block.weigh(F, z)[:, :, None] * own[:, None, :]
        moment = xp.reshape(block.weigh(F, products), (-1, d, d)) - cross - cross.mT
        moment = moment + block.sum(F)[:, None, None] * own[:, :, None] * own[:, None, :]
        size, axes = xp.linalg.eigh(moment)
        along = (axes.mT @ gradient[:, :, None])[:, :, 0] / xp.maximum(size, LEAST_MOMENT)
        out.append((axes @ along[:, :, None])[:, :, 0])
    return xp.concat(out)


def _density(logp: Array) -> Array:
    xp = namespace(logp)
    return xp.exp(xp.minimum(logp, LARGEST_LOG))

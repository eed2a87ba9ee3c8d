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

The last is p at alpha = c^2 if log_z is right: the constant is then 0. With a smaller alpha, or
log_z too large, part of the fluid is not bound and drifts away; with a larger one the tails are cut
off. ``docs/paper.md`` derives all of them.
"""

from __future__ import annotations

from pymc_sph.fluid.neighbours import Neighbours, squared_distances
from pymc_sph.fluid.radial_kernels import RadialKernel
from pymc_sph.fluid.state import Array, namespace

GRADIENT = ("force", "density_force")
"""Forms that need the target's gradient."""
FORMS = ("force", "potential", "density_force", "pressure", "density_pressure")
"""Ways in which the target can enter, by name."""
LARGEST_LOG = 300.0
"""Largest log p that is exponentiated: a wrong log_z must not overflow."""


def external_pressure(form: str, alpha: float, logp: Array) -> Array | None:
    """P_ext (N,) for log p (N,), or None for the forms that have none."""
    if form == "pressure":
        return -alpha * logp
    return -alpha * _density(logp) if form == "density_pressure" else None


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
        return alpha * difference_gradient(z, logp, rho, h, kernel, neighbours)
    return None


def difference_gradient(
    z: Array, values: Array, rho: Array, h: Array, kernel: RadialKernel, neighbours: Neighbours
) -> Array:
    """SPH gradient (N, d) of values (N,): sum_j (m_j / rho_j) (B_j - B_i) grad_i W_ij.

    Exact for a constant, and up to the irregularity of the particles for a linear function.
    """
    m = 1.0 / z.shape[0]
    out = []
    for block in neighbours.blocks():
        F = kernel.decay(squared_distances(block, z), block.j(h))
        c = m * F * (block.i(values) - block.j(values)) / block.j(rho)
        out.append(block.sum(c)[:, None] * z[block.rows] - block.weigh(c, z))
    return namespace(z).concat(out)


def _density(logp: Array) -> Array:
    xp = namespace(logp)
    return xp.exp(xp.minimum(logp, LARGEST_LOG))

"""Density by the continuity equation, with the density diffusion of delta-SPH.

    d rho_i / dt = sum_j m_j (v_i - v_j) . grad_i W_ij  +  D_i

Without diffusion, and with constant h, this is exactly the time derivative of the density by
summation. The diffusion of Molteni and Colagrossi (2009) is the SPH Laplacian

    D_i = 2 delta sum_j (m_j / rho_j) h_ij c_ij psi_ij F_ij,   psi_ij = rho_j - rho_i

(delta-SPH: Antuono et al. 2010); sum_i (m_i / rho_i) D_i = 0. **It is biased here**: it does not
vanish at rho = p. The density that is carried along levels out to a constant rho_c, and the
particles, no longer of that density, settle near n = rho_c / (2 c^2) (alpha log p + constant).
Diffusing only the excess over the hydrostatic
state (Fourtakas et al. 2019), psi_ij = rho_ij (phi_i - phi_j) with phi = (alpha / c^2) log p -
log rho, cures that: phi is flat at rho = p^(alpha / c^2).
"""

from __future__ import annotations

from pymc_sph.fluid.neighbours import Neighbours, squared_distances
from pymc_sph.fluid.radial_kernels import RadialKernel
from pymc_sph.fluid.state import Array, namespace
from pymc_sph.fluid.summation import approach, decays, is_uniform


def density_rate(
    z: Array, v: Array, h: Array, kernel: RadialKernel, neighbours: Neighbours
) -> Array:
    """Rate of change of the densities (N,) by compression, for velocities v (N, d)."""
    out, uniform = [], is_uniform(h)
    for block in neighbours.blocks():
        F, _ = decays(block, squared_distances(block, z), h, kernel, uniform=uniform)
        out.append(-block.sum(F * approach(block, z, v)) / z.shape[0])
    return namespace(z).concat(out)


def density_diffusion(
    z: Array,
    rho: Array,
    h: Array,
    speed: Array,
    kernel: RadialKernel,
    neighbours: Neighbours,
    hydrostatic: Array | None = None,
) -> Array:
    """D_i (N,) at delta = 1.

    Parameters
    ----------
    z, rho, h, speed : (N, d), (N,), (N,), (N,)
        Positions, densities, smoothing lengths and sound speeds.
    kernel, neighbours
        Kernel and pairs of the particles.
    hydrostatic : (N,), optional
        Log density at rest, (alpha / c^2) log p up to a constant: only the excess over it is
        diffused. None diffuses the density itself.
    """
    xp = namespace(z)
    m, uniform = 1.0 / z.shape[0], is_uniform(h)
    excess = None if hydrostatic is None else xp.log(rho) - hydrostatic
    out = []
    for block in neighbours.blocks():
        ahead, behind = decays(block, squared_distances(block, z), h, kernel, uniform=uniform)
        F = 0.5 * (ahead + behind)
        length = 0.5 * (block.i(h) + block.j(h)) * 0.5 * (block.i(speed) + block.j(speed))
        if excess is None:
            gap = block.j(rho) - block.i(rho)
        else:
            gap = 0.5 * (block.i(rho) + block.j(rho)) * (block.j(excess) - block.i(excess))
        out.append(2.0 * m * block.sum(F * length * gap / block.j(rho)))
    return xp.concat(out)

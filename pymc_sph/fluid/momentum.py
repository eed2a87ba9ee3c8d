"""Accelerations of the collocated scheme from within the fluid: pressure and viscosity.

Every pair force here but `plain_pressure_force` is antisymmetric in i and j, so that the fluid's
momentum is conserved to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

from pymc_sph.fluid.neighbours import Neighbours, squared_distances
from pymc_sph.fluid.radial_kernels import RadialKernel
from pymc_sph.fluid.state import Array, namespace
from pymc_sph.fluid.summation import approach, decays, is_uniform

SOFTENING = 1e-6
"""Least r^2, in units of h^2, that a direction is divided by."""


def symmetric_pressure_force(
    z: Array, rho: Array, pressure: Array, h: Array, kernel: RadialKernel, neighbours: Neighbours
) -> Array:
    """a_i = -sum_j m_j (P_i / rho_i^2 grad W(h_j) + P_j / rho_j^2 grad W(h_i)), (N, d).

    With the density by summation and fixed h this is minus the derivative of the energy
    sum_i m_i e(rho_i) with respect to z_i, over m_i. With an isothermal gas it is the "blob" method
    (Carrillo, Craig and Patacchini 2019): at rest the *particles* follow p up to terms of order
    h^4, and the smoothed density is p convolved with the kernel.
    """
    m, uniform = 1.0 / z.shape[0], is_uniform(h)
    per_mass = pressure / rho**2
    out = []
    for block in neighbours.blocks():
        source, own = decays(block, squared_distances(block, z), h, kernel, uniform=uniform)
        c = m * (block.i(per_mass) * source + block.j(per_mass) * own)
        out.append(block.sum(c)[:, None] * z[block.rows] - block.weigh(c, z))
    return namespace(z).concat(out)


def plain_pressure_force(
    z: Array, rho: Array, pressure: Array, h: Array, kernel: RadialKernel, neighbours: Neighbours
) -> Array:
    """a_i = -(1 / rho_i) sum_j (m_j / rho_j) P_j grad_i W_ij, (N, d): the paper's eq. 19.

    For an isothermal gas this is -c^2 grad log rho(z_i) of the smoothed field, so that at rest, at
    the particles, the *smoothed density* follows p whatever h is. Momentum is not conserved.
    """
    m = 1.0 / z.shape[0]
    carried = pressure / rho
    out = []
    for block in neighbours.blocks():
        F = kernel.decay(squared_distances(block, z), block.j(h))
        c = m * F * block.j(carried)
        force = block.sum(c)[:, None] * z[block.rows] - block.weigh(c, z)
        out.append(force / rho[block.rows][:, None])
    return namespace(z).concat(out)


PRESSURE_FORCES: dict[str, Callable[..., Array]] = {
    "symmetric": symmetric_pressure_force,
    "plain": plain_pressure_force,
}
"""Forms of the pressure force by name."""


def viscous_force(
    z: Array, v: Array, rho: Array, h: Array, kernel: RadialKernel, neighbours: Neighbours
) -> Array:
    """nu lap v + nu / 3 grad(div v) at nu = 1, (N, d): the paper's viscosity.

    With F = -W' / r, u = v_j - v_i and the direction e of the pair, both derivatives are integrals
    over F (Espanol and Revenga 2003, Phys. Rev. E 67, 026705, here in d dimensions):

        lap v = 2 int F u,   grad(div v) = int F ((d + 2) e (e . u) - u)

    so that a_i = sum_j 2 m_j / (rho_i + rho_j) F_ij (5 / 3 u + (d + 2) / 3 e (e . u)). It
    dissipates kinetic energy, whatever the velocities. It does not move the state of rest.
    """
    n, d = z.shape
    uniform = is_uniform(h)
    out = []
    for block in neighbours.blocks():
        squared = squared_distances(block, z)
        source, own = decays(block, squared, h, kernel, uniform=uniform)
        F = (source + own) / (n * (block.i(rho) + block.j(rho)))
        softened = squared + SOFTENING * block.i(h) * block.j(h)
        along = -(d + 2) / 3.0 * F * approach(block, z, v) / softened
        shear = 5.0 / 3.0 * F
        out.append(
            block.weigh(shear, v)
            - block.sum(shear)[:, None] * v[block.rows]
            + block.sum(along)[:, None] * z[block.rows]
            - block.weigh(along, z)
        )
    return namespace(z).concat(out)

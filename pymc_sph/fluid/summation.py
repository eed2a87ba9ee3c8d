"""Density by summation, rho_i = sum_j m_j W(z_i - z_j; h_j): the field itself at its particles.

The kernel's width is that of the source j, as in the returned density rho(y) = sum_j m_j W(y - z_j;
h_j), so that particle i's density is that field at y = z_i. (Gingold and Monaghan 1977; the paper's
eq. 19.) All masses are m = 1 / N.
"""

from __future__ import annotations

from pymc_sph.fluid.neighbours import Block, Neighbours, squared_distances
from pymc_sph.fluid.radial_kernels import RadialKernel
from pymc_sph.fluid.state import Array, namespace


def summed_density(z: Array, h: Array, kernel: RadialKernel, neighbours: Neighbours) -> Array:
    """Densities rho_i (N,) of particles at z (N, d) with smoothing lengths h (N,)."""
    out = []
    for block in neighbours.blocks():
        W = kernel.value(squared_distances(block, z), block.j(h))
        out.append(block.sum(W) / z.shape[0])
    return namespace(z).concat(out)


def decays(
    block: Block, squared: Array, h: Array, kernel: RadialKernel, *, uniform: bool
) -> tuple[Array, Array]:
    """F(r_ij; h_j) and F(r_ij; h_i), the same array where all h are equal (`uniform`).

    The gradient of W(z_i - z_j; h) in z_i is -F (z_i - z_j).
    """
    source = kernel.decay(squared, block.j(h))
    return source, source if uniform else kernel.decay(squared, block.i(h))


def is_uniform(h: Array) -> bool:
    """Whether all smoothing lengths are the same, so that one of two kernel values is saved."""
    xp = namespace(h)
    return bool(xp.max(h) == xp.min(h))


def approach(block: Block, z: Array, v: Array) -> Array:
    """(z_i - z_j) . (v_i - v_j) of the pairs: negative where they approach each other."""
    xp = namespace(z)
    own = xp.sum(z * v, axis=1)
    return block.i(own) + block.j(own) - block.dot(z, v) - block.dot(v, z)

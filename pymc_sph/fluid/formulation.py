"""How the target pushes the fluid: the two formulations, which differ in what they differentiate.

In the **force form** the target enters as an external force: the acceleration r = grad phi at the
probes is interpolated onto the particles. In the **pressure form** it enters by the values of the
potential alone, and the derivative sits on the kernel. By Stein's identity, under the Gaussian
kernel of particle i and with e = A_i^-1 (y - z_i),

    E[grad phi] = A_i^-T E[(phi - E phi) e],
    E[e (A_i' grad phi)'] = E[(phi - E phi) (e e' - I)],

so that both forms estimate the same three pushes: the gradient of the ELBO with respect to
positions, smoothing tensors and frame. Values need more probes than gradients, but their noise,
too, falls with the spread of phi under the kernel, which is zero in equilibrium.

The two are the designs of the source paper (SPH-ParVI, arXiv 2407.09186), the second one with the
external pressure inside a corrected kernel gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymc_sph.fluid import interpolation, kernels
from pymc_sph.fluid.density import Density, blocks
from pymc_sph.fluid.frame import frame_moment
from pymc_sph.fluid.state import Array, Fluid, namespace

LEAST_SPREAD = 0.3
"""Least mean square of e_j under a kernel by which the pressure force is divided."""


@dataclass(frozen=True)
class Push:
    """What drives a step, whichever form it came from.

    Attributes
    ----------
    force : (N, d)
        Mean of grad phi under each kernel, in the frame.
    tensor : (N, d, d) or (N, d)
        Mean of e (A_i' grad phi)' under each kernel, symmetric, or its diagonal.
    frame : (d, d)
        Mean of grad phi (y - z_i)' over kernels and particles, symmetric.
    """

    force: Array
    tensor: Array
    frame: Array


def force_form(
    fluid: Fluid, field: Density, weights: Array, y: Array, own: Array, r: Array, n: Any = None
) -> Push:
    """Push from the acceleration r (K, d) at probes y (K, d) of the particles own (K,).

    Where r is 0 because a probe is set aside, `n` of them are left.
    """
    return Push(
        interpolation.interpolate(weights, r),
        interpolation.tensor_moment(fluid, field.A_inv, weights, y, r),
        frame_moment(r, y - fluid.z[own], n),
    )


def pressure_form(fluid: Fluid, field: Density, weights: Array, y: Array, phi: Array) -> Push:
    """Push from the potential phi (K,) at probes y (K, d).

    The force is a corrected kernel gradient: each component of <(phi - <phi>) e> is divided by
    the mean square of e_j over the same probes, which is 1 for many of them.
    """
    xp = namespace(y)
    excess = phi - interpolation.interpolate(weights, phi)[:, None]
    moments = _full_moments if fluid.full else _diagonal_moments
    first, second, tensor, frame = moments(fluid, field.A_inv, weights, excess, y)
    first = first / xp.maximum(second, LEAST_SPREAD)
    return Push(kernels.pull(field.A_inv, first), tensor, 0.5 * (frame + frame.T))


def _full_moments(
    fluid: Fluid, A_inv: Array, weights: Array, excess: Array, y: Array
) -> tuple[Array, Array, Array, Array]:
    """<x e>, <e e> (N, d), <x (e e' - I)> (N, d, d) and the frame's, for the excess x (N, K)."""
    xp = namespace(y)
    first, second, moment = 0.0, 0.0, 0.0
    weighted = weights * excess
    for block in blocks(fluid, len(y)):
        e = kernels.whiten(A_inv, fluid.z, y[block])
        first = first + (e @ weighted[:, block, None])[:, :, 0]
        second = second + ((e * e) @ weights[:, block, None])[:, :, 0]
        moment = moment + (weighted[:, None, block] * e) @ e.mT
    moment = moment - xp.sum(weighted, axis=1)[:, None, None] * xp.eye(fluid.dim)
    # A_i^-T M_i A_i' is the mean of grad phi (y - z_i)' under kernel i
    shares = xp.exp(fluid.log_m)[:, None, None] * (A_inv.mT @ moment @ fluid.A.mT)
    return first, second, moment, xp.sum(shares, axis=0)


def _diagonal_moments(
    fluid: Fluid, A_inv: Array, weights: Array, excess: Array, y: Array
) -> tuple[Array, Array, Array, Array]:
    """<x e>, <e e>, <x (e e - 1)>, (N, d) each, and the frame's, for the excess x (N, K)."""
    xp = namespace(y)
    # expanded, so that no (N, K, d) array is needed; about the mean, to lose fewer digits
    centre = xp.mean(fluid.z, axis=0)
    y, z, precision = y - centre, fluid.z - centre, A_inv**2
    weighted = weights * excess
    total, mass = xp.sum(weighted, axis=1)[:, None], xp.sum(weights, axis=1)[:, None]
    linear, square = weighted @ y, y * y
    first = A_inv * (linear - z * total)
    second = precision * (weights @ square - 2 * z * (weights @ y) + z * z * mass)
    moment = precision * (weighted @ square - 2 * z * linear + z * z * total) - total
    # sum_i m_i S_i^-1 <x (y - z_i) (y - z_i)'>, with S_i^-1 the precisions of particle i
    m = xp.exp(fluid.log_m)[:, None]
    scaled = m * precision
    frame = (y * ((weighted.T) @ scaled)).T @ y - (scaled * linear).T @ z
    frame = frame - (scaled * z).T @ (linear - total * z)
    return first, second, moment, frame - xp.sum(m * total) * xp.eye(fluid.dim)

"""Mass exchange: particles where the fluid misses p gain mass, those where it is too dense lose."""

from __future__ import annotations

import dataclasses

from pymc_sph.fluid import kernels, masks
from pymc_sph.fluid.density import blocks
from pymc_sph.fluid.interpolation import interpolate, smoothing_weights
from pymc_sph.fluid.state import Array, Fluid, namespace

MASS_FLOOR = 1e-6
"""Least mass of a particle, in units of the mean mass 1 / N."""
VOID = 3.0
"""Depth of the potential where p is zero, in nats below the median of the probes."""
SETTLING = (0.5, 12)
"""Rate and number of the exchanges of `settle`: what was off ends at 1 / 4,096 of it."""


def clip_potential(phi: Array, void: Array, finite: Array, width: float = 20.0) -> Array:
    """Potential (K,), at most `width` nats from its median over the `finite` (K,) probes.

    Where `void` (K,) says that p is zero, it is `VOID` nats below the median: a particle in a void
    dies out, one that reaches into it a little does not.
    """
    xp = namespace(phi)
    middle = masks.median(phi, finite)
    return xp.where(void, middle - VOID, xp.clip(phi, middle - width, middle + width))


def normalise(log_m: Array) -> Array:
    """Log masses that sum to 1, none below the floor."""
    xp = namespace(log_m)
    m = xp.exp(log_m - xp.max(log_m))
    m = m / xp.sum(m)
    m = xp.maximum(m, MASS_FLOOR / m.shape[0])
    return xp.log(m / xp.sum(m))


def exchange(log_m: Array, excess: Array, rate: float, bound: float = 1.0) -> Array:
    """Log m_i <- log m_i + rate E_i with E_i = <phi>_i - mean phi, at most `bound` a step.

    This is the natural gradient flow of the free energy in the masses, and the paper's density
    diffusion written as a reaction between particles.
    """
    xp = namespace(log_m)
    return normalise(log_m + xp.clip(rate * excess, -bound, bound))


def settle(fluid: Fluid, y: Array, logp: Array) -> Fluid:
    """Let the masses come to rest, all else as it is.

    A fluid stops when its ELBO has, and there the masses of two modes may still be some percent
    off: that hardly costs anything. The same probes serve every exchange, as neither they nor the
    kernels change.

    Parameters
    ----------
    fluid : Fluid
        The fluid.
    y : (K, d)
        Probes from its density, in the frame.
    logp : (K,)
        Finite log density of the target there, up to a constant.
    """
    xp = namespace(y)
    A_inv = kernels.inverse(fluid.A)
    # a full tensor's kernels take (N, K, d) numbers on the way
    parts = [
        kernels.log_kernel(fluid.A, A_inv, fluid.z, y[block]) for block in blocks(fluid, len(y))
    ]
    log_kernel = xp.concat(parts, axis=1) if len(parts) > 1 else parts[0]

    def log_rho(log_m: Array) -> tuple[Array, Array]:
        part = log_m[:, None] + log_kernel
        top = xp.max(part, axis=0)
        return part, top + xp.log(xp.sum(xp.exp(part - top), axis=0))

    part, total = log_rho(fluid.log_m)
    weights = smoothing_weights(fluid, xp.exp(part - total))
    log_m = fluid.log_m
    rate, times = SETTLING
    void = xp.zeros_like(logp, dtype=bool)
    for _ in range(times):
        phi = clip_potential(logp - total, void, ~void)
        log_m = exchange(log_m, interpolate(weights, phi - xp.mean(phi)), rate)
        total = log_rho(log_m)[1]
    return dataclasses.replace(fluid, log_m=log_m)

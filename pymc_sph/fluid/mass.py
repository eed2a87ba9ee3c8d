"""Mass exchange: particles where the fluid misses p gain mass, those where it is too dense lose."""

from __future__ import annotations

from pymc_sph.fluid.state import Array, namespace

MASS_FLOOR = 1e-6
"""Least mass of a particle, in units of the mean mass 1 / N."""


def clip_potential(phi: Array, width: float = 20.0) -> Array:
    """Potential (K,), at most `width` nats from its median."""
    xp = namespace(phi)
    middle = xp.median(phi)
    return xp.clip(phi, middle - width, middle + width)


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

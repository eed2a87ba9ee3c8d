"""The ideal isothermal gas P = c^2 rho, of temperature T = c^2, in the field of the target.

Its free energy is F = integral rho (T log rho - alpha l), with l the target's log density: at
T = alpha = 1 this is minus the ELBO. The potential phi = alpha l - T log rho is minus the
derivative of F with respect to rho, up to a constant, and the acceleration of the gas is
r = grad phi = alpha grad l - (1 / rho) grad P. Both are flat, phi constant and r zero, exactly
when rho is proportional to p^(alpha / T): at T = alpha = 1 in the posterior.
"""

from __future__ import annotations

from pymc_sph.fluid.state import Array


def potential(logp: Array, log_rho: Array, temperature: float, alpha: float = 1.0) -> Array:
    """phi = alpha l - T log rho, (K,)."""
    return alpha * logp - temperature * log_rho


def acceleration(
    score: Array, grad_log_rho: Array, temperature: float, alpha: float = 1.0
) -> Array:
    """R = alpha g - T grad log rho, (K, d), in the frame."""
    return alpha * score - temperature * grad_log_rho

"""The ideal isothermal gas P = c^2 rho, of temperature T = c^2, in the field of the target.

Its free energy is F = integral rho (T log rho - alpha l), with l the target's log density: at
T = alpha = 1 this is minus the ELBO. The potential phi = alpha l - T log rho is minus the
derivative of F with respect to rho, up to a constant, and the acceleration of the gas is
r = grad phi = alpha grad l - (1 / rho) grad P. Both are flat, phi constant and r zero, exactly
when rho is proportional to p^(alpha / T): at T = alpha = 1 in the posterior.
"""

from __future__ import annotations

import math

from dataclasses import dataclass
from typing import Protocol

from pymc_sph.fluid.state import Array, namespace


def potential(logp: Array, log_rho: Array, temperature: float, alpha: float = 1.0) -> Array:
    """phi = alpha l - T log rho, (K,)."""
    return alpha * logp - temperature * log_rho


def acceleration(
    score: Array, grad_log_rho: Array, temperature: float, alpha: float = 1.0
) -> Array:
    """R = alpha g - T grad log rho, (K, d), in the frame."""
    return alpha * score - temperature * grad_log_rho


class EquationOfState(Protocol):
    """Pressure as a function of density alone, P(rho); see the classes that follow."""

    @property
    def c2(self) -> float:
        """Square of the sound speed, at the reference density where there is one."""

    def pressure(self, rho: Array) -> Array:
        """P(rho)."""

    def energy(self, rho: Array) -> Array:
        """Energy per unit mass e(rho), with de / drho = P / rho^2."""

    def sound_speed(self, rho: Array) -> Array:
        """sqrt(dP / drho)."""


@dataclass(frozen=True)
class Isothermal:
    """P = c^2 rho. In the field alpha grad log p it rests at rho = p^(alpha / c^2) / constant."""

    c2: float = 1.0

    def pressure(self, rho: Array) -> Array:
        """P = c^2 rho."""
        return self.c2 * rho

    def energy(self, rho: Array) -> Array:
        """e = c^2 log rho."""
        return self.c2 * namespace(rho).log(rho)

    def sound_speed(self, rho: Array) -> Array:
        """Return c, whatever rho is."""
        return namespace(rho).full_like(rho, math.sqrt(self.c2))


@dataclass(frozen=True)
class Linear:
    """P = c^2 (rho - rho0): isothermal, held together by the tension -c^2 rho0.

    Inside the fluid it rests where the isothermal gas does, but it ends in a free surface about
    where rho falls to rho0: the tails of p below that density are cut off. Below rho0 pressure is
    negative and particles attract one another (the tensile instability).
    """

    c2: float
    rho0: float

    def pressure(self, rho: Array) -> Array:
        """P = c^2 (rho - rho0)."""
        return self.c2 * (rho - self.rho0)

    def energy(self, rho: Array) -> Array:
        """e = c^2 (log rho + rho0 / rho)."""
        return self.c2 * (namespace(rho).log(rho) + self.rho0 / rho)

    def sound_speed(self, rho: Array) -> Array:
        """Return c, whatever rho is."""
        return namespace(rho).full_like(rho, math.sqrt(self.c2))


@dataclass(frozen=True)
class Tait:
    """P = B ((rho / rho0)^gamma - 1) with B = c^2 rho0 / gamma: c is the sound speed at rho0.

    In the field alpha grad log p it rests at
    rho^(gamma - 1) = (gamma - 1) rho0^(gamma - 1) / c^2 (alpha log p + constant) where that is
    positive, and nowhere else: flat on top and with an edge, not p. With gamma = 2 and the field
    alpha grad p, on the other hand, rho = p at alpha = c^2 / rho0 (Cole 1948; Monaghan 1994).
    """

    c2: float
    rho0: float
    gamma: float = 7.0

    def pressure(self, rho: Array) -> Array:
        """P = B ((rho / rho0)^gamma - 1)."""
        B = self.c2 * self.rho0 / self.gamma
        return B * ((rho / self.rho0) ** self.gamma - 1.0)

    def energy(self, rho: Array) -> Array:
        """e = B ((rho / rho0)^gamma / (gamma - 1) + 1) / rho."""
        B = self.c2 * self.rho0 / self.gamma
        return B * ((rho / self.rho0) ** self.gamma / (self.gamma - 1.0) + 1.0) / rho

    def sound_speed(self, rho: Array) -> Array:
        """Return c (rho / rho0)^((gamma - 1) / 2)."""
        return math.sqrt(self.c2) * (rho / self.rho0) ** ((self.gamma - 1.0) / 2.0)


def reference_density(dim: int) -> float:
    """Mean density of a unit Gaussian, (4 pi)^(-d / 2): rho0 of a fluid of unit size."""
    return (4.0 * math.pi) ** (-dim / 2)

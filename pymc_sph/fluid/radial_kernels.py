"""Radial smoothing kernels W(r; h) of the collocated scheme, normalised in d dimensions.

The smoothing length h is the kernel's standard deviation per dimension, whatever its shape: kernels
with the same h have the same resolution (Dehnen and Aly 2012, MNRAS 425, 1068), and the Gaussian
with covariance h^2 I can stand for any of them. A compact kernel vanishes beyond ``support * h``.
"""

from __future__ import annotations

import math

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from pymc_sph.fluid.state import Array, namespace

Profile = Callable[[Array, int], Array]
"""Function of x, the distance in units of the kernel's scale, and of Wendland's exponent l."""
NODES = 160
"""Gauss-Legendre nodes per piece of a profile: exact for every polynomial met up to d = 200."""


def _positive(x: Array) -> Array:
    """Return (1 - x)_+."""
    return namespace(x).maximum(1.0 - x, 0.0)


def _gaussian(x: Array, power: int) -> Array:
    return namespace(x).exp(-0.5 * x * x)


def _cubic(x: Array, power: int) -> Array:
    q = 2.0 * x
    return namespace(x).where(q < 1, 1 - 1.5 * q**2 + 0.75 * q**3, 2.0 * _positive(x) ** 3)


def _cubic_decay(x: Array, power: int) -> Array:
    q = 2.0 * x
    xp = namespace(x)
    return xp.where(q < 1, 12.0 - 9.0 * q, 6.0 * _positive(x) ** 2 / xp.maximum(x, 0.5))


def _wendland2(x: Array, power: int) -> Array:
    return _positive(x) ** (power + 1) * ((power + 1) * x + 1)


def _wendland2_decay(x: Array, power: int) -> Array:
    return (power + 1) * (power + 2) * _positive(x) ** power


def _wendland4(x: Array, power: int) -> Array:
    a, b = power**2 + 4 * power + 3, 3 * power + 6
    return _positive(x) ** (power + 2) * ((a * x + b) * x + 3) / 3


def _wendland4_decay(x: Array, power: int) -> Array:
    factor = (power + 3) * (power + 4) / 3
    return factor * _positive(x) ** (power + 1) * ((power + 1) * x + 1)


def _wendland6(x: Array, power: int) -> Array:
    a = power**3 + 9 * power**2 + 23 * power + 15
    b, c = 6 * power**2 + 36 * power + 45, 15 * power + 45
    return _positive(x) ** (power + 3) * (((a * x + b) * x + c) * x + 15) / 15


def _wendland6_decay(x: Array, power: int) -> Array:
    a, b = power**2 + 4 * power + 3, 3 * power + 6
    factor = (power + 5) * (power + 6) / 15
    return factor * _positive(x) ** (power + 2) * ((a * x + b) * x + 3)


@dataclass(frozen=True)
class _Shape:
    """Profile w(x) on [0, 1], and its decay -w'(x) / x, which is finite at 0."""

    profile: Profile
    decay: Profile
    smoothness: int = 0


SHAPES: dict[str, _Shape] = {
    "gaussian": _Shape(_gaussian, _gaussian),
    "cubic": _Shape(_cubic, _cubic_decay),
    "wendland2": _Shape(_wendland2, _wendland2_decay, 1),
    "wendland4": _Shape(_wendland4, _wendland4_decay, 2),
    "wendland6": _Shape(_wendland6, _wendland6_decay, 3),
}
"""Kernels by name; the cubic spline is Monaghan and Lattanzio's (1985)."""


@dataclass(frozen=True)
class RadialKernel:
    """A smoothing kernel in d dimensions.

    Wendland's functions (1995, Adv. Comput. Math. 4, 389) take the exponent l = d // 2 + k + 1 for
    C^2k, so that they stay positive definite in every dimension: particles do not pair up.

    Attributes
    ----------
    name : str
        A key of `SHAPES`.
    dim : int
        Dimension d.
    scale : float
        Unit of the profile's argument over h: the radius of the support of a compact kernel.
    norm : float
        Integral of W is 1 with W(r; h) = norm / (scale h)^d * w(r / (scale h)).
    """

    name: str
    dim: int
    scale: float
    norm: float

    @property
    def support(self) -> float:
        """Radius, in units of h, beyond which the kernel vanishes."""
        return math.inf if self.name == "gaussian" else self.scale

    def value(self, squared: Array, h: Array) -> Array:
        """W(r; h) at squared distances r^2; h broadcasts against them."""
        unit = self.scale * h
        x = namespace(squared).sqrt(squared) / unit
        return self.norm / unit**self.dim * SHAPES[self.name].profile(x, self._power())

    def decay(self, squared: Array, h: Array) -> Array:
        """F(r; h) = -W'(r) / r >= 0: the gradient of W at the offset x is -F x."""
        unit = self.scale * h
        x = namespace(squared).sqrt(squared) / unit
        return self.norm / unit ** (self.dim + 2) * SHAPES[self.name].decay(x, self._power())

    def _power(self) -> int:
        return self.dim // 2 + SHAPES[self.name].smoothness + 1


@cache
def radial_kernel(name: str, dim: int) -> RadialKernel:
    """Return a kernel of `SHAPES` for d dimensions, with its normalisation and scale."""
    if name == "gaussian":
        return RadialKernel(name, dim, 1.0, (2.0 * math.pi) ** (-dim / 2))
    shape, power = SHAPES[name], dim // 2 + SHAPES[name].smoothness + 1
    x, weight = np.polynomial.legendre.leggauss(NODES)
    x = np.concatenate([0.25 + 0.25 * x, 0.75 + 0.25 * x])  # the spline has a joint at 1 / 2
    w = 0.25 * np.concatenate([weight, weight]) * shape.profile(x, power)
    mass = float(np.sum(w * x ** (dim - 1)))
    variance = float(np.sum(w * x ** (dim + 1))) / (mass * dim)
    sphere = 2.0 * math.exp(0.5 * dim * math.log(math.pi) - math.lgamma(dim / 2))
    return RadialKernel(name, dim, 1.0 / math.sqrt(variance), 1.0 / (sphere * mass))

"""What a fluid is: particles with mass and smoothing tensor, in a linear frame."""

from __future__ import annotations

import dataclasses
import math

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any
"""An array of NumPy, or of another library with ``__array_namespace__``."""


def namespace(x: Array) -> Any:
    """Array functions of the library that `x` belongs to (NumPy, JAX)."""
    return np if isinstance(x, np.ndarray) else x.__array_namespace__()


@dataclass(frozen=True)
class Fluid:
    """State of a fluid. Nothing changes it in place; every update returns a new one.

    A point y of the frame is the point theta = mu + L y of the target's unconstrained space.

    Attributes
    ----------
    z : (N, d)
        Positions of the particles, in the frame.
    u : (N, d)
        Velocities in units of the kernel: the velocity in the frame is A u.
    A : (N, d, d) or (N, d)
        Smoothing tensors: a full factor, or the diagonal of one. The kernel of particle i is the
        Gaussian with mean z_i and covariance A_i A_i'.
    log_m : (N,)
        Log masses; the masses sum to 1.
    mu : (d,)
        Origin of the frame, in unconstrained space.
    L : (d, d)
        Axes of the frame, in its columns.
    """

    z: Array
    u: Array
    A: Array
    log_m: Array
    mu: Array
    L: Array

    @property
    def n_particles(self) -> int:
        """Number of particles N."""
        return int(self.z.shape[0])

    @property
    def dim(self) -> int:
        """Dimension d."""
        return int(self.z.shape[1])

    @property
    def full(self) -> bool:
        """Whether the smoothing tensors are full factors, not diagonals."""
        return self.A.ndim == 3


def to_unconstrained(fluid: Fluid, y: Array) -> Array:
    """Points (K, d) of the frame as points of the unconstrained space."""
    return fluid.mu + y @ fluid.L.T


def to_frame(fluid: Fluid, theta: Array) -> Array:
    """Points (K, d) of the unconstrained space as points of the frame."""
    xp = namespace(fluid.L)
    return xp.linalg.solve(fluid.L, (theta - fluid.mu).T).T


def log_det_frame(fluid: Fluid) -> Array:
    """log |det L|, by which log densities of frame and unconstrained space differ."""
    xp = namespace(fluid.L)
    return xp.linalg.slogdet(fluid.L)[1]


def is_finite(fluid: Fluid) -> Any:
    """Whether every number of the state is finite."""
    xp = namespace(fluid.z)
    finite = True
    for part in (fluid.z, fluid.u, fluid.A, fluid.log_m, fluid.mu, fluid.L):
        finite = finite & xp.all(xp.isfinite(part))
    return finite


def branch(condition: Any, taken: Callable[[], Fluid], otherwise: Fluid) -> Fluid:
    """``taken()`` if the condition holds, else the other fluid; compiled code decides as it runs.

    This and `indices` are all that NumPy and JAX do in different ways.
    """
    if isinstance(otherwise.z, np.ndarray):
        return taken() if condition else otherwise
    from jax import lax

    fluid: Fluid = lax.cond(condition, taken, lambda: otherwise)
    return fluid


def indices(mask: Array) -> Array:
    """Return the indices that `mask` (N,) picks; all N in JAX, where no value gives a shape."""
    if isinstance(mask, np.ndarray):
        return np.flatnonzero(mask)
    return namespace(mask).arange(mask.shape[0])


def new_fluid(mu: Array, L: Array, z: Array, *, full: bool, spread: float = 1.0) -> Fluid:
    """Return a fluid at rest, its density close to that of N(mu, L L').

    Positions are shrunk and every kernel is round, of the smoothing length s for which kernels
    and positions together have unit variance: s = N^(-1 / (d + 4)), Silverman's rule, with a
    `spread` of 1. A smaller one leaves less of the variance to the positions and more to the
    kernels, and the density is closer to the Gaussian.

    Parameters
    ----------
    mu : (d,)
        Mean, in unconstrained space.
    L : (d, d)
        A factor of the covariance.
    z : (N, d)
        Standard normal numbers.
    full : bool
        Full smoothing tensors, or diagonal ones.
    spread : float
        Variance of the positions, in units of that of Silverman's rule, in (0, 1].
    """
    xp = namespace(z)
    n, d = z.shape
    apart = spread * (1.0 - n ** (-2.0 / (d + 4)))
    z, s = (z - xp.mean(z, axis=0)) * math.sqrt(apart), math.sqrt(1.0 - apart)
    A = xp.broadcast_to(xp.eye(d) * s, (n, d, d)) if full else xp.full((n, d), s)
    return Fluid(z, xp.zeros_like(z), A, xp.full(n, -math.log(n)), mu, L)


def pour(
    parts: list[tuple[Array, Array, Array]],
    log_shares: Array,
    *,
    full: bool,
    spread: float = 1.0,
) -> Fluid:
    """Return one fluid at rest, its density close to a mixture of Gaussians.

    Parameters
    ----------
    parts : list of (mu, L, z)
        Mean (d,), factor (d, d) of the covariance, and standard normal numbers (n, d) for n
        particles, as for `new_fluid`. The first part gives the frame.
    log_shares : (len(parts),)
        Log shares of the parts; they sum to 1.
    full : bool
        Full smoothing tensors; diagonal ones take one part only.
    spread : float
        As in `new_fluid`.
    """
    fluids = [new_fluid(mu, L, z, full=full, spread=spread) for mu, L, z in parts]
    first = fluids[0]
    if len(fluids) == 1:
        return first
    xp = namespace(first.z)
    turns = [xp.linalg.solve(first.L, f.L) for f in fluids]
    z = [to_frame(first, to_unconstrained(f, f.z)) for f in fluids]
    return dataclasses.replace(
        first,
        z=xp.concat(z),
        u=xp.concat([f.u for f in fluids]),
        A=xp.concat([turn @ f.A for turn, f in zip(turns, fluids, strict=True)]),
        log_m=xp.concat([f.log_m + s for f, s in zip(fluids, log_shares, strict=True)]),
    )

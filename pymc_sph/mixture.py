"""The pooled approximation q: a mixture of independent fluids, in unconstrained space."""

from __future__ import annotations

import dataclasses

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scipy.special import logsumexp

from pymc_sph.fluid import kernels
from pymc_sph.fluid.density import density, log_densities, log_density, pick
from pymc_sph.fluid.state import (
    Array,
    Fluid,
    log_det_frame,
    namespace,
    to_frame,
    to_unconstrained,
)

SETTLED = 1e-7
"""Nats that the best fluid may be above the mean of all when their shares are at rest: no shares
have a larger ELBO by more than that."""

ROWS, EVEN = 2**23, 128
"""Numbers in a block of draws (64 MiB), and what its length is a multiple of: engines evaluate so
many rows at a time, and the results of a row must not depend on the blocks."""


@dataclass(frozen=True)
class Draws:
    """Independent draws from q.

    Attributes
    ----------
    theta : (n, d)
        Draws, in unconstrained space.
    fluid, particle : (n,) int
        Fluid and particle that each came from.
    """

    theta: np.ndarray
    fluid: np.ndarray
    particle: np.ndarray


@dataclass(frozen=True)
class FluidMixture:
    """Mixture of fluids with given shares: the approximation q of the posterior.

    Attributes
    ----------
    fluids : tuple of Fluid
        The independent fluids, F of them.
    log_weights : (F,)
        Log shares; they sum to 1.
    """

    fluids: tuple[Fluid, ...]
    log_weights: np.ndarray

    @property
    def dim(self) -> int:
        """Dimension d of the unconstrained space."""
        return self.fluids[0].dim

    @property
    def log_masses(self) -> np.ndarray:
        """Log masses (n,) of all particles, in the order of the fluids; the masses sum to 1."""
        parts = [f.log_m + w for f, w in zip(self.fluids, self.log_weights, strict=True)]
        return np.concatenate(parts)

    @property
    def centres(self) -> np.ndarray:
        """Places (n, d) of all particles, in unconstrained space, in the order of the fluids."""
        return np.concatenate([to_unconstrained(f, f.z) for f in self.fluids])

    def without(self, particles: np.ndarray) -> FluidMixture:
        """Return q without some of its particles, (n,) bool in the order of the fluids.

        A fluid none of whose particles would be left keeps them all.
        """
        fluids, log_weights = [], self.log_weights.copy()
        edges = np.cumsum([f.n_particles for f in self.fluids])[:-1]
        for i, (f, lost) in enumerate(zip(self.fluids, np.split(particles, edges), strict=True)):
            if lost.any() and not lost.all():
                left = logsumexp(f.log_m[~lost])
                log_weights[i] += left
                f = dataclasses.replace(
                    f, z=f.z[~lost], u=f.u[~lost], A=f.A[~lost], log_m=f.log_m[~lost] - left
                )
            fluids.append(f)
        return FluidMixture(tuple(fluids), log_weights - logsumexp(log_weights))

    def moved(self, step: np.ndarray) -> FluidMixture:
        """Return q moved as a whole by a step (d,) of the unconstrained space."""
        fluids = tuple(dataclasses.replace(f, mu=f.mu + step) for f in self.fluids)
        return FluidMixture(fluids, self.log_weights)

    def sample(self, n: int, rng: np.random.Generator, fluid: int | None = None) -> Draws:
        """Draw n independent points from q, or from one fluid alone.

        Parameters
        ----------
        n : int
            Number of draws.
        rng : numpy.random.Generator
            Source of the randomness.
        fluid : int, optional
            Draw from this fluid alone.
        """
        if fluid is None:
            which = pick(self.log_weights, rng.random(n))
        else:
            which = np.full(n, fluid)
        particle = np.zeros(n, dtype=int)
        theta = rng.standard_normal((n, self.dim))  # for now; points in their place below
        uniform = rng.random(n)
        for i, body in enumerate(self.fluids):
            of_body = np.flatnonzero(which == i)
            for block in row_blocks(len(of_body), self.dim):
                rows = of_body[block]
                particle[rows] = own = pick(body.log_m, uniform[rows])
                y = body.z[own] + displaced(body, own, theta[rows])
                theta[rows] = to_unconstrained(body, y)
        return Draws(theta, which, particle)

    def log_density(self, theta: np.ndarray, fluid: int | None = None) -> np.ndarray:
        """Normalised log density of q, or of one fluid, at points (n, d), (n,)."""
        if fluid is None:
            return self.log_densities(theta, (1.0,))[0]
        body = self.fluids[fluid]
        blocks = row_blocks(*theta.shape)
        parts = [log_density(body, to_frame(body, theta[rows])) for rows in blocks]
        return (np.concatenate(parts) if len(parts) > 1 else parts[0]) - log_det_frame(body)

    def log_densities(self, theta: np.ndarray, widths: Sequence[float]) -> np.ndarray:
        """Log density (len(widths), n) of q with kernels so many times as wide."""
        blocks = []
        for rows in row_blocks(*theta.shape):
            parts = [
                log_densities(f, to_frame(f, theta[rows]), widths) - log_det_frame(f) + share
                for f, share in zip(self.fluids, self.log_weights, strict=True)
            ]
            blocks.append(np.asarray(logsumexp(np.stack(parts), axis=0)))
        return np.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]

    def mean(self) -> np.ndarray:
        """Mean of q, (d,)."""
        means = [to_unconstrained(f, (np.exp(f.log_m) @ f.z)[None])[0] for f in self.fluids]
        return np.exp(self.log_weights) @ np.stack(means)

    def cov(self) -> np.ndarray:
        """Covariance of q, (d, d)."""
        mean, out = self.mean(), np.zeros((self.dim, self.dim))
        for share, f in zip(np.exp(self.log_weights), self.fluids, strict=True):
            m = np.exp(f.log_m)
            offset = to_unconstrained(f, f.z) - mean
            inner = np.einsum("n,nij,nkj->ik", m, f.A, f.A) if f.full else np.diag(m @ f.A**2)
            out += share * ((m[:, None] * offset).T @ offset + f.L @ inner @ f.L.T)
        return out


def row_blocks(n: int, dim: int) -> list[slice]:
    """Slices of n rows with at most `ROWS` numbers each, and one of them for no rows."""
    size = max(ROWS // dim // EVEN, 1) * EVEN
    return [slice(start, start + size) for start in range(0, max(n, 1), size)]


def displaced(fluid: Fluid, own: np.ndarray, e: np.ndarray) -> np.ndarray:
    """A_own e for standard normal e (n, d), in blocks of particles: no (n, d, d) array."""
    if not fluid.full:
        return fluid.A[own] * e
    out = np.empty_like(e)
    for i in np.unique(own):
        rows = own == i
        out[rows] = e[rows] @ fluid.A[i].T
    return out


@dataclass(frozen=True)
class PooledField:
    """Log density of a mixture and its gradient: theta (n, d) -> (n,), (n, d); see `pooled_field`.

    Attributes
    ----------
    parts : tuple of (Fluid, (d, d), (N, d, d) or (N, d), float)
        Each fluid with its inverse frame, its inverse smoothing tensors and its constant.
    """

    parts: tuple[tuple[Fluid, Array, Array, Array], ...]

    def __call__(self, theta: Array) -> tuple[Array, Array]:
        """Evaluate it at points of the unconstrained space."""
        xp = namespace(theta)
        log_parts, grads = [], []
        for fluid, L_inv, A_inv, constant in self.parts:
            own = density(fluid, (theta - fluid.mu) @ L_inv.T, A_inv)
            log_parts.append(own.log_rho + constant)
            grads.append(own.grad @ L_inv)
        if xp is np:
            log_q = logsumexp(log_parts, axis=0)
        else:  # SciPy's takes NumPy's arrays only
            top = xp.max(xp.stack(log_parts), axis=0)
            log_q = top + xp.log(xp.sum(xp.exp(xp.stack(log_parts) - top), axis=0))
        weights = xp.exp(xp.stack(log_parts) - log_q)
        grad = sum(w[:, None] * g for w, g in zip(weights, grads, strict=True))
        return log_q, grad


def pooled_field(mixture: FluidMixture) -> PooledField:
    """Return the function theta (n, d) -> (log q (n,), its gradient (n, d)), unconstrained space.

    What does not depend on theta, inverse frames and tensors, is computed once.
    """
    shares = np.exp(mixture.log_weights)
    return PooledField(
        tuple(
            (f, np.linalg.inv(f.L), kernels.inverse(f.A), log_share - log_det_frame(f))
            for f, share, log_share in zip(mixture.fluids, shares, mixture.log_weights, strict=True)
            if share > 0
        )
    )


def fit_shares(logp: np.ndarray, log_q: np.ndarray, n_steps: int = 200) -> np.ndarray:
    """Shares of the fluids that maximise the pooled ELBO: mass exchange between fluids.

    Parameters
    ----------
    logp : (F, n)
        Log density of the target at n draws of each fluid; non-finite ones are set aside.
    log_q : (F, F, n)
        ``log_q[g, f]`` is the log density of fluid g at the draws of fluid f.

    Returns
    -------
    (F,)
        Log shares. A fluid none of whose draws is finite gets (almost) none.
    """
    finite = np.isfinite(logp)
    log_q = np.where(np.isnan(log_q), -np.inf, log_q)
    if len(logp) == 1 or not finite.any():
        return np.full(len(logp), -np.log(len(logp)))
    some = finite.any(axis=1)
    count = np.maximum(finite.sum(axis=1), 1)
    log_w = _normalised(np.where(some, 0.0, -1e3))
    top = np.max(log_q, axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    q = np.exp(log_q - top).reshape(len(logp), -1)
    counted = finite / count[:, None]
    above = np.sum(np.where(finite, logp - top, 0.0) * counted, axis=1)
    for _ in range(n_steps):
        pooled = np.log(np.maximum(np.exp(log_w) @ q, 1e-300)).reshape(finite.shape)
        phi = above - np.sum(pooled * counted, axis=1)  # 0 for a fluid without a finite draw
        if np.max(phi[some]) - np.exp(log_w[some]) @ phi[some] < SETTLED:
            break
        log_w = np.maximum(_normalised(log_w + 0.5 * phi), -1e3)
    return _normalised(log_w)


def _normalised(log_w: np.ndarray) -> np.ndarray:
    top = log_w.max()  # SciPy's logsumexp takes longer than all the rest for a few numbers
    return np.asarray(log_w - top - np.log(np.exp(log_w - top).sum()))


def apportion(shares: np.ndarray, n: int) -> np.ndarray:
    """Whole numbers that sum to n, in proportion to the shares (largest remainders)."""
    exact = shares / shares.sum() * n
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact)[: n - counts.sum()]] += 1
    return counts

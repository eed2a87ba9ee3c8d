"""Log densities with known moments, for the calibration of the verdict (`verdicts.py`).

Every target draws exact samples of itself; its moments are those of 10^6 of them, right to .001 sd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from scipy.special import gamma, logsumexp

Array = np.ndarray
LogDensity = Callable[[Array], tuple[Array, Array]]
REFERENCE_DRAWS = 1_000_000


def _same(theta: Array) -> Array:
    return theta


@dataclass(frozen=True)
class Exact:
    """A target whose moments are known.

    Attributes
    ----------
    name : str
        Its name in the tables.
    dim : int
        Dimension.
    density : callable
        theta (n, d) -> (log density (n,), gradient (n, d)); normalised.
    sample : callable
        (n, rng) -> exact draws (n, d).
    modes : (M, d)
        Centres of its modes.
    seen : callable
        What the errors of draws are measured of. Where a coordinate has so heavy a tail that no
        feasible number of draws gives its sd, that is its asinh.
    closed : tuple of (d,) and (d,), optional
        Mean and sd of the coordinates themselves, in closed form, where their tails are heavy: q's
        own are compared with them, also in closed form.
    """

    name: str
    dim: int
    density: LogDensity
    sample: Callable[[int, np.random.Generator], Array]
    modes: Array
    seen: Callable[[Array], Array] = field(default=_same)
    closed: tuple[Array, Array] | None = None

    def moments(self) -> tuple[Array, Array]:
        """Mean and sd of what is measured."""
        draws = self.seen(self.sample(REFERENCE_DRAWS, np.random.default_rng(0)))
        return draws.mean(axis=0), draws.std(axis=0)


def gaussian(dim: int, condition: float) -> Exact:
    """N(m, C), rotated, eigenvalues of C from 1 to `condition`."""
    rng = np.random.default_rng(dim)
    rotation, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    root = rotation * np.sqrt(np.geomspace(1, condition, dim))
    return _normal(f"gaussian d={dim}", rng.normal(size=dim), root)


def autoregression(dim: int, phi: float) -> Exact:
    """Return a stationary AR(1) path of variance 1: neighbours are almost the same."""
    t = np.arange(dim)
    return _normal(
        f"AR path d={dim}",
        np.zeros(dim),
        np.linalg.cholesky(phi ** np.abs(t[:, None] - t)),
    )


def _normal(name: str, mean: Array, root: Array) -> Exact:
    dim = len(mean)
    inverse = np.linalg.inv(root)
    constant = -0.5 * dim * np.log(2 * np.pi) + np.linalg.slogdet(inverse)[1]

    def density(theta: Array) -> tuple[Array, Array]:
        e = (theta - mean) @ inverse.T
        return constant - 0.5 * np.sum(e**2, axis=1), -e @ inverse

    def sample(n: int, rng: np.random.Generator) -> Array:
        return mean + rng.standard_normal((n, dim)) @ root.T

    return Exact(name, dim, density, sample, mean[None])


def banana(dim: int, bend: float, sd: float) -> Exact:
    """x0 ~ N(0, sd^2), x1 ~ N(bend (x0^2 - sd^2), 1), the others N(0, 1)."""
    scale = np.r_[sd, np.ones(dim - 1)]
    constant = -0.5 * dim * np.log(2 * np.pi) - np.log(sd)

    def density(theta: Array) -> tuple[Array, Array]:
        x = theta.copy()
        x[:, 1] -= bend * (x[:, 0] ** 2 - sd**2)
        grad = -x / scale**2
        grad[:, 0] += 2 * bend * theta[:, 0] * x[:, 1]
        return constant - 0.5 * np.sum((x / scale) ** 2, axis=1), grad

    def sample(n: int, rng: np.random.Generator) -> Array:
        x = rng.standard_normal((n, dim)) * scale
        x[:, 1] += bend * (x[:, 0] ** 2 - sd**2)
        return x

    mode = np.zeros((1, dim))
    mode[0, 1] = -bend * sd**2
    return Exact(f"banana d={dim}", dim, density, sample, mode)


def funnel(dim: int, sd: float) -> Exact:
    """Neal's: v ~ N(0, sd^2), x_i ~ N(0, exp(v)); x is measured as asinh x."""
    others = dim - 1

    def density(theta: Array) -> tuple[Array, Array]:
        v, x = theta[:, 0], theta[:, 1:]
        with np.errstate(over="ignore", invalid="ignore"):
            precision = np.exp(-v)
            square = precision * np.sum(x**2, axis=1)
            logp = -0.5 * (v / sd) ** 2 - 0.5 * square - 0.5 * others * v
            grad = np.column_stack(
                [-v / sd**2 + 0.5 * square - 0.5 * others, -x * precision[:, None]]
            )
        return logp - 0.5 * dim * np.log(2 * np.pi) - np.log(sd), grad

    def sample(n: int, rng: np.random.Generator) -> Array:
        v = sd * rng.standard_normal(n)
        return np.column_stack([v, np.exp(v / 2)[:, None] * rng.standard_normal((n, others))])

    def seen(theta: Array) -> Array:
        return np.column_stack([theta[:, 0], np.arcsinh(theta[:, 1:])])

    mode = np.zeros((1, dim))
    mode[0, 0] = -0.5 * others * sd**2
    closed = np.zeros(dim), np.r_[sd, np.full(others, np.exp(sd**2 / 4))]
    return Exact(f"funnel d={dim} sd={sd:g}", dim, density, sample, mode, seen, closed)


def mixture(dim: int, n_modes: int, *, spread: float = 15.0) -> Exact:
    """Return normal modes of weights 1 : 2 : ..., sds .5 to 1.5, far apart."""
    rng = np.random.default_rng([dim, n_modes])
    weights = np.arange(1.0, n_modes + 1)
    weights /= weights.sum()
    sds = np.linspace(0.5, 1.5, n_modes)
    centres = spread * rng.uniform(-1, 1, (n_modes, dim))
    for i in range(1, n_modes):  # at least 6 sds of the widest between any two
        while np.linalg.norm(centres[:i] - centres[i], axis=1).min() < 9.0:
            centres[i] = spread * rng.uniform(-1, 1, dim)
    constant = np.log(weights) - dim * np.log(sds) - 0.5 * dim * np.log(2 * np.pi)

    def density(theta: Array) -> tuple[Array, Array]:
        gap = theta[:, None] - centres
        parts = constant - 0.5 * np.sum(gap**2, axis=2) / sds**2
        logp = logsumexp(parts, axis=1)
        share = np.exp(parts - logp[:, None])
        return logp, -np.sum((share / sds**2)[:, :, None] * gap, axis=1)

    def sample(n: int, rng: np.random.Generator) -> Array:
        which = rng.choice(n_modes, n, p=weights)
        return centres[which] + sds[which, None] * rng.standard_normal((n, dim))

    return Exact(f"{n_modes} modes d={dim}", dim, density, sample, centres)


def student(dim: int, freedom: float, *, heavy: bool = False) -> Exact:
    """Multivariate t; measured as asinh if `heavy`."""
    constant = np.log(gamma((freedom + dim) / 2) / gamma(freedom / 2)) - 0.5 * dim * np.log(
        freedom * np.pi
    )

    def density(theta: Array) -> tuple[Array, Array]:
        square = freedom + np.sum(theta**2, axis=1)
        logp = constant - 0.5 * (freedom + dim) * np.log(square / freedom)
        return logp, -(freedom + dim) * theta / square[:, None]

    def sample(n: int, rng: np.random.Generator) -> Array:
        scale = np.sqrt(freedom / rng.chisquare(freedom, n))
        return scale[:, None] * rng.standard_normal((n, dim))

    seen = np.arcsinh if heavy else _same
    closed = np.zeros(dim), np.full(dim, np.sqrt(freedom / (freedom - 2)))
    modes = np.zeros((1, dim))
    return Exact(f"Student t{freedom:g} d={dim}", dim, density, sample, modes, seen, closed)


def log_gamma(dim: int, shape: float) -> Exact:
    """Independent logs of Gamma(shape) variables: an exponential tail to the left."""
    constant = -dim * np.log(gamma(shape))

    def density(theta: Array) -> tuple[Array, Array]:
        with np.errstate(over="ignore"):
            e = np.exp(theta)
        return constant + np.sum(shape * theta - e, axis=1), shape - e

    def sample(n: int, rng: np.random.Generator) -> Array:
        return np.log(rng.gamma(shape, size=(n, dim)))

    mode = np.full((1, dim), np.log(shape))
    return Exact(f"log gamma({shape:g}) d={dim}", dim, density, sample, mode)


def half_space(dim: int, edge: float) -> Exact:
    """N(0, I) where x0 > edge; p is zero elsewhere."""
    from scipy.stats import norm

    constant = -0.5 * dim * np.log(2 * np.pi) - norm.logsf(edge)

    def density(theta: Array) -> tuple[Array, Array]:
        logp = constant - 0.5 * np.sum(theta**2, axis=1)
        return np.where(theta[:, 0] > edge, logp, -np.inf), -theta

    def sample(n: int, rng: np.random.Generator) -> Array:
        x = rng.standard_normal((n, dim))
        x[:, 0] = norm.isf(rng.random(n) * norm.sf(edge))
        return x

    mode = np.zeros((1, dim))
    mode[0, 0] = max(edge, 0) + 0.1
    return Exact(f"half space x0 > {edge:g} d={dim}", dim, density, sample, mode)


def shell(dim: int, radius: float, width: float) -> Exact:
    """Return a uniform direction, at a distance N(radius, width^2) (a ring if d = 2)."""
    area = np.log(2) + 0.5 * dim * np.log(np.pi) - np.log(gamma(dim / 2))

    def density(theta: Array) -> tuple[Array, Array]:
        r = np.maximum(np.linalg.norm(theta, axis=1), 1e-9)
        logp = -0.5 * ((r - radius) / width) ** 2 - (dim - 1) * np.log(r)
        slope = -(r - radius) / width**2 - (dim - 1) / r
        logp = logp - 0.5 * np.log(2 * np.pi) - np.log(width) - area
        return logp, (slope / r)[:, None] * theta

    def sample(n: int, rng: np.random.Generator) -> Array:
        e = rng.standard_normal((n, dim))
        r = radius + width * rng.standard_normal((n, 1))
        return r * e / np.linalg.norm(e, axis=1, keepdims=True)

    mode = np.zeros((1, dim))
    mode[0, 0] = radius
    return Exact(f"shell r={radius:g} d={dim}", dim, density, sample, mode)


CALIBRATION = [
    gaussian(2, 100.0), gaussian(10, 100.0), gaussian(50, 100.0), autoregression(20, 0.99),
    banana(2, 0.1, 10.0), funnel(5, 1.5), funnel(10, 3.0), mixture(2, 2), mixture(5, 5),
    mixture(2, 10), student(5, 5.0), log_gamma(4, 0.5), half_space(3, 0.0), shell(2, 5.0, 0.5),
]  # fmt: skip
"""Targets of the fits that the thresholds were chosen on."""
HELD_OUT = [
    gaussian(4, 1e4), gaussian(30, 1e3), autoregression(40, 0.95), banana(4, 0.2, 3.0),
    funnel(8, 2.0), mixture(1, 2), mixture(3, 4), mixture(8, 3), student(2, 3.0, heavy=True),
    log_gamma(2, 0.3), half_space(2, 1.0), shell(3, 4.0, 0.6),
]  # fmt: skip
"""Targets of the fits that were looked at once, with the thresholds fixed."""

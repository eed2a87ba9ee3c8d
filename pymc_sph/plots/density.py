"""Densities of one or two quantities under q, on grids, and the outlines of single kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pymc_sph.fluid.state import Fluid, to_unconstrained
from pymc_sph.mixture import FluidMixture, apportion, displaced
from pymc_sph.plots.projection import Projection, jacobians
from pymc_sph.plots.source import Source

DRAWS = 50_000
"""Draws behind the density of quantities that depend on several coordinates each."""
NARROW = 0.5
"""Width of the kernels on these draws, in widths of the fluid's."""
CORNERS = 64
"""Points of an outline."""
SHARES = (0.95, 0.8, 0.5)
"""Shares of q that the contours enclose."""
SEEN = 0.99
"""Share of q that a picture shows."""
TAIL = 0.002
"""Share of q at either end of a coordinate that is left out: divided by the slope at a bound, the
last of a tail would be a spike."""


@dataclass(frozen=True)
class Field:
    """Density of two quantities on a grid, which need not be even.

    Attributes
    ----------
    x, y : (nx,), (ny,)
        Ascending values of the two.
    density : (ny, nx)
        Density of q.
    mass : (ny, nx)
        Share of q in the cell around each point, up to a constant.
    """

    x: np.ndarray
    y: np.ndarray
    density: np.ndarray
    mass: np.ndarray

    def levels(self, shares: Sequence[float] = SHARES) -> np.ndarray:
        """Densities whose contours enclose these shares of q, ascending."""
        return enclosing_levels(self.density, shares, self.mass)


def enclosing_levels(
    density: np.ndarray, shares: Sequence[float] = SHARES, mass: np.ndarray | None = None
) -> np.ndarray:
    """Densities whose contours enclose these shares of the mass, ascending."""
    mass = density if mass is None else mass
    order = np.argsort(density, axis=None)[::-1]
    enclosed = np.cumsum(mass.ravel()[order])
    index = np.searchsorted(enclosed / enclosed[-1], shares)
    return np.sort(density.ravel()[order[np.minimum(index, len(order) - 1)]])


def field_of(source: Source, projection: Projection, grid: int) -> Field:
    """Density of two quantities, where it matters.

    Exact where each is a function of a coordinate of its own: the marginal of q, divided by the
    slopes. Else a kernel density estimate of draws from q.
    """
    theta = source.mixture.mean()
    if projection.separate is None:
        return _stretched(theta, projection, *_smoothed(source.mixture, projection, grid))
    parts = marginal(source.mixture, projection.separate)
    centre, span = parts[2] @ parts[0], 5 * np.sqrt(np.diag(total_covariance(*parts)))
    axes = [np.linspace(c - s, c + s, grid) for c, s in zip(centre, span, strict=True)]
    mass = marginal_density(*parts, axes[0], axes[1])
    field = _stretched(theta, projection, mass, axes)
    held = field.density >= field.levels((SEEN,))[0]
    for i, inside in enumerate((held.any(axis=0), held.any(axis=1))):
        # in ascending order of the quantities, which need not be that of the coordinates
        order = np.argsort(projection.along(i, axes[i], theta))
        own = axes[i][order][inside]
        margin = 0.05 * np.ptp(own) + np.diff(axes[i][:2])[0]
        likely = axes[i][_likely(projection, i, axes[i], mass.sum(axis=i), theta)]
        low, high = max(own.min() - margin, likely[0]), min(own.max() + margin, likely[-1])
        axes[i] = np.linspace(low, high, grid)
    return _stretched(theta, projection, marginal_density(*parts, axes[0], axes[1]), axes)


Parts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Means (n, k), covariances (n, k, k) and masses (n,) of all kernels."""


def _likely(
    projection: Projection, i: int, t: np.ndarray, mass: np.ndarray, theta: np.ndarray
) -> np.ndarray:
    """Cells (n,) along the own coordinate of quantity i without the ends of its tails.

    All of them where the quantity is the coordinate itself.
    """
    if np.array_equal(projection.along(i, t, theta), t):
        return np.ones(len(t), dtype=bool)
    below = np.cumsum(mass) / mass.sum()
    return (below > TAIL) & (below < 1 - TAIL)


def _stretched(
    theta: np.ndarray, projection: Projection, mass: np.ndarray, axes: list[np.ndarray]
) -> Field:
    """From a density (ny, nx) over coordinates to that over the quantities."""
    density, values = mass, []
    for i, t in enumerate(axes):
        value = projection.along(i, t, theta)
        slope = np.maximum(np.abs(np.gradient(value, t)), 1e-300)  # 0 where a transform saturates
        order = np.argsort(value)
        density = density / (slope[None, :] if i == 0 else slope[:, None])
        density, mass = (np.take(a, order, axis=1 - i) for a in (density, mass))
        values.append(value[order])
    return Field(values[0], values[1], density, mass)


def _smoothed(
    mixture: FluidMixture, projection: Projection, grid: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Density (nx,) or (ny, nx) from draws, and its axes: coordinates where quantities have one.

    Each kernel is the sum of narrower ones about draws of its own: of `NARROW` times its width,
    about draws that make up for it. For linear quantities that adds nothing to the width.
    """
    working = projection.working
    draws, kernel, covariances = _draws_of_kernels(mixture, working)
    low, high = np.quantile(draws, [0.001, 0.999], axis=0)
    margin = 0.1 * (high - low)
    edges = np.linspace(low - margin, high + margin, grid + 1, axis=1)
    width = np.diff(edges[:, :2], axis=1)[:, 0]
    # in wave numbers a Gaussian is known exactly; twice the grid, so that nothing comes around
    size = (2 * grid,) * len(width)
    waves = [2 * np.pi * np.fft.fftfreq(2 * grid, h) for h in width[:-1]]
    waves.append(2 * np.pi * np.fft.rfftfreq(2 * grid, width[-1]))
    k = np.stack(np.meshgrid(*waves, indexing="ij"), axis=-1)
    which = tuple(range(len(width)))
    total = np.zeros(k.shape[:-1], dtype=complex)
    for i in np.unique(kernel):
        counts = np.histogramdd(draws[kernel == i], bins=list(edges))[0]
        square = np.einsum("...i,ij,...j->...", k, covariances[i], k)
        total += np.fft.rfftn(counts, size, which) * np.exp(-0.5 * NARROW**2 * square)
    smooth = np.fft.irfftn(total, size, which)[(slice(grid),) * len(width)]
    smooth = np.maximum(smooth, 0.0) / (len(draws) * np.prod(width))
    axes, theta = [], mixture.mean()
    for i in range(len(width)):
        t = (edges[i][:-1] + edges[i][1:]) / 2
        others = tuple(range(i)) + tuple(range(i + 1, len(width)))
        kept = _likely(projection, i, t, smooth.sum(axis=others), theta)
        axes.append(t[kept])
        smooth = np.moveaxis(np.moveaxis(smooth, i, 0)[kept], 0, i)
    return smooth.T, axes


def _draws_of_kernels(
    mixture: FluidMixture, projection: Projection
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantities (n, k) at draws closer to the particles than q's, kernels (n,), their covariances.

    The covariances (m, k, k) are those of the quantities made linear at the particles.
    """
    rng = np.random.default_rng(0)
    counts = apportion(np.exp(mixture.log_weights), DRAWS)
    sd = np.sqrt(np.diag(mixture.cov()))
    draws, kernels = [], []
    covariances: list[np.ndarray] = []
    for n, fluid in zip(counts, mixture.fluids, strict=True):
        own = np.repeat(np.arange(fluid.n_particles), apportion(np.exp(fluid.log_m), int(n)))
        e = rng.standard_normal((len(own), fluid.dim)) * np.sqrt(1 - NARROW**2)
        theta = to_unconstrained(fluid, fluid.z[own] + displaced(fluid, own, e))
        draws.append(projection(theta))
        kernels.append(own + sum(len(c) for c in covariances))
        factor = _linear_factors(fluid, projection, sd)
        covariances.append(factor @ factor.transpose(0, 2, 1))
    return np.concatenate(draws), np.concatenate(kernels), np.concatenate(covariances)


def _linear_factors(fluid: Fluid, projection: Projection, sd: np.ndarray) -> np.ndarray:
    """Factors (N, k, d) of the covariances of quantities, made linear at the particles."""
    slopes = jacobians(projection, to_unconstrained(fluid, fluid.z), sd)
    return slopes @ factors(fluid, fluid.L[projection.needs])


def curve_of(source: Source, projection: Projection, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (grid,) of one quantity, and its density under each kernel, (n, grid).

    Where it depends on several coordinates, kernels have no curve of their own: (1, grid) then, by
    a kernel density estimate of draws.
    """
    mixture = source.mixture
    if projection.separate is None:
        smooth, [x] = _smoothed(mixture, projection, grid)
        return x, smooth[None]
    means, covariances, masses = marginal(mixture, projection.separate)
    sd = np.sqrt(covariances[:, 0, 0])
    spread = 4 * float(np.sqrt(total_covariance(means, covariances, masses)[0, 0]))
    centre = float(masses @ means[:, 0])
    t = np.linspace(centre - spread, centre + spread, grid)
    for last in (False, True):
        x = projection.along(0, t, mixture.mean())
        slope = np.maximum(np.abs(np.gradient(x, t)), 1e-300)
        own = masses[:, None] / (np.sqrt(2 * np.pi) * sd[:, None])
        own = own * np.exp(-0.5 * ((t - means) / sd[:, None]) ** 2)
        if last:
            break
        whole = own.sum(axis=0)
        held = whole / slope >= enclosing_levels(whole / slope, (0.995,), whole)[0]
        held &= _likely(projection, 0, t, whole, mixture.mean())
        margin = 0.04 * np.ptp(t[held])
        t = np.linspace(t[held].min() - margin, t[held].max() + margin, grid)
    order = np.argsort(x)
    return x[order], (own / slope)[:, order]


def marginal(mixture: FluidMixture, coordinates: Sequence[int]) -> Parts:
    """Means (n, k), covariances (n, k, k), masses (n,) of all kernels, over k coordinates."""
    parts = [_marginal_of(fluid, list(coordinates)) for fluid in mixture.fluids]
    shares = np.exp(mixture.log_weights)
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([w * part[2] for w, part in zip(shares, parts, strict=True)]),
    )


def _marginal_of(fluid: Fluid, coordinates: list[int]) -> Parts:
    rows = fluid.L[coordinates]
    factor = factors(fluid, rows)
    means = fluid.mu[coordinates] + fluid.z @ rows.T
    return means, factor @ factor.transpose(0, 2, 1), np.exp(fluid.log_m)


def factors(fluid: Fluid, rows: np.ndarray) -> np.ndarray:
    """Rows (k, d) of the frame times the smoothing tensors: factors (N, k, d) of covariances."""
    return np.asarray(rows @ fluid.A if fluid.full else rows * fluid.A[:, None, :])


def total_covariance(means: np.ndarray, covariances: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Covariance (k, k) of a mixture of kernels."""
    offset = means - masses @ means
    return np.einsum("n,nij->ij", masses, covariances) + (masses * offset.T) @ offset


def marginal_density(
    means: np.ndarray, covariances: np.ndarray, masses: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Density of q over two coordinates at a grid, (len(y), len(x))."""
    out = np.zeros((len(y), len(x)))
    for mean, covariance, mass in zip(means, covariances, masses, strict=True):
        inverse = np.linalg.inv(covariance)
        dx, dy = x[None, :] - mean[0], y[:, None] - mean[1]
        square = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
        out += mass / (2 * np.pi * np.sqrt(np.linalg.det(covariance))) * np.exp(-0.5 * square)
    return out


def outlines(mixture: FluidMixture, projection: Projection) -> tuple[np.ndarray, np.ndarray]:
    """Return curves (n, CORNERS, 2) of one standard deviation of each kernel, and centres (n, 2).

    The curve is the image of the circle, in the plane of the kernel's standard coordinates that
    moves the two quantities most. For two coordinates of the unconstrained space it is the ellipse
    of the covariance; for functions of one coordinate each, that ellipse bent as the functions say.
    """
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    sd = np.sqrt(np.diag(mixture.cov()))
    curves, centres = [], []
    for fluid in mixture.fluids:
        theta = to_unconstrained(fluid, fluid.z)
        factor = _linear_factors(fluid, projection, sd)
        plane = np.linalg.svd(factor, full_matrices=False)[2]  # (N, 2, d) orthonormal rows
        e = circle @ plane  # (N, CORNERS, d)
        moved = e @ fluid.A.transpose(0, 2, 1) if fluid.full else e * fluid.A[:, None]
        points = theta[:, None] + moved @ fluid.L.T
        curves.append(projection(points.reshape(-1, fluid.dim)).reshape(*points.shape[:2], -1))
        centres.append(projection(theta))
    return np.concatenate(curves), np.concatenate(centres)

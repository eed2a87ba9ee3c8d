"""Smoothing lengths h_i of the collocated scheme: the standard deviation of each kernel."""

from __future__ import annotations

import math

from collections.abc import Callable

import numpy as np

from scipy.spatial import cKDTree

from pymc_sph.fluid.state import Array, namespace

MEDIAN_SAMPLE = 1000
"""Particles whose distances the median is taken of, where there are more."""


def constant(z: Array, scale: float, neighbours: int) -> Array:
    """h = scale * N^(-1 / (d + 4)), (N,): Silverman's rule for a fluid of unit size."""
    n, d = z.shape
    xp = namespace(z)
    return xp.full(n, scale * n ** (-1.0 / (d + 4)))


def nearest(z: Array, scale: float, neighbours: int) -> Array:
    """h_i = scale * (distance to the k-th neighbour) / sqrt(d), (N,), with k = `neighbours`.

    The distance of a Gaussian kernel's typical point from its centre is h sqrt(d).
    """
    n, d = z.shape
    k = min(neighbours, n - 1)
    if k < 1:
        return constant(z, scale, neighbours)
    points = np.asarray(z)
    distance = cKDTree(points).query(points, k=[k + 1])[0][:, 0]
    floor = 1e-6 * np.max(distance) + 1e-300  # particles at one place have no distance
    return namespace(z).asarray(scale * np.maximum(distance, floor) / math.sqrt(d))


def median(z: Array, scale: float, neighbours: int) -> Array:
    """h^2 = scale^2 * (median squared distance) / (2 log(N + 1)), the same for all, (N,).

    The median heuristic of SVGD (Liu and Wang 2016), over at most 1,000 particles.
    """
    points = np.asarray(z)
    n = len(points)
    some = points[:: max(1, n // MEDIAN_SAMPLE)][:MEDIAN_SAMPLE]
    some = some - some.mean(axis=0)
    square = np.sum(some**2, axis=1)
    squared = square[:, None] + square[None] - 2.0 * some @ some.T
    middle = float(np.median(squared[np.triu_indices(len(some), 1)])) if len(some) > 1 else 1.0
    h = scale * math.sqrt(max(middle, 1e-12) / (2.0 * math.log(n + 1.0)))
    return namespace(z).full(n, h)


RULES: dict[str, Callable[[Array, float, int], Array]] = {
    "constant": constant,
    "nearest": nearest,
    "median": median,
}
"""Rules by name, each a function of positions (N, d), `scale` and the number of neighbours."""

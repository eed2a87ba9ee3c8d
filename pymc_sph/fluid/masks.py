"""Means and medians over some of the probes.

The others stay in the arrays and weigh nothing, so that shapes do not depend on values: code that
is compiled once, as JAX's, serves every step. Over all of them the results are NumPy's own, to the
bit.
"""

from __future__ import annotations

from pymc_sph.fluid.state import Array, namespace


def count(used: Array) -> Array:
    """Count the probes in `used` (K,), at least 1 so that one can divide by it."""
    xp = namespace(used)
    return xp.maximum(xp.sum(used), 1)


def mean(x: Array, used: Array) -> Array:
    """Mean of the values (K,) where `used` (K,) holds; 0 where it holds nowhere."""
    xp = namespace(x)
    return xp.sum(xp.where(used, x, 0.0)) / count(used)


def median(x: Array, used: Array) -> Array:
    """Median of the values (K,) where `used` (K,) holds; infinite where it holds nowhere."""
    xp = namespace(x)
    n = count(used)
    ordered = xp.sort(xp.where(used, x, float("inf")))
    return 0.5 * (ordered[(n - 1) // 2] + ordered[n // 2])

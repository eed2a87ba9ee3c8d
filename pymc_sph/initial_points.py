"""Dispersed starting points in unconstrained space."""

from __future__ import annotations

import logging

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from numpy.typing import NDArray
from pymc.initial_point import make_initial_point_fn
from pymc.model import Model

from pymc_sph.errors import InitialPointError
from pymc_sph.fluid.noise import stream
from pymc_sph.graph import Point, model_logp, ravel_point
from pymc_sph.links import see
from pymc_sph.process import graphs
from pymc_sph.seeds import POINTS

if TYPE_CHECKING:
    from pymc_sph.target import Target

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

SCALES = (1.0, 2.0, 1.0, 3.0)
"""Half-widths of the uniform jitter, in turn. PyMC's own jitter has half-width 1."""

FALLBACK_SCALES = (0.3, 0.1, 0.01)
"""Half-widths tried when the ones above leave the support nearly everywhere."""

TRIES = 256
"""Points tried at each stage."""


def dispersed_points(
    target: Target, n: int, seed: int, overrides: Mapping[str, Any] | None = None
) -> Array:
    """Draw `n` starting points with finite log density and gradient.

    The stages, until there are enough points: in the pressure form, draws from the prior; jitter
    around PyMC's starting point at several scales; draws from the prior; small jitter around what
    was found.

    Parameters
    ----------
    target : Target
    n : int
    seed : int
    overrides : dict, optional
        Starting values by name, constrained or not.

    Returns
    -------
    points : ndarray, shape (n, d)

    Raises
    ------
    InitialPointError
        No point tried is finite, or `overrides` names an unknown variable.
    """
    rng = stream(seed, POINTS)
    start = _start_point(target.model, overrides)
    point = start(_int_seed(rng))
    centre = ravel_point(target.model, point)
    tries = max(TRIES, 2 * n)
    if target.formulation == "pressure":  # CMA-ES takes its first steps from their spread
        found = _prior_points(target, n, n, overrides, rng)
    else:
        found = np.empty((0, target.dim))
    if len(found) < n:
        jittered = _jitter(centre, SCALES, tries, rng)
        found = np.concatenate([found, _finite(target, jittered, n - len(found))])
    if len(found) < n:
        found = np.concatenate(
            [found, _prior_points(target, tries, n - len(found), overrides, rng)]
        )
    if len(found) < n:
        middle = found[0] if len(found) else centre
        near = _jitter(middle, FALLBACK_SCALES, tries, rng)[1:]
        found = np.concatenate([found, _finite(target, near, n - len(found))])
    if not len(found):
        raise InitialPointError(_explain(target, centre, point))
    return np.resize(found, (n, target.dim))  # repeats points if there are still too few


def _int_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _jitter(centre: Array, scales: tuple[float, ...], n: int, rng: np.random.Generator) -> Array:
    """`centre` itself, then points around it, with the scales in turn."""
    half_width = np.resize(scales, n - 1)[:, None]
    noise = rng.uniform(-1, 1, (n - 1, len(centre)))
    return np.vstack([centre, centre + half_width * noise])


def _finite(target: Target, points: Array, n: int) -> Array:
    """Return the first `n` points that are finite in log density and gradient."""
    kept = np.empty((0, target.dim))
    for start in range(0, len(points), max(n, 1)):
        block = points[start : start + max(n, 1)]
        block = block[np.isfinite(block).all(axis=1)]
        logp, grad = target(block)
        good = np.isfinite(logp)
        if grad is not None:
            good &= np.isfinite(grad).all(axis=1)
        kept = np.concatenate([kept, block[good]])
        if len(kept) >= n:
            break
    return kept[:n]


@graphs()
def _start_point(
    model: Model, overrides: Mapping[str, Any] | None, strategy: str = "support_point"
) -> Callable[[int], Point]:
    """Compile PyMC's starting point, with an error that lists the names it knows."""
    known = {rv.name for rv in model.free_RVs} | {value.name for value in model.value_vars}
    unknown = [name for name in overrides or {} if isinstance(name, str) and name not in known]
    if unknown:
        raise InitialPointError(
            f"The starting values name unknown variables: {', '.join(unknown)}. "
            f"The free variables are {', '.join(rv.name for rv in model.free_RVs)}."
        )
    try:
        function: Callable[[int], Point] = make_initial_point_fn(
            model=model, overrides=dict(overrides or {}), default_strategy=strategy
        )
    except (TypeError, ValueError) as err:
        if not overrides:
            raise
        raise InitialPointError(_explain_overrides(model, overrides, err)) from err
    return function


def _explain_overrides(model: Model, overrides: Mapping[str, Any], err: Exception) -> str:
    """Say which of the starting values has the wrong shape, or is none."""
    shapes = {name: tuple(map(int, shape)) for name, shape in model.eval_rv_shapes().items()}
    wrong = []
    for name, value in overrides.items():
        if isinstance(value, str) and value not in ("prior", "support_point"):
            wrong.append(f"{name} is {value!r}, neither a number nor 'prior' or 'support_point'")
        elif not isinstance(value, str) and name in shapes and np.shape(value) != shapes[name]:
            wrong.append(f"{name} has the shape {np.shape(value)} instead of {shapes[name]}")
    reason = "; ".join(wrong) or str(err).strip().split("\n")[0]
    return f"The starting values cannot be used: {reason}."


def _prior_points(
    target: Target,
    tries: int,
    n: int,
    overrides: Mapping[str, Any] | None,
    rng: np.random.Generator,
) -> Array:
    """Points with finite log density among draws from the prior."""
    try:
        draw = _start_point(target.model, overrides, "prior")
        points = [ravel_point(target.model, draw(_int_seed(rng))) for _ in range(tries)]
    except Exception as err:  # a flat prior cannot be drawn from
        logger.info(
            "Could not draw starting points from the prior: %s.%s",
            err,
            see("no-starting-points-from-the-prior"),
        )
        return np.empty((0, target.dim))
    return _finite(target, np.stack(points), n)


def _explain(target: Target, theta: Array, point: Point) -> str:
    """Say which variables make the starting point impossible."""
    remedy = (
        "Check the data and the priors of these variables (model.debug() shows more), or give a "
        "starting value with `start`, or `initval` in the model."
    )
    outside = [target.labels[i] for i in np.flatnonzero(~np.isfinite(theta))[:10]]
    if outside:
        return (
            f"The starting point has no finite value of {', '.join(outside)}: a starting value is "
            "not finite, or lies outside of its variable's support."
        )
    error = target.error_at(theta)
    if error is not None:
        first_line = str(error).strip().split("\n")[0]
        return (
            f"The log density cannot be evaluated at the starting point: {first_line}\nCheck the "
            "shapes and the values of the data, and of the variables that meet them "
            "(model.debug() names the variable)."
        )
    logp, grad = target(theta[None, :])
    if grad is not None and np.isfinite(logp[0]):
        bad = [target.labels[i] for i in np.flatnonzero(~np.isfinite(grad[0]))[:10]]
        return (
            "The gradient of the log density is not finite at the starting point, with respect to: "
            f"{', '.join(bad)}. {remedy}"
        )
    culprits = [
        f"{name} (log p = {value})"
        for name, value in point_logps(target.model, point).items()
        if not np.isfinite(value)
    ]
    return (
        "The log density is not finite at the starting point, nor at any of several hundred points "
        f"around it, because of: {', '.join(culprits) or 'the sum over all variables'}. {remedy}"
    )


@graphs()
def point_logps(model: Model, point: Point) -> dict[str, float]:
    """Log density of every free and observed variable and potential, summed over its elements."""
    factors = [*dict.fromkeys(model.basic_RVs), *model.potentials]
    sums = [logp.sum() for logp in model_logp(model, sum=False)]
    function = model.compile_fn(sums, inputs=model.value_vars, mode="FAST_COMPILE")
    values = function({value.name: point[value.name] for value in model.value_vars})
    return {factor.name: float(v) for factor, v in zip(factors, values, strict=True)}

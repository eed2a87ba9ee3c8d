"""The same engine without PyMC: fit the fluids to any log density."""

from __future__ import annotations

import dataclasses

from typing import Any

import numpy as np

from pymc_sph.checks import SettingsError, check_integer
from pymc_sph.density_target import DensityTarget, LogDensityFunction
from pymc_sph.ensemble import Ensemble, StartError
from pymc_sph.fluid.noise import stream
from pymc_sph.result import FitResult
from pymc_sph.schemes import settings_of
from pymc_sph.seeds import POINTS, integer_seed

LOOKS = 3
"""Points at which the gradient is looked at."""
DIFFERENCE = 1e-4
"""Length of the differences there, relative to 1 and to the coordinates."""


def fit_density(
    logp_and_grad: LogDensityFunction,
    dim: int,
    *,
    points: np.ndarray | None = None,
    n: int = 10_000,
    random_seed: Any = None,
    cores: int = 1,
    executor: Any = None,
    scheme: str = "variational",
    **settings: Any,
) -> FitResult:
    """Fit the fluids to a log density, without PyMC.

    Parameters
    ----------
    logp_and_grad : callable
        theta (K, d) -> (log density (K,), its gradient (K, d)), on all of R^d. The log density
        need not be normalised; entries may be non-finite. A function that returns the log density
        alone is fitted in the pressure form; there it may raise for some points, which then count
        as points without density.
    dim : int
        Dimension d.
    points : (P, d), optional
        Starting points; by default standard normal ones, some of them wider.
    n : int
        Largest number of steps; 0 leaves the fluids at their starts.
    random_seed : int, array of int, Generator or None
        Seed of everything random; the same integer gives the same bits, None others every time.
    cores, executor
        Processes, or an executor of `concurrent.futures`, that evaluate a function without
        gradient. Results do not depend on them. On systems other than Linux, a script that uses
        `cores` needs the guard ``if __name__ == "__main__"``.
    scheme : {"variational", "collocated"}
        The variational fluid, or SPH as the paper writes it.
    **settings
        Fields of `Settings`, or of `CollocatedSettings`.

    Returns
    -------
    FitResult
        ``result.mixture.sample(n, rng)`` draws from it.

    Raises
    ------
    SettingsError
        For settings that have no meaning, and for a gradient that is far from the log density's
        own differences.
    StartError
        If no start is finite, or the log density raises everywhere.
    """
    chosen = settings_of(scheme, settings)
    dim = check_integer("dim", dim, 1)
    n = check_integer("n", n, 0, whole_floats=True)
    seed = integer_seed(random_seed)
    if points is not None:
        points = np.atleast_2d(np.asarray(points, dtype="float64"))
        if points.shape[1] != dim:
            raise SettingsError(
                f"points of shape {points.shape}: give an array (P, {dim}), as dim={dim}"
            )
    looked_at = np.zeros((1, dim)) if points is None else points[:1]
    target = DensityTarget(logp_and_grad, looked_at, chosen.formulation, cores, executor)
    chosen = chosen.in_form(target.formulation)
    if points is None:
        rng = stream(seed, POINTS)
        assert chosen.paths is not None  # in_form has decided
        spread = np.where(np.arange(chosen.paths) % 2, 3.0, 1.0)
        points = spread[:, None] * rng.standard_normal((chosen.paths, dim))
    try:
        if target.formulation == "force":
            check_gradient(target, points[:LOOKS], stream(seed, POINTS, 1))
        ensemble = Ensemble.start(target, points, chosen, seed, n)
        while not ensemble.done:
            ensemble, _ = ensemble.step(target)
        result = ensemble.finish(target)
        spent, failed = target.n_evaluations, target.n_failed
        return dataclasses.replace(result, n_evaluations=spent, n_failed=failed)
    except StartError as err:
        # all but the call that asked whether there is a gradient
        if target.n_failed < target.n_evaluations - 1:
            raise
        raise StartError(
            "the log density raised an error at every point (the first is logged): it takes an "
            f"array (K, {dim}) of points, and returns (K,) log densities, or these and the "
            f"gradients (K, {dim})"
        ) from err
    finally:
        target.release()


def check_gradient(target: DensityTarget, points: np.ndarray, rng: np.random.Generator) -> None:
    """Compare the gradient along a random direction with differences of the log density.

    Raises
    ------
    SettingsError
        If they are far apart at every one of the points (P, d), as with a sign that is wrong.
    """
    target(points[:1])  # for its errors, of one point
    direction = rng.standard_normal(points.shape[1])
    step = DIFFERENCE * (1 + np.abs(points)) * direction
    logp, grad = target(np.concatenate([points + step, points - step, points]))
    up, down, _ = np.split(logp, 3)
    slope, own = 0.5 * (up - down), np.sum(grad[-len(points) :] * step, axis=1)
    size = np.maximum(np.abs(slope), np.abs(own))
    # a tenth of it, and far above what rounding leaves; false where one of them is not finite
    if np.all(np.abs(slope - own) > 0.1 * size + 1e-12 * (1 + np.abs(up))):
        length = float(np.linalg.norm(step[0]))
        raise SettingsError(
            "the gradient is not that of the log density: along a random direction it says "
            f"{own[0] / length:.3g} where differences of the log density give "
            f"{slope[0] / length:.3g}, and the like at all of {len(points)} points; check its sign "
            "and its terms"
        )

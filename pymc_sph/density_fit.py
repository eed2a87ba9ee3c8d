"""The same engine without PyMC: fit the fluids to any log density."""

from __future__ import annotations

import dataclasses

from typing import Any

import numpy as np

from pymc_sph.checks import SettingsError, check_integer
from pymc_sph.density_target import DensityTarget, LogDensityFunction
from pymc_sph.ensemble import Ensemble
from pymc_sph.fluid.noise import stream
from pymc_sph.result import FitResult
from pymc_sph.schemes import settings_of
from pymc_sph.seeds import POINTS, integer_seed


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
        For settings that have no meaning.
    StartError
        If no start is finite.
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
        ensemble = Ensemble.start(target, points, chosen, seed, n)
        while not ensemble.done:
            ensemble, _ = ensemble.step(target)
        result = ensemble.finish(target)
        spent, failed = target.n_evaluations, target.n_failed
        return dataclasses.replace(result, n_evaluations=spent, n_failed=failed)
    finally:
        target.release()

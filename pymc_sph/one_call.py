"""The whole way in one call: fit a model, and draw from it with importance correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pymc_sph import idata
from pymc_sph.checks import Callback, SettingsError, check_integer, shown
from pymc_sph.inference import SPH
from pymc_sph.seeds import integer_seed


def fit(
    draws: int = 1000,
    chains: int = 4,
    *,
    model: Any = None,
    random_seed: Any = None,
    n: int = 10_000,
    start: dict[str, Any] | None = None,
    importance: str | None = "psis",
    callbacks: Sequence[Callback] | None = None,
    progressbar: bool = True,
    include_transformed: bool = False,
    backend: str | None = None,
    compile_kwargs: dict[str, Any] | None = None,
    idata_kwargs: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """Fit a model and return importance-corrected draws, a chain per independent fluid.

    Parameters
    ----------
    draws : int
        Draws per chain.
    chains : int
        Number of independent fluids, and chains of the result.
    model, random_seed, n, start, callbacks, progressbar, backend, compile_kwargs
        As in `SPH` and `SPH.fit`.
    importance : {"psis", None}
        "psis" resamples the fluids' draws by Pareto-smoothed importance weights; None returns
        plain draws. See `FluidApproximation.sample_chains`.
    include_transformed : bool
        Add the group ``unconstrained_posterior``.
    idata_kwargs : dict, optional
        ``coords``, ``dims``, ``log_likelihood`` and ``log_prior`` for the result.
    **settings
        Fields of `pymc_sph.Settings`, and ``threads``, ``cores`` and ``executor`` of `SPH`.

    Returns
    -------
    InferenceData or DataTree
        The container of the installed PyMC.
    """
    if not (importance is None or (isinstance(importance, str) and importance == "psis")):
        raise SettingsError(f"importance={shown(importance)}: choose 'psis' or None")
    draws = check_integer("draws", draws, 1, whole_floats=True)
    chains = check_integer("chains", chains, 1)
    if "fluids" in settings:
        raise SettingsError("fluids: pymc_sph.fit has one fluid per chain, give `chains` instead")
    if idata_kwargs:
        idata.check_kwargs("fit", idata_kwargs)
    seeds = np.random.SeedSequence(integer_seed(random_seed)).generate_state(2)
    method = SPH(model, int(seeds[0]), start, fluids=chains, **settings)
    approx = method.fit(
        n,
        callbacks=callbacks,
        progressbar=progressbar,
        backend=backend,
        compile_kwargs=compile_kwargs,
    )
    return approx.sample_chains(
        draws,
        importance=importance,
        random_seed=int(seeds[1]),
        include_transformed=include_transformed,
        **(idata_kwargs or {}),
    )

"""Reference summaries for posteriors on simulated data: from nutpie or importance sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm

from summaries import Summary

MAX_R_HAT = 1.01
MIN_ESS = 0.9


def long_run(
    model: pm.Model, name: str, seed: int, *, draws: int, tune: int = 1_500, **settings: Any
) -> tuple[Summary, dict[str, np.ndarray]]:
    """Sample a model with nutpie and return the summary and its quality.

    Parameters
    ----------
    model : pymc.Model
    name : str
        For the line that is printed.
    seed : int
    draws, tune : int
        Per chain, four chains, one after another.
    **settings
        Of `nutpie.sample`.

    Returns
    -------
    summary : Summary
        Of all variables.
    quality : dict of str to ndarray, shape ()
        "r_hat" and "ess", the worst ones.

    Raises
    ------
    RuntimeError
        If the chains disagree.
    """
    import arviz as az
    import nutpie

    compiled = nutpie.compile_pymc_model(model)
    idata = nutpie.sample(
        compiled, draws=draws, tune=tune, chains=4, cores=1, seed=seed, **settings
    )
    posterior = idata["posterior"]
    r_hat = float(az.rhat(posterior).to_array().max())
    ess = float(az.ess(posterior).to_array().min())
    diverging = int(idata["sample_stats"]["diverging"].sum())
    print(f"{name}: {r_hat=:.4f}, {ess=:.0f} (worst), {diverging=}")
    if r_hat > MAX_R_HAT:
        raise RuntimeError(f"{name}: r_hat {r_hat:.3f} > {MAX_R_HAT}: take more draws")
    pooled = {
        key: values.values.reshape(-1, *values.shape[2:])
        for key, values in posterior.data_vars.items()
    }
    return Summary.from_draws(pooled), {"r_hat": np.array(r_hat), "ess": np.array(ess)}


def importance_run(
    model: pm.Model, name: str, seed: int, *, draws: int
) -> tuple[Summary, dict[str, np.ndarray]]:
    """Draw from the normal distribution at the mode, weight, resample, and summarise.

    For posteriors that are all but normal in unconstrained space.

    Parameters
    ----------
    model, name, seed
        As in `long_run`.
    draws : int

    Returns
    -------
    summary : Summary
    quality : dict of str to ndarray, shape ()
        "ess", the effective number of the weighted draws.

    Raises
    ------
    RuntimeError
        If that is less than `MIN_ESS` per draw.
    """
    from pymc.blocking import DictToArrayBijection, RaveledVars

    rng = np.random.default_rng(seed)
    logp, variables = model.compile_logp(), model.unobserved_value_vars
    constrain = model.compile_fn(variables, inputs=model.value_vars, point_fn=True)
    found = pm.find_MAP(model=model, include_transformed=True, progressbar=False)
    start = {v.name: np.asarray(found[v.name]) for v in model.value_vars}
    hessian = pm.find_hessian(start, model=model)
    mode = DictToArrayBijection.map(start)
    root = np.linalg.inv(np.linalg.cholesky(hessian)).T  # root root' = hessian^-1
    noise = rng.standard_normal((draws, len(root)))
    points = [
        DictToArrayBijection.rmap(RaveledVars(x, mode.point_map_info))
        for x in mode.data + noise @ root.T
    ]
    log_weight = np.array([logp(point) for point in points]) + 0.5 * (noise**2).sum(axis=1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    ess = 1 / (weight**2).sum()
    print(f"{name}: ess={ess:.0f} of {draws}")
    if ess < MIN_ESS * draws:
        raise RuntimeError(f"{name}: ESS {ess:.0f}: the posterior is not normal, use long_run")
    # systematic resampling: next to no noise where weights are next to equal
    kept = np.searchsorted(np.cumsum(weight), (rng.random() + np.arange(draws)) / draws)
    values = [constrain(points[i]) for i in np.minimum(kept, draws - 1)]
    pooled = {
        v.name: np.stack([row[k] for row in values])
        for k, v in enumerate(variables)
        if v.name not in start or v.name in model.named_vars
    }
    return Summary.from_draws(pooled), {"ess": np.array(ess)}


def check_data(path: Path, **data: np.ndarray) -> None:
    """Raise if the reference in `path` was made from other data than these.

    Raises
    ------
    RuntimeError
        NumPy may simulate other numbers from the same seed one day.
    """
    with np.load(path) as file:
        if not all(np.allclose(file[name], values) for name, values in data.items()):
            raise RuntimeError(
                f"{path.name} belongs to other simulated data; make it again, as the module that "
                "simulates them says"
            )

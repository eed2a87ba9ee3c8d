"""Hierarchical regressions on simulated data, and their reference summaries.

Posteriors shaped like the radon study's (919 measurements, 85 counties of very different sizes, a
predictor per county), simulated so that nothing has to be downloaded:

===============================  ===  =======================================================
name                               d  unknowns
===============================  ===  =======================================================
``varying_intercepts_centred``    90  85 intercepts; mu_a, gamma, beta, sd_a, sigma
``varying_slopes_noncentred``    176  2 x 85 standardised effects; mu_a, mu_b, gamma, sd_a,
                                      sd_b, sigma
``varying_slopes_centred``       176  2 x 85 intercepts and slopes; the same six
``varying_slopes_neck``          176  as ``varying_slopes_centred``, from data that hardly tell
                                      sd_b from 0: the posterior reaches deep into the funnel's
                                      neck, where centred fits are expected to fail, aloud
===============================  ===  =======================================================

The reference summaries in ``reference/`` (means, standard deviations, quantiles) come from nutpie
on the non-centred twin of each model; the log evidence beside them from quadrature over the
variance components, given which everything else is Gaussian. To make them again::

    python benchmarks/hierarchical.py --draws 10000
"""

from __future__ import annotations

import argparse
import itertools
import sys

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm

from scipy.special import logsumexp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from summaries import Summary

REFERENCE = Path(__file__).resolve().parent / "reference"
GROUPS, OBSERVATIONS = 85, 919
# of a handful of seeds, those whose data look like the radon study's (largest group 126, sd_b
# estimated as .29 +- .12) and whose estimate of sd_b sits at 0 (.08 +- .07)
RADON_LIKE, NECK = 9, 20240719


@dataclass(frozen=True)
class Data:
    """Simulated measurements: group index, predictor x (0/1), response y; group predictor u."""

    group: np.ndarray
    x: np.ndarray
    y: np.ndarray
    u: np.ndarray


def simulate(seed: int = RADON_LIKE) -> Data:
    """Return the data set: group sizes from 1 to about a hundred, as in the radon study."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(sigma=1.3, size=GROUPS)
    sizes = 1 + rng.multinomial(OBSERVATIONS - GROUPS, share / share.sum())
    group = np.repeat(np.arange(GROUPS), sizes)
    x = (rng.random(OBSERVATIONS) < 0.17).astype(float)
    u = rng.normal(0, 0.4, GROUPS)
    intercept = 1.5 + 0.7 * u + rng.normal(0, 0.2, GROUPS)
    slope = -0.65 + rng.normal(0, 0.35, GROUPS)
    y = rng.normal(intercept[group] + slope[group] * x, 0.72)
    return Data(group, x, y, u)


def varying_intercepts(data: Data, *, centred: bool) -> pm.Model:
    """Regression with an intercept per group; d = 85 + 5."""
    with pm.Model(coords={"group": np.arange(GROUPS)}) as model:
        mu_a, gamma, beta = (pm.Normal(name, 0, 2) for name in ("mu_a", "gamma", "beta"))
        sd_a, sigma = (pm.HalfNormal(name, 1) for name in ("sd_a", "sigma"))
        a = _effect("a", mu_a + gamma * data.u, sd_a, centred=centred)
        pm.Normal("y", a[data.group] + beta * data.x, sigma, observed=data.y)
    return model


def varying_slopes(data: Data, *, centred: bool) -> pm.Model:
    """Regression with an intercept and a slope per group; d = 2 * 85 + 6."""
    with pm.Model(coords={"group": np.arange(GROUPS)}) as model:
        mu_a, mu_b, gamma = (pm.Normal(name, 0, 2) for name in ("mu_a", "mu_b", "gamma"))
        sd_a, sd_b, sigma = (pm.HalfNormal(name, 1) for name in ("sd_a", "sd_b", "sigma"))
        a = _effect("a", mu_a + gamma * data.u, sd_a, centred=centred)
        b = _effect("b", mu_b, sd_b, centred=centred)
        pm.Normal("y", a[data.group] + b[data.group] * data.x, sigma, observed=data.y)
    return model


def _effect(name: str, mean: Any, sd: Any, *, centred: bool) -> Any:
    """Return one normal effect per group, written directly or as mean + sd * standard normal."""
    if centred:
        return pm.Normal(name, mean, sd, dims="group")
    z = pm.Normal(f"z_{name}", 0, 1, dims="group")
    return pm.Deterministic(name, mean + sd * z, dims="group")


MODELS: dict[str, tuple[Callable[..., pm.Model], bool, int]] = {
    "varying_intercepts_centred": (varying_intercepts, True, RADON_LIKE),
    "varying_slopes_noncentred": (varying_slopes, False, RADON_LIKE),
    "varying_slopes_centred": (varying_slopes, True, RADON_LIKE),
    "varying_slopes_neck": (varying_slopes, True, NECK),
}
"""Name of the benchmark: (function, centred, seed of the data)."""


def build(name: str) -> pm.Model:
    """Return the model of a benchmark."""
    function, centred, seed = MODELS[name]
    return function(simulate(seed), centred=centred)


def _reference_path(function: Callable[..., pm.Model], data_seed: int) -> Path:
    return REFERENCE / f"{function.__name__}-{data_seed}.npz"


def load_reference(name: str) -> Summary:
    """Return the reference of a benchmark, for the free variables of its model only.

    Raises
    ------
    RuntimeError
        If the reference was made from other data than `simulate` now returns.
    """
    function, _, seed = MODELS[name]
    path = _reference_path(function, seed)
    with np.load(path) as file:
        if not np.allclose(file["y"], simulate(seed).y):
            raise RuntimeError(
                f"{path.name} belongs to other simulated data; "
                "make it again with `python benchmarks/hierarchical.py`"
            )
    return Summary.load(path).select([rv.name for rv in build(name).free_RVs])


def load_log_evidence(name: str) -> float:
    """Return the exact log evidence of a benchmark."""
    function, _, seed = MODELS[name]
    with np.load(_reference_path(function, seed)) as file:
        return float(file["log_evidence"])


def exact_log_evidence(
    data: Data, *, slopes: bool, bounds: list[tuple[float, float]], nodes: int = 24
) -> float:
    """Return the log evidence of a model, by Gauss-Legendre quadrature.

    Given the sds, the response is Gaussian: y ~ N(0, sigma^2 I + W S^2 W'), W the design of all
    effects, S their prior sds. `bounds` of sd_a, (sd_b,) sigma enclose the posterior mass.
    """
    groups = np.eye(GROUPS)[data.group]
    common = [np.ones(OBSERVATIONS), data.u[data.group], data.x]
    blocks = [groups, groups * data.x[:, None]] if slopes else [groups]
    design = np.column_stack([*blocks, *common])
    gram, moment, square = design.T @ design, design.T @ data.y, data.y @ data.y

    def log_joint(*sds: float) -> float:
        sigma = sds[-1]
        scale = np.concatenate([*(np.full(GROUPS, sd) for sd in sds[:-1]), np.full(3, 2.0)])
        chol = np.linalg.cholesky(np.eye(len(scale)) + scale[:, None] * gram * scale / sigma**2)
        projected = np.linalg.solve(chol, scale * moment) / sigma**2
        log_det = OBSERVATIONS * np.log(2 * np.pi * sigma**2) + 2 * np.log(np.diag(chol)).sum()
        log_prior = sum(0.5 * np.log(2 / np.pi) - sd**2 / 2 for sd in sds)
        return log_prior - 0.5 * (log_det + square / sigma**2 - projected @ projected)

    x, w = np.polynomial.legendre.leggauss(nodes)
    axes = [(low + (x + 1) * (high - low) / 2, w * (high - low) / 2) for low, high in bounds]
    points = itertools.product(*(axis for axis, _ in axes))
    weights = itertools.product(*(weight for _, weight in axes))
    return float(
        logsumexp([log_joint(*p) + np.log(w).sum() for p, w in zip(points, weights, strict=True)])
    )


def make_reference(
    function: Callable[..., pm.Model], data_seed: int, draws: int, seed: int
) -> None:
    """Sample the non-centred model with nutpie, check convergence, write the summary."""
    import arviz as az
    import nutpie

    data = simulate(data_seed)
    compiled = nutpie.compile_pymc_model(function(data, centred=False))
    idata = nutpie.sample(
        compiled, draws=draws, tune=1500, chains=4, cores=1, seed=seed, target_accept=0.9
    )
    posterior = idata["posterior"]
    r_hat = float(az.rhat(posterior).to_array().max())
    ess = float(az.ess(posterior).to_array().min())
    diverging = int(idata["sample_stats"]["diverging"].sum())
    print(f"{function.__name__}, {data_seed=}: {r_hat=:.4f}, {ess=:.0f} (worst), {diverging=}")
    if r_hat > 1.01:
        raise RuntimeError(f"r_hat {r_hat:.3f} > 1.01: take more draws")

    pooled = {
        name: values.values.reshape(-1, *values.shape[2:])
        for name, values in posterior.data_vars.items()
    }
    summary = Summary.from_draws(pooled)
    bounds = [
        (
            max(0.0, summary.mean[name] - 8 * summary.sd[name]),
            summary.mean[name] + 9 * summary.sd[name],
        )
        for name in ("sd_a", "sd_b", "sigma")
        if name in pooled
    ]
    log_evidence = exact_log_evidence(data, slopes="sd_b" in pooled, bounds=bounds)
    print(f"{log_evidence=:.4f}")
    REFERENCE.mkdir(exist_ok=True)
    summary.save(
        _reference_path(function, data_seed),
        y=data.y,
        r_hat=np.array(r_hat),
        ess=np.array(ess),
        log_evidence=np.array(log_evidence),
    )


def main() -> None:
    """Make the reference summaries."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--draws", type=int, default=10_000, help="per chain, 4 chains")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for function, data_seed in dict.fromkeys((f, seed) for f, _, seed in MODELS.values()):
        make_reference(function, data_seed, arguments.draws, arguments.seed)


if __name__ == "__main__":
    main()

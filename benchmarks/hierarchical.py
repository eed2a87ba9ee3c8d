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
``many_slopes_noncentred``      606  as ``varying_slopes_noncentred``, 300 groups
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

from references import check_data, long_run
from summaries import Summary

REFERENCE = Path(__file__).resolve().parent / "reference"
GROUPS, OBSERVATIONS = 85, 919
MANY_GROUPS, MANY_OBSERVATIONS = 300, 3_000
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

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.u)


def simulate(seed: int = RADON_LIKE, groups: int = GROUPS, n: int = OBSERVATIONS) -> Data:
    """Return the data set: group sizes from 1 to about a hundred, as in the radon study."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(sigma=1.3, size=groups)
    sizes = 1 + rng.multinomial(n - groups, share / share.sum())
    group = np.repeat(np.arange(groups), sizes)
    x = (rng.random(n) < 0.17).astype(float)
    u = rng.normal(0, 0.4, groups)
    intercept = 1.5 + 0.7 * u + rng.normal(0, 0.2, groups)
    slope = -0.65 + rng.normal(0, 0.35, groups)
    y = rng.normal(intercept[group] + slope[group] * x, 0.72)
    return Data(group, x, y, u)


def varying_intercepts(data: Data, *, centred: bool) -> pm.Model:
    """Regression with an intercept per group; d = groups + 5."""
    with pm.Model(coords={"group": np.arange(data.groups)}) as model:
        mu_a, gamma, beta = (pm.Normal(name, 0, 2) for name in ("mu_a", "gamma", "beta"))
        sd_a, sigma = (pm.HalfNormal(name, 1) for name in ("sd_a", "sigma"))
        a = _effect("a", mu_a + gamma * data.u, sd_a, centred=centred)
        pm.Normal("y", a[data.group] + beta * data.x, sigma, observed=data.y)
    return model


def varying_slopes(data: Data, *, centred: bool) -> pm.Model:
    """Regression with an intercept and a slope per group; d = 2 * groups + 6."""
    with pm.Model(coords={"group": np.arange(data.groups)}) as model:
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


@dataclass(frozen=True)
class Benchmark:
    """A model, how it is written, and what its data are simulated from."""

    function: Callable[..., pm.Model]
    centred: bool
    seed: int = RADON_LIKE
    groups: int = GROUPS
    n: int = OBSERVATIONS

    def data(self) -> Data:
        """Simulate the data."""
        return simulate(self.seed, self.groups, self.n)

    def build(self, *, centred: bool) -> pm.Model:
        """Return the model, or its twin."""
        return self.function(self.data(), centred=centred)

    @property
    def path(self) -> Path:
        """Where the reference lies; centred and non-centred twins share one."""
        size = "" if self.groups == GROUPS else f"-{self.groups}"
        return REFERENCE / f"{self.function.__name__}-{self.seed}{size}.npz"


MODELS: dict[str, Benchmark] = {
    "varying_intercepts_centred": Benchmark(varying_intercepts, True),
    "varying_slopes_noncentred": Benchmark(varying_slopes, False),
    "varying_slopes_centred": Benchmark(varying_slopes, True),
    "varying_slopes_neck": Benchmark(varying_slopes, True, NECK),
    "many_slopes_noncentred": Benchmark(
        varying_slopes, False, groups=MANY_GROUPS, n=MANY_OBSERVATIONS
    ),
}
"""The benchmarks by name."""


def build(name: str) -> pm.Model:
    """Return the model of a benchmark."""
    return MODELS[name].build(centred=MODELS[name].centred)


def load_reference(name: str) -> Summary:
    """Return the reference of a benchmark, for the free variables of its model only.

    Raises
    ------
    RuntimeError
        If the reference was made from other data than `simulate` now returns.
    """
    benchmark = MODELS[name]
    check_data(benchmark.path, y=benchmark.data().y)
    return Summary.load(benchmark.path).select([rv.name for rv in build(name).free_RVs])


def load_log_evidence(name: str) -> float:
    """Return the exact log evidence of a benchmark."""
    with np.load(MODELS[name].path) as file:
        return float(file["log_evidence"])


def exact_log_evidence(
    data: Data, *, slopes: bool, bounds: list[tuple[float, float]], nodes: int = 24
) -> float:
    """Return the log evidence of a model, by Gauss-Legendre quadrature.

    Given the sds, the response is Gaussian: y ~ N(0, sigma^2 I + W S^2 W'), W the design of all
    effects, S their prior sds. `bounds` of sd_a, (sd_b,) sigma enclose the posterior mass.
    """
    groups = np.eye(data.groups)[data.group]
    common = [np.ones(len(data.y)), data.u[data.group], data.x]
    blocks = [groups, groups * data.x[:, None]] if slopes else [groups]
    design = np.column_stack([*blocks, *common])
    gram, moment, square = design.T @ design, design.T @ data.y, data.y @ data.y

    def log_joint(*sds: float) -> float:
        sigma = sds[-1]
        scale = np.concatenate([*(np.full(data.groups, sd) for sd in sds[:-1]), np.full(3, 2.0)])
        chol = np.linalg.cholesky(np.eye(len(scale)) + scale[:, None] * gram * scale / sigma**2)
        projected = np.linalg.solve(chol, scale * moment) / sigma**2
        log_det = len(data.y) * np.log(2 * np.pi * sigma**2) + 2 * np.log(np.diag(chol)).sum()
        log_prior = sum(0.5 * np.log(2 / np.pi) - sd**2 / 2 for sd in sds)
        return log_prior - 0.5 * (log_det + square / sigma**2 - projected @ projected)

    x, w = np.polynomial.legendre.leggauss(nodes)
    axes = [(low + (x + 1) * (high - low) / 2, w * (high - low) / 2) for low, high in bounds]
    points = itertools.product(*(axis for axis, _ in axes))
    weights = itertools.product(*(weight for _, weight in axes))
    return float(
        logsumexp([log_joint(*p) + np.log(w).sum() for p, w in zip(points, weights, strict=True)])
    )


def make_reference(benchmark: Benchmark, draws: int, seed: int) -> None:
    """Sample the non-centred model with nutpie, check convergence, write the summary."""
    data, model = benchmark.data(), benchmark.build(centred=False)
    summary, quality = long_run(model, benchmark.path.stem, seed, draws=draws, target_accept=0.9)
    bounds = [
        (
            max(0.0, summary.mean[name] - 8 * summary.sd[name]),
            summary.mean[name] + 9 * summary.sd[name],
        )
        for name in ("sd_a", "sd_b", "sigma")
        if name in summary.mean
    ]
    log_evidence = exact_log_evidence(data, slopes="sd_b" in summary.mean, bounds=bounds)
    print(f"{log_evidence=:.4f}")
    summary.save(benchmark.path, y=data.y, log_evidence=np.array(log_evidence), **quality)


def main() -> None:
    """Make the reference summaries."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of names")
    parser.add_argument("--draws", type=int, default=10_000, help="per chain, 4 chains")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    wanted = [
        benchmark
        for name, benchmark in MODELS.items()
        if arguments.only is None or any(part in name for part in arguments.only)
    ]
    for benchmark in {benchmark.path: benchmark for benchmark in wanted}.values():
        make_reference(benchmark, arguments.draws, arguments.seed)


if __name__ == "__main__":
    main()

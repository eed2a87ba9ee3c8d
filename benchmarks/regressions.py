"""Regressions on simulated data: logistic, and one as badly conditioned as posteriordb's diamonds.

The reference summaries in ``reference/`` come from nutpie where it takes a minute, and from
importance sampling out of a Laplace approximation where it takes half an hour: with so many
observations that is all but exact, as the ESS kept beside the summary says. To make them again::

    python benchmarks/regressions.py [--only NAME ...]
"""

from __future__ import annotations

import argparse
import sys

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
import pymc as pm

from references import check_data, importance_run, long_run
from summaries import Summary

REFERENCE = Path(__file__).resolve().parent / "reference"
LOGISTIC_DIM = 25
DIAMONDS_DIM, DIAMONDS_SIZE = 26, 5_000


@dataclass(frozen=True)
class Data:
    """Simulated regression data: design (n, p) and response (n,)."""

    design: np.ndarray
    y: np.ndarray


def simulate_logistic(n: int, seed: int = 25) -> Data:
    """Return an intercept and 24 correlated predictors; a third to two thirds of y are 1."""
    rng = np.random.default_rng(seed)
    d = LOGISTIC_DIM
    mixing = np.eye(d - 1) + 0.15 * rng.normal(size=(d - 1, d - 1))
    design = np.column_stack([np.ones(n), rng.normal(size=(n, d - 1)) @ mixing])
    beta = rng.normal(0, 0.5, d) / np.sqrt(np.linalg.norm(mixing))
    y = rng.random(n) < 1 / (1 + np.exp(-design @ beta))
    return Data(design, y.astype("int64"))


def logistic(data: Data) -> pm.Model:
    """Logistic regression with N(0, 2.5^2) priors."""
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 2.5, shape=data.design.shape[1])
        pm.Bernoulli("y", logit_p=data.design @ beta, observed=data.y)
    return model


def simulate_diamonds(seed: int = 26) -> Data:
    """Return 24 centred predictors as the price of a diamond has them.

    Its carat, three lengths that nearly repeat it, powers of a grade, and their products: the
    posterior's correlations have a condition number of 34,000, so that NUTS takes some 250 steps
    for a draw, as it does for the diamonds.
    """
    rng = np.random.default_rng(seed)
    n, predictors = DIAMONDS_SIZE, DIAMONDS_DIM - 2
    carat = rng.normal(size=n)
    grade = (np.digitize(rng.normal(size=n), np.linspace(-1, 1, 4)) - 2.0) / 2
    lengths = carat[:, None] + 0.3 * rng.normal(size=(n, 3))
    powers = [grade**k for k in range(1, 5)]
    columns = [carat, *lengths.T, *powers, *(carat * power for power in powers)]
    columns += [x * power for x in lengths.T for power in powers]
    design = np.column_stack(columns)[:, :predictors]
    design = design - design.mean(axis=0)
    y = 8 + design @ rng.normal(0, 0.3, predictors) + rng.normal(0, 0.15, n)
    return Data(design, y)


def diamonds(data: Data) -> pm.Model:
    """Linear regression with the priors of posteriordb's ``diamonds``."""
    with pm.Model() as model:
        intercept = pm.StudentT("intercept", nu=3, mu=8, sigma=10)
        b = pm.Normal("b", 0, 1, shape=data.design.shape[1])
        sigma = pm.HalfStudentT("sigma", nu=3, sigma=10)
        pm.Normal("y", intercept + data.design @ b, sigma, observed=data.y)
    return model


@dataclass(frozen=True)
class Benchmark:
    """A model, its data, and the run that its reference comes from."""

    model: Callable[[Data], pm.Model]
    data: Callable[[], Data]
    run: Callable[[pm.Model, str, int], tuple[Summary, dict[str, np.ndarray]]]
    """run(model, name, seed)"""


MODELS: dict[str, Benchmark] = {
    "logistic_1000": Benchmark(
        logistic, partial(simulate_logistic, 1_000), partial(long_run, draws=10_000)
    ),
    "logistic_100000": Benchmark(
        logistic, partial(simulate_logistic, 100_000), partial(importance_run, draws=20_000)
    ),
    "diamonds_like": Benchmark(diamonds, simulate_diamonds, partial(importance_run, draws=40_000)),
}
"""The benchmarks by name."""


def build(name: str) -> pm.Model:
    """Return the model of a benchmark."""
    return MODELS[name].model(MODELS[name].data())


def load_reference(name: str) -> Summary:
    """Return the reference of a benchmark.

    Raises
    ------
    RuntimeError
        If the reference was made from other data than are simulated now.
    """
    path = REFERENCE / f"{name}.npz"
    check_data(path, y=MODELS[name].data().y)
    return Summary.load(path)


def main() -> None:
    """Make the reference summaries."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for name in arguments.only:
        benchmark = MODELS[name]
        summary, quality = benchmark.run(build(name), name, arguments.seed)
        summary.save(REFERENCE / f"{name}.npz", y=benchmark.data().y, **quality)


if __name__ == "__main__":
    main()

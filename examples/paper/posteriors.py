"""Question 6: real posteriors, Bayesian logistic regression and Lotka-Volterra.

The models of the author's companion papers. Logistic regression runs through `pm.fit`, against
NUTS; Lotka-Volterra through `pymc_sph.fit_density`, against an ensemble sampler.
"""

from __future__ import annotations

import logging
import time
import warnings

import lotka_volterra
import numpy as np
import pymc as pm

from common import COLORS, Clock, plt, save, write_table

import pymc_sph

from pymc_sph.fluid.state import to_unconstrained

N_DRAWS = 20_000


def logistic_model() -> pm.Model:
    """150 observations, an intercept and five correlated predictors, one of them irrelevant."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((150, 5)) @ np.linalg.cholesky(0.5 * np.eye(5) + 0.5)
    slopes = np.array([1.0, -2.0, 0.5, 0.0, 1.5])
    y = rng.random(150) < 1 / (1 + np.exp(-(0.5 + X @ slopes)))
    with pm.Model() as model:
        intercept = pm.Normal("intercept", 0, 2.5)
        beta = pm.Normal("beta", 0, 2.5, shape=5)
        pm.Bernoulli("y", logit_p=intercept + X @ beta, observed=y)
    return model


def particles_of(mixture) -> np.ndarray:
    """All particles of all fluids, in unconstrained space."""
    return np.concatenate([to_unconstrained(f, f.z) for f in mixture.fluids])


def compare(draws: np.ndarray, exact: np.ndarray) -> list:
    """Worst error of a mean, in standard deviations, and the range of the sd ratios."""
    sd = exact.std(axis=0)
    ratio = draws.std(axis=0) / sd
    error = np.abs(draws.mean(axis=0) - exact.mean(axis=0)) / sd
    return [error.max(), ratio.min(), ratio.max()]


def rows_of(model, method, seconds, result, exact) -> tuple[list, np.ndarray]:
    """Rows of the table for a finished fit, and draws of its density."""
    draws = result.mixture.sample(N_DRAWS, np.random.default_rng(0)).theta
    evidence = f"{result.log_evidence:.2f} ({result.log_evidence_se:.2f})"
    figures = [result.elbo, evidence, result.importance_ess, result.verdict.grade]
    cost = [result.n_evaluations, seconds]
    rows = [[model, method, *compare(draws, exact), *figures, *cost]]
    if method.startswith("collocated"):
        particles = compare(particles_of(result.mixture), exact)
        rows.append([model, f"{method}: particles", *particles, np.nan, "", np.nan, "", "", ""])
    return rows, draws


def logistic() -> tuple[list, dict]:
    """Fit the logistic regression with both schemes, and sample it with NUTS."""
    model, rows, draws = logistic_model(), [], {}
    began = time.perf_counter()
    with model:
        data = pm.sample(
            1000, chains=4, cores=1, random_seed=1, progressbar=False, discard_tuned_samples=False
        )
    posterior, seconds = data["posterior"], time.perf_counter() - began
    exact = np.concatenate(
        [posterior["intercept"].values[..., None], posterior["beta"].values], axis=2
    ).reshape(-1, 6)
    groups = ("sample_stats", "warmup_sample_stats")
    spent = sum(int(data[group]["n_steps"].values.sum()) for group in groups)
    rows.append(
        ["logistic", "NUTS (the reference)", 0.0, 1.0, 1.0, np.nan, "", np.nan, "", spent, seconds]
    )
    for method, options in {
        "collocated": {"scheme": "collocated"},
        "variational": {},
    }.items():
        began = time.perf_counter()
        with model:
            approx = pm.fit(method="sph", random_seed=1, progressbar=False, inf_kwargs=options)
        more, draws[method] = rows_of(
            "logistic", method, time.perf_counter() - began, approx.result, exact
        )
        rows += more
    return rows, {"exact": exact, **draws}


def predator_prey() -> tuple[list, dict]:
    """Fit Lotka-Volterra with both schemes, and sample it with the ensemble sampler."""
    rows, draws, results = [], {}, {}
    points = lotka_volterra.START + 0.1 * np.random.default_rng(0).standard_normal((4, 8))
    for method, options in {
        "variational": {"fluids": 2},
        "collocated": {"fluids": 2, "scheme": "collocated"},
    }.items():
        began = time.perf_counter()
        results[method] = (
            pymc_sph.fit_density(lotka_volterra.target, 8, points=points, random_seed=1, **options),
            time.perf_counter() - began,
        )
    start = results["variational"][0].mixture.sample(64, np.random.default_rng(1)).theta
    exact = lotka_volterra.reference(start, 1500)
    for method in ("collocated", "variational"):
        result, seconds = results[method]
        more, draws[method] = rows_of("Lotka-Volterra", method, seconds, result, exact)
        rows += more
    return rows, {"exact": exact, **draws}


def main() -> None:
    """Fit both models; write the table, and a figure of marginals."""
    logging.getLogger("pymc").setLevel(logging.ERROR)
    logging.getLogger("pymc_sph").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", pymc_sph.UnreliableFitWarning)
    clock = Clock()
    logistic_rows, logistic_draws = logistic()
    other_rows, other_draws = predator_prey()
    columns = ["model", "method", "worst mean error, sd", "least sd ratio", "largest sd ratio"]
    columns += ["ELBO", "log evidence (se)", "importance ESS", "verdict", "evaluations", "s"]
    write_table("posteriors", columns, logistic_rows + other_rows)
    names = ["intercept", *(f"beta {i}" for i in range(1, 6))]
    figure, axes = plt.subplots(2, 7, figsize=(12, 4))
    axes[0, 6].axis("off")
    for line, labels, draws in (
        (axes[0], names, logistic_draws),
        (axes[1], [f"log {n}" for n in lotka_volterra.NAMES[:7]], other_draws),
    ):
        for k, label in enumerate(labels):
            exact = draws["exact"][:, k]
            edges = np.linspace(*np.quantile(exact, [0.0005, 0.9995]), 40)
            line[k].hist(exact, edges, density=True, color="#dddddd", label="exact")
            for method in ("collocated", "variational"):
                height, _ = np.histogram(draws[method][:, k], edges, density=True)
                middle = 0.5 * (edges[1:] + edges[:-1])
                line[k].plot(middle, height, color=COLORS[method], lw=1.2, label=method)
            line[k].set(title=label, yticks=[])
            line[k].tick_params(labelsize=7)
    axes[0, 6].legend(*axes[0, 0].get_legend_handles_labels(), loc="center", fontsize=8)
    save(figure, "posteriors")
    print(clock)


if __name__ == "__main__":
    main()

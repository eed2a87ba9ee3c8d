"""Logistic regression on data on disk: minibatches, all rows, and Laplace's approximation.

    python examples/minibatch.py [--rows 1000000] [--columns 20] [--batch 1000] [--folder data]
                                 [--check] [--full]

Makes the data as NumPy memory maps, finds the posterior's mode and curvature by Newton's method in
blocks of rows (with so many rows the posterior is Gaussian to many digits), fits the model with
``pm.Minibatch`` and, with ``--full``, with all rows; prints wall time, errors and evidence.
``--check`` makes the final check of the minibatch fit on all rows (``full_data=True``), by 400
draws.
"""

from __future__ import annotations

import argparse
import logging
import time

from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

import pymc_sph

PRIOR_SD = 2.0
BLOCK = 100_000
"""Rows that are held in memory at a time."""


def make_data(folder: Path, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return memory maps of the design (rows, columns), correlated, and of the outcomes (rows,)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}_{rows}_{columns}.dat" for name in ("x", "y")]
    shapes, types = ((rows, columns), (rows,)), ("float64", "int32")
    if not all(path.exists() for path in paths):
        rng = np.random.default_rng(0)
        X, y = (
            np.memmap(path, kind, "w+", shape=shape)
            for path, kind, shape in zip(paths, types, shapes, strict=True)
        )
        L = np.linalg.cholesky(0.5 * np.eye(columns) + 0.5)
        beta = 0.5 * rng.standard_normal(columns)
        for start in range(0, rows, BLOCK):
            part = slice(start, min(start + BLOCK, rows))
            X[part] = rng.standard_normal((part.stop - start, columns)) @ L.T
            X[part, 0] = 1
            y[part] = rng.random(part.stop - start) < 1 / (1 + np.exp(-X[part] @ beta))
        X.flush()
        y.flush()
    X, y = (
        np.memmap(path, kind, "r", shape=shape)
        for path, kind, shape in zip(paths, types, shapes, strict=True)
    )
    return X, y


def laplace(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mode (d,), covariance (d, d) there, and log evidence of the Gaussian, by Newton's method."""
    d = X.shape[1]
    beta = np.zeros(d)
    while True:
        logp = -0.5 * beta @ beta / PRIOR_SD**2 - d * np.log(PRIOR_SD * np.sqrt(2 * np.pi))
        grad, H = -beta / PRIOR_SD**2, np.eye(d) / PRIOR_SD**2
        for start in range(0, len(X), BLOCK):
            rows, found = X[start : start + BLOCK], y[start : start + BLOCK]
            eta = rows @ beta
            p = 1 / (1 + np.exp(-eta))
            logp += np.sum(found * eta - np.logaddexp(0, eta))
            grad = grad + rows.T @ (found - p)
            H = H + (rows * (p * (1 - p))[:, None]).T @ rows
        step = np.linalg.solve(H, grad)
        beta = beta + step
        if np.max(np.abs(step)) < 1e-9:
            break
    evidence = logp + 0.5 * d * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(H)[1]
    return beta, np.linalg.inv(H), float(evidence)


def regression(X: Any, y: Any, batch: int | None) -> pm.Model:
    """Return the model, on minibatches of so many rows or on all of them."""
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, PRIOR_SD, shape=X.shape[1])
        if batch is None:
            pm.Bernoulli("y", logit_p=pt.dot(X, beta), observed=y)
        else:
            # the memory maps themselves: pm.Data would copy them
            rows, found = pm.Minibatch(X, y, batch_size=batch)
            pm.Bernoulli("y", logit_p=rows @ beta, observed=found, total_size=len(X))
    return model


def fit(name: str, model: pm.Model, exact: tuple[np.ndarray, np.ndarray, float], **kw: Any) -> None:
    """Fit, and print a row of the table."""
    began = time.perf_counter()
    with model:
        approx = pymc_sph.SPH(random_seed=1, **kw).fit(progressbar=False)
    seconds = time.perf_counter() - began
    q, result = approx.mixture, approx.result
    assert q is not None and result is not None
    beta, cov, _ = exact
    sd = np.sqrt(np.diag(cov))
    mean_error = np.max(np.abs(q.mean() - beta) / sd)
    sd_error = np.max(np.abs(np.log(np.sqrt(np.diag(q.cov())) / sd)))
    print(
        f"| {name} | {seconds:.0f} s | {result.n_steps} | {mean_error:.3f} | {sd_error:.3f} "
        f"| {result.log_evidence:.2f} +- {result.log_evidence_se:.2f} ({result.evidence_of})"
        f" | {result.verdict.grade} |",
        flush=True,
    )


def main() -> None:
    """Make the data, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("data"))
    parser.add_argument("--check", action="store_true", help="final check on all rows")
    parser.add_argument("--full", action="store_true", help="fit all rows as well")
    options = parser.parse_args()
    logging.getLogger("pymc_sph").setLevel(logging.ERROR)
    X, y = make_data(options.folder, options.rows, options.columns)
    exact = laplace(X, y)
    print(f"n = {options.rows}, d = {options.columns}; Laplace: log evidence {exact[2]:.2f}")
    print(
        "| fit | wall | steps | worst error of a mean, sd | of a log sd | log evidence | verdict |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    extra = {"full_data": True, "draws": 400} if options.check else {}
    fit(f"batches of {options.batch}", regression(X, y, options.batch), exact, **extra)
    if options.full:
        fit("all rows", regression(X, y, None), exact)


if __name__ == "__main__":
    main()

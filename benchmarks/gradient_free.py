"""Measure the pressure form: densities in closed form, and posteriors with the gradient blocked.

Run ``python benchmarks/gradient_free.py``. The densities have log Z = 0 and are fitted in both
forms. The posteriors pass through an Op without gradient (``tests/gradient_blocker.py``) and are
judged by 4,000 draws against the reference draws in ``tests/reference``. One seed, not tuned.
"""

from __future__ import annotations

import os

# before NumPy is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import logging
import sys
import time

from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
import pymc as pm
import reference_models

from bars import Row, table
from fluids import gaussian, ill_conditioned
from gradient_blocker import block_gradient
from scipy.special import logsumexp

import pymc_sph

Target = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
DRAWS = 4_000
POSTERIORS = (
    "eight_schools-eight_schools_noncentered",
    "kidiq-kidscore_momiq",
    "nes2000-nes",
    "mesquite-mesquite",
)
DENSITY_COLUMNS = ("form", "d", "ELBO", "log Z", "ESS", "evaluations", "per fluid", "steps",
                   "verdict", "wall s")  # fmt: skip
POSTERIOR_COLUMNS = ("d", "mean", "log sd", "ESS", "log Z", "evaluations", "per fluid", "steps",
                     "verdict", "wall s")  # fmt: skip


def banana(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Haario's banana in five dimensions, bent by .03: x_0 ~ N(0, 10^2); normalised."""
    bend = 0.03
    x = theta.copy()
    x[:, 1] += bend * (theta[:, 0] ** 2 - 100.0)
    x[:, 0] /= 10.0
    logp = -0.5 * np.sum(x**2, axis=1) - np.log(10.0) - 2.5 * np.log(2 * np.pi)
    grad = -x
    grad[:, 0] = -x[:, 0] / 10.0 - x[:, 1] * 2 * bend * theta[:, 0]
    return logp, grad


def funnel(theta: np.ndarray, sd: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Neal's funnel: log variance N(0, sd^2) of the other coordinates; normalised."""
    v, x = theta[:, 0], theta[:, 1:]
    n = x.shape[1]
    square = np.sum(x**2, axis=1) * np.exp(-v)
    logp = -0.5 * (v / sd) ** 2 - np.log(sd) - 0.5 * square - 0.5 * n * v
    logp -= 0.5 * (n + 1) * np.log(2 * np.pi)
    grad = np.column_stack([-v / sd**2 + 0.5 * square - 0.5 * n, -x * np.exp(-v)[:, None]])
    return logp, grad


MODES = np.random.default_rng(1).uniform(-15, 15, (10, 2))


def ten_modes(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ten unit Gaussians in the plane, of weights 1 to 10; normalised."""
    gap = MODES - theta[:, None]
    part = -0.5 * np.sum(gap**2, axis=2) + np.log(np.arange(1, 11) / 55) - np.log(2 * np.pi)
    logp = logsumexp(part, axis=1)
    return logp, np.sum(np.exp(part - logp[:, None])[:, :, None] * gap, axis=1)


def densities() -> dict[str, tuple[Target, int, dict[str, Any]]]:
    """Return target, dimension and settings of each density."""
    out: dict[str, tuple[Target, int, dict[str, Any]]] = {
        f"N(0, C) d={d}": (gaussian(*ill_conditioned(d)), d, {}) for d in (2, 5, 10, 20)
    }
    # all starts around one mode, so that the others have to be found by the heat
    around = MODES[3] + np.random.default_rng(0).standard_normal((8, 2))
    hot = {"temperature": 300.0, "cooling": 100, "points": around}
    return out | {
        "banana d=5": (banana, 5, {}),
        "funnel d=5": (funnel, 5, {}),
        "ten modes d=2": (ten_modes, 2, hot),
    }


def fit_density(name: str, form: str, seed: int, **settings: Any) -> Row:
    """Fit a density in one of the forms and return its row."""
    target, d, own = densities()[name]
    began = time.perf_counter()
    result = pymc_sph.fit_density(target, d, random_seed=seed, formulation=form, **own, **settings)
    label = form + "".join(f", {key} {value:g}" for key, value in settings.items())
    return {
        "name": name, "form": label, "d": d, "ELBO": result.elbo, "log Z": result.log_evidence,
        "ESS": result.importance_ess, "evaluations": result.n_evaluations,
        "per fluid": result.n_evaluations // 4, "steps": result.n_steps,
        "verdict": result.verdict.grade, "wall s": time.perf_counter() - began,
    }  # fmt: skip


def fit_posterior(name: str, seed: int) -> Row:
    """Fit a posterior whose gradient is blocked and return its row."""
    model, reference = reference_models.load(name)
    block_gradient(model)
    with model:
        began = time.perf_counter()
        approx = pm.fit(method="sph", random_seed=seed, progressbar=False)
        wall = time.perf_counter() - began
        posterior = approx.sample(DRAWS, random_seed=seed)["posterior"]
    errors = reference.errors({key: x.values for key, x in posterior.data_vars.items()})
    result = approx.result
    assert result.formulation == "pressure"
    return {
        "name": name, "d": approx.ndim, "mean": errors["max_mean"],
        "log sd": errors["max_log_sd"], "ESS": result.importance_ess, "log Z": result.log_evidence,
        "evaluations": result.n_evaluations, "per fluid": result.n_evaluations // 4,
        "steps": result.n_steps, "verdict": result.verdict.grade, "wall s": wall,
    }  # fmt: skip


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of names")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every figure there")
    arguments = parser.parse_args()
    logging.getLogger("pymc_sph").setLevel(logging.ERROR)

    def wanted(name: str) -> bool:
        return arguments.only is None or any(part in name for part in arguments.only)

    rows: list[Row] = []

    def keep(row: Row) -> None:
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1, default=float))

    for name in filter(wanted, densities()):
        keep(fit_density(name, "force", arguments.seed))
        keep(fit_density(name, "pressure", arguments.seed))
    for name in filter(wanted, POSTERIORS):
        keep(fit_posterior(name, arguments.seed))
    print(table([row for row in rows if "form" in row], DENSITY_COLUMNS), "\n")
    print(table([row for row in rows if "form" not in row], POSTERIOR_COLUMNS))


if __name__ == "__main__":
    main()

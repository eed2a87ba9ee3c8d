"""Hares and lynxes by three methods without gradients, against a long reference run.

Run ``python benchmarks/predator_prey.py``: the model of ``examples/black_box.py``, whose log
density costs one call of SciPy's `solve_ivp`, fitted by ``pm.fit(method="sph")``,
`pymc.sample_smc` and DEMetropolisZ, two processes each. Every call is counted, in whichever
process. Errors are in reference standard deviations, of the worst of the eight parameters.
`sample_smc` and DEMetropolisZ cannot do with an error, nor the former with NaN: a failed call gives
them a very small likelihood.

The reference is a random-walk Metropolis chain on an own implementation of the same log density
(NumPy and Numba, fourth-order Runge-Kutta at a hundredth of a year), ``--reference`` makes it anew.
"""

from __future__ import annotations

import os

# before NumPy is imported; the simulator has processes of its own
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import logging
import multiprocessing
import sys
import time
import warnings

from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import black_box
import numba
import numpy as np
import pymc as pm

from bars import Row, table
from summaries import Summary

import pymc_sph

HERE = Path(__file__).resolve().parent
REFERENCE = HERE / "reference" / "predator_prey.npz"
CALLS = multiprocessing.Value("q", 0)
SIMULATE = black_box.simulate
COLUMNS = ("mean", "log sd", "W1", "calls", "wall s", "draws", "log Z", "note")


def counted(rates: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Count a call of the simulator."""
    with CALLS.get_lock():
        CALLS.value += 1
    return SIMULATE(rates, first)


def tolerant(rates: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Count a call; where it fails, return populations that make the data very unlikely."""
    try:
        z = counted(rates, first)
    except RuntimeError:
        z = np.zeros(black_box.PELTS.shape)
    return z if (z > 0).all() else np.full(z.shape, 1e-30)


def by_sph(seed: int) -> tuple[Any, Row]:
    """Fit with ``pm.fit(method="sph")`` at its defaults."""
    black_box.simulate = counted
    with black_box.build():
        approx = pm.fit(method="sph", random_seed=seed, inf_kwargs={"cores": 2}, progressbar=False)
        fitted = CALLS.value  # the draws' own log densities come on top
        idata = approx.sample(4_000, random_seed=seed)
    note = f"{fitted} calls for the fit; {approx.result.n_failed} failed; {approx.verdict}"
    return idata, {"log Z": approx.log_evidence, "note": note}


def by_smc(seed: int) -> tuple[Any, Row]:
    """Sample with `pymc.sample_smc` at its defaults, on two processes."""
    black_box.simulate = tolerant
    with black_box.build():
        idata = pm.sample_smc(random_seed=seed, cores=2, progressbar=False)
    stages = [np.asarray(x, dtype="float64") for x in _evidence(idata)]
    return idata, {"log Z": float(np.mean([x[np.isfinite(x)][-1] for x in stages])), "note": ""}


def _evidence(idata: Any) -> Any:
    values = idata["sample_stats"]["log_marginal_likelihood"].values
    return [np.ravel(np.array(list(chain), dtype="float64")) for chain in values]


def by_demz(draws: int, tune: int) -> Callable[[int], tuple[Any, Row]]:
    """Sample with DEMetropolisZ, four chains of this length on two processes."""

    def sample(seed: int) -> tuple[Any, Row]:
        black_box.simulate = tolerant
        with black_box.build():
            step = pm.DEMetropolisZ()
            idata = pm.sample(
                draws, tune=tune, chains=4, cores=2, step=step, random_seed=seed,
                progressbar=False, compute_convergence_checks=False,
            )  # fmt: skip
        return idata, {"note": f"{tune} + {draws} steps, 4 chains"}

    return sample


METHODS: dict[str, Callable[[int], tuple[Any, Row]]] = {
    "sph": by_sph,
    "sample_smc": by_smc,
    "DEMetropolisZ": by_demz(1_000, 1_000),
    "DEMetropolisZ, long": by_demz(9_000, 3_000),
}


def measure(name: str, seed: int, reference: Summary) -> Row:
    """Run one method and return its row."""
    CALLS.value = 0
    began = time.perf_counter()
    idata, row = METHODS[name](seed)
    wall, calls = time.perf_counter() - began, CALLS.value
    posterior = idata["posterior"]
    draws = {key: posterior[key].values for key in ("rates", "first", "sigma")}
    errors = reference.errors(draws)
    return {
        "name": name,
        "mean": errors["max_mean"],
        "log sd": max(errors["log_sd"].values(), key=abs),
        "W1": errors["max_w1"],
        "calls": calls,
        "wall s": wall,
        "draws": draws["rates"].shape[0] * draws["rates"].shape[1],
    } | row


@numba.njit(cache=True)
def reference_logp(x: np.ndarray, log_pelts: np.ndarray) -> float:
    """Log density of the logarithms of rates, first populations and sigmas, up to a constant."""
    p = np.exp(x)
    a, b, g, d = p[0], p[1], p[2], p[3]
    logp = x.sum()  # the Jacobian
    for rate, mu, sd in zip(p[:4], (1.0, 0.05, 1.0, 0.05), (0.5, 0.05, 0.5, 0.05)):  # noqa: B905
        logp -= 0.5 * ((rate - mu) / sd) ** 2
    for i in range(2):
        logp -= 0.5 * (x[4 + i] - np.log(10.0)) ** 2 + x[4 + i]
        logp -= 0.5 * (x[6 + i] + 1.0) ** 2 + x[6 + i]
    n = 100
    h = 1.0 / n
    u, v = p[4], p[5]
    for year in range(len(log_pelts)):
        if year:
            for _ in range(n):
                k0, k1 = (a - b * v) * u, (d * u - g) * v
                s, t = u + 0.5 * h * k0, v + 0.5 * h * k1
                l0, l1 = (a - b * t) * s, (d * s - g) * t
                s, t = u + 0.5 * h * l0, v + 0.5 * h * l1
                m0, m1 = (a - b * t) * s, (d * s - g) * t
                s, t = u + h * m0, v + h * m1
                u += h / 6 * (k0 + 2 * l0 + 2 * m0 + (a - b * t) * s)
                v += h / 6 * (k1 + 2 * l1 + 2 * m1 + (d * s - g) * t)
        if not (u > 0 and v > 0):
            return -np.inf
        logp -= 0.5 * ((log_pelts[year, 0] - np.log(u)) / p[6]) ** 2 + x[6]
        logp -= 0.5 * ((log_pelts[year, 1] - np.log(v)) / p[7]) ** 2 + x[7]
    return logp


@numba.njit(cache=True)
def random_walk(
    x: np.ndarray, steps: np.ndarray, u: np.ndarray, log_pelts: np.ndarray
) -> np.ndarray:
    """Metropolis chain with these proposed steps (n, 8) and log uniform numbers (n,)."""
    out = np.empty_like(steps)
    logp = reference_logp(x, log_pelts)
    for i in range(len(steps)):
        proposal = x + steps[i]
        new = reference_logp(proposal, log_pelts)
        if u[i] < new - logp:
            x, logp = proposal, new
        out[i] = x
    return out


def make_reference(seed: int = 0, chains: int = 4, n: int = 400_000) -> None:
    """Run the reference chains and save the summary of their draws."""
    rng = np.random.default_rng(seed)
    log_pelts = np.log(black_box.PELTS)
    x = np.log([0.55, 0.028, 0.8, 0.024, 34.0, 5.9, 0.25, 0.25])
    cov = 0.01 * np.eye(8)
    for _ in range(6):  # learn the proposal, then leave it
        size = 20_000
        steps = rng.multivariate_normal(np.zeros(8), 2.38**2 / 8 * cov, size)
        draws = random_walk(x, steps, np.log(rng.random(size)), log_pelts)
        x, cov = draws[-1], np.cov(draws[size // 4 :].T) + 1e-8 * np.eye(8)
    kept = []
    for _ in range(chains):
        steps = rng.multivariate_normal(np.zeros(8), 2.38**2 / 8 * cov, n)
        draws = random_walk(x, steps, np.log(rng.random(n)), log_pelts)
        kept.append(draws[n // 20 :: 20])
    means = np.stack([c.mean(axis=0) for c in kept])
    sd = np.std(np.concatenate(kept), axis=0)
    print("spread of the chains' means, in sds:", np.round(means.std(axis=0) / sd, 4))
    p = np.exp(np.concatenate(kept))
    REFERENCE.parent.mkdir(exist_ok=True)
    parts = {"rates": p[:, :4], "first": p[:, 4:6], "sigma": p[:, 6:]}
    Summary.from_draws(parts).save(REFERENCE)


def main() -> None:
    """Measure every method and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of the methods' names")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reference", action="store_true", help="make the reference draws anew")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every figure there")
    arguments = parser.parse_args()
    logging.getLogger("pymc").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", pymc_sph.UnreliableFitWarning)
    if arguments.reference or not REFERENCE.exists():
        make_reference()
    reference = Summary.load(REFERENCE)
    rows = []
    for name in METHODS:
        if arguments.only is None or any(part in name for part in arguments.only):
            rows.append(measure(name, arguments.seed, reference))
            print(rows[-1], file=sys.stderr, flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1, default=float))
    print(table(rows, COLUMNS))


if __name__ == "__main__":
    main()

"""Measure the project's bars as a user would: one command, one seed, one table.

Run ``python benchmarks/bars.py``, or ``--only nes2000-nes varying_slopes_centred`` for some of
them. Every posterior is fitted with ``pm.fit(method="sph")`` at its defaults and judged by 4,000
draws, as they come and with their importance weights, against reference draws. Errors are in
reference sds; ``README.md`` beside this file explains the columns.
"""

from __future__ import annotations

import os

# before NumPy is imported; the log density has threads of its own
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
import warnings

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import hierarchical
import numpy as np
import posteriordb_models
import pymc as pm

import pymc_sph

from pymc_sph.importance import psis

ROOT = Path(__file__).resolve().parents[1]
DRAWS = 4_000
FIRST_RUN = "python -m pymc_sph"

Row = dict[str, Any]
Errors = Callable[..., dict[str, Any]]  # errors(draws, weights=None), as `Summary.errors`

AT_MOST, AT_LEAST = "<=", ">="
Bar = tuple[str, str, float]  # column, direction, limit

POSTERIORDB_BARS: list[Bar] = [("mean", AT_MOST, 0.10), ("log sd", AT_MOST, 0.10)]
ONE_SECOND: Bar = ("fit s", AT_MOST, 1.0)
BARS: dict[str, list[Bar]] = {
    "eight_schools-eight_schools_noncentered": [*POSTERIORDB_BARS, ONE_SECOND],
    "nes2000-nes": [*POSTERIORDB_BARS, ONE_SECOND],
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": [("W1", AT_MOST, 0.10)],
    "gp_pois_regr-gp_pois_regr": [("mean (w)", AT_MOST, 0.10), ("log sd (w)", AT_MOST, 0.10)],
    "varying_intercepts_centred": [("mean", AT_MOST, 0.12), ("ESS", AT_LEAST, 0.9)],
    "varying_slopes_noncentred": [("ESS", AT_LEAST, 0.3), ("mean W1", AT_MOST, 0.035)],
    "varying_slopes_centred": [("log Z error", AT_MOST, 1.0)],
    # no bar of its own, but a miss of this one has to be said by the verdict
    "varying_slopes_neck": [("mean", AT_MOST, 0.12), ("log Z error", AT_MOST, 1.0)],
    FIRST_RUN: [("wall s", AT_MOST, 40.0)],
}
"""Bars that differ from `POSTERIORDB_BARS`."""

ERROR_COLUMNS = ("mean", "log sd", "W1", "mean W1", "mean (w)", "log sd (w)", "W1 (w)")
FIT_COLUMNS = (
    "d", "ESS", "k", "ELBO", "log Z", "se", "log Z error", "verdict", "steps", "gradients",
    "fit s", "compile s", "wall s",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A posterior to fit: how to make its model, the errors of draws, log Z where it is known."""

    name: str
    load: Callable[[], tuple[pm.Model, Errors]]
    log_evidence: Callable[[], float] | None = None


def cases() -> list[Case]:
    """Return every case: posteriordb's, and the hierarchical models that have a bar."""
    found = [Case(name, partial(_posteriordb, name)) for name in posteriordb_models.ALL]
    for name in hierarchical.MODELS:
        if name in BARS:
            exact = partial(hierarchical.load_log_evidence, name)
            found.append(Case(name, partial(_hierarchical, name), exact))
    return found


def _posteriordb(name: str) -> tuple[pm.Model, Errors]:
    return posteriordb_models.build(name), posteriordb_models.reference(name).errors


def _hierarchical(name: str) -> tuple[pm.Model, Errors]:
    return hierarchical.build(name), hierarchical.load_reference(name).errors


def measure(case: Case, seed: int) -> Row:
    """Fit one posterior and return its row of the table."""
    model, errors = case.load()
    with model, warnings.catch_warnings():
        warnings.simplefilter("ignore", pymc_sph.UnreliableFitWarning)
        began = time.perf_counter()
        approx = pm.fit(method="sph", random_seed=seed, progressbar=False)
        wall = time.perf_counter() - began
        idata = approx.sample(DRAWS, random_seed=seed)
    posterior, attrs = idata["posterior"], idata["posterior"].attrs
    draws = {name: x.values for name, x in posterior.data_vars.items()}
    log_weights, _ = psis(idata["sample_stats"]["log_weight"].values.ravel())
    plain, weighted = errors(draws), errors(draws, weights=np.exp(log_weights))

    row: Row = {"name": case.name, "d": approx.ndim}
    for label, result in (("", plain), (" (w)", weighted)):
        row |= {
            f"mean{label}": result["max_mean"],
            f"log sd{label}": result["max_log_sd"],
            f"W1{label}": result["max_w1"],
            f"mean W1{label}": result["mean_w1"],
        }
    row |= {
        "ESS": approx.importance_ess,
        "k": approx.pareto_k,
        "ELBO": approx.elbo,
        "log Z": approx.log_evidence,
        "se": approx.log_evidence_se,
        "verdict": approx.verdict.grade,
        "reason": str(approx.verdict),
        "status": approx.status,
        "steps": attrs["n_steps"],
        "gradients": attrs["n_evaluations"],
        "compile s": attrs["compile_time"],
        "fit s": wall - attrs["compile_time"],
        "sampling_time": attrs["sampling_time"],
        "wall s": wall,
    }
    if case.log_evidence is not None:
        row["log Z error"] = abs(approx.log_evidence - case.log_evidence())
    return row


def measure_first_run() -> Row:
    """Run ``python -m pymc_sph`` as if for the first time: no cache of PyTensor or Matplotlib."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PYTENSOR_FLAGS": f"base_compiledir={folder}/pytensor",
            "MPLCONFIGDIR": f"{folder}/matplotlib",
            "MPLBACKEND": "Agg",
        }
        command = [sys.executable, "-m", "pymc_sph"]
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        return {"name": FIRST_RUN, "wall s": time.perf_counter() - began}


def judge(row: Row) -> str:
    """Return "pass", or which bars were missed and whether the verdict said so."""
    if "failure" in row:
        return f"FAILED: {row['failure']}"
    missed = []
    for column, direction, limit in BARS.get(row["name"], POSTERIORDB_BARS):
        value = row[column]
        # written so that NaN misses
        if not (value <= limit if direction == AT_MOST else value >= limit):
            missed.append(f"{column} {_format(value)} (bar {direction} {limit:g})")
    if not missed:
        return "pass"
    inaccurate = not all(m.startswith(("fit s", "wall s")) for m in missed)
    silent = inaccurate and row.get("verdict") == "reliable"
    return "MISSED" + (", SILENTLY" if silent else "") + ": " + ", ".join(missed)


def guarded(name: str, measurement: Callable[[], Row]) -> Row:
    """Return the row of a measurement, or one that tells why there is none."""
    try:
        row = measurement()
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        row = {"name": name, "failure": f"{type(error).__name__}: {lines[0] if lines else ''}"}
    row["result"] = judge(row)
    print(f"{name}: {row['result']}", file=sys.stderr, flush=True)
    return row


def table(rows: Iterable[Row], columns: Iterable[str]) -> str:
    """Return a markdown table; a figure that a row lacks stays empty."""
    columns = ["name", *columns]
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_format(row.get(column, "")) for column in columns) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _format(value: Any) -> str:
    if not isinstance(value, float | np.floating):
        return str(value)
    number = float(value)
    return f"{number:.3f}" if abs(number) < 10 else f"{number:,.1f}"


def main() -> int:
    """Measure, print the tables, return the number of bars that were missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of names, or 'first'")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every figure there")
    arguments = parser.parse_args()

    def wanted(name: str) -> bool:
        return arguments.only is None or any(part in name for part in arguments.only)

    rows: list[Row] = []
    for case in cases():
        if wanted(case.name):
            rows.append(guarded(case.name, partial(measure, case, arguments.seed)))
            if arguments.json:  # after every case: an interrupted run keeps what it has
                arguments.json.write_text(json.dumps(rows, indent=1, default=float))
    if wanted(FIRST_RUN) or "first" in (arguments.only or []):
        rows.append(guarded(FIRST_RUN, measure_first_run))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1, default=float))
    print(table(rows, ERROR_COLUMNS), "\n")
    print(table(rows, FIT_COLUMNS), "\n")
    print(table(rows, ["result"]))
    return sum(row["result"] != "pass" for row in rows)


if __name__ == "__main__":
    sys.exit(min(main(), 1))

"""One run of ``peers.py``, in a process of its own: a posterior, a method, a seed, a JSON row.

``python benchmarks/peer_run.py POSTERIOR METHOD SEED OUT`` writes the row to the file OUT. What
the method or the compiler print goes where it may.
"""

from __future__ import annotations

import os

# before NumPy is imported; methods have threads and processes of their own
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import json
import logging
import sys
import time
import warnings

from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import peer_methods

from posteriors import POSTERIORS, Posterior

Row = dict[str, Any]


def run(posterior: Posterior, method: peer_methods.Method, seed: int) -> Row:
    """Return the row of one run; "status" is "ok", or says why there is nothing to see."""
    if method.gradient and not posterior.gradient:
        return {"status": "needs a gradient"}
    missing = method.missing()
    if missing:
        return {"status": "not installed", "reason": ", ".join(missing)}
    import arviz as az

    model = posterior.build()
    with peer_methods.compiling() as compilations:
        began, cpu = time.perf_counter(), time.process_time()
        result = method.run(model, seed)
        total = time.perf_counter() - began
        cpu = time.process_time() - cpu
    compile_time = sum(compilations) if result.compile_time is None else result.compile_time
    errors = posterior.reference().errors(result.draws)
    row: Row = {
        "status": "ok" if np.isfinite(errors["max_mean"]) else "not finite",
        "d": sum(np.size(value) for value in model.initial_point(0).values()),
        "total": total,
        "compile": compile_time,
        "after": total - compile_time,
        "cpu": cpu,
        "evaluations": result.evaluations,
        "mean": errors["max_mean"],
        "log_sd": errors["max_log_sd"],
        "w1": errors["max_w1"],
    }
    if method.label == peer_methods.METHODS["nutpie"].label:
        judged = {name: result.draws[name] for name in posterior.reference().mean}
        row |= monte_carlo_error(az, judged)
    return row | result.extra


def monte_carlo_error(az: Any, draws: dict[str, np.ndarray]) -> Row:
    """Return the standard error of the worst mean, in sds, and of the log of the worst sd."""
    data = az.convert_to_dataset(draws)
    ess_mean = min(float(x.min()) for x in az.ess(data, method="mean").data_vars.values())
    ess_sd = min(float(x.min()) for x in az.ess(data, method="sd").data_vars.values())
    return {"mc_mean": ess_mean**-0.5, "mc_log_sd": (2 * ess_sd) ** -0.5, "min_ess": ess_mean}


def main() -> None:
    """Run, and write the row; an exception becomes one, too."""
    name, method, seed, out = sys.argv[1:]
    logging.getLogger("pymc").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    try:
        row = run(POSTERIORS[name], peer_methods.METHODS[method], int(seed))
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
        row = {"status": "failed", "reason": reason}
    Path(out).write_text(json.dumps(row, default=float))


if __name__ == "__main__":
    main()

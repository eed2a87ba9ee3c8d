"""Where the time of a fit goes: seconds of each phase, one row for each posterior.

Run ``python benchmarks/phases.py`` for a table in Markdown, or with ``--only PART ...`` for some
posteriors. Every phase is a function of the package whose calls are timed; each posterior is built
and fitted anew, in a process whose caches are warm after the first time. Medians.
"""

from __future__ import annotations

import os

# before NumPy is imported; the log density has threads of its own
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import logging
import sys
import time
import warnings

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pymc as pm

from posteriors import POSTERIORS, Posterior

from pymc_sph import approximation, ensemble, idata, inference
from pymc_sph.ensemble import Ensemble
from pymc_sph.target import Target

DRAWS = 4_000
DEFAULT = ("kidscore_momiq", "nes", "mesquite", "logistic_1000", "eight_schools_noncentered")

PHASES: dict[str, list[tuple[Any, str]]] = {
    "compile": [(inference, "compile_target"), (approximation, "compile_transform")],
    "start": [(ensemble, "find_starts")],
    "modes": [(ensemble, "explore")],
    "fluids": [(Ensemble, "step")],
    "check": [(Ensemble, "found")],
    "draws": [(approximation.FluidApproximation, "_draw")],
    "idata": [(idata, "to_container")],
    "log density": [(Target, "__call__")],
}
"""Phases and the functions that they are. All but the last are parts of the whole one after the
other; the time in the log density is a part of theirs."""


@contextmanager
def clocks() -> Iterator[dict[str, float]]:
    """Time the calls of every phase; the dictionary holds the seconds so far."""
    seconds = dict.fromkeys(PHASES, 0.0)

    def timed(phase: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[phase] += time.perf_counter() - began

        return call

    with ExitStack() as patches:
        for phase, places in PHASES.items():
            for owner, name in places:
                function = timed(phase, getattr(owner, name))
                patches.enter_context(mock.patch.object(owner, name, function))
        yield seconds


def fit(posterior: Posterior, seed: int) -> dict[str, float]:
    """Fit and draw once; seconds of each phase, of the whole, and of what is left."""
    model = posterior.build()
    with clocks() as seconds:
        began = time.perf_counter()
        with model:
            approx = pm.fit(method="sph", random_seed=seed, progressbar=False)
        approx.sample(DRAWS, random_seed=seed)
        seconds["total"] = time.perf_counter() - began
    parts = sum(seconds[phase] for phase in PHASES if phase != "log density")
    seconds["rest"] = seconds["total"] - parts
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(DEFAULT), metavar="PART")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    columns = ["total", *(p for p in PHASES if p != "log density"), "rest", "log density"]
    print(f"| posterior | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, posterior in POSTERIORS.items():
        if not any(part in name for part in args.only):
            continue
        # the first fit fills the caches
        runs = [fit(posterior, seed) for seed in range(args.repeats + 1)][1:]
        values = [f"{np.median([run[column] for run in runs]):.2f}" for column in columns]
        print(f"| {name} | {' | '.join(values)} |", flush=True)


if __name__ == "__main__":
    main()

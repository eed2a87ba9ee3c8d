"""What a step of one fluid costs beside the target: measured, and fitted by a cost model.

Run ``python benchmarks/cost_model.py [--json OUT]`` (three minutes, one core). Steps of fluids of N
particles and K probes in d dimensions are timed, in CPU seconds of one thread, on a target that
costs nothing. The model is a sum of terms in N, K and d with coefficients that are not negative,
fitted by least squares of the relative error; the command prints them and how far off it is.
``docs/scaling.md`` uses them.
"""

from __future__ import annotations

import os

# before NumPy is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import time

from pathlib import Path

import numpy as np

from scipy.optimize import nnls

from pymc_sph.fluid.density import draw_noise
from pymc_sph.fluid.state import new_fluid
from pymc_sph.fluid.step import Rates, step

Array = np.ndarray
Size = tuple[int, int, int]  # N, K, d

FULL: list[Size] = [
    (16, 64, 2), (64, 128, 2), (256, 512, 2), (64, 1024, 2), (1024, 1024, 2),
    (32, 128, 10), (96, 256, 10), (96, 1024, 10), (512, 512, 10), (16, 2048, 10),
    (32, 128, 30), (96, 256, 30), (96, 1024, 30), (256, 512, 30),
]  # fmt: skip
DIAGONAL: list[Size] = [
    (16, 128, 50), (96, 256, 50), (1024, 1024, 50), (256, 4096, 50),
    (96, 256, 200), (96, 2048, 200), (512, 512, 200), (96, 256, 600), (96, 1024, 600),
    (16, 256, 1000), (96, 1024, 1000), (512, 512, 1000), (96, 512, 2000),
]  # fmt: skip
TERMS = {
    "full": {
        "a step": lambda n, k, d: 1.0,
        "N K": lambda n, k, d: n * k,
        "N K d": lambda n, k, d: n * k * d,
        "N K d^2": lambda n, k, d: n * k * d**2,
        "N d^3": lambda n, k, d: n * d**3,
    },
    "diagonal": {
        "a step": lambda n, k, d: 1.0,
        "N K": lambda n, k, d: n * k,
        "(N + K) d": lambda n, k, d: (n + k) * d,
        "N K d": lambda n, k, d: n * k * d,
        "(N + K) d^2": lambda n, k, d: (n + k) * d**2,
        "d^3": lambda n, k, d: d**3,
    },
}
"""Terms of the model for full and diagonal smoothing tensors."""


def nothing(theta: Array) -> tuple[Array, Array]:
    """Return a standard Gaussian's log density (K,) and gradient (K, d)."""
    return -0.5 * np.vecdot(theta, theta), -theta


def seconds(size: Size, *, full: bool, repeats: int = 5) -> float:
    """CPU seconds of a step, the median of some; each of as many steps as take 50 ms."""
    n, k, d = size
    rng = np.random.default_rng(0)
    fluid = new_fluid(np.zeros(d), 1.2 * np.eye(d), rng.standard_normal((n, d)), full=full)
    noise = draw_noise(rng, k, d)
    times: list[float] = []
    steps = 1
    while len(times) < repeats:
        began = time.process_time()
        for _ in range(steps):
            step(fluid, noise, nothing, Rates())
        took = time.process_time() - began
        if took < 0.05 and not times:
            steps *= 2
            continue
        times.append(took / steps)
    return float(np.median(times))


def fit(sizes: list[Size], measured: Array, tensor: str) -> tuple[dict[str, float], Array]:
    """Return the coefficients by term, and the model's seconds over the measured ones."""
    terms = TERMS[tensor]
    design = np.array([[term(*size) for term in terms.values()] for size in sizes])
    relative = design / measured[:, None]
    scale = relative.max(axis=0)  # the terms differ by many powers of ten
    found = nnls(relative / scale, np.ones(len(sizes)))[0] / scale
    return dict(zip(terms, found.tolist(), strict=True)), relative @ found


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, default=None, help="write the figures there")
    options = parser.parse_args()
    out = {}
    for tensor, sizes in (("full", FULL), ("diagonal", DIAGONAL)):
        measured = np.array([seconds(size, full=tensor == "full") for size in sizes])
        found, ratios = fit(sizes, measured, tensor)
        print(f"{tensor} tensors: N, K, d; ms measured; model / measured")
        for size, value, ratio in zip(sizes, measured, ratios, strict=True):
            print("{:6d} {:6d} {:6d}".format(*size), f"{1e3 * value:10.3f} {ratio:8.2f}")
        for term, value in found.items():
            print(f"  {term:12s} {1e9 * value:12.3f} ns")
        rows = [[*size, value] for size, value in zip(sizes, measured.tolist(), strict=True)]
        out[tensor] = {"coefficients": found, "measured": rows}
    if options.json is not None:
        options.json.write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()

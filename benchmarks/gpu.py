"""A large logistic regression on an accelerator: sph beside NumPyro's NUTS and SteinVI.

    python benchmarks/gpu.py                     # n = 1,000,000, d = 100, N = 1,024, K = 8,192
    python benchmarks/gpu.py --n 2000 --d 10 --particles 32 --probes 128    # a minute, on a CPU

Every method runs in a process of its own, on JAX's default device unless its name ends in "cpu". A
row is printed as it comes, and kept in ``--json``. Errors are of the posterior means, in sd, with
NUTS's means and sds as the reference; they hold its own Monte Carlo error, about .05. What is not
installed, fails or takes longer than ``--limit`` is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("nuts", "sph jax", "sph jax cpu", "sph numba cpu", "steinvi")
DRAWS = 500
STEIN_PARTICLES, STEIN_DRAWS = 10, 10


def data(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns and answers (n,) of a logistic regression, always the same."""
    rng = np.random.default_rng(25)
    X = rng.standard_normal((n, d)) + 0.5 * rng.standard_normal((n, 1))
    b = rng.standard_normal(d) / np.sqrt(d)
    return X, (rng.random(n) < 1 / (1 + np.exp(-X @ b))).astype("int64")


def by_sph(args: argparse.Namespace, backend: str | None) -> dict[str, Any]:
    """Two fits by one method, of which the second finds everything compiled."""
    import pymc as pm

    from pymc_sph import SPH

    X, y = data(args.n, args.d)
    with pm.Model():
        b = pm.Normal("b", 0, 1, shape=args.d)
        pm.Bernoulli("y", logit_p=pm.math.dot(X, b), observed=y)
        method = SPH(random_seed=1, particles=args.particles, probes=args.probes)
    times: list[float] = []

    def clock(approx: Any, losses: Any, i: int) -> None:
        times.append(time.perf_counter())

    seconds = []
    for _ in range(2):
        began, times[:] = time.perf_counter(), []
        approx = method.fit(args.steps, backend=backend, callbacks=[clock], progressbar=False)
        seconds.append(time.perf_counter() - began)
    result = approx.result
    assert result is not None  # a fit that has ended has one
    mixture = result.mixture
    return {
        "total": seconds[0],
        "warm": seconds[1],
        "step": (times[-1] - times[0]) / max(len(times) - 1, 1),
        "steps": result.n_steps,
        "gradients": result.n_evaluations,
        "log_evidence": result.log_evidence,
        "verdict": result.verdict.grade,
        "mean": mixture.mean().tolist(),
        "sd": np.sqrt(np.diag(mixture.cov())).tolist(),
    }


def regression(X: Any, y: Any) -> Any:
    """Return the same model for NumPyro."""
    import numpyro

    from numpyro import distributions as dist

    def program() -> None:
        b = numpyro.sample("b", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)

    return program


def by_nuts(args: argparse.Namespace) -> dict[str, Any]:
    """One chain of NumPyro's NUTS, 500 draws after 500 of warm-up."""
    import jax

    from numpyro.infer import MCMC, NUTS

    X, y = map(jax.numpy.asarray, data(args.n, args.d))
    began = time.perf_counter()
    chain = MCMC(NUTS(regression(X, y)), num_warmup=DRAWS, num_samples=DRAWS, progress_bar=False)
    chain.run(jax.random.key(1), extra_fields=("num_steps",))
    draws = np.asarray(chain.get_samples()["b"])
    figures = {"total": time.perf_counter() - began}
    steps = int(np.sum(chain.get_extra_fields()["num_steps"]))
    return figures | {
        "gradients": steps,  # those of the warm-up are not counted by NumPyro
        "mean": draws.mean(axis=0).tolist(),
        "sd": draws.std(axis=0).tolist(),
    }


def by_stein(args: argparse.Namespace) -> dict[str, Any]:
    """NumPyro's SteinVI with the kernel, guide and optimiser of its documentation."""
    import jax

    from numpyro.contrib.einstein import RBFKernel, SteinVI
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.optim import Adagrad

    X, y = map(jax.numpy.asarray, data(args.n, args.d))
    program = regression(X, y)
    began = time.perf_counter()
    stein = SteinVI(
        program, AutoNormal(program), Adagrad(0.05), RBFKernel(),
        num_stein_particles=STEIN_PARTICLES, num_elbo_particles=STEIN_DRAWS,
    )  # fmt: skip
    state = stein.init(jax.random.key(1))
    loop = jax.jit(
        lambda s: jax.lax.fori_loop(0, args.stein_steps, lambda _, now: stein.update(now)[0], s)
    )
    found = jax.device_get(stein.get_params(loop(state)))
    centre, scale = found["b_auto_loc"], found["b_auto_scale"]
    variance = np.mean(scale**2, axis=0) + np.var(centre, axis=0)
    return {
        "total": time.perf_counter() - began,
        "gradients": args.stein_steps * STEIN_PARTICLES**2 * STEIN_DRAWS,
        "mean": centre.mean(axis=0).tolist(),
        "sd": np.sqrt(variance).tolist(),
    }


def run_here(method: str, args: argparse.Namespace) -> None:
    """Run one method and print its row."""
    import jax

    jax.config.update("jax_enable_x64", True)
    runs: dict[str, Any] = {
        "nuts": by_nuts,
        "steinvi": by_stein,
        "sph numba cpu": lambda a: by_sph(a, None),
    }
    row = runs.get(method, lambda a: by_sph(a, "jax"))(args)
    print(json.dumps(row | {"device": str(jax.devices()[0].device_kind)}))


def run_apart(method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run one method in a process of its own; return its row, or one that says what went wrong."""
    sizes = ("n", "d", "particles", "probes", "steps", "stein_steps")
    command = [sys.executable, __file__, "--run", method]
    for name in sizes:
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    on_cpu = {"JAX_PLATFORMS": "cpu"} if method.endswith("cpu") else {}
    row: dict[str, Any] = {"method": method}
    row |= {name: getattr(args, name) for name in sizes[:4]}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=args.limit, env=os.environ | on_cpu
        )
    except subprocess.TimeoutExpired:
        return row | {"error": f"not done after {args.limit} s"}
    if done.returncode:
        return row | {"error": (done.stderr.strip().splitlines() or ["?"])[-1]}
    return row | dict(json.loads(done.stdout.strip().splitlines()[-1]))


def line(row: dict[str, Any], reference: dict[str, Any] | None) -> str:
    """One row of the table."""
    if "error" in row:
        return f"| {row['method']} | {row['error']} |"
    error = "-"
    if reference is not None and reference is not row:
        gap = np.subtract(row["mean"], reference["mean"]) / reference["sd"]
        error = f"{np.max(np.abs(gap)):.3f}"
    shown = [f"{row[name]:.4g}" if name in row else "-" for name in ("total", "warm", "step")]
    counts = [f"{row[name]:,}" if name in row else "-" for name in ("steps", "gradients")]
    cells = [row["method"], row["device"], *shown, *counts, error, row.get("verdict", "-")]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Run the methods one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--d", type=int, default=100)
    parser.add_argument("--particles", type=int, default=1_024)
    parser.add_argument("--probes", type=int, default=8_192)
    parser.add_argument("--steps", type=int, default=10_000, help="of sph, at most")
    parser.add_argument("--stein-steps", type=int, default=2_000)
    parser.add_argument("--limit", type=float, default=3_600.0, help="seconds for a method")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--run", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run_here(args.run, args)
        return
    head = ("method", "device", "total s", "warm s", "s/step", "steps", "gradients",
            "worst error, sd", "verdict")  # fmt: skip
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    rows: list[dict[str, Any]] = []
    for method in args.methods:
        rows.append(run_apart(method, args))
        good = [r for r in rows if r["method"] == "nuts" and "error" not in r]
        print(line(rows[-1], good[0] if good else None), flush=True)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

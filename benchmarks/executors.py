"""What workers gain on rows that wait, on costly and on cheap ones, and what they cost.

`python benchmarks/executors.py [--repeats R]` prints the median time of a batch of 128 rows on one
thread of this process, and how many times as fast two threads, two processes of our own, two of the
standard library's pool, of loky and of Dask are, as ratios of medians. The variants take turns, so
that what else the machine does befalls all of them. Rows that wait, as for a simulator elsewhere,
need no core: they show the cost of handing out chunks, whatever else runs.
"""

from __future__ import annotations

import argparse
import time

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

from pymc_sph import compile_target
from pymc_sph.workers import Recipe, Workers

ROWS = 128


def costly(steps: int = 10_000) -> pm.Model:
    """Predator and prey by Euler's method, so many steps, with the gradient through all of them."""
    with pm.Model() as model:
        rate = pm.LogNormal("rate", 0.0, 0.3, shape=4)

        def change(u: Any, v: Any, rate: Any) -> list[Any]:
            du, dv = u * (rate[0] - rate[1] * v), v * (rate[2] * u - rate[3])
            return [u + 10 / steps * du, v + 10 / steps * dv]

        start = [pt.as_tensor_variable(np.float64(x)) for x in (1.0, 0.5)]
        paths, _ = pytensor.scan(
            change, outputs_info=start, non_sequences=[rate], n_steps=steps, return_updates=True
        )
        for name, path, observed in zip("uv", paths, (1.2, 0.8), strict=True):
            pm.Normal(name, path[steps // 10 :: steps // 10], 0.3, observed=np.full(9, observed))
    return model


def cheap() -> pm.Model:
    """Eight schools."""
    with pm.Model() as model:
        tau = pm.HalfCauchy("tau", 5)
        theta = pm.Normal("mu", 0, 5) + tau * pm.Normal("z", 0, 1, shape=8)
        error = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
        pm.Normal("y", theta, error, observed=[28.0, 8, -3, 7, -1, 1, 18, 12])
    return model


def wait(theta: np.ndarray) -> np.ndarray:
    """Wait 15 ms a row."""
    for _ in theta:
        time.sleep(0.015)
    return theta


class Waiting:
    """A target whose rows wait."""

    dim = 4

    def __init__(self, threads: int = 1, cores: int = 1, executor: Any = None) -> None:
        self._workers = Workers(Recipe(lambda: wait), wait, cores, executor)

    def __call__(self, theta: np.ndarray) -> tuple[np.ndarray]:
        """Evaluate a batch."""
        here = not self._workers.elsewhere
        return (wait(theta) if here else np.concatenate(self._workers(theta)),)

    def release(self) -> None:
        """End the processes."""
        self._workers.release()


@contextmanager
def variants(make: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Targets by who evaluates them; `make` takes threads, cores and executor."""
    import loky

    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        enter = stack.enter_context
        pool = enter(ProcessPoolExecutor(2, get_context("spawn")))
        loky_pool = enter(loky.ProcessPoolExecutor(2))
        cluster = enter(LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0"))
        client = enter(Client(cluster))
        targets = {
            "1 thread": make(threads=1),
            "2 threads": make(threads=2),
            "cores=2": make(cores=2),
            "ProcessPoolExecutor": make(executor=pool),
            "loky": make(executor=loky_pool),
            "Dask": make(executor=client),
        }
        yield targets
        for target in targets.values():
            target.release()


def measure(targets: dict[str, Any], repeats: int) -> dict[str, float]:
    """Median seconds per batch; every batch is new, and all give the same bits."""
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in targets}
    for repeat in range(repeats + 2):  # the first two compile, and learn what a row costs
        theta = 0.1 * rng.standard_normal((ROWS, next(iter(targets.values())).dim))
        values = []
        for name, target in targets.items():
            began = time.perf_counter()
            values.append(target(theta))
            if repeat >= 2:
                seconds[name].append(time.perf_counter() - began)
        for other in values[1:]:
            for one, two in zip(values[0], other, strict=True):
                assert one.tobytes() == two.tobytes()
    return {name: float(np.median(times)) for name, times in seconds.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    rows: dict[str, Callable[..., Any]] = {
        "waiting": Waiting,
        "costly": partial(compile_target, costly()),
        "cheap": partial(compile_target, cheap()),
    }
    for name, make in rows.items():
        with variants(make) as targets:
            medians = measure(targets, repeats)
        alone = medians.pop("1 thread")
        print(f"{name}: {1e3 * alone:.3g} ms on one thread, {1e3 * alone / ROWS:.3g} ms a row")
        for variant, median in medians.items():
            print(f"  {variant}: {alone / median:.3g} times as fast")


if __name__ == "__main__":
    main()

"""Cost of neighbour lists: seconds per step against N, at two dimensions, up to N = 100,000."""

from __future__ import annotations

import time

import numpy as np

from common import COLORS, normal, plt, save, write_table

from pymc_sph.fluid.collocated import Equations, begin, step
from pymc_sph.fluid.neighbours import find_neighbours
from pymc_sph.fluid.radial_kernels import radial_kernel

SIZES = [1_000, 3_000, 10_000, 30_000, 100_000]
ALL_PAIRS = [1_000, 3_000, 10_000]
ORIGIN, AXES = np.zeros(2), np.eye(2)


def measure(n: int, kernel: str, smoothing: str, scale: float, steps: int = 3) -> list:
    """Seconds per step, the least of three; neighbours per particle."""
    target = normal(2)
    equations = Equations(kernel=kernel, smoothing=smoothing, scale=scale, neighbours=10)
    z = np.random.default_rng(0).standard_normal((n, 2))
    state = begin(z, ORIGIN, AXES, target, equations)
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        state, _ = step(state, target, equations)
        seconds.append(time.perf_counter() - began)
    pairs = find_neighbours(state.z, state.h, radial_kernel(kernel, 2)).n_pairs()
    return [min(seconds), pairs / n]


def main() -> None:
    """Measure, and write table and figure."""
    rows, lines = [], {}
    # h falls as N^(-1/2), so that the number of neighbours stays the same
    for label, kernel, smoothing, sizes in [
        ("lists, Wendland C2, h ~ N^(-1/2)", "wendland2", "constant", SIZES),
        ("lists, Wendland C2, 10th neighbour", "wendland2", "nearest", SIZES),
        ("all pairs, Gaussian", "gaussian", "constant", ALL_PAIRS),
    ]:
        times = []
        for n in sizes:
            scale = 4.5 * n ** (1 / 6 - 1 / 2) if smoothing == "constant" else 1.0
            seconds, neighbours = measure(n, kernel, smoothing, scale)
            times.append(seconds)
            rows.append([label, n, neighbours, seconds, 1e6 * seconds / n])
        order = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        rows[-1].append(order)
        lines[f"{label}: order {order:.2f}"] = (sizes, times)
    rows = [row + [""] * (6 - len(row)) for row in rows]
    columns = ["pairs", "N", "neighbours per particle", "s per step", "us per particle", "order"]
    write_table("scaling", columns, rows)
    figure, ax = plt.subplots(figsize=(5, 3.4))
    for (label, (sizes, times)), color in zip(
        lines.items(),
        (COLORS["collocated"], COLORS["collocated, plain"], COLORS["NUTS"]),
        strict=True,
    ):
        ax.loglog(sizes, times, "o-", color=color, label=label, ms=4)
    ax.set(xlabel="particles N", ylabel="seconds per step", title="Cost of a step, d = 2")
    ax.legend(fontsize=8)
    save(figure, "scaling")


if __name__ == "__main__":
    main()

"""Question 5: is the steady state unique? Thirty starts, and distances of the final densities.

The starts differ in place, width and shape. Total variation, on a grid, between the densities of
every two runs, at the start and at rest. As a yardstick, that of kernel estimates from independent
exact draws, as many and with the same kernel.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from common import (
    COLORS,
    Clock,
    gaussian_mixture,
    grid,
    log_q,
    normal,
    plt,
    problem,
    rest,
    save,
    write_table,
)

from pymc_sph.fluid.collocated import Equations, begin, to_fluid, total_energy

N, STARTS = 128, 30
POINTS, CELL = grid(9.0, 121)
EQUATIONS = Equations(smoothing="constant")


def places(i: int) -> np.ndarray:
    """Start number i: a Gaussian, a square or a ring, somewhere, of some size."""
    rng = np.random.default_rng([7, i])
    centre, width = 1.5 * rng.standard_normal(2), rng.uniform(0.3, 2.5)
    if i % 3 == 0:
        z = rng.standard_normal((N, 2))
    elif i % 3 == 1:
        z = rng.uniform(-1.7, 1.7, (N, 2))
    else:
        angle = rng.uniform(0, 2 * np.pi, N)
        z = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        z = z + 0.1 * rng.standard_normal((N, 2))
    return centre + width * z


def distances(fluids: list) -> np.ndarray:
    """Total variation between every two densities."""
    q = [np.exp(log_q(f, POINTS)) for f in fluids]
    return np.array([0.5 * np.abs(a - b).sum() * CELL for a, b in combinations(q, 2)])


def main() -> None:
    """Run every start on every target."""
    clock = Clock()
    rng = np.random.default_rng(0)
    near = problem("mixture", 20_000)
    moon = problem("moon", 20_000)
    far = gaussian_mixture(np.array([[-3.0, 0], [3, 0]]), np.array([0.25, 0.75]), 0.7)
    side = np.where(rng.random(20_000) < 0.25, -3.0, 3.0)
    far_draws = 0.7 * rng.standard_normal((20_000, 2)) + np.stack([side, 0 * side], axis=1)
    cases = {
        "Gaussian": (normal(2), rng.standard_normal((20_000, 2))),
        "moon": (moon.target, moon.draws),
        "modes that touch": (near.target, near.draws),
        "modes apart": (far, far_draws),
    }
    rows, boxes = [], {}
    for name, (target, draws) in cases.items():
        first = [
            to_fluid(begin(places(i), np.zeros(2), np.eye(2), target, EQUATIONS))
            for i in range(STARTS)
        ]
        runs = [rest(target, places(i), EQUATIONS, n=1500) for i in range(STARTS)]
        sample = [
            to_fluid(begin(draws[i * N : (i + 1) * N], np.zeros(2), np.eye(2), target, EQUATIONS))
            for i in range(STARTS)
        ]
        energies = [total_energy(r.particles, EQUATIONS) for r in runs]
        boxes[name] = [distances(first), distances([r.fluid for r in runs]), distances(sample)]
        at_rest = sum(r.status == "converged" for r in runs)
        means = [b.mean() for b in boxes[name]]
        rows.append(
            [name, f"{at_rest} of {STARTS}", *means, boxes[name][1].max(), np.std(energies)]
        )
    columns = ["target", "came to rest", "TV at the start", "TV at rest", "TV of exact draws",
               "largest TV at rest", "sd of the energy, nats"]  # fmt: skip
    write_table("uniqueness", columns, rows)
    figure, ax = plt.subplots(figsize=(7, 3.2))
    labels = ["at the start", "at rest", "from exact draws"]
    colors = [COLORS["NUTS"], COLORS["collocated"], "#cccccc"]
    for k, (label, color) in enumerate(zip(labels, colors, strict=True)):
        shown = ax.boxplot(
            [boxes[name][k] for name in cases], positions=np.arange(4) + 0.25 * (k - 1),
            widths=0.2, patch_artist=True, whis=(0, 100), medianprops={"color": "black"},
        )  # fmt: skip
        for box in shown["boxes"]:
            box.set(facecolor=color, label=label if box is shown["boxes"][0] else None)
    ax.set_xticks(range(4), list(cases))
    ax.set(ylabel="total variation of two runs", ylim=(0, 1.02))
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, "uniqueness")
    print(clock)


if __name__ == "__main__":
    main()

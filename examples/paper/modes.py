"""Question 3: does it find modes, and their weights? 10 and 25 round modes in the plane.

The 10 modes have weights 1 to 10 (over 55), the 25 on a lattice all weigh the same. From a start
that covers them, and from one to the side of all but a few. Cold, and cooled from T = 100; the
variational fluid beside it, cold and from T = 100. A mode counts as found if q gives it at
least a fifth of its weight.
"""

from __future__ import annotations

import numpy as np

from common import (
    COLORS,
    Clock,
    draws_of,
    gaussian_mixture,
    kl,
    plt,
    rest,
    save,
    write_table,
)

import pymc_sph

from pymc_sph.fluid.collocated import Equations
from pymc_sph.mixture import FluidMixture

N, COOLING = 500, 200
METHODS = ["collocated", "collocated, T = 100", "variational", "variational, T = 100"]


def problems() -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Means, weights and standard deviation."""
    angle = 2 * np.pi * np.arange(10) / 10
    ring = 8.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    weights = np.random.default_rng(0).permutation(np.arange(1.0, 11.0)) / 55
    axis = 4.0 * (np.arange(5) - 2)
    lattice = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    return {"10 modes": (ring, weights, 0.7), "25 modes": (lattice, np.full(25, 0.04), 0.7)}


def weights_found(theta: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Shares of the draws nearest to each mode."""
    near = np.argmin(np.sum((theta[:, None] - means) ** 2, axis=-1), axis=1)
    return np.bincount(near, minlength=len(means)) / len(theta)


def starts(means: np.ndarray) -> dict[str, np.ndarray]:
    """Particles all over the modes, and beside the first of them."""
    e = np.random.default_rng(1).standard_normal((N, 2))
    return {"covering": 6.0 * e, "one-sided": means[0] + 1.0 * e}


def main() -> None:
    """Run every combination."""
    clock = Clock()
    rows = []
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.6))
    for line, (name, (means, weights, sd)) in zip(axes, problems().items(), strict=True):
        target = gaussian_mixture(means, weights, sd)
        panels = iter(line)
        for start, z in starts(means).items():
            for method in METHODS:
                hot = 100.0 if "T =" in method else 1.0
                if method.startswith("collocated"):
                    cooling = COOLING if hot > 1 else 0
                    fluid = rest(target, z, Equations(), n=800, hot=hot, cooling=cooling).fluid
                else:
                    result = pymc_sph.fit_density(
                        target, 2, points=z[:8], fluids=4, temperature=hot, random_seed=1
                    )
                    fluid = result.mixture
                report(rows, name, start, method, fluid, target, means, weights)
                if method in ("collocated", "collocated, T = 100"):
                    show(next(panels), fluid, means, sd, f"{name}, {start}\n{method}")
    columns = ["target", "start", "method", "modes found", "of", "TV of the weights", "KL"]
    write_table("modes", columns, rows)
    save(figure, "modes")
    print(clock)


def report(rows, name, start, method, fluid, target, means, weights) -> None:
    """Add a row of the table."""
    if isinstance(fluid, FluidMixture):
        theta = fluid.sample(20_000, np.random.default_rng(0)).theta
        divergence = np.mean(fluid.log_density(theta) - target(theta)[0])
    else:
        theta, divergence = draws_of(fluid, 20_000), kl(fluid, target)
    found = weights_found(theta, means)
    n_found = int(np.sum(found > weights / 5))
    distance = 0.5 * np.abs(found - weights).sum()
    rows.append([name, start, method, n_found, len(means), distance, divergence])


def show(ax, fluid, means, sd, title) -> None:
    """Particles, with a circle of two standard deviations for every mode."""
    for mean in means:
        ax.add_patch(plt.Circle(mean, 2 * sd, fill=False, color="#bbbbbb", lw=0.8))
    ax.plot(*fluid.z.T, ".", color=COLORS["collocated"], ms=2)
    ax.set(xlim=(-11, 11), ylim=(-11, 11), xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=8)


if __name__ == "__main__":
    main()

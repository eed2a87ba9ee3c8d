"""Question 2: how far does it carry in dimension? N(0, I) in 2 to 50 dimensions, 256 particles.

Collocated particles and SVGD's particles as they are; collocated density with either pressure
force; the variational fluid with its default sizes. Every one from a start that is too wide by a
half; variances, KL to the target, and Wasserstein-1 distance of the marginals.
"""

from __future__ import annotations

import numpy as np

from common import (
    COLORS,
    Clock,
    draws_of,
    kl,
    normal,
    plt,
    points_as_fluid,
    rest,
    save,
    svgd_run,
    write_table,
)
from scipy.stats import norm

import pymc_sph

from pymc_sph.fluid.collocated import Equations

DIMS, N, SVGD_STEPS = [2, 5, 10, 20, 50], 256, 1000
LEVELS = (np.arange(1000) + 0.5) / 1000


def marginal_w1(theta: np.ndarray) -> float:
    """Mean over coordinates of the Wasserstein-1 distance to N(0, 1)."""
    return float(np.mean(np.abs(np.quantile(theta, LEVELS, axis=0) - norm.ppf(LEVELS)[:, None])))


def run(dim: int) -> dict[str, tuple[float, float, float]]:
    """Variance, KL and W1 of every method."""
    target = normal(dim)
    z = 1.5 * np.random.default_rng(1).standard_normal((N, dim))
    out = {}
    for label, force in (("collocated", "symmetric"), ("collocated, plain", "plain")):
        fluid = rest(target, z, Equations(pressure_force=force)).fluid
        theta = draws_of(fluid, 20_000)
        out[label] = (theta.var(axis=0).mean(), kl(fluid, target), marginal_w1(theta))
        if force == "symmetric":
            out["collocated particles"] = (fluid.z.var(axis=0).mean(), np.nan, marginal_w1(fluid.z))
    steps = svgd_run(target, z)
    theta = [next(steps) for _ in range(SVGD_STEPS)][-1]
    out["SVGD"] = (theta.var(axis=0).mean(), kl(points_as_fluid(theta), target), marginal_w1(theta))
    result = pymc_sph.fit_density(target, dim, fluids=1, points=z[:8], random_seed=1)
    fluid = result.mixture.fluids[0]
    theta = draws_of(fluid, 20_000)
    out["variational"] = (theta.var(axis=0).mean(), kl(fluid, target), marginal_w1(theta))
    return out


def main() -> None:
    """Run every dimension."""
    clock = Clock()
    found = {dim: run(dim) for dim in DIMS}
    order = ["variational", "collocated", "collocated, plain", "collocated particles", "SVGD"]
    rows = [[dim, label, *found[dim][label]] for dim in DIMS for label in order]
    write_table("dimension", ["d", "method", "variance (1)", "KL", "W1"], rows)
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3))
    for k, (ax, title) in enumerate(zip(axes, ("variance", "KL(q || p)", "W1"), strict=True)):
        for label in order:
            values = [found[dim][label][k] for dim in DIMS]
            if not np.isfinite(values).any():
                continue
            style = ":" if label == "collocated particles" else "-"
            color = COLORS.get(label, COLORS["collocated"])
            ax.plot(DIMS, np.maximum(values, 1e-5), "o" + style, color=color, label=label, ms=3)
        ax.set(xscale="log", title=title, xlabel="d", xticks=DIMS)
        ax.set_xticks(DIMS, [str(d) for d in DIMS])
        ax.minorticks_off()
    axes[0].axhline(1, color="#cccccc", lw=0.8, zorder=0)
    axes[1].set_yscale("log")
    axes[0].legend(fontsize=7)
    save(figure, "dimension")
    print(clock)


if __name__ == "__main__":
    main()

"""Question 1: does it converge? KL to six known densities against gradient evaluations.

The collocated fluid (256 particles, from a wide start, no frame) with either pressure force, the
variational fluid (one, N = 64, its own L-BFGS start counted), SVGD (256 particles) and NUTS (one
chain, its tuning counted). SVGD's and NUTS's points count as kernel density estimates.
"""

from __future__ import annotations

import logging

import numpy as np
import pymc as pm

from common import (
    COLORS,
    FORMULAS,
    Clock,
    Problem,
    collocated_run,
    draws_of,
    kl,
    plt,
    points_as_fluid,
    problem,
    save,
    sliced_w1,
    svgd_run,
    write_table,
)

from pymc_sph.ensemble import Ensemble
from pymc_sph.fluid.collocated import Equations
from pymc_sph.settings import Settings

N, BUDGET = 256, 100_000
CHECKS = np.unique(np.geomspace(N, BUDGET, 14).astype(int) // N) * N


def wide_start() -> np.ndarray:
    """Return the particles' places at the start."""
    return 2.0 * np.random.default_rng(1).standard_normal((N, 2))


def curve(pairs, target) -> tuple[list, object]:
    """Return evaluations and KL at `CHECKS` and at the end, and the last fluid.

    `pairs` are numbers of evaluations, each with a function that makes the fluid.
    """
    out, due = [], list(CHECKS)
    for spent, make in pairs:
        if spent >= due[0]:
            out.append((spent, kl(make(), target)))
            due = [check for check in due if check > spent]
        if not due:
            break
    if due:  # it stopped by itself
        out.append((spent, kl(make(), target)))
    return out, make()


def collocated(p: Problem, force: str):
    """Run the collocated fluid."""
    runs = collocated_run(p.target, wide_start(), Equations(pressure_force=force))
    pairs = (((r.n_steps + 1) * N, lambda r=r: r.fluid) for r, _ in runs)
    states, fluid = curve(pairs, p.target)
    return states, fluid, draws_of(fluid, 10_000)


def variational(p: Problem):
    """One variational fluid, from its own start."""

    def states():
        ensemble = Ensemble.start(p.target, wide_start()[:8], Settings(fluids=1), 1, 100_000)
        while True:
            yield ensemble.n_evaluations, lambda e=ensemble: e.simulations[0].fluid
            if ensemble.done:
                return
            ensemble, _ = ensemble.step(p.target)

    out, fluid = curve(states(), p.target)
    return out, fluid, draws_of(fluid, 10_000)


def svgd(p: Problem):
    """Run SVGD."""
    runs = enumerate(svgd_run(p.target, wide_start()))
    out, fluid = curve(((i * N, lambda t=t: points_as_fluid(t)) for i, t in runs), p.target)
    return out, fluid, fluid.mu + fluid.z @ fluid.L.T


def nuts(p: Problem):
    """Run NUTS; its evaluations are its leapfrog steps."""
    with p.model:
        data = pm.sample(
            draws=30_000, tune=500, chains=1, cores=1, random_seed=1, progressbar=False,
            discard_tuned_samples=False, compute_convergence_checks=False,
            initvals={"theta": np.array([0.5, 0.5])},
        )  # fmt: skip
    draws = data["posterior"]["theta"].values[0]
    warm = data["warmup_sample_stats"]["n_steps"].values.sum()
    spent = warm + np.cumsum(data["sample_stats"]["n_steps"].values[0])
    out = []
    for due in CHECKS:
        n = int(np.searchsorted(spent, due))
        if n >= 50:
            out.append((due, kl(points_as_fluid(draws[:n]), p.target)))
    n = min(int(np.searchsorted(spent, BUDGET)), len(draws))
    return out, None, draws[:n]


def patient(p: Problem) -> list:
    """Return the same figures after three times the budget, with a third of the time step."""
    for run, _ in collocated_run(p.target, wide_start(), Equations(courant=0.2)):
        if run.n_steps * N >= 3 * BUDGET:
            break
    divergence = kl(run.fluid, p.target)
    return [divergence, divergence, sliced_w1(draws_of(run.fluid, 10_000), p.draws), 3 * BUDGET]


METHODS = {
    "collocated": lambda p: collocated(p, "symmetric"),
    "collocated, plain": lambda p: collocated(p, "plain"),
    "variational": variational,
    "SVGD": svgd,
    "NUTS": nuts,
}


def main() -> None:
    """Run every method on every target."""
    logging.getLogger("pymc").setLevel(logging.ERROR)
    clock = Clock()
    figure, axes = plt.subplots(2, 3, figsize=(9.5, 5.4), sharex=True)
    pictures, panels = plt.subplots(2, 6, figsize=(12, 4.2))
    rows = []
    for ax, panel, name in zip(axes.flat, panels.T, FORMULAS, strict=True):
        p = problem(name)
        for method, run in METHODS.items():
            states, fluid, draws = run(p)
            spent, values = np.array(states).T
            ax.loglog(
                spent, np.maximum(values, 1e-4), "-", color=COLORS[method], label=method, lw=1.5
            )
            rows.append(
                [name, method, values.min(), values[-1], sliced_w1(draws, p.draws), int(spent[-1])]
            )
            if method == "collocated":
                show(panel[0], p, fluid)
        if name == "double banana":
            rows.append([name, "collocated, Courant .2, 3 x", *patient(p)])
        panel[1].plot(*p.draws[:1500].T, ".", color=COLORS["exact"], ms=1, alpha=0.5)
        panel[0].set_title(name)
        ax.set_title(name)
    axes[0, 0].legend(fontsize=7)
    figure.supxlabel("gradient evaluations", fontsize=9)
    figure.supylabel("KL(q || p), nats", fontsize=9)
    save(figure, "convergence")
    for ax in panels.flat:
        ax.set(xlim=(-6, 6), ylim=(-6, 6), xticks=[], yticks=[], aspect="equal")
        ax.spines[:].set_visible(False)
    panels[0, 0].set_ylabel("collocated particles")
    panels[1, 0].set_ylabel("exact draws")
    save(pictures, "convergence_particles")
    columns = ["target", "method", "least KL", "last KL", "W1 of draws", "evaluations"]
    write_table("convergence", columns, rows)
    print(clock)


def show(ax, p: Problem, fluid) -> None:
    """Particles over the contours of the target."""
    axis = np.linspace(-6, 6, 121)
    points = np.stack(np.meshgrid(axis, axis), axis=-1)
    density = np.exp(p.logp(points.reshape(-1, 2))).reshape(121, 121)
    levels = np.quantile(np.exp(p.logp(p.draws[:2000])), [0.05, 0.25, 0.5, 0.75])
    ax.contour(axis, axis, density, levels, colors="#bbbbbb", linewidths=0.7)
    ax.plot(*(fluid.mu + fluid.z @ fluid.L.T).T, ".", color=COLORS["collocated"], ms=2)


if __name__ == "__main__":
    main()

"""Question 4: how sensitive is it? One setting at a time around the default, in two dimensions.

For every value: does the run stay finite and come to rest, after how many steps, and KL to a
Gaussian and to a mixture. Two of the settings have a bound from theory: Verlet steps are stable up
to dt = 2 / omega, with omega^2 the largest eigenvalue of -da / dz at rest; and in the limit of many
particles the density of a unit Gaussian has the variance c^2 / alpha + h^2.
"""

from __future__ import annotations

import numpy as np

from common import (
    COLORS,
    Clock,
    collocated_run,
    gaussian_mixture,
    kl,
    normal,
    plt,
    rest,
    save,
    write_table,
)

from pymc_sph.fluid.collocated import Equations, begin, bounds
from pymc_sph.fluid.relaxation import RestCheck

N, STEPS = 200, 800
DEFAULT_H = N ** (-1 / 6)
ORIGIN, AXES = np.zeros(2), np.eye(2)
GAUSSIAN = normal(2)
MIXTURE = gaussian_mixture(np.array([[-2.0, 0], [2, 0]]), np.array([0.3, 0.7]), 0.8)
CONTINUITY = {"density": "continuity"}
SWEEPS: dict[str, list[tuple[float, dict, int]]] = {
    "h": [
        (s * DEFAULT_H, {"scale": s}, N) for s in (0.15, 0.25, 0.4, 0.6, 0.8, 1.0, 1.3, 1.8, 2.5)
    ],
    "alpha": [(a, {"alpha": a}, N) for a in (0.1, 0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0, 10.0)],
    "dt": [(t, {"dt": t}, N) for t in (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0)],
    "Courant number": [(c, {"courant": c}, N) for c in (0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0)],
    "viscosity": [(v, {"viscosity": v}, N) for v in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)],
    "damping": [(g, {"damping": g}, N) for g in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)],
    "delta": [(x, {"diffusion": x, **CONTINUITY}, N) for x in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)],
    "N": [(n, {}, n) for n in (16, 32, 64, 128, 256, 512, 1024)],
}


def run(target, changes: dict, n: int) -> tuple[str, int, float]:
    """Status, steps, and KL of the returned density."""
    z = 1.5 * np.random.default_rng(1).standard_normal((n, 2))
    with np.errstate(all="ignore"):
        for state, _ in collocated_run(target, z, Equations(**changes), RestCheck()):
            far = not np.abs(state.particles.z).max() < 1e3
            if state.n_steps >= STEPS or far:
                break
    status = "unstable" if far or state.status == "non_finite" else state.status
    status = {"converged": "rests", "running": "moves"}.get(status, status)
    return status, state.n_steps, np.nan if status == "unstable" else kl(state.fluid, target)


def stable_step() -> tuple[float, float]:
    """Largest stable Verlet step at the default's rest, 2 / omega, and the CFL bound there."""
    equations = Equations()
    z = 1.5 * np.random.default_rng(1).standard_normal((N, 2))
    p, eps = rest(GAUSSIAN, z, equations).particles, 1e-5
    jacobian = np.empty((2 * N, 2 * N))
    for k in range(2 * N):
        shift = np.zeros(2 * N)
        shift[k] = eps
        ahead, behind = (
            begin(p.z + s * shift.reshape(N, 2), ORIGIN, AXES, GAUSSIAN, equations).a
            for s in (1, -1)
        )
        jacobian[:, k] = (ahead - behind).ravel() / (2 * eps)
    omega2 = -np.linalg.eigvalsh(0.5 * (jacobian + jacobian.T))[0]
    return 2 / np.sqrt(omega2), bounds(p, equations).least


def theory(name: str, value: float) -> float:
    """KL to the unit Gaussian in the limit of many particles, where there is a formula."""
    h2 = {"h": value}.get(name, DEFAULT_H) ** 2
    variance = 1 / (value if name == "alpha" else 1.0) + h2
    return variance - 1 - np.log(variance) if name in ("h", "alpha") else np.nan


def main() -> None:
    """Run every sweep."""
    clock = Clock()
    rows = []
    figure, axes = plt.subplots(2, 4, figsize=(11, 5), sharey=True)
    for ax, (name, sweep) in zip(axes.flat, SWEEPS.items(), strict=True):
        for target, label, color in (
            (GAUSSIAN, "Gaussian", COLORS["collocated"]),
            (MIXTURE, "mixture", COLORS["variational"]),
        ):
            found = [run(target, changes, n) for _, changes, n in sweep]
            values = np.array([value for value, _, _ in sweep])
            divergence = np.array([k for _, _, k in found])
            ax.plot(values, divergence, "-", color=color, label=label, lw=1.2)
            for filled, status in ((color, "rests"), ("white", "moves")):
                chosen = np.array([s == status for s, _, _ in found])
                ax.plot(values[chosen], divergence[chosen], "o", color=color, mfc=filled, ms=4)
            for value, (status, _, _) in zip(values, found, strict=True):
                if status == "unstable":
                    ax.plot(value, 30, "x", color=color, ms=5)
            rows += [
                [name, value, label, status, steps, divergence, theory(name, value)]
                if label == "Gaussian"
                else [name, value, label, status, steps, divergence, np.nan]
                for value, (status, steps, divergence) in zip(values, found, strict=True)
            ]
        if np.isfinite(theory(name, values[0])):
            ax.plot(values, [theory(name, v) for v in values], ":", color="black", label="theory")
        ax.set(xscale="log", yscale="log", title=name, ylim=(2e-3, 50))
        if name == "N":
            ax.set_xticks(values, [str(n) for n in values])
            ax.minorticks_off()
    axes[0, 0].legend(fontsize=7)
    limit, cfl = stable_step()
    axes[0, 2].axvline(limit, color="black", ls=":", lw=1)
    figure.supylabel("KL(q || p), nats", fontsize=9)
    save(figure, "hyperparameters")
    columns = ["setting", "value", "target", "state", "steps", "KL", "KL, theory"]
    note = (
        f"Stable Verlet step at rest, 2 / omega: {limit:.3f}; the CFL bound there, at Courant "
        f"number 1: {cfl:.3f}. h = {DEFAULT_H:.3f} by default. The state after at most {STEPS} "
        "steps: at rest, still moving, or unstable."
    )
    write_table("hyperparameters", columns, rows, note)
    print(note, clock, sep="\n")


if __name__ == "__main__":
    main()

"""Every term and its bias: what each combination rests at, for a Gaussian in the plane.

One row per combination: whether p is its equilibrium in theory, whether it came to rest, the
standard deviation of its particles and of its density over that of p, and KL of the density. 400
particles with a kernel of h = .18, so that what is left is mostly the bias of the form.
"""

from __future__ import annotations

import math

import numpy as np

from common import COLORS, Clock, kl, normal, plt, rest, save, write_table

from pymc_sph.fluid.collocated import Equations
from pymc_sph.fluid.equation_of_state import Linear, Tait
from pymc_sph.fluid.external import bound_level
from pymc_sph.fluid.neighbours import Neighbours
from pymc_sph.fluid.radial_kernels import SHAPES, radial_kernel
from pymc_sph.fluid.summation import summed_density

N, SCALE = 400, 0.5
CARRIED = {"density": "continuity"}
FORMS: list[tuple[str, str, dict, float]] = [
    ("isothermal, force", "p", {}, 1.2),
    ("isothermal, force, plain pressure", "p", {"pressure_force": "plain"}, 1.2),
    ("isothermal, potential", "p", {"external": "potential"}, 1.0),
    ("isothermal, density_pressure", "p", {"external": "density_pressure"}, 1.0),
    ("Tait gamma = 2, density_force", "p",
     {"eos": Tait(0.1, 0.01, 2.0), "alpha": 10.0, "external": "density_force"}, 1.0),
    ("isothermal, alpha = 2 c^2", "p^2", {"alpha": 2.0}, 1.2),
    ("linear, rho0 = .02, force", "p, cut off below rho0", {"eos": Linear(1.0, 0.02)}, 1.2),
    ("linear, rho0 = .08, force", "p, cut off below rho0", {"eos": Linear(1.0, 0.08)}, 1.2),
    ("Tait gamma = 7, force", "flat, with an edge", {"eos": Tait(1.0, 0.04, 7.0)}, 1.2),
    ("isothermal, pressure", "log p + C, cut off at 0",
     {"external": "pressure", "log_z": bound_level(2, 1.0, 1.0)}, 0.5),
    ("isothermal, density_force", "none: not bound", {"external": "density_force"}, 1.0),
    ("continuity", "p", CARRIED, 1.2),
    ("continuity, diffused excess", "p", {**CARRIED, "diffusion": 0.05}, 1.0),
    ("continuity, diffused density", "log p + C",
     {**CARRIED, "diffusion": 0.05, "diffused": "density"}, 1.0),
]  # fmt: skip
SHOWN = ["isothermal, force", "linear, rho0 = .08, force", "Tait gamma = 7, force",
         "isothermal, pressure", "continuity, diffused density"]  # fmt: skip


def linear_profile(r: np.ndarray, rho0: float = 0.08) -> np.ndarray:
    """Density C p down to rho0, with the mass 1: C = 1 + 2 pi rho0."""
    rho = (1 + 2 * np.pi * rho0) * np.exp(-0.5 * r**2) / (2 * np.pi)
    return np.where(rho > rho0, rho, 0)


def tait_profile(r: np.ndarray, rho0: float = 0.04, gamma: float = 7.0) -> np.ndarray:
    """Density rho0 ((gamma - 1) (C - r^2 / 2))^(1 / (gamma - 1)), with the mass 1."""
    power = 1 / (gamma - 1)
    level = ((power + 1) / (2 * np.pi * rho0 * (gamma - 1) ** power)) ** (1 / (power + 1))
    return rho0 * np.maximum((gamma - 1) * (level - 0.5 * r**2), 0) ** power


def parabola(r: np.ndarray) -> np.ndarray:
    """Density (R^2 - r^2) / 2, with the mass 1: R^4 = 4 / pi."""
    return np.maximum(2 / math.sqrt(math.pi) - r**2, 0) / 2


THEORY = {
    "linear, rho0 = .08, force": linear_profile,
    "Tait gamma = 7, force": tait_profile,
    "isothermal, pressure": parabola,
}


def main() -> None:
    """Run every form, and every kernel."""
    clock = Clock()
    target, rows, profiles = normal(2), [], {}
    for name, theory, changes, spread in FORMS:
        z = spread * np.random.default_rng(1).standard_normal((N, 2))
        run = rest(target, z, Equations(**{"scale": SCALE, **changes}), n=800)
        p = run.particles
        sd = [math.sqrt(v) for v in (p.z.var(), p.z.var() + np.mean(p.h**2))]
        status = "rests" if run.status == "converged" else "moves"
        rows.append([name, theory, status, *sd, kl(run.fluid, target)])
        profiles[name] = np.linalg.norm(p.z, axis=1), summed(p)
    columns = ["form", "equilibrium", "state", "sd, particles", "sd, density", "KL"]
    write_table("forms", columns, rows)
    rows = []
    for name in SHAPES:
        z = 1.2 * np.random.default_rng(1).standard_normal((N, 2))
        kernel = radial_kernel(name, 2)
        run = rest(target, z, Equations(kernel=name), n=800)
        rows.append([name, kernel.support, run.n_steps, kl(run.fluid, target)])
    write_table("kernels", ["kernel", "support / h, d = 2", "steps to rest", "KL"], rows)
    figure, axes = plt.subplots(1, 5, figsize=(11, 2.6), sharey=True)
    r = np.linspace(0, 3.2, 400)
    for ax, name in zip(axes, SHOWN, strict=True):
        radius, density = profiles[name]
        ax.plot(r, np.exp(-0.5 * r**2) / (2 * np.pi), color=COLORS["exact"], lw=1, label="p")
        if name in THEORY:
            ax.plot(r, THEORY[name](r), color=COLORS["variational"], lw=1, label="theory")
        ax.plot(radius, density, ".", color=COLORS["collocated"], ms=2, label="particles")
        ax.set(title=name, xlim=(0, 3.2), ylim=(0, 0.6), xlabel="radius")
        ax.title.set_fontsize(8)
    axes[0].set_ylabel("summed density")
    axes[1].legend(fontsize=7)
    save(figure, "forms")
    print(clock)


def summed(p) -> np.ndarray:
    """Density by summation, whatever the scheme carries."""
    return summed_density(p.z, p.h, radial_kernel("gaussian", 2), Neighbours(len(p.z)))


if __name__ == "__main__":
    main()

"""The scheme's bars in figures: conservation, normalisation, and KL in two dimensions."""

from __future__ import annotations

import math

from itertools import pairwise

import numpy as np

from common import Clock, gaussian_mixture, kl, normal, rest, write_table
from scipy.integrate import quad

from pymc_sph.fluid.collocated import Equations, begin, step, total_energy
from pymc_sph.fluid.radial_kernels import SHAPES, radial_kernel

N = 256


def nothing(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return no potential, and no force."""
    return np.zeros(len(theta)), np.zeros_like(theta)


def conservation(kernel: str, **changes: object) -> tuple[float, float]:
    """Drift of momentum (worst coordinate), and of energy over the kinetic energy, 1,000 steps."""
    rng = np.random.default_rng(0)
    z, v = rng.standard_normal((60, 2)), rng.standard_normal((60, 2))
    equations = Equations(kernel=kernel, damping=0.0, **changes)
    state = begin(z, np.zeros(2), np.eye(2), nothing, equations, v)
    momentum, energy, kinetic = [], [], []
    for _ in range(1001):
        momentum.append(state.v.mean(axis=0))
        energy.append(total_energy(state, equations))
        kinetic.append(0.5 * np.mean(np.sum(state.v**2, axis=1)))
        state, _ = step(state, nothing, equations)
    drift = np.abs(np.array(momentum) - momentum[0]).max()
    return float(drift), float(np.ptp(energy) / np.max(kinetic))


def normalisation_error(name: str) -> float:
    """Largest error of the radial integral over 1 to 20 dimensions."""
    worst = 0.0
    for dim in range(1, 21):
        kernel = radial_kernel(name, dim)
        end = min(kernel.support, 12 + math.sqrt(dim))
        sphere = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)

        def shell(r: float, kernel=kernel, sphere=sphere, dim=dim) -> float:
            return sphere * float(kernel.value(np.array(r * r), np.array(1.0))) * r ** (dim - 1)

        total = sum(quad(shell, a, b, epsabs=1e-13)[0] for a, b in pairwise(np.linspace(0, end, 5)))
        worst = max(worst, abs(total - 1))
    return worst


def main() -> None:
    """Measure, and write the table."""
    clock, rows = Clock(), []
    worst = {name: conservation(name) for name in SHAPES}
    viscous = conservation("wendland2", viscosity=0.3, smoothing="nearest", dt=0.02)
    momentum = max(viscous[0], *(drift for drift, _ in worst.values()))
    rows.append(["drift of momentum, 1,000 steps", "1e-10", f"{momentum:.1e}"])
    energy = max(drift for _, drift in worst.values())
    label = "drift of energy, 1,000 Verlet steps, over the kinetic energy"
    rows.append([label, "1 %", f"{energy:.2%}"])
    error = max(normalisation_error(name) for name in SHAPES)
    rows.append(["radial integral of the kernels, d = 1 to 20", "1", f"1 within {error:.0e}"])
    z = 2.0 * np.random.default_rng(1).standard_normal((N, 2))
    mixture = gaussian_mixture(np.array([[-2.0, 0], [2, 0]]), np.array([0.3, 0.7]), 0.8)
    for name, target, bar in (("Gaussian", normal(2), ".05"), ("mixture", mixture, ".1")):
        for force in ("symmetric", "plain"):
            run = rest(target, z, Equations(pressure_force=force))
            label = f"KL, {name}, {force} pressure force, N = {N}"
            rows.append([label, bar, f"{kl(run.fluid, target):.4f}"])
    write_table("bars", ["what", "bar", "measured"], rows)
    print(clock)


if __name__ == "__main__":
    main()

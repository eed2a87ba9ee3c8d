"""Makes the figures of the pages: ``python docs/figures/make.py``, a minute on one core.

flow.gif         the fluid from its start to rest, on a bent density (landing page)
kernels.png      one density as the sum of kernels, at the start and at rest
hydrostatic.png  the potential that drives the fluid, at the start and at rest
gradient.png     SPH interpolation against the exact gradient of the ELBO
schools.png      eight schools: the fluid over (mu, tau), and how the fit went
"""

from __future__ import annotations

import dataclasses

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pymc as pm

from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import norm

import pymc_sph

from pymc_sph import plots
from pymc_sph.__main__ import eight_schools
from pymc_sph.fluid import equation_of_state, interpolation
from pymc_sph.fluid.density import density, draw_noise, draw_probes
from pymc_sph.fluid.simulate import Simulation
from pymc_sph.fluid.state import Fluid, to_unconstrained
from pymc_sph.fluid.step import LogDensity
from pymc_sph.placing import placing
from pymc_sph.start import Gaussian

HERE = Path(__file__).parent
GIF_LIMIT = 1_500_000
"""Bytes that the landing page's animation may have."""

mpl.rcParams["animation.writer"] = "pillow"


def two_humps(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log density (K,) and gradient (K, 1) of a mixture of two normals in one dimension."""
    x = theta[:, 0]
    parts = np.stack([0.7 * norm.pdf(x, -1.2, 0.7), 0.3 * norm.pdf(x, 1.8, 0.5)])
    slopes = np.stack([-(x + 1.2) / 0.49, -(x - 1.8) / 0.25])
    p = parts.sum(axis=0)
    return np.log(p), ((parts * slopes).sum(axis=0) / p)[:, None]


def flow() -> None:
    """Write flow.gif."""
    with pm.Model():
        x = pm.Normal("x", 0, 1)
        pm.Normal("y", 0.6 * x**2, 0.35)
        recorder = plots.Recorder()
        pm.fit(method="sph", random_seed=2, callbacks=[recorder], progressbar=False)
    figure = Figure(figsize=(4.6, 3.7), layout="constrained")
    animation = plots.animate_fluid(recorder, ax=figure.subplots(), frames=36, interval=140)
    file = HERE / "flow.gif"
    animation.save(file, dpi=80)
    _shrink(file)


def _shrink(file: Path) -> None:
    """Write a GIF anew with one palette of 48 colours, and a pause at its end."""
    with Image.open(file) as gif:
        frames = []
        for i in range(gif.n_frames):  # type: ignore[attr-defined]
            gif.seek(i)
            frames.append(gif.convert("RGB"))
    palette = frames[-1].quantize(48)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    pauses = [140] * (len(frames) - 1) + [2000]
    frames[0].save(
        file, save_all=True, append_images=frames[1:], duration=pauses, loop=0, optimize=True
    )
    size = file.stat().st_size
    assert size < GIF_LIMIT, f"{file.name} has {size} bytes"


def one_fluid() -> tuple[Fluid, Fluid]:
    """Return one fluid of sixteen particles on the two humps, placed off them, and at rest."""
    settings = pymc_sph.Settings(particles=16, probes=64, temperature=1.0, formulation="force")
    start = Gaussian(np.array([0.3]), np.array([[2.0]]), elbo=0.0)
    run: Any = placing(settings, two_humps, ())(start, 0, 1, 2000)
    assert isinstance(run, Simulation)
    first = run.fluid
    while run.running:
        run, _ = run.advance(two_humps)
    return first, run.fluid


def kernels(fluids: tuple[Fluid, Fluid]) -> None:
    """Write kernels.png."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    x = np.linspace(-5, 5, 500)
    p = np.exp(two_humps(x[:, None])[0])
    for ax, fluid, title in zip(
        figure.subplots(1, 2, sharey=True), fluids, ("at the start", "at rest"), strict=True
    ):
        sd = np.abs(fluid.L[0, 0] * fluid.A[:, 0, 0])
        means = to_unconstrained(fluid, fluid.z)[:, 0]
        own = np.exp(fluid.log_m)[:, None] * norm.pdf(x, means[:, None], sd[:, None])
        ax.fill_between(x, p, color="0.9", label="p")
        ax.plot(x, own.T, color="C1", linewidth=0.8)
        ax.plot([], [], color="C1", linewidth=0.8, label="$m_i W_i$")
        ax.plot(x, own.sum(axis=0), color="C0", linewidth=1.8, label=r"q, their sum")
        ax.set_title(title, fontsize=10)
        ax.set(xlabel=r"$\theta$", ylim=(0, None), xlim=(-5, 5))
    ax.legend(frameon=False, fontsize=9)
    figure.savefig(HERE / "kernels.png", dpi=110)


def hydrostatic(fluids: tuple[Fluid, Fluid]) -> None:
    """Write hydrostatic.png."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots(1, 2)
    x = np.linspace(-4, 4, 400)
    logp = two_humps(x[:, None])[0]
    for fluid, name, colour in zip(fluids, ("start", "rest"), ("C1", "C0"), strict=True):
        y = (x[:, None] - fluid.mu) / fluid.L[0, 0]
        log_q = density(fluid, y).log_rho - np.log(abs(fluid.L[0, 0]))
        shown = log_q > log_q.max() - 5
        axes[0].plot(x, log_q, color=colour, linewidth=1.5, label=f"log q at {name}")
        phi = np.where(shown, logp - log_q, np.nan)
        axes[1].plot(x, phi, color=colour, linewidth=1.5, label=f"at {name}")
    axes[0].plot(x, logp, color="0.3", linestyle="--", linewidth=1, label="log p")
    axes[0].set(ylim=(-8, 0), xlabel=r"$\theta$", ylabel="nats")
    axes[1].set(
        xlabel=r"$\theta$", ylabel=r"$\phi$ = log p $-$ log q, nats", ylim=(-4, 3), xlim=(-4, 4)
    )
    axes[1].axhline(0, color="0.3", linestyle="--", linewidth=1)
    for ax in axes:
        ax.legend(frameon=False, fontsize=9)
    figure.savefig(HERE / "hydrostatic.png", dpi=110)


def gradient() -> None:
    """Write gradient.png: forces from 256 probes, beside differences of the ELBO by quadrature."""
    rng = np.random.default_rng(0)
    n = 12
    m = rng.dirichlet(np.full(n, 3.0))
    fluid = Fluid(
        z=1.2 * rng.standard_normal((n, 2)),
        u=np.zeros((n, 2)),
        A=0.5 * np.eye(2) + 0.08 * rng.standard_normal((n, 2, 2)),
        log_m=np.log(m),
        mu=np.zeros(2),
        L=np.eye(2),
    )
    exact = np.empty((n, 2))
    for i, j in np.ndindex(n, 2):
        ends = []
        for h in (-1e-3, 1e-3):
            z = fluid.z.copy()
            z[i, j] += h
            ends.append(_elbo(dataclasses.replace(fluid, z=z), bent))
        exact[i, j] = (ends[1] - ends[0]) / 2e-3 / m[i]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for ax, n_probes in zip(figure.subplots(1, 2, sharey=True), (256, 16384), strict=True):
        noise = draw_noise(np.random.default_rng(1), n_probes, 2)
        y, _ = draw_probes(fluid, noise)
        field = density(fluid, y)
        r = equation_of_state.acceleration(bent(y)[1], field.grad, 1.0)
        f = interpolation.interpolate(interpolation.smoothing_weights(fluid, field.R), r)
        ends = [exact.min() - 0.3, exact.max() + 0.3]
        ax.plot(ends, ends, color="0.6", linewidth=1)
        ax.scatter(exact.ravel(), f.ravel(), s=16)
        ax.set(xlabel=r"exact: $\partial\,$ELBO$/\partial z_i$ over $m_i$", xlim=ends)
        ax.set_title(f"{n_probes:,} probes", fontsize=10)
        worst = np.abs(f - exact).max()
        print(f"gradient: {n_probes} probes, worst error {worst:.3f}, largest {exact.max():.2f}")
    figure.axes[0].set_ylabel("SPH interpolation of r")
    figure.savefig(HERE / "gradient.png", dpi=110)


def bent(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log density (K,), up to a constant, and gradient (K, 2) of a bent normal."""
    x, y = theta.T
    gap = y - 0.4 * x**2
    return -0.5 * x**2 - 0.5 * gap**2, np.stack([-x + 0.8 * gap * x, -gap], axis=1)


def _elbo(fluid: Fluid, target: LogDensity) -> float:
    """ELBO by quadrature on a grid, with a frame that is the identity."""
    t = np.linspace(-7, 7, 200)
    y = np.stack(np.meshgrid(t, t), axis=-1).reshape(-1, 2)
    log_rho = density(fluid, y).log_rho
    return float(np.sum(np.exp(log_rho) * (target(y)[0] - log_rho)) * (t[1] - t[0]) ** 2)


def schools() -> None:
    """Write schools.png."""
    with eight_schools():
        approx = pm.fit(method="sph", random_seed=1, progressbar=False)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1))
    plots.plot_fluid(approx, ("mu", "tau"), left.subplots())
    axes = right.subplots(3, 1, sharex=True, height_ratios=(2.2, 1, 1))
    plots.plot_convergence(approx, axes)
    figure.savefig(HERE / "schools.png", dpi=100)


if __name__ == "__main__":
    mpl.use("Agg")
    flow()
    both = one_fluid()
    kernels(both)
    hydrostatic(both)
    gradient()
    schools()

"""What the scripts of this folder share: targets, distances, SVGD, tables and figures.

Run a script from anywhere, ``python examples/paper/convergence.py``; it writes a figure and a table
to ``docs/paper/``.
"""

from __future__ import annotations

import time

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pymc as pm
import pytensor.tensor as pt

from pytensor.graph.replace import vectorize_graph
from scipy.special import logsumexp

import pymc_sph

from pymc_sph.fluid.collocated import Equations, begin
from pymc_sph.fluid.density import draw_noise, draw_probes, log_density
from pymc_sph.fluid.relaxation import Relaxation, RestCheck
from pymc_sph.fluid.state import Fluid, to_frame, to_unconstrained

OUT = Path(__file__).resolve().parents[2] / "docs" / "paper"
NEVER = RestCheck(kinetic=1e-30)
"""For runs of a fixed number of steps."""
COLORS = {
    "collocated": "#1f6feb",
    "collocated, plain": "#7cb3ff",
    "variational": "#d1495b",
    "SVGD": "#2a9d5c",
    "NUTS": "#6b6b6b",
    "exact": "black",
}
plt.switch_backend("Agg")
plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 130,
    }
)

Target = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


# --- targets


@dataclass
class Problem:
    """A density of two dimensions with a PyMC model, its compiled target and exact draws."""

    name: str
    model: pm.Model
    target: Target
    draws: np.ndarray

    def logp(self, theta: np.ndarray) -> np.ndarray:
        """Normalised log density."""
        return self.target(theta)[0]


def _mixture(x, y):
    modes = [(-2.0, 0.3), (2.0, 0.7)]
    parts = [pt.log(w) - 0.5 * ((x - m) ** 2 + y**2) / 0.8**2 for m, w in modes]
    return pt.logsumexp(pt.stack(parts))


def _moon(x, y):
    r = pt.sqrt(x**2 + y**2 + 1e-3)
    return -0.5 * ((r - 2.0) / 0.35) ** 2 + 1.5 * x / r


def _double_banana(x, y):
    forward = pt.log((1.0 - x) ** 2 + 100.0 * (y - x**2) ** 2 + 1e-12)
    return -0.5 * (x**2 + y**2) - 0.5 * ((np.log(30.0) - forward) / 0.3) ** 2


FORMULAS = {
    "Gaussian": lambda x, y: -0.5 * (x**2 - 1.2 * x * y + y**2) / 0.64,
    "mixture": _mixture,
    "moon": _moon,
    "double banana": _double_banana,
    "wave": lambda x, y: -0.5 * ((y - pt.sin(0.5 * np.pi * x)) / 0.4) ** 2 - 0.5 * (x / 2) ** 2,
    "funnel": lambda x, y: -0.5 * (x / 3) ** 2 - 0.5 * y**2 * pt.exp(-x) - 0.5 * x,
}
"""Log densities of two dimensions, up to a constant. The funnel is Neal's: x ~ N(0, 9), y | x ~
N(0, exp(x)). The double banana is that of Detommaso et al. (2018)."""


def problem(name: str, n_draws: int = 20_000) -> Problem:
    """Return one of `FORMULAS`, normalised, with exact draws."""
    rng = np.random.default_rng(0)
    if name == "funnel":  # closed form; no grid reaches its mouth
        log_z = np.log(3) + np.log(2 * np.pi)
        x = 3 * rng.standard_normal(n_draws)
        draws = np.stack([x, np.exp(x / 2) * rng.standard_normal(n_draws)], axis=1)
    else:
        points, cell = grid(8.0, 801)
        x, y = pt.vectors("x", "y")
        one = pt.scalars("a", "b")
        values = vectorize_graph([FORMULAS[name](*one)], dict(zip(one, (x, y), strict=True)))[0]
        logp = values.eval({x: points[:, 0], y: points[:, 1]})
        log_z = logsumexp(logp) + np.log(cell)
        pick = rng.choice(len(points), n_draws, p=np.exp(logp - logsumexp(logp)))
        draws = points[pick] + np.sqrt(cell) * (rng.random((n_draws, 2)) - 0.5)
    with pm.Model() as model:
        theta = pm.Flat("theta", shape=2)
        pm.Potential("density", FORMULAS[name](theta[0], theta[1]) - log_z)
    return Problem(name, model, pymc_sph.compile_target(model), draws)


def normal(dim: int) -> Target:
    """N(0, I)."""
    return lambda x: (-0.5 * np.sum(x**2, axis=1) - 0.5 * dim * np.log(2 * np.pi), -x)


def gaussian_mixture(means: np.ndarray, weights: np.ndarray, sd: float) -> Target:
    """Mixture of round Gaussians of one standard deviation."""
    dim = means.shape[1]

    def target(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cross = x @ means.T
        squared = np.sum(x**2, axis=1)[:, None] + np.sum(means**2, axis=1) - 2 * cross
        parts = np.log(weights) - 0.5 * squared / sd**2 - dim * np.log(sd * np.sqrt(2 * np.pi))
        logp = logsumexp(parts, axis=1)
        share = np.exp(parts - logp[:, None])
        return logp, (share @ means - x) / sd**2

    return target


# --- runs


def collocated_run(
    target: Target,
    z: np.ndarray,
    equations: Equations,
    check: RestCheck = NEVER,
    hot: float = 1.0,
    cooling: int = 0,
) -> Iterator[tuple[Relaxation, object]]:
    """Every state of a collocated fluid from z (N, d), without a frame, and what it saw."""
    d = z.shape[1]
    first = begin(z, np.zeros(d), np.eye(d), target, equations)
    run = Relaxation(first, equations, check, hot, cooling)
    yield run, None
    while run.running:
        run, seen = run.advance(target)
        yield run, seen


def rest(
    target: Target, z: np.ndarray, equations: Equations, n: int = 600, **kwargs: object
) -> Relaxation:
    """Return the fluid at rest, or after n steps."""
    kwargs.setdefault("check", RestCheck())
    for run, _ in collocated_run(target, z, equations, **kwargs):
        if run.n_steps >= n:
            break
    return run


def svgd_run(target: Target, theta: np.ndarray, step: float = 0.1) -> Iterator[np.ndarray]:
    """Every state of SVGD (Liu and Wang 2016): RBF kernel, median heuristic, AdaGrad."""
    history = None
    while True:
        yield theta
        _, score = target(theta)
        square = np.sum(theta**2, axis=1)
        squared = np.maximum(square[:, None] + square - 2 * theta @ theta.T, 0)
        width = np.median(squared) / np.log(len(theta) + 1) + 1e-12
        K = np.exp(-squared / width)
        repulsion = 2 / width * (theta * K.sum(axis=1)[:, None] - K @ theta)
        phi = (K @ score + repulsion) / len(theta)
        history = phi**2 if history is None else 0.9 * history + 0.1 * phi**2
        theta = theta + step * phi / (1e-6 + np.sqrt(history))


def points_as_fluid(theta: np.ndarray, limit: int = 2000) -> Fluid:
    """Kernel density estimate of points, with Silverman's bandwidth along their own axes."""
    theta = theta[:: max(1, len(theta) // limit)]
    n, d = theta.shape
    mu, L = (
        theta.mean(axis=0),
        np.linalg.cholesky(np.cov(theta.T).reshape(d, d) + 1e-12 * np.eye(d)),
    )
    z = np.linalg.solve(L, (theta - mu).T).T
    h = (4 / (d + 2)) ** (1 / (d + 4)) * n ** (-1 / (d + 4))
    return Fluid(z, np.zeros_like(z), np.full((n, d), h), np.full(n, -np.log(n)), mu, L)


# --- distances


def draws_of(fluid: Fluid, n: int, seed: int = 0) -> np.ndarray:
    """Draws (n, d) of a fluid's density."""
    noise = draw_noise(np.random.default_rng(seed), n, fluid.dim)
    return to_unconstrained(fluid, draw_probes(fluid, noise)[0])


def log_q(fluid: Fluid, theta: np.ndarray) -> np.ndarray:
    """Log density of a fluid, in unconstrained space."""
    return log_density(fluid, to_frame(fluid, theta)) - np.linalg.slogdet(fluid.L)[1]


def kl(fluid: Fluid, target: Target, n: int = 10_000) -> float:
    """KL(q || p) over n draws from q, systematic over the particles and antithetic."""
    theta = draws_of(fluid, n)
    return float(np.mean(log_q(fluid, theta) - target(theta)[0]))


def sliced_w1(a: np.ndarray, b: np.ndarray, n_directions: int = 50) -> float:
    """Mean Wasserstein-1 distance of two samples over random directions."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((n_directions, a.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    level = (np.arange(1000) + 0.5) / 1000
    return float(
        np.mean([np.mean(np.abs(np.quantile(a @ u, level) - np.quantile(b @ u, level)))
                 for u in directions])
    )  # fmt: skip


def grid(half: float, n: int) -> tuple[np.ndarray, float]:
    """Points (n^2, 2) of a square, and the area of a cell."""
    axis = np.linspace(-half, half, n)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), (axis[1] - axis[0]) ** 2


# --- what the scripts write


def number(value: object) -> str:
    """Format a cell of a table."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if not np.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def write_table(name: str, columns: list[str], rows: list[list], note: str = "") -> None:
    """Write a Markdown table to docs/paper/NAME.md, and print it."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(number(cell) for cell in row) + " |" for row in rows]
    text = "\n".join(lines) + "\n"
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.md").write_text((note + "\n\n" if note else "") + text)
    print(text)


def save(figure: plt.Figure, name: str) -> None:
    """Write a figure to docs/paper/NAME.png."""
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / f"{name}.png")
    plt.close(figure)


class Clock:
    """Seconds since it was made, for the note under a table."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def __str__(self) -> str:
        """Return seconds as text."""
        return f"{time.perf_counter() - self.began:.0f} s"

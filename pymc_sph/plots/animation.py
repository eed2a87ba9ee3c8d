"""The flow from the start to rest, as an animation."""

from __future__ import annotations

import dataclasses

from collections.abc import Sequence
from typing import Any

import numpy as np

from pymc_sph.checks import check_integer
from pymc_sph.plots import density
from pymc_sph.plots.density import Field
from pymc_sph.plots.fluid import colours, draw_contours, frame, opacity
from pymc_sph.plots.projection import Projection, projection_of
from pymc_sph.plots.recorder import Recorder
from pymc_sph.plots.source import Source, source_of


def animate_fluid(
    recorder: Recorder,
    var_names: str | Sequence[str] | None = None,
    ax: Any = None,
    *,
    frames: int = 60,
    grid: int = 160,
    interval: int = 80,
) -> Any:
    """Animate a recorded fit: the fluid from its first steps to its rest.

    Behind the particles is the density of the model itself where its unconstrained space has two
    dimensions and these are what is drawn, and that of the finished q elsewhere, with contours that
    enclose 50, 80 and 95 %.

    Parameters
    ----------
    recorder : Recorder
        The callback of a fit.
    var_names : sequence of str, optional
        Two quantities, as in `plot_fluid`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    frames : int
        Number of pictures: most are of the first steps, in which most happens.
    grid : int
        Points per side at which the density is evaluated.
    interval : int
        Milliseconds per picture.

    Returns
    -------
    matplotlib.animation.FuncAnimation
        ``.save("flow.gif")`` writes it (with Pillow), ``.save("flow.mp4")`` too (with ffmpeg, and
        a RuntimeError that says how to get it where there is none), and ``.to_jshtml()`` shows it
        in a notebook.

    Raises
    ------
    TypeError
        If `recorder` is none.
    ValueError
        If it has recorded nothing, or `var_names` does not name two numbers.
    """
    import matplotlib.pyplot as plt

    from pymc_sph.plots.movie import Movie

    if not isinstance(recorder, Recorder):
        raise TypeError(
            f"recorder={type(recorder).__name__}: give the Recorder that was a callback of the fit"
        )
    if not recorder.steps:
        raise ValueError("The recorder has seen no step: give it to a fit, callbacks=[recorder].")
    frames = check_integer("frames", frames, 1)
    source = source_of(recorder.approx)
    projection = projection_of(source, var_names)
    if len(projection.labels) != 2:
        raise ValueError(f"var_names={var_names!r}: an animation shows two numbers, give two")
    if ax is None:
        ax = plt.subplots(figsize=(5, 4), layout="constrained")[1]
    field = _background(recorder.approx, source, projection, grid)
    draw_contours(ax, field, labels=False)
    ax.set(xlabel=projection.labels[0], ylabel=projection.labels[1])
    frame(ax, field)
    moving = _Moving(ax, recorder, source, projection)
    chosen = _frames(recorder.steps, frames)
    return Movie(ax.figure, moving, chosen, interval=interval, blit=False)


def _frames(steps: Sequence[int], n: int) -> list[int]:
    """Choose the recorded steps to show, by index: dense at first, where the fluid moves most."""
    share = np.linspace(0, 1, min(n, len(steps))) ** 2
    index = np.unique(np.round(share * (len(steps) - 1)).astype(int))
    # where the squares fall on one step, take the next
    spare = np.setdiff1d(np.arange(len(steps)), index)[: min(n, len(steps)) - len(index)]
    return [int(i) for i in np.sort(np.concatenate([index, spare]))]


class _Moving:
    """What changes from picture to picture; called with the index of a recorded state."""

    def __init__(self, ax: Any, recorder: Recorder, source: Source, projection: Projection) -> None:
        from matplotlib.collections import PolyCollection

        self.ax, self.recorder, self.source = ax, recorder, source
        self.projection = projection
        final = Source(recorder.mixtures[-1], source.labels, source.model)
        self.norm, self.cmap = colours(final.masses)
        self.norm.clip = True
        self.kernels = ax.add_collection(
            PolyCollection([], facecolors="none", zorder=1), autolim=False
        )
        self.particles = ax.scatter([], [], edgecolors="white", linewidths=0.3, zorder=3)

    def __call__(self, index: int) -> tuple[Any, Any]:
        mixture = self.recorder.mixtures[index]
        masses = dataclasses.replace(self.source, mixture=mixture).masses
        curves, centres = density.outlines(mixture, self.projection)
        order = np.argsort(masses)
        strength = np.asarray(self.norm(masses[order]))
        colour = self.cmap(strength)
        edges = colour.copy()
        edges[:, 3] = opacity(strength)
        self.kernels.set_verts(curves[order])
        self.kernels.set_edgecolors(edges)
        self.kernels.set_linewidths(0.5 + 1.1 * strength)
        self.particles.set_offsets(centres[order])
        self.particles.set_facecolors(colour)
        self.particles.set_sizes(3 + 26 * strength)
        self.ax.set_title(f"step {self.recorder.steps[index]}", fontsize=10)
        return self.kernels, self.particles


def _background(approx: Any, source: Source, projection: Projection, grid: int) -> Field:
    field = density.field_of(source, projection, grid)
    target = approx._target
    if source.mixture.dim != 2 or projection.separate is None or target is None:
        return field
    if not set(projection.labels) <= set(source.labels):  # constrained
        return field
    return _target_field(target, projection.separate, field)


def _target_field(target: Any, own: tuple[int, ...], field: Field) -> Field:
    """Density of the model itself on the grid of q's."""
    theta = np.empty((field.density.size, 2))
    theta[:, own[0]] = np.tile(field.x, len(field.y))
    theta[:, own[1]] = np.repeat(field.y, len(field.x))
    logp = target(theta)[0].reshape(field.density.shape)
    finite = np.isfinite(logp)
    if not finite.any():
        return field
    density_ = np.where(finite, np.exp(logp - logp[finite].max()), 0.0)
    return Field(field.x, field.y, density_, density_)

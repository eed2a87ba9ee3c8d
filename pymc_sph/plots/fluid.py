"""The fluid itself: particles, kernels, and the density that they make together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pymc_sph.plots import density
from pymc_sph.plots.projection import Projection, projection_of
from pymc_sph.plots.source import Source, source_of


def plot_fluid(
    data: Any,
    var_names: str | Sequence[str] | None = None,
    ax: Any = None,
    *,
    grid: int = 160,
    colorbar: bool = True,
) -> Any:
    """Draw the fluid over two quantities, or one: particles, kernels, and the density of q.

    Over two quantities particles are dots, their kernels outlines of one standard deviation, both
    coloured by mass, and contours enclose 50, 80 and 95 % of q. Over one, the thick curve is the
    density of q and thin ones are its kernels, enlarged so that the tallest can be seen.

    Parameters
    ----------
    data : FluidApproximation, FitResult, InferenceData or DataTree
        A fit; or its draws with the particles, ``approx.sample(include_transformed=True)``, which
        know the unconstrained space alone.
    var_names : str or sequence of str, optional
        Variables, whole or single elements (``"theta[0]"``, ``"theta[Choate]"``), constrained
        (``"tau"``), deterministic or unconstrained (``"tau_log__"``): one or two numbers in all.
        By default the first two coordinates of the unconstrained space.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    grid : int
        Points per side at which the density is evaluated.
    colorbar : bool
        Add a scale of the particles' masses.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If `var_names` does not name one or two numbers (the message lists what there is), or if
        `data` holds no particles.
    TypeError
        If `data` is neither a fit nor draws.

    Notes
    -----
    The density is exact where each quantity depends on one coordinate, as coordinates and most
    constrained variables do; elsewhere it is estimated from 50,000 draws, smoothed by half of the
    width of the kernel that each came from.
    An outline is the image of an ellipse. It need not enclose the same share of a kernel everywhere
    once the quantities are not linear in the coordinates.
    """
    import matplotlib.pyplot as plt

    source = source_of(data)
    projection = projection_of(source, var_names)
    ax = plt.subplots(layout="constrained")[1] if ax is None else ax
    if len(projection.labels) == 1:
        _draw_curves(ax, source, projection, grid)
        return ax
    field = density.field_of(source, projection, grid)
    draw_contours(ax, field)
    mappable = draw_kernels(ax, source, projection)
    if colorbar:
        bar = ax.figure.colorbar(mappable, ax=ax, pad=0.02, fraction=0.04)
        bar.set_label("mass of the particle")
    ax.set(xlabel=projection.labels[0], ylabel=projection.labels[1])
    frame(ax, field)
    return ax


def frame(ax: Any, field: density.Field) -> None:
    """Set the limits of the axes to what holds 99 % of q."""
    held = field.density >= field.levels((density.SEEN,))[0]
    for values, inside, limit in (
        (field.x, held.any(axis=0), ax.set_xlim),
        (field.y, held.any(axis=1), ax.set_ylim),
    ):
        ends = values[inside][[0, -1]]
        margin = 0.04 * np.ptp(ends)
        limit(ends[0] - margin, ends[1] + margin)


def draw_contours(ax: Any, field: density.Field, labels: bool = True) -> Any:
    """Draw the density in grey, with contours that enclose 50, 80 and 95 % of the mass."""
    from matplotlib.patheffects import withStroke

    levels = field.levels()
    if len(np.unique(levels)) < len(levels):  # a grid too coarse for the density
        levels = np.unique(levels)
    heights = np.unique([*levels, field.density.max()])
    ax.contourf(field.x, field.y, field.density, levels=heights, cmap="Greys", alpha=0.25, zorder=0)
    lines = ax.contour(
        field.x, field.y, field.density, levels=levels, colors="0.2", linewidths=0.9, zorder=2
    )
    if max(len(pieces) for pieces in lines.allsegs) > 2:  # labels of many modes would cover them
        ax.text(
            0.01, 0.99, "contours: 50, 80, 95 %", transform=ax.transAxes, fontsize=8, va="top"
        )  # fmt: skip
    elif labels and len(levels) == len(density.SHARES):
        names = {
            level: f"{share:.0%}"
            for level, share in zip(levels, sorted(density.SHARES, reverse=True), strict=True)
        }
        for label in ax.clabel(lines, fmt=names, fontsize=8):
            label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
            label.set_zorder(4)
    return lines


def draw_kernels(ax: Any, source: Source, projection: Projection) -> Any:
    """Draw particles and outlines of their kernels, coloured by mass; returns the mappable."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PolyCollection

    curves, centres = density.outlines(source.mixture, projection)
    masses = source.masses
    order = np.argsort(masses)  # the heavy ones last, on top
    norm, cmap = colours(masses)
    strength = np.asarray(norm(masses[order]))
    edges = cmap(strength)
    edges[:, 3] = opacity(strength)
    ax.add_collection(
        PolyCollection(
            list(curves[order]),
            facecolors="none",
            edgecolors=edges,
            linewidths=0.5 + 1.1 * strength,
            zorder=1,
        ),
        autolim=False,
    )
    ax.scatter(
        *centres[order].T,
        c=masses[order],
        s=3 + 26 * strength,
        cmap=cmap,
        norm=norm,
        edgecolors="white",
        linewidths=0.3,
        zorder=3,
    )
    return ScalarMappable(norm, cmap)


def colours(masses: np.ndarray) -> tuple[Any, Any]:
    """Scale and colour map of masses."""
    import matplotlib.pyplot as plt

    from matplotlib.colors import ListedColormap, Normalize

    # the palest colours of the map vanish on white
    cmap = ListedColormap(plt.get_cmap("plasma_r")(np.linspace(0.12, 1.0, 256)))
    return Normalize(0.0, float(masses.max())), cmap


def opacity(strength: np.ndarray) -> np.ndarray:
    """Opacity of kernels, from masses over the largest: many equal ones must not hide all else."""
    return (0.15 + 0.75 * strength) / max(1.0, float(strength.sum()) / 50) ** 0.5


def _draw_curves(ax: Any, source: Source, projection: Projection, grid: int) -> None:
    """Draw the density of one quantity, and the part of each kernel in it."""
    x, own = density.curve_of(source, projection, 4 * grid)
    norm, cmap = colours(source.masses)
    whole = own.sum(axis=0)
    if projection.separate is not None:
        enlarged = own * 0.45 * whole.max() / own.max()
        strength = np.asarray(norm(source.masses))
        colour, alpha = cmap(strength), opacity(strength)
        for i in np.argsort(strength):
            width = 0.5 + strength[i]
            ax.plot(x, enlarged[i], color=colour[i], linewidth=width, alpha=alpha[i])
    ax.plot(x, whole, color="0.2", linewidth=1.6)
    ax.fill_between(x, whole, color="0.2", alpha=0.08, linewidth=0)
    ax.set(xlabel=projection.labels[0], ylabel="density", xlim=(x[0], x[-1]))
    ax.set_ylim(0, 1.05 * float(whole.max()))

"""The two figures of ``peers.py``: error against seconds, error against evaluations.

A panel per method, its posteriors as dots before the dots of all methods in grey, on the same
axes. The error is the worse of the worst mean error and the worst |log sd ratio|, in reference
sds. The band is where NUTS' own Monte Carlo error lies.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peer_methods import METHODS

if TYPE_CHECKING:
    from peer_report import Cell

WORST = 10.0
"""Errors above are drawn there, as triangles."""
COLUMNS = 5
OWN, PEER = "#c03b2b", "#1f5a93"

FIGURES = {
    "benchmarks_time.png": ("total", "seconds from model to draws, warm cache"),
    "benchmarks_evaluations.png": ("evaluations", "evaluations of log density or gradient"),
}
"""File: which median it shows, and its label."""


def draw(cells: list[Cell], folder: Path) -> None:
    """Write both figures."""
    if not any(cell.medians for cell in cells):
        return
    import matplotlib

    matplotlib.use("Agg")
    for file, (quantity, label) in FIGURES.items():
        figure = panels(cells, quantity, label)
        figure.savefig(folder / file, dpi=120)


def panels(cells: list[Cell], quantity: str, label: str) -> Any:
    """Return a figure of a panel per method."""
    import matplotlib.pyplot as plt

    from matplotlib.ticker import NullFormatter

    methods = [name for name in METHODS if any(c.method == name and c.applies for c in cells)]
    columns = min(COLUMNS, len(methods))
    lines = -(-len(methods) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        sharex=True,
        sharey=True,
        squeeze=False,
        figsize=(2.3 * columns + 0.5, 2.4 * lines + 0.5),
        layout="constrained",
    )
    good = [cell for cell in cells if cell.medians]
    noise = [c.medians["mc_mean"] for c in good if "mc_mean" in c.medians]
    decades = np.log10([cell.medians[quantity] for cell in good])
    limits = 10 ** np.floor(decades.min() - 0.05), 10 ** np.ceil(decades.max() + 0.05)
    for axis, name in zip(axes.flat, methods, strict=False):
        axis.set(xscale="log", yscale="log", xlim=limits, ylim=(0.008, 1.4 * WORST))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_yticks([0.01, 0.1, 1, 10], [".01", ".1", "1", "10"])
        axis.set_title(METHODS[name].label, fontsize=9)
        axis.grid(color="0.92", lw=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
        if noise:
            axis.axhspan(min(noise), max(noise), color="0.88", lw=0, zorder=0.5)
        _dots(axis, [c for c in good if c.method != name], quantity, color="0.72", s=7)
        _dots(
            axis,
            [c for c in good if c.method == name],
            quantity,
            color=OWN if name == "sph" else PEER,
            s=24,
            edgecolor="white",
            linewidth=0.5,
        )
        failed = [c for c in cells if c.method == name and c.applies and not c.medians]
        if failed:
            axis.annotate(
                f"{len(failed)} failed",
                (0.97, 0.04),
                xycoords="axes fraction",
                ha="right",
                fontsize=8,
                color="0.3",
            )
    for axis in axes.flat[len(methods) :]:
        axis.set_axis_off()
    figure.supxlabel(label, fontsize=9)
    figure.supylabel("worst error, reference sds", fontsize=9)
    return figure


def _dots(axis: Any, cells: list[Cell], quantity: str, **style: Any) -> None:
    x = np.array([cell.medians[quantity] for cell in cells])
    y = np.array([cell.error for cell in cells])
    off = y > WORST
    axis.scatter(x[~off], y[~off], **style)
    axis.scatter(x[off], np.full(off.sum(), WORST), marker="^", **style)

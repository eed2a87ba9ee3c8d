"""Pictures of the fluid. Matplotlib is imported when a picture is asked for, not before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pymc_sph.fluid.state import Fluid
from pymc_sph.graph import coordinate_labels
from pymc_sph.mixture import FluidMixture


def plot_fluid(
    approx: Any,
    var_names: Sequence[str] | None = None,
    ax: Any = None,
    *,
    grid: int = 120,
    colorbar: bool = True,
) -> Any:
    """Draw the fluid over two unconstrained coordinates: particles, and contours of the density.

    Particles are dots, their kernels ellipses of one standard deviation, both coloured by mass;
    the contours enclose 50, 80 and 95 % of q.

    Parameters
    ----------
    approx : FluidApproximation
        A finished fit.
    var_names : sequence of str, optional
        Two coordinates of the unconstrained space, such as ``("mu", "tau_log__")`` or
        ``("theta[0]", "theta[1]")``; the first two by default.
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
        If `var_names` does not name two coordinates; the message lists them.
    """
    import matplotlib.pyplot as plt

    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.patches import Ellipse
    from matplotlib.patheffects import withStroke

    pair = coordinate_pair(approx.model, var_names)
    names = coordinate_labels(approx.model, approx.model.initial_point(0))
    means, covariances, masses = marginal(approx.mixture, pair)
    ax = plt.subplots()[1] if ax is None else ax
    x, y, density = _density_where_it_matters(means, covariances, masses, grid)
    levels = dict(zip(enclosing_levels(density), ("95 %", "80 %", "50 %"), strict=True))
    heights = np.array([*levels, density.max()])
    ax.contourf(x, y, density, levels=np.unique(heights), cmap="Greys", alpha=0.25, zorder=0)
    lines = ax.contour(x, y, density, levels=list(levels), colors="0.2", linewidths=0.9, zorder=2)
    for label in ax.clabel(lines, fmt=levels, fontsize=8):
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        label.set_zorder(4)
    norm = Normalize(0.0, masses.max())
    # the palest colours of the map vanish on white
    cmap = ListedColormap(plt.get_cmap("plasma_r")(np.linspace(0.12, 1.0, 256)))
    order = np.argsort(masses)  # the heavy ones last, on top
    for i in order:
        width, height, angle = ellipse_of(covariances[i])
        strength = norm(masses[i])
        ax.add_patch(
            Ellipse(
                means[i],
                width,
                height,
                angle=angle,
                facecolor="none",
                edgecolor=cmap(strength),
                linewidth=0.6 + 1.2 * strength,
                alpha=0.2 + 0.7 * strength,
                zorder=1,
            )
        )
    ax.scatter(
        *means[order].T,
        c=masses[order],
        s=4 + 30 * norm(masses[order]),
        cmap=cmap,
        norm=norm,
        edgecolors="white",
        linewidths=0.3,
        zorder=3,
    )
    if colorbar:
        bar = ax.figure.colorbar(ScalarMappable(norm, cmap), ax=ax, pad=0.02, fraction=0.04)
        bar.set_label("mass of the particle")
    ax.set(xlabel=names[pair[0]], ylabel=names[pair[1]], xlim=x[[0, -1]], ylim=y[[0, -1]])
    return ax


def ellipse_of(covariance: np.ndarray) -> tuple[float, float, float]:
    """Width, height and angle in degrees of a normal's ellipse of one standard deviation."""
    values, vectors = np.linalg.eigh(covariance)
    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
    return 2 * float(np.sqrt(values[1])), 2 * float(np.sqrt(values[0])), float(angle)


def _density_where_it_matters(
    means: np.ndarray, covariances: np.ndarray, masses: np.ndarray, grid: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grids x and y over the region that holds 99 % of q, and q's density there."""
    span = 5 * np.sqrt(np.diag(total_covariance(means, covariances, masses)))
    centre = masses @ means
    axes = [np.linspace(c - s, c + s, grid) for c, s in zip(centre, span, strict=True)]
    density = marginal_density(means, covariances, masses, axes[0], axes[1])
    held = density >= enclosing_levels(density, (0.99,))[0]
    for i, inside in enumerate((held.any(axis=0), held.any(axis=1))):
        ends = axes[i][inside][[0, -1]]
        margin = 0.08 * np.ptp(ends) + np.diff(axes[i][:2])[0]
        axes[i] = np.linspace(ends[0] - margin, ends[1] + margin, grid)
    return axes[0], axes[1], marginal_density(means, covariances, masses, axes[0], axes[1])


def coordinate_pair(model: Any, var_names: Sequence[str] | None) -> list[int]:
    """Find the indices of two coordinates of the unconstrained space."""
    labels = coordinate_labels(model, model.initial_point(0))
    if len(labels) < 2:
        raise ValueError("plot_fluid draws two coordinates, and the model has only one")
    wanted = labels[:2] if var_names is None else list(var_names)
    unknown = [name for name in wanted if name not in labels]
    if unknown or len(wanted) != 2:
        raise ValueError(
            f"var_names={wanted}: name two coordinates of the unconstrained space out of "
            f"{', '.join(labels[:20])}{', ...' if len(labels) > 20 else ''}"
        )
    return [labels.index(name) for name in wanted]


def marginal(
    mixture: FluidMixture, pair: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (n, 2), covariances (n, 2, 2) and masses (n,) of all kernels, over two coordinates."""
    parts = [_marginal_of(fluid, list(pair)) for fluid in mixture.fluids]
    shares = np.exp(mixture.log_weights)
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([w * part[2] for w, part in zip(shares, parts, strict=True)]),
    )


def _marginal_of(fluid: Fluid, pair: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = fluid.L[pair]
    factor = rows @ fluid.A if fluid.full else rows * fluid.A[:, None, :]
    means = fluid.mu[pair] + fluid.z @ rows.T
    return means, factor @ factor.transpose(0, 2, 1), np.exp(fluid.log_m)


def total_covariance(means: np.ndarray, covariances: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Covariance (2, 2) of a mixture of kernels."""
    offset = means - masses @ means
    return np.einsum("n,nij->ij", masses, covariances) + (masses * offset.T) @ offset


def marginal_density(
    means: np.ndarray, covariances: np.ndarray, masses: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Density of q over two coordinates at a grid, (len(y), len(x))."""
    out = np.zeros((len(y), len(x)))
    for mean, covariance, mass in zip(means, covariances, masses, strict=True):
        inverse = np.linalg.inv(covariance)
        dx, dy = x[None, :] - mean[0], y[:, None] - mean[1]
        square = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
        out += mass / (2 * np.pi * np.sqrt(np.linalg.det(covariance))) * np.exp(-0.5 * square)
    return out


def enclosing_levels(density: np.ndarray, shares: Sequence[float] = (0.95, 0.8, 0.5)) -> np.ndarray:
    """Densities whose contours enclose these shares of the mass, ascending."""
    ordered = np.sort(density.ravel())[::-1]
    enclosed = np.cumsum(ordered) / ordered.sum()
    return np.sort([ordered[np.searchsorted(enclosed, share)] for share in shares])

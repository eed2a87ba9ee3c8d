"""How a fit went: its figures by step, and where its mass lies in the end."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymc_sph.plots.source import history_and_evidence, source_of


def plot_convergence(data: Any, axes: Any = None) -> Any:
    """Draw ELBO, importance ESS and temperature at every step of a fit.

    Thin lines are the single fluids, the thick line is the best of them and, once they have met
    (the dotted line), all of them together. The dashed line is the log evidence that the final
    check found, which the ELBO cannot exceed but by noise. ELBOs far below it are cut off.

    Parameters
    ----------
    data : FluidApproximation, InferenceData or DataTree
        A fit, or its draws.
    axes : sequence of three matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    ndarray (3,) of matplotlib Axes

    Raises
    ------
    ValueError
        If the fit has taken no step, or if `axes` are not three.
    TypeError
        If `data` is neither a fit nor draws.
    """
    import matplotlib.pyplot as plt

    history, evidence, error = history_and_evidence(data)
    if axes is None:
        axes = plt.subplots(
            3, 1, sharex=True, figsize=(7, 6), height_ratios=(2.2, 1, 1), layout="constrained"
        )[1]
    axes = np.asarray(axes, dtype=object).ravel()
    if len(axes) != 3:
        raise ValueError(f"axes: give three, for ELBO, ESS and temperature, not {len(axes)}")
    elbo, ess, temperature = axes
    steps = np.arange(1, len(history.elbo) + 1)
    for i, line in enumerate(history.fluid_elbo.T):
        # after the meeting it is the fluid's part in the pooled ELBO, which is something else
        elbo.plot(
            steps, np.where(history.together, np.nan, line), linewidth=0.8, label=f"fluid {i}"
        )
    elbo.plot(steps, history.elbo, color="0.15", linewidth=1.3, label="best, then all")
    if evidence is not None and np.isfinite(evidence):
        elbo.axhline(
            evidence, color="0.15", linestyle="--", linewidth=1,
            label=f"log evidence {evidence:.2f} ± {error:.2g}",
        )  # fmt: skip
    elbo.set_ylim(*_elbo_limits(history.elbo, evidence))
    elbo.set_ylabel("ELBO, nats")
    elbo.legend(loc="lower right", fontsize=8, frameon=False, ncols=2)
    ess.plot(steps, history.ess, color="0.15", linewidth=1.3)
    ess.set(ylabel="ESS", ylim=(0, 1.05))
    temperature.step(steps, history.temperature, where="mid", color="C3", linewidth=1.3)
    temperature.set(ylabel="temperature", xlabel="step")
    temperature.set_ylim(bottom=0)
    if history.together.any() and not history.together.all():
        for ax in axes:
            ax.axvline(steps[history.together][0] - 0.5, color="0.5", linestyle=":", linewidth=1)
    for ax in axes[:2]:
        ax.label_outer()
    if len(steps) > 1:
        temperature.set_xlim(steps[0], steps[-1])
    return axes


def _elbo_limits(elbo: np.ndarray, evidence: float | None) -> tuple[float, float]:
    """Limits that show how the ELBO comes to rest, not how far off it began."""
    finite = elbo[np.isfinite(elbo)]
    top = [evidence] if evidence is not None and np.isfinite(evidence) else []
    if not len(finite):
        return (top[0] - 1, top[0] + 1) if top else (0.0, 1.0)
    late = finite[len(finite) // 3 :]
    high = max([*top, float(finite.max())])
    low = min(float(np.quantile(late, 0.02)), float(finite[-1]))
    gap = max(high - low, 0.1)
    # never lower than the first step: nothing lies there
    return max(high - 4 * gap, float(finite.min()) - 0.2 * gap), high + 0.3 * gap


def plot_masses(data: Any, ax: Any = None) -> Any:
    """Draw the masses of the particles of every fluid, from heavy to light.

    A few heavy particles and many light ones mean that the fit could do with fewer, or that it has
    left some behind; a fluid of little mass, that others cover the posterior better.

    Parameters
    ----------
    data : FluidApproximation, FitResult, InferenceData or DataTree
        As in `plot_fluid`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError, TypeError
        As in `plot_fluid`.
    """
    import matplotlib.pyplot as plt

    mixture = source_of(data).mixture
    ax = plt.subplots(layout="constrained")[1] if ax is None else ax
    n = sum(fluid.n_particles for fluid in mixture.fluids)
    for i, (fluid, log_share) in enumerate(zip(mixture.fluids, mixture.log_weights, strict=True)):
        masses = np.sort(np.exp(fluid.log_m + log_share))[::-1]
        ranks = np.arange(1, len(masses) + 1)
        ax.plot(
            ranks, masses, marker=".", markersize=4, linewidth=0.9,
            label=f"fluid {i}: {np.exp(log_share):.1%} of the mass",
        )  # fmt: skip
    ax.axhline(1 / n, color="0.4", linestyle="--", linewidth=1, label="equal masses")
    ax.set_yscale("log")
    lightest = float(np.exp(mixture.log_masses.min()))
    ax.set_ylim(bottom=max(lightest / 2, 1e-4 / n))  # what is lighter counts for nothing
    ax.set(xlabel="particle of the fluid, by mass", ylabel="mass")
    ax.legend(fontsize=8, frameon=False, loc="lower left")
    return ax

"""``python -m pymc_sph``: fit the eight schools, print the result, draw the fluid."""

from __future__ import annotations

import argparse
import io
import os
import time

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCHOOLS = (
    "Choate",
    "Deerfield",
    "Andover",
    "Exeter",
    "Hotchkiss",
    "Lawrenceville",
    "St. Paul's",
    "Mt. Hermon",
)
EFFECT = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
ERROR = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)
"""Treatment effects and their standard errors (Rubin 1981)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pymc_sph", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, default=Path("pymc_sph_eight_schools.png"), help="the picture"
    )
    parser.add_argument("--no-plot", action="store_true", help="draw nothing")
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error(f"argument --seed: {options.seed}: give a seed of 0 or more")
    wrong = "" if options.no_plot else why_not(options.output)
    if wrong:
        parser.error(f"argument --output: {options.output}: {wrong}")

    import arviz as az
    import pymc as pm

    import pymc_sph  # noqa: F401  (registers the method)

    began = time.perf_counter()
    print("Fitting the eight schools with pm.fit(method='sph').", flush=True)
    print("The first run compiles the model, for some 20 seconds ...", flush=True)
    with eight_schools():
        approx = pm.fit(method="sph", random_seed=options.seed)
        idata = approx.sample(4000, random_seed=options.seed)
    seconds = time.perf_counter() - began
    # "stats": the draws are independent, and diagnostics of chains need more than one of them
    summary = az.summary(idata, var_names=["mu", "tau", "theta"], kind="stats")
    print(f"\n{summary.to_string()}\n")
    print(f"verdict       {approx.verdict}")
    print(f"ELBO          {approx.elbo:.3f}")
    print(f"log evidence  {approx.log_evidence:.3f} +- {approx.log_evidence_se:.3f}")
    print(
        f"seconds       {approx.attrs['sampling_time']:.1f} fit, "
        f"{approx.attrs['compile_time']:.1f} compilation, {seconds:.1f} in all after the imports"
    )
    if not options.no_plot:
        try:
            draw(approx, idata, options.output)
        except ImportError:
            print("picture       needs matplotlib: pip install 'pymc-sph[plots]'")
        else:
            print(f"picture       {options.output}")
    return 0


def why_not(output: Path) -> str:
    """Why no picture could be written to a path, and what to do; empty if one could.

    To learn of it after the fit would be late. Nothing is written here, and no folder made.
    """
    example = "give the name of a file, such as fluid.png"
    if output.is_dir():
        return f"is a folder: {example}"
    if not output.suffix:  # Matplotlib would append one
        return f"has no suffix that names a format: {example}"
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    if there != output and not there.is_dir():
        return f"{there} is a file, and no folder: {example}"
    if not os.access(there, os.W_OK):
        return f"{there} cannot be written to: give another place"
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return ""  # there will be no picture
    trial = Figure(figsize=(1, 1))
    trial.text(0, 0, "text")  # some formats need other programs for it
    try:
        trial.savefig(io.BytesIO(), format=output.suffix[1:].lower())
    except Exception as err:
        return f"{err}: {example}"
    return ""


def eight_schools() -> Any:
    """Return the non-centred eight schools model."""
    import pymc as pm

    with pm.Model(coords={"school": SCHOOLS}) as model:
        mu = pm.Normal("mu", 0, 5)
        tau = pm.HalfCauchy("tau", 5)
        theta_trans = pm.Normal("theta_trans", 0, 1, dims="school")
        theta = pm.Deterministic("theta", mu + tau * theta_trans, dims="school")
        pm.Normal("effect", theta, ERROR, observed=EFFECT, dims="school")
    return model


def draw(approx: Any, idata: Any, output: Path) -> None:
    """Write the picture: the fluid over (mu, log tau), the schools' effects, the ELBO's history."""
    from matplotlib.figure import Figure

    from pymc_sph.plots import plot_fluid

    figure = Figure(figsize=(12, 6), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1), height_ratios=(2.3, 1))
    fluid = figure.add_subplot(grid[:, 0])
    plot_fluid(approx, ("mu", "tau_log__"), fluid)
    fluid.set(xlabel="mu", ylabel="log tau")
    fluid.set_title("The fluid: particles, their kernels, and shares of q enclosed", fontsize=11)
    draw_schools(figure.add_subplot(grid[0, 1]), idata)
    draw_history(figure.add_subplot(grid[1, 1]), approx)
    figure.suptitle(f"Eight schools by pm.fit(method='sph'): {approx.verdict.grade}")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)


def draw_schools(ax: Any, idata: Any) -> None:
    """Draw the posterior intervals of the schools' effects beside what was measured."""
    import numpy as np

    theta = idata["posterior"]["theta"].values.reshape(-1, len(SCHOOLS))
    low, lower, middle, upper, high = np.quantile(theta, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    rows = np.arange(len(SCHOOLS))
    ax.hlines(rows, low, high, color="C0", linewidth=1)
    ax.hlines(rows, lower, upper, color="C0", linewidth=4)
    style = {"markerfacecolor": "white", "markeredgecolor": "C0", "markersize": 5}
    ax.plot(middle, rows, "o", **style)
    ax.plot(EFFECT, rows, "x", color="C3", markersize=6, label="measured")
    ax.plot([], [], "o-", color="C0", **style, label="posterior, 50 and 90 %")
    ax.legend(loc="center right", fontsize=8, frameon=False)
    ax.set_yticks(rows, SCHOOLS)
    ax.invert_yaxis()
    ax.axvline(0, color="0.8", linewidth=1, zorder=0)
    ax.set_title("Effects of coaching, in points", fontsize=11)


def draw_history(ax: Any, approx: Any) -> None:
    """Draw the ELBO after every step, and the log evidence, which bounds it."""
    elbo = -approx.hist
    ax.plot(range(1, len(elbo) + 1), elbo, color="C0", linewidth=1.2, label="ELBO")
    ax.axhline(approx.log_evidence, color="0.3", linestyle="--", linewidth=1, label="log evidence")
    ax.legend(loc="lower right", fontsize=8, frameon=False)
    ax.set_xlabel("step")
    ax.set_title("History of the fit", fontsize=11)


if __name__ == "__main__":
    raise SystemExit(main())

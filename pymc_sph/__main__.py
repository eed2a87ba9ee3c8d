"""``python -m pymc_sph``: fit the eight schools, print the result, draw the fluid."""

from __future__ import annotations

import argparse
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

    began = time.perf_counter()
    import arviz as az
    import pymc as pm

    import pymc_sph  # noqa: F401  (registers the method)

    imported = time.perf_counter()
    print("Fitting the eight schools with pm.fit(method='sph') ...", flush=True)
    with eight_schools():
        approx = pm.fit(method="sph", random_seed=options.seed)
        idata = approx.sample(4000, random_seed=options.seed)
    seconds = time.perf_counter() - began
    summary = az.summary(idata, var_names=["mu", "tau", "theta"])
    columns = [c for c in summary.columns if c in ("mean", "sd") or c.startswith(("hdi", "eti"))]
    print(f"\n{summary[columns].to_string()}\n")
    print(f"verdict       {approx.verdict}")
    print(f"ELBO          {approx.elbo:.3f}")
    print(f"log evidence  {approx.log_evidence:.3f} +- {approx.log_evidence_se:.3f}")
    print(
        f"seconds       {approx.attrs['sampling_time']:.1f} fit, "
        f"{approx.attrs['compile_time']:.1f} compilation, {imported - began:.1f} import, "
        f"{seconds:.1f} in all"
    )
    if not options.no_plot:
        try:
            draw(approx, idata, options.output)
        except ImportError:
            print("picture       needs matplotlib: pip install 'pymc-sph[plots]'")
        else:
            print(f"picture       {options.output}")
    return 0


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
    """Write the picture: the fluid over (mu, log tau), and the schools' effects."""
    from matplotlib.figure import Figure

    from pymc_sph.plots import plot_fluid

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    plot_fluid(approx, ("mu", "tau_log__"), left)
    left.set(xlabel="mu", ylabel="log tau")
    left.set_title("The fluid: kernels by mass, contours around 50, 80 and 95 % of q", fontsize=10)
    theta = idata["posterior"]["theta"].values.reshape(-1, len(SCHOOLS))
    for row in range(len(SCHOOLS)):
        low, lower, middle, upper, high = _quantiles(theta[:, row])
        right.plot([low, high], [row, row], color="C0", linewidth=1)
        right.plot([lower, upper], [row, row], color="C0", linewidth=4, solid_capstyle="butt")
        right.plot(middle, row, "o", color="white", markeredgecolor="C0", markersize=5)
        right.plot(EFFECT[row], row, "x", color="C3", markersize=6)
    right.plot([], [], "x", color="C3", label="measured")
    right.plot([], [], "o-", color="C0", markerfacecolor="white", label="posterior, 50 and 90 %")
    right.legend(loc="lower right", fontsize=8, frameon=False)
    right.set_yticks(range(len(SCHOOLS)), SCHOOLS)
    right.invert_yaxis()
    right.axvline(0, color="0.8", linewidth=1, zorder=0)
    right.set_title(f"Effects of coaching; fit is {approx.verdict.grade}", fontsize=10)
    right.set_xlabel("points")
    figure.savefig(output, dpi=130)


def _quantiles(values: Any) -> Any:
    import numpy as np

    return np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])


if __name__ == "__main__":
    raise SystemExit(main())

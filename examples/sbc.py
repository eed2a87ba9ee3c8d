"""Simulation-based calibration of ``pm.fit(method="sph")`` on three models.

Parameters are drawn from the prior and data from the model; among draws of the posterior given
these data, the rank of the true value is uniform if the posterior is right (Talts, Betancourt,
Simpson, Vehtari, Gelman 2018). The log likelihood is ranked as well: it sees errors that the
parameters hide (Modrak et al. 2023). Every model is compiled once and refitted after pm.set_data.

Run: ``python examples/sbc.py --output docs/calibration.md``, which writes the figure beside it.
"""

from __future__ import annotations

import argparse
import logging
import platform
import time
import warnings

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pymc as pm

from scipy import stats

import pymc_sph

from pymc_sph import idata

DRAWS = 127
"""Draws per fit: the rank is one of 128."""
BINS = 16
SERIES = {"q": "draws from q", "corrected": "importance-resampled"}

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A model whose observed variable ``y`` holds the data ``observed``.

    Attributes
    ----------
    quantities : callable
        Draws by variable (n, *shape) -> what is ranked, by name, (n,).
    log_likelihood : callable
        Draws and one data set -> log likelihood of each draw, (n,), by SciPy.
    """

    name: str
    build: Callable[[], pm.Model]
    quantities: Callable[[Values], Values]
    log_likelihood: Callable[[Values, np.ndarray], np.ndarray]

    def ranked(self, draws: Values, y: np.ndarray) -> Values:
        """All that is ranked, by name."""
        return self.quantities(draws) | {"log likelihood": self.log_likelihood(draws, y)}


@dataclass
class Outcome:
    """Ranks by series and quantity, (n,) each; the verdict of each fit; seconds; failed fits."""

    case: Case
    ranks: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    grades: list[str] = field(default_factory=list)
    seconds: float = 0.0
    failed: int = 0

    def note(self, series: str, truth: Values, draws: Values) -> None:
        """Add the ranks of one data set."""
        for name, values in draws.items():
            rank = int(np.sum(values < truth[name][0]))
            self.ranks.setdefault(series, {}).setdefault(name, []).append(rank)


# --- the models


X = np.random.default_rng(5).normal(size=(15, 2))


def regression() -> pm.Model:
    """Two predictors, 15 observations, unknown noise."""
    with pm.Model() as model:
        a = pm.Normal("a", 0, 2)
        b = pm.Normal("b", 0, 1, shape=2)
        sigma = pm.HalfNormal("sigma", 1)
        pm.Normal("y", a + X @ b, sigma, observed=pm.Data("observed", np.zeros(15)))
    return model


REGRESSION = Case(
    "regression",
    regression,
    lambda p: {"a": p["a"], "b[0]": p["b"][:, 0], "b[1]": p["b"][:, 1], "sigma": p["sigma"]},
    lambda p, y: stats.norm.logpdf(y, p["a"][:, None] + p["b"] @ X.T, p["sigma"][:, None]).sum(1),
)

ERROR = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def eight_schools() -> pm.Model:
    """Eight schools, non-centred, with its heavy-tailed prior on tau."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 5)
        tau = pm.HalfCauchy("tau", 5)
        z = pm.Normal("z", 0, 1, shape=8)
        theta = pm.Deterministic("theta", mu + tau * z)
        pm.Normal("y", theta, ERROR, observed=pm.Data("observed", np.zeros(8)))
    return model


SCHOOLS = Case(
    "eight schools",
    eight_schools,
    lambda p: {
        "mu": p["mu"],
        "tau": p["tau"],
        "theta[0]": p["theta"][:, 0],
        "z[0]": p["z"][:, 0],
    },
    lambda p, y: stats.norm.logpdf(y, p["theta"], ERROR).sum(1),
)

TIME = np.linspace(0, 1, 16)
GAP = TIME[:, None] - TIME


def gaussian_process() -> pm.Model:
    """Gaussian process seen at 16 points with noise: length scale, amplitude, noise, mean."""
    with pm.Model() as model:
        mean = pm.Normal("mean", 0, 1)
        length = pm.LogNormal("length", np.log(0.3), 0.5)
        amplitude = pm.LogNormal("amplitude", 0, 0.5)
        noise = pm.LogNormal("noise", np.log(0.3), 0.5)
        cov = amplitude**2 * pm.math.exp(-0.5 * (GAP / length) ** 2) + noise**2 * np.eye(16)
        pm.MvNormal("y", mean * np.ones(16), cov, observed=pm.Data("observed", np.zeros(16)))
    return model


def gp_log_likelihood(p: Values, y: np.ndarray) -> np.ndarray:
    """Log likelihood of the Gaussian process, a draw at a time."""
    amplitude, length, noise = (p[k][:, None, None] for k in ("amplitude", "length", "noise"))
    cov = amplitude**2 * np.exp(-0.5 * (GAP / length) ** 2) + noise**2 * np.eye(16)
    gap = y - p["mean"][:, None]
    quadratic = np.einsum("ni,ni->n", gap, np.linalg.solve(cov, gap[:, :, None])[:, :, 0])
    return -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * cov)[1])


PROCESS = Case(
    "Gaussian process",
    gaussian_process,
    lambda p: {k: p[k] for k in ("mean", "length", "amplitude", "noise")},
    gp_log_likelihood,
)

CASES = (REGRESSION, SCHOOLS, PROCESS)


# --- simulation


def calibrate(case: Case, n: int, seed: int = 1, report: bool = False) -> Outcome:
    """Simulate n data sets from the prior, fit each, and rank the truth."""
    model, outcome = case.build(), Outcome(case)
    with model, warnings.catch_warnings():
        warnings.simplefilter("ignore", pymc_sph.UnreliableFitWarning)
        prior = pm.sample_prior_predictive(n, random_seed=seed)
        truth = {k: v.values[0] for k, v in idata.group(prior, "prior").items()}
        data = idata.group(prior, "prior_predictive")["y"].values[0]
        method = pymc_sph.SPH(threads=1)
        began = time.perf_counter()
        for i in range(n):
            pm.set_data({"observed": data[i]})
            method.random_seed = (seed, i)
            try:
                approx = pm.fit(method=method, progressbar=False)
                series = {
                    "q": approx.sample(DRAWS, random_seed=(seed, i)),
                    "corrected": approx.sample_chains(DRAWS // 4 + 1, random_seed=(seed, i)),
                }
            except Exception as err:
                outcome.failed += 1
                print(f"{case.name}, data set {i}: {err!r}", flush=True)
                continue
            own = case.ranked({k: v[i : i + 1] for k, v in truth.items()}, data[i])
            outcome.grades.append(approx.verdict.grade)
            for name, draws in series.items():
                outcome.note(name, own, case.ranked(flat(draws), data[i]))
            outcome.seconds = time.perf_counter() - began
            if report and (i + 1) % 20 == 0:
                print(f"{case.name}: {i + 1} fits, {outcome.seconds:.0f} s", flush=True)
    return outcome


def flat(draws: object) -> Values:
    """Draws by variable, all chains in one, `DRAWS` of them."""
    posterior = idata.group(draws, "posterior")
    return {k: v.values.reshape(-1, *v.shape[2:])[:DRAWS] for k, v in posterior.items()}


def histogram(ranks: object) -> np.ndarray:
    """Count ranks 0..DRAWS in equal bins."""
    return np.histogram(np.asarray(ranks), bins=BINS, range=(-0.5, DRAWS + 0.5))[0]


def chi_square(ranks: object) -> float:
    """P-value of the ranks' uniformity; each of the bins holds as many ranks as any other."""
    return float(stats.chisquare(histogram(ranks)).pvalue)


def band(n: int) -> tuple[float, float]:
    """Range of 99 % of the counts in a bin, if n ranks are uniform."""
    low, high = stats.binom.ppf([0.005, 0.995], n, 1 / BINS)
    return float(low), float(high)


# --- the report


def markdown(outcomes: list[Outcome], picture: str) -> str:
    """Write tables of p-values and verdicts."""
    lines = [
        summary(outcomes),
        "",
        f"![Rank histograms]({picture})",
        "",
        "| model | ranked | p, draws from q | p, importance-resampled | p, q of reliable fits |",
        "| --- | --- | --- | --- | --- |",
    ]
    for out in outcomes:
        reliable = np.array(out.grades) == "reliable"
        for name, ranks in out.ranks["q"].items():
            only = np.asarray(ranks)[reliable]
            lines.append(
                f"| {out.case.name} | {name} | {chi_square(ranks):.3f} "
                f"| {chi_square(out.ranks['corrected'][name]):.3f} "
                f"| {chi_square(only) if len(only) >= 5 * BINS else float('nan'):.3f} |"
            )
    lines += [
        "",
        "| model | fits | reliable | use the weights | unreliable | raised | seconds a fit |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for out in outcomes:
        count, n = Counter(out.grades), len(out.grades)
        lines.append(
            f"| {out.case.name} | {n} | {count['reliable']} | {count['use the weights']} "
            f"| {count['unreliable']} | {out.failed} | {out.seconds / max(n, 1):.2f} |"
        )
    return "\n".join([*lines, ""])


def summary(outcomes: list[Outcome]) -> str:
    """Say in a sentence how extreme the worst of all histograms is."""
    p, bins, outside = [], 0, 0
    for out in outcomes:
        low, high = band(len(out.grades))
        for ranks in (r for series in out.ranks.values() for r in series.values()):
            counts = histogram(ranks)
            p.append(chi_square(ranks))
            bins += len(counts)
            outside += int(np.sum((counts < low) | (counts > high)))
    return (
        f"The least of the {len(p)} p-values of all fits is {min(p):.3f}; {outside} of the {bins} "
        f"bins lie outside of the band of 99 %, where up to {0.01 * bins:.0f} are to be expected."
    )


def draw(outcomes: list[Outcome], path: Path) -> None:
    """Draw rank histograms, a row per model, with the band of 99 % of uniform counts."""
    from matplotlib.figure import Figure

    columns = max(len(out.ranks["q"]) for out in outcomes)
    figure = Figure(figsize=(2.3 * columns, 2.1 * len(outcomes) + 0.7), layout="constrained")
    axes = figure.subplots(len(outcomes), columns, sharex=True, squeeze=False)
    edges = np.linspace(0, 1, BINS + 1)
    for row, out in zip(axes, outcomes, strict=True):
        n = len(out.grades)
        low, high = band(n)
        for ax, (name, ranks) in zip(row, out.ranks["q"].items(), strict=False):
            ax.axhspan(low, high, color="0.88", linewidth=0, label="99 % of uniform counts")
            ax.axhline(n / BINS, color="0.6", linewidth=0.8)
            ax.stairs(histogram(ranks), edges, color="C0", linewidth=2, label=SERIES["q"])
            corrected = histogram(out.ranks["corrected"][name])
            ax.stairs(corrected, edges, color="C1", linewidth=1, label=SERIES["corrected"])
            ax.set_title(name, fontsize=10)
            ax.set(xlim=(0, 1), ylim=(0, 2.4 * n / BINS), xticks=[0, 0.5, 1], yticks=[0, n // BINS])
            ax.tick_params(labelsize=8)
        for ax in row[len(out.ranks["q"]) :]:
            ax.set_axis_off()
        row[0].set_ylabel(f"{out.case.name}\n{n} fits", fontsize=10)
    figure.supxlabel(f"rank of the true value among {DRAWS} draws, as a share", fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Calibrate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fits", type=int, default=256, help="data sets per model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="markdown file; the figure goes beside it")
    options = parser.parse_args()
    logging.getLogger("pymc_sph").setLevel(logging.ERROR)  # a verdict per fit is too much
    logging.getLogger("pymc").setLevel(logging.ERROR)
    outcomes = []
    for case in CASES:
        outcomes.append(calibrate(case, options.fits, options.seed, report=True))
        print(markdown(outcomes[-1:], ""), flush=True)
    if options.output:
        picture = options.output.with_suffix(".png")
        draw(outcomes, picture)
        head = HEAD.format(
            fits=options.fits,
            seed=options.seed,
            python=platform.python_version(),
            pymc=pm.__version__,
            draws=DRAWS,
            bins=BINS,
        )
        options.output.write_text(head + markdown(outcomes, picture.name))


HEAD = """# Calibration

`python examples/sbc.py --fits {fits} --seed {seed} --output docs/calibration.md` wrote this page
(Python {python}, PyMC {pymc}). Simulation-based calibration of `pm.fit(method="sph")` at its
defaults: parameters from the prior, data from the model, a fit, and the rank of the true value
among {draws} draws. If the posterior is right, ranks are uniform, whatever the model. Draws that
are too narrow make a U of the histogram, too wide ones a hill, shifted ones a slope. p-values are
of the chi-square test with {bins} bins; with so many of them, one of .05 or .02 is to be expected,
one of .001 is not. With 256 fits, draws whose sd is a fifth too small give a p of .001 (median of
200 simulations); a tenth too small, a p below .05 in one case of four: errors of that size stay
unseen here. Keeping the fits with one verdict alone is fair, as the verdict depends on the data,
and not on the true value. Seconds include drawing, on a machine shared with other work.

"""


if __name__ == "__main__":
    main()

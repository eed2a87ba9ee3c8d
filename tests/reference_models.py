"""PyMC models with known posteriors, for the tests and for ``benchmarks/bars.py``.

`POSTERIORS` holds posteriors of posteriordb with data and reference summaries in ``reference/``;
`conjugate_regression` and `gaussian` have a posterior and an evidence in closed form.
"""

from __future__ import annotations

import gzip
import json

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from summaries import Summary

HERE = Path(__file__).resolve().parent / "reference"

Data = dict[str, np.ndarray]


def eight_schools(data: Data) -> pm.Model:
    with pm.Model(coords={"school": list("ABCDEFGH")}) as model:
        mu = pm.Normal("mu", 0, 5)
        tau = pm.HalfCauchy("tau", 5)
        z = pm.Normal("z", 0, 1, dims="school")
        theta = pm.Deterministic("theta", mu + tau * z, dims="school")
        pm.Normal("y", theta, data["sigma"], observed=data["y"], dims="school")
    return model


def flat_regression(y: np.ndarray, design: np.ndarray, *, cauchy: float | None) -> pm.Model:
    with pm.Model() as model:
        beta = pm.Flat("beta", shape=design.shape[1])
        sigma = pm.HalfFlat("sigma") if cauchy is None else pm.HalfCauchy("sigma", cauchy)
        pm.Normal("y", design @ beta, sigma, observed=y)
    return model


def nes2000(data: Data) -> pm.Model:
    columns = [data["real_ideo"], data["race_adj"]]
    columns += [data["age_discrete"] == level for level in (2, 3, 4)]
    columns += [data["educ1"], data["gender"], data["income"]]
    design = np.column_stack([np.ones(len(columns[0])), *columns])
    return flat_regression(data["partyid7"], design, cauchy=None)


def kidscore_momiq(data: Data) -> pm.Model:
    design = np.column_stack([np.ones(len(data["mom_iq"])), data["mom_iq"]])
    return flat_regression(data["kid_score"], design, cauchy=2.5)


def mesquite(data: Data) -> pm.Model:
    names = ["diam1", "diam2", "canopy_height", "total_height", "density", "group"]
    design = np.column_stack([np.ones(len(data["weight"])), *(data[name] for name in names)])
    return flat_regression(data["weight"], design, cauchy=None)


def gaussian_mixture(data: Data) -> pm.Model:
    ordered = pm.distributions.transforms.ordered
    with pm.Model() as model:
        theta = pm.Beta("theta", 5, 5)
        mu = pm.Normal("mu", 0, 2, shape=2, transform=ordered, initval=[-1.0, 1.0])
        sigma = pm.HalfNormal("sigma", 2, shape=2)
        weights = pt.stack([theta, 1 - theta])
        pm.NormalMixture("y", weights, mu, sigma, observed=data["y"])
    return model


def autoregression(data: Data) -> pm.Model:
    order, y = int(data["K"]), data["y"]
    # row t holds y[t - 1], ..., y[t - order]
    lags = np.lib.stride_tricks.sliding_window_view(y, order)[:-1, ::-1]
    with pm.Model() as model:
        alpha = pm.Normal("alpha", 0, 10)
        beta = pm.Normal("beta", 0, 10, shape=order)
        sigma = pm.HalfCauchy("sigma", 2.5)
        pm.Normal("y", alpha + lags.copy() @ beta, sigma, observed=y[order:])
    return model


def gaussian_process(data: Data) -> pm.Model:
    with pm.Model() as model:
        rho = pm.Gamma("rho", alpha=25, beta=4)
        alpha = pm.HalfNormal("alpha", 2)
        sigma = pm.HalfNormal("sigma", 1)  # a variance in the Stan program
        gp = pm.gp.Marginal(cov_func=alpha**2 * pm.gp.cov.ExpQuad(1, ls=rho))
        x, y = data["x"][:, None], data["y"]
        gp.marginal_likelihood("y", X=x, y=y, sigma=pt.sqrt(sigma), jitter=0.0)
    return model


def garch(data: Data) -> pm.Model:
    y, first_variance = data["y"], float(data["sigma1"]) ** 2
    steps = np.arange(len(y))
    lag = steps[:, None] - steps
    with pm.Model() as model:
        mu = pm.Flat("mu")
        alpha0 = pm.HalfFlat("alpha0")
        alpha1 = pm.Uniform("alpha1", 0, 1)
        beta1 = pm.Uniform("beta1", 0, 1 - alpha1)
        # the Stan program's prior is flat on the triangle: undo beta1's normalisation
        pm.Potential("flat", pt.log1p(-alpha1))
        # variance[t] = shock[t] + beta1 variance[t - 1], solved: sum over s <= t of beta1^(t - s)
        shock = alpha0 + alpha1 * (y[:-1] - mu) ** 2
        shock = pt.concatenate([[first_variance], shock])
        powers = beta1 ** pt.as_tensor(steps.astype("float64"))
        variance = (powers[np.maximum(lag, 0)] * (lag >= 0)) @ shock
        pm.Normal("y", mu, pt.sqrt(variance), observed=y)
    return model


POSTERIORS: dict[str, Callable[[Data], pm.Model]] = {
    "eight_schools-eight_schools_noncentered": eight_schools,
    "nes2000-nes": nes2000,
    "kidiq-kidscore_momiq": kidscore_momiq,
    "mesquite-mesquite": mesquite,
    "low_dim_gauss_mix-low_dim_gauss_mix": gaussian_mixture,
    "arK-arK": autoregression,
    "gp_pois_regr-gp_regr": gaussian_process,
    "garch-garch11": garch,
}
"""Models by the names posteriordb gives the posteriors."""


def load(name: str) -> tuple[pm.Model, Summary]:
    """Return the model of a carried posterior and the summary of its reference draws."""
    return POSTERIORS[name](load_data(name)), load_summary(name)


def load_data(name: str) -> Data:
    """Return the data of a carried posterior."""
    with gzip.open(HERE / "data" / f"{name}.json.gz", "rt") as file:
        return {key: np.asarray(value, "float64") for key, value in json.load(file).items()}


def load_summary(name: str) -> Summary:
    """Return the summary of the reference draws of a carried posterior."""
    return Summary.load(HERE / "summaries" / f"{name}.npz")


@dataclass(frozen=True)
class ClosedForm:
    """A model with a Gaussian posterior N(mean, cov) of `variable` and a known evidence."""

    model: pm.Model
    variable: str
    mean: np.ndarray
    cov: np.ndarray
    log_evidence: float


def conjugate_regression(n: int = 40, d: int = 4, sigma: float = 0.7) -> ClosedForm:
    """Linear regression with known noise sd and a N(0, 2^2 I) prior on its coefficients."""
    rng = np.random.default_rng(11)
    design = rng.normal(size=(n, d)) @ (np.eye(d) + 0.5)  # correlated columns
    y = design @ rng.normal(size=d) + rng.normal(0, sigma, n)
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 2, shape=d)
        pm.Normal("y", design @ beta, sigma, observed=y)
    cov = np.linalg.inv(design.T @ design / sigma**2 + np.eye(d) / 4)
    marginal = sigma**2 * np.eye(n) + 4 * design @ design.T
    _, log_det = np.linalg.slogdet(2 * np.pi * marginal)
    log_evidence = -0.5 * (log_det + y @ np.linalg.solve(marginal, y))
    return ClosedForm(model, "beta", cov @ design.T @ y / sigma**2, cov, float(log_evidence))


def gaussian(d: int = 6, condition: float = 100.0) -> ClosedForm:
    """N(mean, C) without data, so that log Z = 0; C has eigenvalues from 1 to `condition`."""
    rng = np.random.default_rng(d)
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    cov = rotation @ np.diag(np.geomspace(1, condition, d)) @ rotation.T
    mean = rng.normal(size=d)
    with pm.Model() as model:
        pm.MvNormal("x", mean, cov)
    return ClosedForm(model, "x", mean, cov, 0.0)

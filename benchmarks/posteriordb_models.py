"""PyMC models of posteriordb's posteriors that the benchmarks use and the tests do not.

Data and reference summaries lie in ``tests/reference``, whose README says whose they are.
Variables bear the names of the Stan programs' parameters.
"""

from __future__ import annotations

import sys

from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

from reference_models import POSTERIORS, Data, flat_regression, load_data, load_summary
from summaries import Summary


def _with_intercept(*columns: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(columns[0])), *columns])


def earn_height(data: Data) -> pm.Model:
    """Earnings on height, both as they are: sds from .6 to 8,000."""
    return flat_regression(data["earn"], _with_intercept(data["height"]), cauchy=None)


def logearn_interaction(data: Data) -> pm.Model:
    """Log earnings on height, sex and their product."""
    height, male = data["height"], data["male"]
    design = _with_intercept(height, male, height * male)
    return flat_regression(np.log(data["earn"]), design, cauchy=None)


def kidscore_interaction(data: Data) -> pm.Model:
    """Test score on the mother's schooling, IQ and their product."""
    school, iq = data["mom_hs"], data["mom_iq"]
    return flat_regression(data["kid_score"], _with_intercept(school, iq, school * iq), cauchy=2.5)


def logmesquite(data: Data) -> pm.Model:
    """Log weight of leaves on the logarithms of a bush's sizes."""
    names = ["diam1", "diam2", "canopy_height", "total_height", "density"]
    design = _with_intercept(*(np.log(data[name]) for name in names), data["group"])
    return flat_regression(np.log(data["weight"]), design, cauchy=None)


def blr(data: Data) -> pm.Model:
    """Linear regression with proper priors."""
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 10, shape=int(data["D"]))
        sigma = pm.HalfNormal("sigma", 10)
        pm.Normal("y", data["X"] @ beta, sigma, observed=data["y"])
    return model


def gp_poisson(data: Data) -> pm.Model:
    """Return Poisson counts with a latent Gaussian process, non-centred."""
    x, n = data["x"], int(data["N"])
    with pm.Model() as model:
        rho = pm.Gamma("rho", alpha=25, beta=4)
        alpha = pm.HalfNormal("alpha", 2)
        z = pm.Normal("f_tilde", 0, 1, shape=n)
        cov = alpha**2 * pt.exp(-0.5 * ((x[:, None] - x) / rho) ** 2) + 1e-10 * np.eye(n)
        f = pm.Deterministic("f", pt.linalg.cholesky(cov) @ z)
        pm.Poisson("k", pt.exp(f), observed=data["k"].astype("int64"))
    return model


def _log_add(a: Any, b: Any) -> Any:
    """Return log(exp a + exp b), stable in every mode of PyTensor."""
    return a + pt.softplus(b - a)


def two_state_chain(data: Data) -> pm.Model:
    """Hidden Markov chain of two states with exponential emissions, the states summed out."""
    u, v = data["u"][:, None], data["v"][:, None]
    ordered = pm.distributions.transforms.Ordered(positive=True)
    # from far off, samplers stay in minor modes: start around the data's scale
    first = np.array([0.5, 2.0])
    with pm.Model() as model:
        rows = [pm.Dirichlet(f"theta{i + 1}", data["alpha"][i]) for i in range(2)]
        scale = {"sigma": 1, "transform": ordered}
        phi = pm.Normal("phi", [0, 3], initval=first / u.mean(), **scale)
        lam = pm.Normal("lambda", [0, 3], initval=first / v.mean(), **scale)
        emission = pt.log(phi) - phi * u + pt.log(lam) - lam * v

        def forward(now: Any, before: Any, log_theta: Any) -> Any:
            return _log_add(before[0] + log_theta[0], before[1] + log_theta[1]) + now

        filtered = pytensor.scan(
            forward,
            sequences=[emission[1:]],
            outputs_info=[emission[0]],
            non_sequences=[pt.log(pt.stack(rows))],
            strict=True,
            return_updates=False,
        )
        pm.Potential("chain", _log_add(filtered[-1, 0], filtered[-1, 1]))
    return model


def one_compartment(data: Data, step: float = 0.05) -> pm.Model:
    """Drug concentration, absorbed at first order and eliminated after Michaelis and Menten.

    The differential equation is solved by the classical Runge-Kutta method, so that it has a
    gradient.
    """
    dose, volume, n = float(data["D"]), float(data["V"]), int(data["N_t"])
    every = round(float(data["times"][0]) / step)
    times = step * np.arange(every * n)
    with pm.Model() as model:
        names = ("k_a", "K_m", "V_m", "sigma")
        k_a, k_m, v_m, sigma = (pm.HalfCauchy(name, 1) for name in names)

        def rate(t: Any, c: Any, k_a: Any, k_m: Any, v_m: Any) -> Any:
            return pt.exp(-k_a * t) * dose * k_a / volume - v_m / volume * c / (k_m + c)

        def runge_kutta(t: Any, c: Any, *rates: Any) -> Any:
            first = rate(t, c, *rates)
            second = rate(t + step / 2, c + step / 2 * first, *rates)
            third = rate(t + step / 2, c + step / 2 * second, *rates)
            fourth = rate(t + step, c + step * third, *rates)
            return c + step / 6 * (first + 2 * second + 2 * third + fourth)

        path = pytensor.scan(
            runge_kutta,
            sequences=[pt.as_tensor(times)],
            outputs_info=[pt.as_tensor(0.0, dtype="float64")],
            non_sequences=[k_a, k_m, v_m],
            strict=True,
            return_updates=False,
        )
        log_c = pt.log(path[every - 1 :: every])
        pm.LogNormal("C_hat", log_c, sigma, observed=data["C_hat"])
    return model


ALL: dict[str, Callable[[Data], pm.Model]] = POSTERIORS | {
    "earnings-earn_height": earn_height,
    "earnings-logearn_interaction": logearn_interaction,
    "kidiq-kidscore_interaction": kidscore_interaction,
    "mesquite-logmesquite": logmesquite,
    "sblrc-blr": blr,
    "gp_pois_regr-gp_pois_regr": gp_poisson,
    "bball_drive_event_0-hmm_drive_0": two_state_chain,
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": one_compartment,
}
"""Models by the names posteriordb gives the posteriors, those of the tests among them."""


def build(name: str) -> pm.Model:
    """Return the model of a posterior."""
    return ALL[name](load_data(name))


def reference(name: str) -> Summary:
    """Return the summary of posteriordb's reference draws."""
    return load_summary(name)

"""Fit a simulator that PyTensor cannot differentiate: predator and prey by SciPy's `solve_ivp`.

Run ``python examples/black_box.py``. Snowshoe hares and lynxes, in thousands of pelts that the
Hudson's Bay Company collected from 1900 to 1920 (Howard 2009, after Hewitt 1921; the numbers and
priors are those of Carpenter's Stan case study "Predator-Prey Population Dynamics", 2018). The
Lotka-Volterra equations are solved outside of PyTensor, so that the model has no gradient. NUTS and
ADVI cannot run; `pymc_sph` takes the pressure form by itself.
"""

from __future__ import annotations

import argparse

from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from scipy.integrate import solve_ivp

import pymc_sph  # noqa: F401  (registers method="sph")

YEARS = np.arange(1900, 1921)
HARE = np.array(
    [30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1, 40.3, 57, 76.6, 52.3, 19.5,
     11.2, 7.6, 14.6, 16.2, 24.7]
)  # fmt: skip
LYNX = np.array(
    [4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4, 8, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8,
     9.7, 10.1, 8.6]
)  # fmt: skip
PELTS = np.column_stack([HARE, LYNX])
MAX_CALLS = 5_000
"""A search tries absurd rates, too: better to give up (400 is usual) than to wait for those."""


class PredatorPrey(Op):
    """Populations (21, 2) of hares and lynxes, from rates (4,) and first populations (2,).

    A black box: it has no gradient, and raises where the solver gives up.
    """

    def make_node(self, rates: Any, first: Any) -> Apply:
        """Take two vectors, give a matrix."""
        inputs = [pt.as_tensor_variable(rates), pt.as_tensor_variable(first)]
        return Apply(self, inputs, [pt.dmatrix()])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Solve the equations."""
        outputs[0][0] = simulate(*inputs)


def simulate(rates: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Solve the Lotka-Volterra equations at the observed years."""
    alpha, beta, gamma, delta = rates.tolist()  # floats are faster than NumPy's scalars
    calls = 0

    def derivative(t: float, y: np.ndarray) -> tuple[float, float]:
        nonlocal calls
        calls += 1
        if calls > MAX_CALLS:
            raise RuntimeError(f"the equations need more than {MAX_CALLS} evaluations")
        hare, lynx = y.tolist()
        return (alpha - beta * lynx) * hare, (delta * hare - gamma) * lynx

    span = (float(YEARS[0]), float(YEARS[-1]))
    solution = solve_ivp(
        derivative, span, first, t_eval=YEARS, method="LSODA", rtol=1e-6, atol=1e-6
    )
    if not solution.success:
        raise RuntimeError(f"solve_ivp: {solution.message}")
    return solution.y.T


def build() -> pm.Model:
    """Return the model of the case study."""
    coords = {"rate": ["alpha", "beta", "gamma", "delta"], "species": ["hare", "lynx"]}
    with pm.Model(coords=coords | {"year": YEARS}) as model:
        rates = pm.TruncatedNormal(
            "rates", mu=[1, 0.05, 1, 0.05], sigma=[0.5, 0.05, 0.5, 0.05], lower=0, dims="rate"
        )
        first = pm.LogNormal("first", np.log(10), 1, dims="species")
        sigma = pm.LogNormal("sigma", -1, 1, dims="species")
        z = pm.Deterministic("z", PredatorPrey()(rates, first), dims=("year", "species"))
        # a population that the solver took below zero has no logarithm, and no density
        log_z = pt.log(z)
        pm.LogNormal("pelts", log_z, sigma, observed=PELTS, dims=("year", "species"))
    return model


def plot(idata: Any, path: Path) -> None:
    """Draw the pelts with the posterior of the populations and the posterior predictive."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(7, 5), layout="constrained")
    z = idata["posterior"]["z"].values.reshape(-1, *PELTS.shape)
    new = idata["posterior_predictive"]["pelts"].values.reshape(-1, *PELTS.shape)
    for i, (axis, name) in enumerate(zip(axes, ["hare", "lynx"], strict=True)):
        low, high = np.quantile(new[..., i], [0.05, 0.95], axis=0)
        axis.fill_between(YEARS, low, high, color="C0", alpha=0.2, lw=0, label="predictive, 90 %")
        low, high = np.quantile(z[..., i], [0.05, 0.95], axis=0)
        axis.fill_between(YEARS, low, high, color="C0", alpha=0.45, lw=0, label="population, 90 %")
        axis.plot(YEARS, np.median(z[..., i], axis=0), color="C0", label="population, median")
        axis.plot(YEARS, PELTS[:, i], "k.", label="observed")
        axis.set(ylabel=f"{name} pelts (thousands)", ylim=(0, None))
    axes[1].legend(frameon=False, fontsize=8, loc="upper center")
    axes[1].set(xlabel="year", xticks=YEARS[::5], xlim=(YEARS[0], YEARS[-1]))
    figure.savefig(path, dpi=120)


def main() -> None:
    """Fit, print the verdict and a summary, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cores", type=int, default=2, help="processes that run the simulator")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, default=Path("black_box.png"), metavar="FILE")
    arguments = parser.parse_args()
    with build():
        approx = pm.fit(
            method="sph",
            random_seed=arguments.seed,
            inf_kwargs={"cores": arguments.cores},
            progressbar=False,
        )
        idata = approx.sample(2_000, random_seed=arguments.seed)
        pm.sample_posterior_predictive(
            idata, extend_inferencedata=True, random_seed=arguments.seed, progressbar=False
        )
    result = approx.result
    print(approx.verdict)
    print(
        f"{result.formulation} form, {result.n_evaluations} simulations, "
        f"{result.n_failed} of them failed; log evidence {result.log_evidence:.2f}"
    )
    posterior = idata["posterior"]
    for name in ("rates", "first", "sigma"):
        x = posterior[name].values.reshape(-1, posterior[name].shape[-1])
        labels = posterior[name].coords[posterior[name].dims[-1]].values
        for label, column in zip(labels, x.T, strict=True):
            print(f"{name + '[' + label + ']':14s} {column.mean():7.3f} +- {column.std():.3f}")
    plot(idata, arguments.plot)
    print(f"picture: {arguments.plot}")


if __name__ == "__main__":
    main()

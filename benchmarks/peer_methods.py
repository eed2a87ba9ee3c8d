"""The methods that ``peers.py`` compares, each from a model to draws, with what it spent.

A method is a function ``method(model, seed) -> Run``. It does what a user would: the defaults of
its package, but for a fixed seed, no progress bar, and `DRAWS` draws where it draws from an
approximation. Where there is no default, the choice is in `CHOICES`, and goes into the table's
words. What counts as an evaluation of the log density or its gradient is in each docstring.
"""

from __future__ import annotations

import importlib
import time
import warnings

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymc as pm

import pymc_sph

DRAWS = 4_000
CHAINS, NUTS_DRAWS, NUTS_TUNE = 4, 1_000, 1_000
PATHS = 4


@dataclass(frozen=True)
class Run:
    """What a method returned.

    Parameters
    ----------
    draws : dict of str to ndarray, shape (chains, draws, *shape*)
        Of the model's variables.
    evaluations : int
        Log densities or gradients at single points, draws included.
    compile_time : float or None
        Seconds; None where the clock of `compiling` should say it.
    extra : dict
        Further figures of the row.
    """

    draws: Mapping[str, np.ndarray]
    evaluations: int
    compile_time: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A method: its label in tables, packages it needs, whether it needs the gradient."""

    label: str
    run: Callable[[pm.Model, int], Run]
    packages: tuple[str, ...] = ()
    gradient: bool = True
    """Whether it needs one."""

    def missing(self) -> list[str]:
        """Import the packages, and return those that are not installed."""
        missing = []
        for package in self.packages:
            try:
                importlib.import_module(package)
            except ImportError:
                missing.append(package)
        return missing


def _draws(idata: Any) -> dict[str, np.ndarray]:
    return {name: x.values for name, x in idata["posterior"].data_vars.items()}


def by_sph(model: pm.Model, seed: int) -> Run:
    """``pm.fit(method="sph")`` at its defaults; the log density of every draw counts, too."""
    with model, warnings.catch_warnings():
        warnings.simplefilter("ignore", pymc_sph.UnreliableFitWarning)
        approx = pm.fit(method="sph", random_seed=seed, progressbar=False)
        idata = approx.sample(DRAWS, random_seed=seed)
    attrs = idata["posterior"].attrs
    extra = {
        "verdict": approx.verdict.grade,
        "steps": int(attrs["n_steps"]),
        "gradients_fit": int(attrs["n_evaluations"]),
        "pareto_k": float(approx.pareto_k),
        "importance_ess": float(approx.importance_ess),
    }
    evaluations = int(attrs["n_evaluations"]) + DRAWS
    return Run(_draws(idata), evaluations, float(attrs["compile_time"]), extra)


def by_nutpie(model: pm.Model, seed: int) -> Run:
    """NUTS by nutpie, 4 x (1,000 + 1,000); leapfrog steps count, those of the tuning too."""
    import nutpie

    began = time.perf_counter()
    compiled = nutpie.compile_pymc_model(model)
    compile_time = time.perf_counter() - began
    idata = nutpie.sample(
        compiled, draws=NUTS_DRAWS, tune=NUTS_TUNE, chains=CHAINS, seed=seed, progress_bar=False
    )
    stats = idata["sample_stats"]
    steps = int(stats["n_steps"].sum()) + int(idata["warmup_sample_stats"]["n_steps"].sum())
    extra = {"diverging": int(stats["diverging"].sum())}
    return Run(_draws(idata), steps, compile_time, extra)


class CountingIMH(pm.smc.IMH):
    """The default kernel of `pymc.sample_smc`, counting its particles' log densities."""

    evaluations = 0

    def _initialize_kernel(self) -> None:
        super()._initialize_kernel()
        self.evaluations = self.draws

    def mutate(self) -> None:
        """Move the particles, as often as the kernel sees fit."""
        super().mutate()
        self.evaluations += self.draws * (self.n_steps - 1)  # it starts counting at 1

    def sample_settings(self) -> Any:
        """Return the settings, and the count."""
        return super().sample_settings() | {"evaluations": self.evaluations}


def by_smc(model: pm.Model, seed: int) -> Run:
    """`pymc.sample_smc` at its defaults; prior and likelihood at a particle count as one.

    Its chains run in processes of their own; the count is that of one chain times the chains.
    """
    with model:
        idata = pm.sample_smc(kernel=CountingIMH, random_seed=seed, progressbar=False)
    draws = _draws(idata)
    chains = len(next(iter(draws.values())))
    return Run(draws, chains * int(idata["sample_stats"].attrs["evaluations"]))


def by_pymc(name: str, per_step: int) -> Callable[[pm.Model, int], Run]:
    """One of `pymc.fit`, 10,000 steps of so many gradients, the default."""

    def fit(model: pm.Model, seed: int) -> Run:
        np.random.seed(seed)  # SVGD takes its first particles from there
        with model:
            approx = pm.fit(method=name, random_seed=seed, progressbar=False)
            idata = approx.sample(DRAWS, random_seed=seed)
        return Run(_draws(idata), _n_steps(approx) * per_step)

    return fit


def _n_steps(approx: Any) -> int:
    """Return the number of steps of `pymc.fit`: SVGD keeps no history, but never stops early."""
    return len(approx.hist) or 10_000


def by_pathfinder(model: pm.Model, seed: int) -> Run:
    """Multi-path Pathfinder of pymc-extras, 4 paths, with `DRAWS` draws of and over the paths.

    Counted: per accepted L-BFGS step a gradient and the draws of its ELBO, and the final draws;
    line searches come on top.
    """
    import pymc_extras

    idata = pymc_extras.fit(
        method="pathfinder", model=model, random_seed=seed, progressbar=False,
        display_summary=False, num_paths=PATHS,
        num_draws=DRAWS, num_draws_per_path=DRAWS,
    )  # fmt: skip
    # pymc-extras 0.10 puts it into sample_stats, later versions into a group of its own
    info = idata["pathfinder" if "pathfinder" in idata.groups() else "sample_stats"]
    steps = float(info["lbfgs_niter_mean"]) * PATHS
    evaluations = round(steps * (1 + int(info["config_num_elbo_draws"]))) + PATHS * DRAWS
    extra = {"pareto_k": float(info["pareto_k"])} if "pareto_k" in info else {}
    return Run(_draws(idata), evaluations, float(info["compile_time"]), extra)


def by_laplace(model: pm.Model, seed: int) -> Run:
    """Laplace approximation of pymc-extras; BFGS finds the mode and the Hessian."""
    import pymc_extras

    idata = pymc_extras.fit(
        method="laplace", model=model, random_seed=seed, progressbar=False,
        draws=DRAWS, include_transformed=False,
    )  # fmt: skip
    return Run(_draws(idata), int(idata["optimizer_result"]["nfev"]))


def _lazily(name: str) -> Callable[[pm.Model, int], Run]:
    """Return a method of ``peer_jax.py``, imported when it is called."""

    def run(model: pm.Model, seed: int) -> Run:
        return getattr(importlib.import_module("peer_jax"), name)(model, seed)

    return run


METHODS: dict[str, Method] = {
    # its modules are imported when they are needed; the clock starts after all imports
    "sph": Method("sph", by_sph, ("pymc_sph.inference",), gradient=False),
    "nutpie": Method("NUTS (nutpie)", by_nutpie, ("nutpie",)),
    "smc": Method("pm.sample_smc", by_smc, gradient=False),
    "advi": Method("pm.ADVI", by_pymc("advi", 1)),
    "fullrank_advi": Method("pm.FullRankADVI", by_pymc("fullrank_advi", 1)),
    "svgd": Method("pm.SVGD", by_pymc("svgd", 100)),
    "pathfinder": Method("Pathfinder (pymc-extras)", by_pathfinder, ("pymc_extras",)),
    "laplace": Method("Laplace (pymc-extras)", by_laplace, ("pymc_extras",)),
    "blackjax_svgd": Method("SVGD (BlackJAX)", _lazily("by_blackjax_svgd"), ("blackjax",)),
    "numpyro_stein": Method("SteinVI (NumPyro)", _lazily("by_stein_vi"), ("numpyro",)),
}
"""Name on the command line: method."""


@contextmanager
def compiling() -> Iterator[list[float]]:
    """Time PyTensor's compilations; the list holds the seconds of each.

    That is all compilation where PyTensor compiles to C, PyMC 5's default. Numba compiles at the
    first call instead: methods that use it say themselves how long that took.
    """
    pfunc = importlib.import_module("pytensor.compile.function.pfunc")
    original = pfunc.orig_function
    seconds: list[float] = []
    inside = False

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside:  # the inner graph of a Scan, for instance
            return original(*args, **kwargs)
        inside, began = True, time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            inside = False
            seconds.append(time.perf_counter() - began)

    pfunc.orig_function = timed  # type: ignore[attr-defined]
    try:
        yield seconds
    finally:
        pfunc.orig_function = original  # type: ignore[attr-defined]

"""Random PyMC models of many kinds, and what has to hold for a fit of any of them.

``python tests/model_fuzz.py --n 500`` fits that many, and prints each failure with its seed.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
import traceback
import warnings

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from hypothesis import strategies as st
from pymc.distributions import transforms

BELOW, ABOVE = -0.75, 1.25
"""Bounds of truncated, censored and triangular variables."""


@dataclass
class FuzzedModel:
    """A model under construction, and what is known about its variables.

    Attributes
    ----------
    supports : dict
        Name of a variable to a function from all draws, name to array (n, *shape), to whether
        those of the variable lie in its support.
    scalars : list
        Scalar variables so far, for later blocks to depend on.
    notes : list of str
        What each block is, for the report of a failure.
    """

    rnd: random.Random
    model: pm.Model = field(default_factory=pm.Model)
    supports: dict[str, Callable[[dict], bool]] = field(default_factory=dict)
    scalars: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    label: str = "0"

    def __repr__(self) -> str:
        return "\n  ".join(["FuzzedModel:", *self.notes])

    def number(self, low: float, high: float) -> float:
        # few digits: the report of a failure is read by people
        return round(low + (high - low) * self.rnd.randrange(1001) / 1000, 3)

    def numbers(self, low: float, high: float, n: int) -> np.ndarray:
        return np.array([self.number(low, high) for _ in range(n)])

    def chance(self, one_in: int) -> bool:
        return self.rnd.randrange(one_in) == 0

    def location(self) -> Any:
        """A number, or an earlier variable, bounded so that nothing depends on it in extremes."""
        if self.scalars and not self.chance(3):
            self.note("depends on an earlier scalar")
            return pt.tanh(self.rnd.choice(self.scalars))
        return self.number(-1, 1)

    def note(self, text: str) -> None:
        self.notes.append(f"block {self.label}: {text}")

    def shaped(self) -> dict[str, Any]:
        """Keywords of a random shape: none, a shape, or named dimensions with coordinates."""
        kind = self.rnd.choice(
            ["scalar", "scalar", "shape", "dims", "dims", "plain dims", "matrix"]
        )
        n = self.rnd.randint(1, 3)
        self.note(f"{kind} {n}")
        if kind == "scalar":
            return {}
        if kind == "shape":
            return {"shape": n}
        name = f"dim{self.label}"
        if kind == "plain dims":  # a length without labels
            self.model.add_coord(name, length=n)
            return {"dims": name}
        labels = [f"{c}{self.label}" for c in "abc"[:n]] if self.chance(2) else range(5, 5 + n)
        self.model.add_coord(name, labels)
        if kind == "dims":
            return {"dims": name}
        self.model.add_coord(f"{name}x", [0.5, 1.5])
        return {"dims": (name, f"{name}x")}


def between(name: str, low: Any = -np.inf, high: Any = np.inf) -> Callable[[dict], bool]:
    """Whether draws lie in [low, high]; bounds are numbers or names of variables."""

    def holds(draws: dict) -> bool:
        at = [draws[b] if isinstance(b, str) else b for b in (low, high)]
        return bool(np.all(draws[name] >= at[0]) and np.all(draws[name] <= at[1]))

    return holds


def univariate(m: FuzzedModel) -> None:
    name, mu, scale = f"x{m.label}", m.location(), m.number(0.2, 3)
    families = {
        "Normal": (lambda **k: pm.Normal(name, mu, scale, **k), ()),
        "StudentT": (lambda **k: pm.StudentT(name, nu=4, mu=mu, sigma=scale, **k), ()),
        "Laplace": (lambda **k: pm.Laplace(name, mu, scale, **k), ()),
        "Logistic": (lambda **k: pm.Logistic(name, mu, scale, **k), ()),
        "Gumbel": (lambda **k: pm.Gumbel(name, mu, scale, **k), ()),
        "SkewNormal": (lambda **k: pm.SkewNormal(name, mu=mu, sigma=scale, alpha=2, **k), ()),
        "AsymmetricLaplace": (lambda **k: pm.AsymmetricLaplace(name, b=1, kappa=2, mu=mu, **k), ()),
        "HalfNormal": (lambda **k: pm.HalfNormal(name, scale, **k), (0,)),
        "HalfStudentT": (lambda **k: pm.HalfStudentT(name, 5, scale, **k), (0,)),
        "Exponential": (lambda **k: pm.Exponential(name, scale, **k), (0,)),
        "Gamma": (lambda **k: pm.Gamma(name, 1.5, pt.exp(mu), **k), (0,)),
        "InverseGamma": (lambda **k: pm.InverseGamma(name, 3, scale, **k), (0,)),
        "LogNormal": (lambda **k: pm.LogNormal(name, mu, scale / 2, **k), (0,)),
        "Weibull": (lambda **k: pm.Weibull(name, 1.5, scale, **k), (0,)),
        "Wald": (lambda **k: pm.Wald(name, 1, scale, **k), (0,)),
        "Pareto": (lambda **k: pm.Pareto(name, 3, scale, **k), (scale,)),
        "Beta": (lambda **k: pm.Beta(name, 1 + scale, 2, **k), (0, 1)),
        "Kumaraswamy": (lambda **k: pm.Kumaraswamy(name, 2, 1 + scale, **k), (0, 1)),
        "LogitNormal": (lambda **k: pm.LogitNormal(name, mu, 1, **k), (0, 1)),
        "Uniform": (lambda **k: pm.Uniform(name, -scale, scale, **k), (-scale, scale)),
        "Triangular": (
            lambda **k: pm.Triangular(name, lower=BELOW, c=0.5, upper=ABOVE, **k),
            (BELOW, ABOVE),
        ),
        "VonMises": (lambda **k: pm.VonMises(name, mu, scale, **k), (-np.pi, np.pi)),
        "constant density": (lambda **k: pm.Uniform(name, 0, 1, **k), (0, 1)),
    }  # fmt: skip
    family = m.rnd.choice(sorted(families))
    m.note(family)
    make, bounds = families[family]
    shape = m.shaped()
    x = make(**shape)
    m.supports[name] = between(name, *bounds)
    if not shape:
        m.scalars.append(x)
    if not m.chance(3):
        like(m, x)


def like(m: FuzzedModel, x: Any) -> None:
    """A likelihood of one of many kinds, with `x` as its location."""
    mean, n = pt.sum(pt.tanh(x)), m.rnd.randint(1, 4)
    name, kind = f"y{m.label}", m.rnd.choice(sorted(LIKELIHOODS))
    m.note(f"likelihood {kind}, {n} data")
    LIKELIHOODS[kind](m, name, mean, n)


def normal_data(m: FuzzedModel, name: str, mean: Any, n: int) -> None:
    pm.Normal(name, mean, m.number(0.1, 2), observed=m.numbers(-2, 2, n))


def data_with_dims(m: FuzzedModel, name: str, mean: Any, n: int) -> None:
    dim = f"obs{m.label}"
    m.model.add_coord(dim, range(n))
    slope = pm.Data(f"{name}_x", m.numbers(-1, 1, n), dims=dim)
    observed = pm.Data(f"{name}_data", m.numbers(-2, 2, n), dims=dim)
    pm.Normal(name, mean * slope, 1, observed=observed, dims=dim)


def data_set_anew(m: FuzzedModel, name: str, mean: Any, n: int) -> None:
    data_with_dims(m, name, mean, n)
    values = {f"{name}_x": m.numbers(-1, 1, n + 1), f"{name}_data": m.numbers(-2, 2, n + 1)}
    pm.set_data(values, coords={f"obs{m.label}": range(n + 1)})


def masked_data(m: FuzzedModel, name: str, mean: Any, n: int) -> None:
    data = np.append(m.numbers(-2, 2, n), np.nan)
    if m.chance(2):  # a matrix, with a variable that is itself bounded
        data = np.abs(np.stack([data, data[::-1] + 0.1]))
        pm.Gamma(name, 2, pt.exp(mean), observed=data)
        m.supports[f"{name}_unobserved"] = between(f"{name}_unobserved", 0)
    else:
        pm.Normal(name, mean, 1, observed=np.ma.masked_invalid(data))


def censored_data(m: FuzzedModel, name: str, mean: Any, n: int) -> None:
    low, high = [(BELOW, ABOVE), (None, ABOVE), (BELOW, None)][m.rnd.randrange(3)]
    data = np.clip(m.numbers(-2, 2, n), low, high)
    pm.Censored(name, pm.Normal.dist(mean, 1), lower=low, upper=high, observed=data)


def truncated_data(m: FuzzedModel, name: str, mean: Any, n: int) -> None:
    data = m.numbers(BELOW, ABOVE, n)
    pm.Truncated(name, pm.Normal.dist(mean, 1), lower=BELOW, upper=ABOVE, observed=data)


def counts(m: FuzzedModel, name: str, mean: Any, n: int) -> None:
    data = [m.rnd.randrange(5) for _ in range(n)]
    make = [
        lambda: pm.Poisson(name, pt.exp(mean), observed=data),
        lambda: pm.Binomial(name, 5, logit_p=mean, observed=data),
        lambda: pm.NegativeBinomial(name, mu=pt.exp(mean), alpha=2, observed=data),
        lambda: pm.ZeroInflatedPoisson(name, 0.7, pt.exp(mean), observed=data),
        lambda: pm.Bernoulli(name, logit_p=mean, observed=[k % 2 for k in data]),
        lambda: pm.Categorical(name, logit_p=pt.stack([mean, 0, 1]), observed=np.mod(data, 3)),
        lambda: pm.OrderedLogistic(name, mean, [-1.0, 1.0], observed=[k % 3 for k in data]),
    ]  # fmt: skip
    m.rnd.choice(make)()


def mixture_data(m: FuzzedModel, name: str, mean: Any, n: int) -> None:
    parts = [pm.Normal.dist(mean, 1), pm.Normal.dist(-mean, 0.5)]
    pm.Mixture(name, [0.3, 0.7], parts, observed=m.numbers(-2, 2, n))


def potential(m: FuzzedModel, name: str, mean: Any, n: int) -> None:
    pm.Potential(f"{name}_potential", -0.5 * n * (mean - m.number(-0.5, 0.5)) ** 2)


LIKELIHOODS = {
    f.__name__: f
    for f in (
        normal_data, data_with_dims, data_set_anew, masked_data, censored_data, truncated_data,
        counts, mixture_data, potential,
    )
}  # fmt: skip


def simplex(m: FuzzedModel) -> None:
    name, k = f"p{m.label}", m.rnd.randint(2, 4)
    shape = {"shape": (2, k)} if m.chance(3) else {}
    p = pm.Dirichlet(name, m.numbers(0.5, 3, k), **shape)
    m.note(f"Dirichlet {k} {shape}")
    m.supports[name] = lambda draws: bool(
        np.all(draws[name] >= 0) and np.allclose(draws[name].sum(axis=-1), 1, atol=1e-9)
    )
    if not m.chance(3):
        if shape or m.chance(2):
            like(m, p[..., 0] * 2)
        else:
            pm.Multinomial(f"y{m.label}", 7, p, observed=[7] + [0] * (k - 1))


def ordered(m: FuzzedModel) -> None:
    name, k = f"o{m.label}", m.rnd.randint(2, 3)
    start = np.linspace(-1, 1, k)
    x = pm.Normal(name, m.location(), 1, shape=k, transform=transforms.ordered, initval=start)
    m.note(f"ordered {k}")
    m.supports[name] = lambda draws: bool(np.all(np.diff(draws[name], axis=-1) >= 0))
    if not m.chance(3):
        if k == 2 and m.chance(2):
            pm.OrderedLogistic(f"y{m.label}", 0.3, x, observed=[0, 1, 2])
        else:
            like(m, x)


def lkj(m: FuzzedModel) -> None:
    name, n = f"chol{m.label}", m.rnd.randint(2, 3)
    sd = pm.Exponential.dist(1.0, shape=n)
    chol, _, _ = pm.LKJCholeskyCov(name, n=n, eta=m.number(1, 3), sd_dist=sd, compute_corr=True)
    m.note(f"LKJCholeskyCov {n}")
    m.supports[f"{name}_stds"] = between(f"{name}_stds", 0)
    # float64 puts a correlation of .99999999999999999 on 1, and beyond by rounding
    m.supports[f"{name}_corr"] = between(f"{name}_corr", -1 - 1e-9, 1 + 1e-9)
    if not m.chance(3):
        data = m.numbers(-2, 2, 3 * n).reshape(3, n)
        pm.MvNormal(f"y{m.label}", np.zeros(n), chol=chol, observed=data)


def random_bounds(m: FuzzedModel) -> None:
    name, low, high = (f"{kind}{m.label}" for kind in ("u", "low", "high"))
    lower = pm.Normal(low, m.location(), 1)
    upper = pm.Deterministic(high, lower + pm.LogNormal(f"width{m.label}", 0, 0.5))
    kwargs = {"shape": 2} if m.chance(3) else {}
    u = pm.Uniform(name, lower, upper, **kwargs)
    m.note(f"interval with random bounds {kwargs}")

    def inside(draws: dict) -> bool:
        x = draws[name].reshape(len(draws[low]), -1)
        return bool(np.all(x >= draws[low][:, None]) and np.all(x <= draws[high][:, None]))

    m.supports[name] = inside
    if not m.chance(3):
        like(m, u)


def truncated(m: FuzzedModel) -> None:
    name = f"t{m.label}"
    low, high = [(BELOW, ABOVE), (None, ABOVE), (BELOW, None)][m.rnd.randrange(3)]
    family = m.rnd.choice(["Normal", "Gamma", "StudentT"])
    base = {
        "Normal": lambda: pm.Normal.dist(m.location(), 1),
        "Gamma": lambda: pm.Gamma.dist(2, 1),
        "StudentT": lambda: pm.StudentT.dist(nu=4, mu=m.location(), sigma=1),
    }[family]()
    if family == "Gamma" and low is not None:
        low = 0.25
    # PyMC has no starting value inside for all of these
    middle = 0.5
    x = pm.Truncated(name, base, lower=low, upper=high, initval=middle)
    m.note(f"truncated {family} {low} {high}")
    least = 0 if family == "Gamma" and low is None else low
    m.supports[name] = between(
        name, -np.inf if least is None else least, np.inf if high is None else high
    )
    m.scalars.append(x)
    if not m.chance(3):
        like(m, x)


def half_space(m: FuzzedModel) -> None:
    """A potential that forbids a part of the space."""
    name = f"h{m.label}"
    x = pm.Normal(name, 0, 1, initval=1.0)
    bound = m.number(-1, 0)
    pm.Potential(f"{name}_bound", pt.switch(x > bound, 0.0, -np.inf))
    m.note(f"half space above {bound}")
    m.supports[name] = between(name, bound)


def deterministics(m: FuzzedModel) -> None:
    x = pm.Normal(f"x{m.label}", m.location(), 1, shape=2)
    pm.Deterministic(f"d{m.label}", x**2)
    m.supports[f"d{m.label}"] = between(f"d{m.label}", 0)
    pm.Deterministic(f"constant{m.label}", pt.as_tensor(np.arange(3.0)))
    pm.Deterministic(f"integer{m.label}", pt.argmax(x))
    pm.Deterministic(f"bool{m.label}", x > 0)
    pm.Deterministic(f"row{m.label}", x[None, :])
    m.note("deterministics")
    if m.chance(2):
        like(m, x)


def empty(m: FuzzedModel) -> None:
    dim = f"none{m.label}"
    m.model.add_coord(dim, [])
    kind = m.rnd.choice(["first", "last", "matrix"])
    m.note(f"dimension of length 0, {kind}")
    if kind == "first":
        pm.Normal(f"a{m.label}", 0, 1, dims=dim)
    b = pm.Normal(f"b{m.label}", m.location(), 1)
    if kind == "last":
        pm.HalfNormal(f"a{m.label}", 1, dims=dim)
    elif kind == "matrix":
        m.model.add_coord(f"{dim}x", [1, 2])
        pm.Normal(f"a{m.label}", 0, 1, dims=(f"{dim}x", dim))
    c = pm.Deterministic(f"c{m.label}", b * m.model[f"a{m.label}"])
    if m.chance(2):
        like(m, pt.sum(c) + b)


def sequences(m: FuzzedModel) -> None:
    kind = m.rnd.choice(["GaussianRandomWalk", "AR", "ZeroSumNormal", "MvNormal", "MvStudentT"])
    name, n = f"s{m.label}", m.rnd.randint(2, 3)
    m.note(f"{kind} {n}")
    if kind == "GaussianRandomWalk":
        x = pm.GaussianRandomWalk(name, sigma=0.5, init_dist=pm.Normal.dist(0, 1), steps=n)
    elif kind == "AR":
        rho = [m.number(-0.9, 0.9)]
        x = pm.AR(name, rho=rho, sigma=1, init_dist=pm.Normal.dist(0, 1), steps=n)
    elif kind == "ZeroSumNormal":
        shape = (2, n) if m.chance(2) else (n,)
        x = pm.ZeroSumNormal(name, 1.0, shape=shape, n_zerosum_axes=len(shape))
        m.supports[name] = lambda draws: bool(np.allclose(draws[name].sum(axis=-1), 0, atol=1e-7))
    else:
        cov = 0.3 + np.eye(n)
        nu = [4] if kind == "MvStudentT" else []
        x = getattr(pm, kind)(name, *nu, mu=np.zeros(n), **{SCALE[kind]: cov})
    if not m.chance(3):
        like(m, x)


SCALE = {"MvNormal": "cov", "MvStudentT": "scale"}


def hierarchy(m: FuzzedModel) -> None:
    dim, k = f"group{m.label}", m.rnd.randint(1, 3)
    m.model.add_coord(dim, [f"g{i}" for i in range(k)])
    mu = pm.Normal(f"mu{m.label}", m.location(), 1)
    tau = pm.HalfNormal(f"tau{m.label}", 1)
    m.supports[f"tau{m.label}"] = between(f"tau{m.label}", 0)
    theta = pm.Normal(f"theta{m.label}", mu, tau, dims=dim)
    index = pm.Data(f"index{m.label}", [i % k for i in range(4)])
    m.note(f"hierarchy {k}")
    pm.Normal(f"y{m.label}", theta[index], 1, observed=m.numbers(-2, 2, 4))
    m.scalars.append(mu)


BLOCKS = (
    univariate, univariate, univariate, simplex, ordered, lkj, random_bounds, truncated,
    half_space, deterministics, empty, sequences, hierarchy,
)  # fmt: skip


def make_model(rnd: random.Random) -> FuzzedModel:
    """Make a model of 1 to 4 blocks."""
    m = FuzzedModel(rnd)
    with warnings.catch_warnings(), m.model:
        warnings.filterwarnings("ignore", ".*contains missing values")
        for i in range(rnd.randint(1, 4)):
            m.label = str(i)
            rnd.choice(BLOCKS)(m)
    return m


@st.composite
def models(draw: Any) -> FuzzedModel:
    """Return a strategy: random models, which Hypothesis shrinks like anything else."""
    return make_model(draw(st.randoms(use_true_random=False)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="models to fit")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--mode", default="FAST_COMPILE", help="PyTensor mode of the log density")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    args = parser.parse_args()
    from fuzzed_fits import check_fit

    logging.getLogger("pymc_sph").setLevel(logging.ERROR)
    began, failures, done = time.perf_counter(), 0, 0
    kinds: dict[str, int] = {}
    for seed in range(args.first, args.first + args.n):
        if time.perf_counter() - began > args.seconds:
            break
        done += 1
        m = None
        try:
            m = make_model(random.Random(seed))
            outcome = check_fit(m, seed, args.mode)
            kinds[outcome] = kinds.get(outcome, 0) + 1
        except Exception:
            failures += 1
            print(f"seed {seed} FAILED: {m}\n{traceback.format_exc(limit=-6)}", flush=True)
    print(f"{done} models, {failures} failures, {time.perf_counter() - began:.0f} s; {kinds}")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())

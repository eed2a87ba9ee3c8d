"""Good fits and deliberately bad ones, for the calibration of the verdict (`verdicts.py`).

Nothing here is a public interface: bad fits are made by replacing parts of a finished `Ensemble`,
and its own `finish` judges them, as it does a user's.
"""

from __future__ import annotations

import dataclasses
import zlib

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import reference_models

from verdict_targets import Exact

from pymc_sph.confluence import Confluence
from pymc_sph.ensemble import Ensemble
from pymc_sph.fluid.simulate import Simulation
from pymc_sph.fluid.state import Fluid, new_fluid, to_unconstrained
from pymc_sph.importance import psis
from pymc_sph.mixture import FluidMixture
from pymc_sph.settings import Settings
from pymc_sph.start import find_starts
from pymc_sph.target import compile_target
from pymc_sph.transform import compile_transform

DRAWS = 20_000
Array = np.ndarray
Fit = tuple[str, Ensemble]


@dataclass(frozen=True)
class Subject:
    """A posterior to fit, and how to judge draws.

    Attributes
    ----------
    name : str
        Its name.
    target : callable
        Log density and gradient of a batch.
    points : callable
        seed -> dispersed starting points.
    errors : callable
        (theta, weights or None) -> errors in sds, all coordinates, of means and log sds.
    modes : (M, d)
        Centres of its modes.
    closed : tuple of (d,) and (d,), optional
        Mean and sd in unconstrained space, where draws cannot give q's: see `Exact`.
    """

    name: str
    target: Any
    points: Callable[[int], Array]
    errors: Callable[[Array, Array | None], Array]
    modes: Array
    closed: tuple[Array, Array] | None = None


def exact(target: Exact) -> Subject:
    """Wrap a target of known moments."""
    mean, sd = target.moments()

    def points(seed: int) -> Array:
        rng = np.random.default_rng([seed, 9])
        spread = np.where(np.arange(8) % 2, 3.0, 1.0)  # as `fit_density` does, around a mode
        out = target.modes[0] + spread[:, None] * rng.standard_normal((100, 8, target.dim))
        finite = np.isfinite(target.density(out.reshape(-1, target.dim))[0]).reshape(100, 8)
        return out[finite.argmax(axis=0), np.arange(8)]

    def errors(theta: Array, weights: Array | None) -> Array:
        x = target.seen(theta)
        w = np.full(len(x), 1 / len(x)) if weights is None else weights / weights.sum()
        own = w @ x
        own_sd = np.sqrt(w @ (x - own) ** 2)
        return np.concatenate([np.abs(own - mean) / sd, np.abs(np.log(own_sd / sd))])

    return Subject(target.name, target.density, points, errors, target.modes, target.closed)


def carried(name: str) -> Subject:
    """Wrap a posterior of posteriordb; errors are those of the model's own variables."""
    model, reference = reference_models.load(name)
    target, transform = compile_target(model, threads=1), compile_transform(model)

    def errors(theta: Array, weights: Array | None) -> Array:
        found = reference.errors(transform(theta), weights)
        return np.abs([found["max_mean"], found["max_log_sd"]])

    points = partial(target.initial_points, 8)
    return Subject(name.split("-")[0], target, points, errors, np.empty((0, target.dim)))


# --- fits


def fits(subject: Subject, seed: int, *, bad: bool) -> Iterator[Fit]:
    """Every fit of a subject: its name, and the ensemble to be judged."""
    good = run(subject, seed)
    yield "good", good
    if not bad:
        return
    yield "n=3", run(subject, seed, n=3)
    yield "n=10", run(subject, seed, n=10)
    yield "one particle", run(subject, seed, particles=1)
    yield "one fluid, 2 particles", run(subject, seed, particles=2, fluids=1)
    for factor in (0.7, 0.85, 1.3):
        yield f"kernels x {factor:g}", rebuilt(good, partial(scaled, factor=factor))
    for scale, n in ((1.0, 0), (0.3, 1), (0.3, 5)):
        yield f"MAP, sd x {scale:g}, n={n}", at_the_mode(subject, seed, scale, n)
    if len(subject.modes) > 1:
        yield "blind", run(subject, seed, blind=True, temperature=1.0)
        for name, mode in (("lightest", 0), ("heaviest", -1)):
            where = subject.modes[mode]
            drop = partial(without, modes=subject.modes, mode=where)
            yield f"{name} mode removed", rebuilt(good, drop)
        yield "a share x 3", reweighed(good, subject, 3.0)
        yield "a share / 3", reweighed(good, subject, 1 / 3)


def run(
    subject: Subject, seed: int, *, n: int = 10_000, blind: bool = False, **settings: Any
) -> Ensemble:
    """Run the engine; `blind`: every path starts at the mode that comes first."""
    points = subject.points(seed)
    if blind:
        points = subject.modes[0] + 0.1 * np.random.default_rng(seed).standard_normal(points.shape)
    ensemble = Ensemble.start(subject.target, points, Settings(**settings), seed, n)
    return to_the_end(ensemble, subject)


def to_the_end(ensemble: Ensemble, subject: Subject) -> Ensemble:
    """Take steps until the ensemble is done, and let the fluids meet."""
    while not ensemble.done:
        ensemble, _ = ensemble.step(subject.target)
    return ensemble


def rebuilt(good: Ensemble, change: Callable[[Fluid], Fluid | None]) -> Ensemble:
    """Change every fluid of a finished fit; they meet again before they are judged."""
    simulations = []
    for sim, fluid in zip(good.simulations, good.mixture().fluids, strict=True):
        assert isinstance(sim, Simulation)
        changed = change(fluid)
        if changed is not None:
            simulations.append(dataclasses.replace(sim, fluid=changed))
    last = good.last[: len(simulations)]
    return dataclasses.replace(
        good, simulations=tuple(simulations), last=last, witness=None, together=None
    )


def scaled(fluid: Fluid, factor: float) -> Fluid:
    """Multiply every kernel's width by a factor: tails cut, or too fat."""
    return dataclasses.replace(fluid, A=fluid.A * factor)


def of_mode(fluid: Fluid, modes: Array, mode: Array) -> Array:
    """Whether each particle is nearest to this one of the modes."""
    theta = to_unconstrained(fluid, fluid.z)
    nearest = np.linalg.norm(theta[:, None] - modes, axis=2).argmin(axis=1)
    return np.asarray((modes[nearest] == mode).all(axis=1))


def without(fluid: Fluid, modes: Array, mode: Array) -> Fluid | None:
    """Remove the particles of one mode; None if no particle is left."""
    keep = ~of_mode(fluid, modes, mode)
    if not keep.any():
        return None
    log_m = fluid.log_m[keep] - np.log(np.exp(fluid.log_m[keep]).sum())
    return dataclasses.replace(
        fluid, z=fluid.z[keep], u=fluid.u[keep], A=fluid.A[keep], log_m=log_m
    )


def reweighed(good: Ensemble, subject: Subject, factor: float) -> Ensemble:
    """Multiply the mass of the heaviest mode by a factor, and let nothing mend it."""
    assert good.together is not None
    fluids, log_shares = [], []
    mixture = good.mixture()
    for fluid, share in zip(mixture.fluids, mixture.log_weights, strict=True):
        ours = of_mode(fluid, subject.modes, subject.modes[-1])
        log_m = fluid.log_m + np.where(ours, np.log(factor), 0.0)
        total = np.log(np.exp(log_m).sum())
        fluids.append(dataclasses.replace(fluid, log_m=log_m - total))
        log_shares.append(share + total)
    log_shares = np.array(log_shares) - np.log(np.exp(log_shares).sum())
    together: Confluence = dataclasses.replace(
        good.together, mixture=FluidMixture(tuple(fluids), log_shares)
    )
    return dataclasses.replace(good, together=together)


def at_the_mode(subject: Subject, seed: int, scale: float, n: int) -> Ensemble:
    """One fluid of one particle at the end of the best path, its sds wrong by a factor."""
    settings = Settings(fluids=1, particles=1, temperature=1.0)
    starts, _ = find_starts(subject.target, subject.points(seed), (seed,))
    end = starts[0].mu
    ensemble = Ensemble.start(subject.target, end[None], settings, seed, n)
    d = len(end)
    fluid = new_fluid(end, scale * starts[0].L, np.zeros((1, d)), full=settings.full_tensor(d))
    first = ensemble.simulations[0]
    assert isinstance(first, Simulation)
    sim = dataclasses.replace(first, fluid=fluid)
    return to_the_end(dataclasses.replace(ensemble, simulations=(sim,)), subject)


# --- what is true of them


def measure(subject: Subject, name: str, ensemble: Ensemble, seed: int) -> dict[str, Any]:
    """Return what the verdict knew and said, and the true errors, as a row."""
    evidence, result = ensemble.found(subject.target)
    rng = np.random.default_rng([seed, zlib.crc32(f"{subject.name} {name}".encode())])
    theta = result.mixture.sample(DRAWS, rng).theta
    with np.errstate(all="ignore"):
        logp = subject.target(theta)[0]
        inside = logp != -np.inf  # no draw is ever taken from the void
        theta, logp = theta[inside], logp[inside]
        weights = np.exp(psis(logp - result.mixture.log_density(theta))[0])
        plain, weighted = subject.errors(theta, None), subject.errors(theta, weights)
    exact = closed_errors(result.mixture, subject.closed) if subject.closed else np.zeros(0)
    return {
        "target": subject.name,
        "fit": name,
        "seed": seed,
        "plain": _worst(np.concatenate([plain, exact])),
        "asinh": _worst(plain) if subject.closed else None,
        "weighted": _worst(weighted),
        "evidence": dataclasses.asdict(evidence),
        "fluid_elbo": result.fluid_elbo.tolist(),
        "elbo": result.elbo,
        "log_evidence": result.log_evidence,
        "n_steps": result.n_steps,
    }


def closed_errors(mixture: FluidMixture, closed: tuple[Array, Array]) -> Array:
    """Errors of q's means and log sds, in sds, all in closed form: q is a mixture of normals."""
    mean, sd = closed
    own_sd = np.sqrt(np.diag(mixture.cov()))
    return np.concatenate([np.abs(mixture.mean() - mean) / sd, np.abs(np.log(own_sd / sd))])


def _worst(errors: Array) -> float:
    return float(np.where(np.isfinite(errors), errors, np.inf).max(initial=0.0))

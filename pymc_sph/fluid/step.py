"""One step of the variational fluid: probes, fields, residuals, interpolation, update."""

from __future__ import annotations

import dataclasses

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pymc_sph.fluid import (
    equation_of_state,
    forces,
    formulation,
    frame,
    interpolation,
    kernels,
    masks,
    mass,
    resolution,
)
from pymc_sph.fluid.density import Density, ProbeNoise, density, draw_probes
from pymc_sph.fluid.formulation import Push
from pymc_sph.fluid.state import (
    Array,
    Fluid,
    branch,
    is_finite,
    log_det_frame,
    namespace,
    to_unconstrained,
)

LogDensity = Callable[[Array], tuple[Array, Any]]
"""theta (K, d) -> (log density (K,), its gradient (K, d)), in unconstrained space.

A target without a gradient returns None in its place; only the pressure form can do with it.
"""


Field = Callable[[Array], tuple[Array, Array]]
"""theta (K, d) -> (log density of q (K,), its gradient (K, d)), in unconstrained space."""


@dataclass(frozen=True)
class Rates:
    """What one step is taken with; see `pymc_sph.settings.Settings`.

    Attributes
    ----------
    temperature : float
        c^2 of the equation of state.
    dt, tensor, mass, frame : float
        Time step and step sizes of smoothing tensor, masses and frame.
    damping, viscosity : float
        Shares of the velocity lost and smoothed.
    trust : float
        Bound of half the squared length of a particle's step, in units of its kernel.
    """

    temperature: float = 1.0
    dt: float = 1.0
    tensor: float = 1.0
    mass: float = 0.2
    frame: float = 0.1
    damping: float = 0.5
    viscosity: float = 0.1
    trust: float = 0.05


@dataclass(frozen=True)
class Observation:
    """What a step's probes saw of the fluid before the step.

    Attributes
    ----------
    elbo : float
        ELBO of q where p is not zero, nats; see `observe`.
    variance : float
        Twice an estimate of KL(q || p): the variance of log p - log q, and what the probes where
        p is zero cost.
    ess : float
        Relative importance ESS of the probes, in (0, 1].
    n_nonfinite : int
        Probes set aside because log p or its gradient was not finite.
    """

    elbo: float
    variance: float
    ess: float
    n_nonfinite: int


def step(
    fluid: Fluid,
    noise: ProbeNoise,
    target: LogDensity,
    rates: Rates,
    around: Field | None = None,
) -> tuple[Fluid, Observation]:
    """Advance a fluid by one step, in the force form.

    Parameters
    ----------
    fluid : Fluid
        The fluid; it is left as it is.
    noise : ProbeNoise
        Random numbers of K probes.
    target : callable
        Log density and gradient of a batch, in unconstrained space; entries may be non-finite.
    rates : Rates
        Temperature and step sizes.
    around : callable, optional
        Log density and gradient of the mixture that the fluid is part of, in unconstrained space:
        its gas then fills the potential and the pressure. By default the fluid is alone.

    Returns
    -------
    fluid : Fluid
        The fluid after the step; the same one if no probe, or not the step itself, was finite.
        Probes where p is zero push nothing, but take mass away; others that are not finite are
        set aside.
    observation : Observation
        What the probes saw before the step.
    """
    y, own = draw_probes(fluid, noise)
    theta = to_unconstrained(fluid, y)
    logp, grad = target(theta)
    # numbers beyond the range of floating point are set aside below; the target's own warnings stay
    with np.errstate(over="ignore", invalid="ignore"):
        return _react(fluid, noise, y, own, theta, logp, grad, rates, around)


def _react(
    fluid: Fluid,
    noise: ProbeNoise,
    y: Array,
    own: Array,
    theta: Array,
    logp: Array,
    grad: Array,
    rates: Rates,
    around: Field | None,
) -> tuple[Fluid, Observation]:
    """Finish a step, with the target evaluated at the probes theta: y in the frame, of `own`."""
    xp = namespace(fluid.z)
    field = density(fluid, y)
    log_rho, grad_log_rho, log_det = field.log_rho, field.grad, log_det_frame(fluid)
    if around is not None:  # from here on in the frame, as the fluid's own
        log_rho, grad_log_rho = around(theta)
        log_rho, grad_log_rho = log_rho + log_det, grad_log_rho @ fluid.L
    finite = xp.isfinite(logp) & xp.all(xp.isfinite(grad), axis=1)
    void = logp == -float("inf")
    seen = observe(logp - log_rho + log_det, finite, void)

    def pushed() -> Fluid:
        used = finite | void
        kept = field.only(used)  # the others weigh nothing, and their values go nowhere
        logp_, grad_ = xp.where(finite, logp, 0.0), xp.where(finite[:, None], grad, 0.0)
        phi = equation_of_state.potential(logp_, log_rho, rates.temperature)
        r = equation_of_state.acceleration(grad_ @ fluid.L, grad_log_rho, rates.temperature)
        phi = mass.clip_potential(phi, void, finite)
        r = forces.clip_acceleration(xp.where(finite[:, None], r, 0.0), kept.grad, used)
        weights = interpolation.smoothing_weights(fluid, kept.R)
        push = formulation.force_form(fluid, kept, weights, y, own, r, masks.count(used))
        phi = phi - masks.mean(phi, used)
        moved = move(fluid, kept, weights, phi, push, rates, noise.e[: resolution.LOOKS])
        # a step beyond the range of floating point is not taken: one broken fluid would spoil all
        return branch(is_finite(moved), lambda: moved, fluid)

    return branch(xp.any(finite), pushed, fluid), seen


def move(
    fluid: Fluid, field: Density, weights: Array, phi: Array, push: Push, rates: Rates, e: Array
) -> Fluid:
    """Fluid after the push, and the centred potential phi (K,) at the probes, have acted on it."""
    xp = namespace(phi)
    bound = rates.trust * max(1.0, fluid.dim / 10)
    excess = interpolation.interpolate(weights, phi)
    u = forces.accelerate(fluid, push.force, rates.damping)
    u = forces.viscous(fluid, field.A_inv, field.R, u, rates.viscosity)
    du = forces.bounded(rates.dt * u, bound)
    moved = dataclasses.replace(
        fluid,
        z=fluid.z + kernels.stretch(fluid.A, du),
        u=du / rates.dt,
        A=resolution.resize(fluid.A, push.tensor, rates.tensor, bound),
        log_m=mass.exchange(fluid.log_m, excess, rates.mass),
    )
    variance = interpolation.interpolate(weights, phi * phi) - excess * excess
    moved = resolution.split(moved, xp.maximum(variance, 0.0), e)
    return frame.stretch_frame(moved, push.frame, rates.frame, bound)


def observe(log_w: Array, finite: Array, void: Array) -> Observation:
    """Summarise the log weights log p - log q (K,) of the probes.

    Where p is zero, at a share s of them, the ELBO is that of q without these places,
    <log p - log q> + log(1 - s), and the variance grows by twice what they cost.
    """
    xp, inf = namespace(log_w), float("inf")
    some, n = xp.any(finite), masks.count(finite)
    cost = xp.log1p(xp.sum(void) / n)
    top = xp.where(some, xp.max(xp.where(finite, log_w, -inf)), 0.0)
    log_w = xp.where(finite, log_w, top)
    w = xp.where(finite, xp.exp(log_w - top), 0.0)
    ess = xp.sum(w) ** 2 / xp.maximum(xp.sum(w * w), 1.0) / finite.shape[0]  # the top one has w = 1
    mean = masks.mean(log_w, finite)
    variance = masks.mean((log_w - mean) ** 2, finite) + 2 * cost
    elbo, variance = xp.where(some, mean - cost, -inf), xp.where(some, variance, inf)
    seen = Observation(elbo, variance, ess, xp.sum(~finite))
    return numbers(seen) if xp is np else seen


def numbers(seen: Any, i: Any = ()) -> Observation:
    """Return an observation of arrays, or its i-th entries, as one of Python's numbers."""
    return Observation(
        float(seen.elbo[i]), float(seen.variance[i]), float(seen.ess[i]), int(seen.n_nonfinite[i])
    )

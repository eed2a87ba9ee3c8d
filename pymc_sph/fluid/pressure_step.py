"""One step of the fluid in the pressure form: from values of the log density alone."""

from __future__ import annotations

from pymc_sph.fluid import equation_of_state, formulation, interpolation, mass, resolution
from pymc_sph.fluid.density import ProbeNoise, density, draw_probes
from pymc_sph.fluid.reuse import Memory
from pymc_sph.fluid.state import (
    Array,
    Fluid,
    is_finite,
    namespace,
    to_frame,
    to_unconstrained,
)
from pymc_sph.fluid.step import Field, LogDensity, Observation, Rates, move, observe

LEAST_WEIGHT = 1e-3
"""Importance weight below which a probe of an earlier step is left out."""


def pressure_step(
    fluid: Fluid,
    memory: Memory,
    noise: ProbeNoise,
    target: LogDensity,
    rates: Rates,
    around: Field | None = None,
) -> tuple[Fluid, Memory, Observation]:
    """Advance a fluid by one step without gradients.

    Parameters
    ----------
    fluid : Fluid
        The fluid; it is left as it is.
    memory : Memory
        Probes of the last steps.
    noise : ProbeNoise
        Random numbers of K new probes.
    target : callable
        Log density of a batch, in unconstrained space, with anything in the gradient's place;
        entries may be non-finite.
    rates : Rates
        Temperature and step sizes.
    around : callable, optional
        Log density and gradient of the mixture that the fluid is part of; see `step.step`.

    Returns
    -------
    fluid : Fluid
        The fluid after the step; the same one if no new probe, or not the step itself, was finite.
        Probes where p is zero push the fluid away a little; others that are not finite are set
        aside.
    memory : Memory
        The memory with the new probes.
    observation : Observation
        What the new probes saw before the step.
    """
    xp = namespace(fluid.z)
    y, _ = draw_probes(fluid, noise)
    theta = to_unconstrained(fluid, y)
    logp = target(theta)[0]
    finite = xp.isfinite(logp)
    memory = memory.add(fluid, theta, logp)
    log_q = memory.log_q[-1][-1] if around is None else around(theta)[0]
    seen = observe(logp - log_q, finite, logp == -float("inf"))
    if not xp.any(finite):
        return fluid, memory, seen
    moved = pushed(fluid, memory, rates, noise.e[: resolution.LOOKS], around)
    # a step beyond the range of floating point is not taken: one broken fluid would spoil them all
    return (moved if is_finite(moved) else fluid), memory, seen


def pushed(
    fluid: Fluid, memory: Memory, rates: Rates, e: Array, around: Field | None = None
) -> Fluid:
    """Fluid after the pressure at the probes in memory has acted on it; e as in `step.move`."""
    theta, logp, w = memory.recall()
    xp = namespace(theta)
    kept = w > LEAST_WEIGHT
    theta, logp, w = theta[kept], logp[kept], w[kept]
    y = to_frame(fluid, theta)
    field = density(fluid, y)
    # a constant such as log |det L| does not matter to the potential
    log_rho = field.log_rho if around is None else around(theta)[0]
    void = ~xp.isfinite(logp)
    logp = xp.where(void, 0.0, logp)
    phi = equation_of_state.potential(logp, log_rho, rates.temperature)
    phi = mass.clip_potential(phi, void, ~void)
    phi = phi - xp.sum(w * phi) / xp.sum(w)
    weights = interpolation.smoothing_weights(fluid, field.R * w)
    push = formulation.pressure_form(fluid, field, weights, y, phi)
    return move(fluid, field, weights, phi, push, rates, e)


def default_sizes(dim: int) -> tuple[int, int]:
    """Particles, and new probes per step: few, because those of earlier steps help."""
    if dim <= 5:
        return 64, 64
    return 32 if dim <= 10 else 16, max(32, 4 * dim)

"""One step of the paper's scheme: the particles are the only points there are.

State in, state out, and no random numbers: the scheme is deterministic once the particles are
placed (Huang 2024, arXiv 2407.09186). Each particle has the mass 1 / N and obeys

    dz / dt = v
    dv / dt = -(1 / rho) grad P + nu lap v + nu / 3 grad(div v) + target - gamma v

with the density by summation or by the continuity equation. `Equations` says which form of each.
"""

from __future__ import annotations

import dataclasses
import math

from dataclasses import dataclass, field

from pymc_sph.fluid import continuity, external, momentum, smoothing_length
from pymc_sph.fluid.equation_of_state import EquationOfState, Isothermal
from pymc_sph.fluid.integrators import INTEGRATORS, Bounds, time_step_bounds
from pymc_sph.fluid.neighbours import Neighbours, find_neighbours
from pymc_sph.fluid.radial_kernels import RadialKernel, radial_kernel
from pymc_sph.fluid.state import Array, Fluid, namespace
from pymc_sph.fluid.step import LogDensity, Observation, observe
from pymc_sph.fluid.summation import summed_density


@dataclass(frozen=True)
class Equations:
    """The equations that the particles follow; names are keys of the rooms' dictionaries.

    Attributes
    ----------
    eos : EquationOfState
        Pressure as a function of density.
    kernel : str
        Key of `radial_kernels.SHAPES`.
    smoothing : str
        Key of `smoothing_length.RULES`.
    scale, neighbours : float, int
        Arguments of that rule.
    density : {"summation", "continuity"}
        Where rho comes from.
    diffusion : float
        delta of the continuity equation's density diffusion.
    diffused : {"excess", "density"}
        What diffuses: log rho - (alpha / c^2) log p, flat at rest, or rho itself (biased).
    pressure_force : {"symmetric", "plain"}
        Key of `momentum.PRESSURE_FORCES`.
    external : str
        One of `external.FORMS`.
    alpha : float
        Amplification of the target.
    log_z : float
        Log density, in the frame, that counts as 1 where p itself or its level enters.
    viscosity, damping : float
        nu; and gamma, the rate at which velocities decay.
    integrator : {"verlet", "euler"}
        Key of `integrators.INTEGRATORS`.
    dt : float, optional
        Constant time step; None for `courant` times the CFL bound.
    courant : float
        Courant number.
    """

    eos: EquationOfState = field(default_factory=Isothermal)
    kernel: str = "gaussian"
    smoothing: str = "constant"
    scale: float = 1.0
    neighbours: int = 16
    density: str = "summation"
    diffusion: float = 0.0
    diffused: str = "excess"
    pressure_force: str = "symmetric"
    external: str = "force"
    alpha: float = 1.0
    log_z: float = 0.0
    viscosity: float = 0.0
    damping: float = 1.0
    integrator: str = "verlet"
    dt: float | None = None
    courant: float = 0.6


@dataclass(frozen=True)
class Particles:
    """State of the collocated fluid, in its frame: theta = mu + L z. Nothing changes it in place.

    Attributes
    ----------
    z, v, a : (N, d)
        Positions, velocities and accelerations (without the damping).
    rho, h : (N,)
        Densities, smoothing lengths.
    logp, score : (N,), (N, d)
        Log density of the target in the frame (log |det L| included), and its gradient.
    mu, L : (d,), (d, d)
        The frame, fixed.
    time : float
        Time since the start.
    """

    z: Array
    v: Array
    a: Array
    rho: Array
    h: Array
    logp: Array
    score: Array
    mu: Array
    L: Array
    time: float = 0.0

    @property
    def n_particles(self) -> int:
        """Number of particles N."""
        return int(self.z.shape[0])

    @property
    def dim(self) -> int:
        """Dimension d."""
        return int(self.z.shape[1])


@dataclass(frozen=True)
class ParticleObservation(Observation):
    """What is known of the particles after a step, without further evaluations of the target.

    ``elbo``, ``variance`` and ``ess`` are those of log p - log rho *at the particles*, each of
    which raises the density it is seen at: an indicator of progress, not the ELBO of q.

    Attributes
    ----------
    kinetic : float
        Mean kinetic energy per particle and dimension; a gas in equilibrium with c^2 = 1, were it
        made of molecules, would have 1 / 2.
    change : float
        Root mean square of d log rho / dt over the particles.
    dt : float
        Time step taken.
    """

    kinetic: float = math.inf
    change: float = math.inf
    dt: float = 0.0


def begin(
    z: Array, mu: Array, L: Array, target: LogDensity, equations: Equations, v: Array | None = None
) -> Particles:
    """Return particles at positions z (N, d) of the frame, at rest unless velocities v are given.

    Particles where log p is not finite feel no force; their log p counts as the least finite one.
    """
    xp = namespace(z)
    kernel = radial_kernel(equations.kernel, z.shape[1])
    logp, score, bad = _evaluate(target, z, mu, L, equations)
    if bool(xp.any(bad)) and not bool(xp.all(bad)):
        logp = xp.where(bad, xp.min(logp[~bad]), logp)
        score = xp.where(bad[:, None], 0.0, score)
    h = _smoothing(z, equations)
    neighbours = find_neighbours(z, h, kernel)
    v = xp.zeros_like(z) if v is None else v
    rho = summed_density(z, h, kernel, neighbours)
    state = Particles(z, v, v, rho, h, logp, score, mu, L)
    return dataclasses.replace(state, a=acceleration(state, equations, kernel, neighbours))


def step(
    particles: Particles, target: LogDensity, equations: Equations
) -> tuple[Particles, ParticleObservation]:
    """Advance the particles by one time step, with one evaluation of the target for each.

    A particle that would come to a place where log p or its gradient is not finite stays where it
    was and loses its velocity.

    Parameters
    ----------
    particles : Particles
        The state; it is left as it is.
    target : callable
        theta (K, d) -> (log density (K,), gradient (K, d)), in unconstrained space. The gradient
        is looked at only if `equations.external` is in `external.GRADIENT`.
    equations : Equations
        What the particles obey.

    Returns
    -------
    particles : Particles
        The state after the step; the same one if the step led out of the finite numbers.
    observation : ParticleObservation
        What is known of it; an ELBO of -inf marks a step that was not taken.
    """
    p = particles
    xp = namespace(p.z)
    kernel = radial_kernel(equations.kernel, p.dim)
    dt = time_step(p, equations)
    scheme = INTEGRATORS[equations.integrator]
    v = p.v + scheme.before * dt * p.a
    z = p.z + dt * v
    logp, score, bad = _evaluate(target, z, p.mu, p.L, equations)
    back = bad[:, None]
    z, v, score = xp.where(back, p.z, z), xp.where(back, 0.0, v), xp.where(back, p.score, score)
    h = _smoothing(z, equations)
    neighbours = find_neighbours(z, h, kernel)
    after = dataclasses.replace(
        p, z=z, v=v, h=h, logp=xp.where(bad, p.logp, logp), score=score, time=p.time + dt
    )
    if equations.density == "summation":
        rho = summed_density(z, h, kernel, neighbours)
    else:
        rho = _carried_density(p, v, dt, equations, kernel)
    after = dataclasses.replace(after, rho=rho)
    a = acceleration(after, equations, kernel, neighbours)
    v = (after.v + scheme.after * dt * a) * math.exp(-equations.damping * dt)
    after = dataclasses.replace(after, v=v, a=a)
    n_bad = int(xp.sum(bad))
    if not _is_finite(after):
        return p, ParticleObservation(-math.inf, math.inf, 0.0, n_bad, dt=dt)
    return after, _look(after, p, dt, n_bad)


def acceleration(
    particles: Particles, equations: Equations, kernel: RadialKernel, neighbours: Neighbours
) -> Array:
    """Accelerations (N, d) by pressure, viscosity and target; the damping is not among them."""
    p, eq = particles, equations
    logp = p.logp - eq.log_z
    pressure = eq.eos.pressure(p.rho)
    outer = external.external_pressure(eq.external, eq.alpha, logp)
    if outer is not None:
        pressure = pressure + outer
    a = momentum.PRESSURE_FORCES[eq.pressure_force](p.z, p.rho, pressure, p.h, kernel, neighbours)
    push = external.external_force(
        eq.external, eq.alpha, logp, p.score, p.z, p.rho, p.h, kernel, neighbours
    )
    if push is not None:
        a = a + push
    if eq.viscosity > 0:
        a = a + eq.viscosity * momentum.viscous_force(p.z, p.v, p.rho, p.h, kernel, neighbours)
    return a


def bounds(particles: Particles, equations: Equations) -> Bounds:
    """CFL bounds of the next time step, at Courant number 1."""
    p = particles
    diffusion = equations.diffusion if equations.density == "continuity" else 0.0
    speed = equations.eos.sound_speed(p.rho)
    return time_step_bounds(p.h, p.v, p.a, speed, equations.viscosity, diffusion)


def time_step(particles: Particles, equations: Equations) -> float:
    """Constant time step, or `courant` times the least CFL bound."""
    if equations.dt is not None:
        return equations.dt
    return equations.courant * bounds(particles, equations).least


def total_energy(particles: Particles, equations: Equations) -> float:
    """Sum over particles of m (v^2 / 2 + e(rho) - alpha log p), the target as "force".

    Without damping and viscosity, with the symmetric pressure force, summed density and constant
    h, this is conserved up to the error of the time steps.
    """
    p = particles
    xp = namespace(p.z)
    each = 0.5 * xp.sum(p.v**2, axis=1) + equations.eos.energy(p.rho) - equations.alpha * p.logp
    return float(xp.mean(each))


def to_fluid(particles: Particles) -> Fluid:
    """Return the particles as a `Fluid` with Gaussian kernels: the density that is returned.

    The kernels have the variance h_i^2 per dimension of the scheme's own kernel, whatever its
    shape: with a compact one log q would be -inf nearly everywhere.
    """
    p = particles
    xp = namespace(p.z)
    A = xp.broadcast_to(p.h[:, None], p.z.shape)
    log_m = xp.full(p.n_particles, -math.log(p.n_particles))
    return Fluid(p.z, p.v / p.h[:, None], A, log_m, p.mu, p.L)


# --- parts of a step


def _evaluate(
    target: LogDensity, z: Array, mu: Array, L: Array, eq: Equations
) -> tuple[Array, Array, Array]:
    """Log density in the frame, its gradient (0 if not needed), and where it is not finite."""
    xp = namespace(z)
    logp, grad = target(mu + z @ L.T)
    bad = ~xp.isfinite(logp)
    if eq.external not in external.GRADIENT:
        return logp + xp.linalg.slogdet(L)[1], xp.zeros_like(z), bad
    bad = bad | ~xp.all(xp.isfinite(grad), axis=1)
    return logp + xp.linalg.slogdet(L)[1], grad @ L, bad


def _smoothing(z: Array, eq: Equations) -> Array:
    return smoothing_length.RULES[eq.smoothing](z, eq.scale, eq.neighbours)


def _carried_density(
    p: Particles, v: Array, dt: float, eq: Equations, kernel: RadialKernel
) -> Array:
    """Density after a drift with velocities v (N, d), by the continuity equation at its middle."""
    z = p.z + 0.5 * dt * v
    neighbours = find_neighbours(z, p.h, kernel)
    rate = continuity.density_rate(z, v, p.h, kernel, neighbours)
    if eq.diffusion > 0:
        speed = eq.eos.sound_speed(p.rho)
        level = (eq.alpha / speed**2) * p.logp if eq.diffused == "excess" else None
        rate = rate + eq.diffusion * continuity.density_diffusion(
            z, p.rho, p.h, speed, kernel, neighbours, level
        )
    # a density must stay positive, however long the step
    return namespace(z).maximum(p.rho + dt * rate, 0.5 * p.rho)


def _is_finite(p: Particles) -> bool:
    xp = namespace(p.z)
    return all(bool(xp.all(xp.isfinite(part))) for part in (p.z, p.v, p.a, p.rho))


def _look(after: Particles, before: Particles, dt: float, n_bad: int) -> ParticleObservation:
    """Figures of the state, and its change over the step."""
    xp = namespace(after.z)
    log_rho = xp.log(after.rho)
    finite = xp.isfinite(after.logp)
    seen = observe(after.logp - log_rho, finite, xp.zeros_like(finite))
    slope = (log_rho - xp.log(before.rho)) / dt
    return ParticleObservation(
        elbo=seen.elbo,
        variance=seen.variance,
        ess=seen.ess,
        n_nonfinite=n_bad,
        kinetic=0.5 * float(xp.mean(after.v**2)),
        change=math.sqrt(float(xp.mean(slope**2))),
        dt=dt,
    )

"""The peers that run on JAX, through a PyMC model's log density: BlackJAX's SVGD, SteinVI.

Neither has defaults for everything. Chosen here: as many particles as `pm.SVGD` (100) and Adam
with steps of .05 for SVGD, 2,000 steps; NumPyro's own 10 particles and 10 draws each, with
Adagrad .05, kernel and normal guide of its documentation, for SteinVI, 2,000 steps. Particles
start at the model's initial point, with noise of sd 1 (SVGD) or in (-2, 2) around it (SteinVI's
own way). Both loops run under ``jax.jit``, in double
precision.
"""

from __future__ import annotations

import time

from collections.abc import Callable
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pymc as pm

from peer_methods import DRAWS, Run
from pymc.sampling.jax import get_jaxified_graph

STEPS = 2_000
SVGD_PARTICLES, SVGD_STEP = 100, 0.05
STEIN_PARTICLES, STEIN_DRAWS, STEIN_STEP = 10, 10, 0.05

jax.config.update("jax_enable_x64", True)


class Density:
    """A model's log density in unconstrained space for JAX, on flat vectors.

    Attributes
    ----------
    start : Array, shape (d,)
        The model's initial point.
    """

    def __init__(self, model: pm.Model) -> None:
        self.model = model
        point = model.initial_point(0)
        values = [np.asarray(point[v.name], dtype="float64") for v in model.value_vars]
        self.shapes = [value.shape for value in values]
        self.ends = np.cumsum([value.size for value in values])[:-1]
        self.start = jnp.concatenate([jnp.ravel(value) for value in values])
        self._logp = get_jaxified_graph(model.value_vars, [model.logp()])

    def logp(self, x: Any) -> Any:
        """Log density at one point (d,)."""
        return self._logp(*self._split(x))[0]

    def constrain(self, x: Any) -> dict[str, np.ndarray]:
        """Points (n, d) as the model's variables, deterministics included, one chain."""
        names = [v.name for v in self.model.unobserved_value_vars]
        graph = get_jaxified_graph(self.model.value_vars, self.model.unobserved_value_vars)
        values = jax.jit(jax.vmap(lambda row: graph(*self._split(row))))(x)
        return {name: np.asarray(v)[None] for name, v in zip(names, values, strict=True)}

    def _split(self, x: Any) -> list[Any]:
        parts = jnp.split(x, self.ends)
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]


def _compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Compile for these arguments; return the executable and the seconds it took."""
    began = time.perf_counter()
    executable = jax.jit(function).lower(*arguments).compile()
    return executable, time.perf_counter() - began


def by_blackjax_svgd(model: pm.Model, seed: int) -> Run:
    """SVGD of BlackJAX; a gradient per particle and step. The draws are the particles."""
    began = time.perf_counter()
    density = Density(model)
    built = time.perf_counter() - began
    noise = jax.random.normal(jax.random.key(seed), (SVGD_PARTICLES, len(density.start)))
    svgd = blackjax.svgd(jax.grad(density.logp), optax.adam(SVGD_STEP))

    def loop(state: Any) -> Any:
        return jax.lax.fori_loop(0, STEPS, lambda _, now: svgd.step(now), state)

    first = svgd.init(density.start + noise, {"length_scale": jnp.asarray(1.0)})
    executable, seconds = _compiled(loop, first)
    particles = executable(first).particles
    draws = density.constrain(particles)
    return Run(draws, STEPS * SVGD_PARTICLES, built + seconds, {"draws": SVGD_PARTICLES})


def by_stein_vi(model: pm.Model, seed: int) -> Run:
    """Stein mixtures of NumPyro; a gradient per step, pair of particles and draw, as coded."""
    import numpyro

    from numpyro.contrib.einstein import RBFKernel, SteinVI
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.infer.initialization import init_to_uniform

    began = time.perf_counter()
    density = Density(model)
    dim = len(density.start)

    def program() -> None:
        normal = numpyro.distributions.Normal(jnp.zeros(dim), 1.0).to_event(1)
        z = numpyro.sample("z", normal)  # SteinVI draws from the prior, so it has to be proper
        numpyro.factor("logp", density.logp(density.start + z) - normal.log_prob(z))

    stein = SteinVI(
        program,
        AutoNormal(program, init_loc_fn=init_to_uniform()),
        numpyro.optim.Adagrad(STEIN_STEP),
        RBFKernel(),
        num_stein_particles=STEIN_PARTICLES,
        num_elbo_particles=STEIN_DRAWS,
    )
    first = stein.init(jax.random.key(seed))
    built = time.perf_counter() - began

    def loop(state: Any) -> Any:
        return jax.lax.fori_loop(0, STEPS, lambda _, now: stein.update(now)[0], state)

    executable, seconds = _compiled(loop, first)
    parameters = stein.get_params(executable(first))
    rng = np.random.default_rng(seed)
    particle = rng.integers(STEIN_PARTICLES, size=DRAWS)
    centre = np.asarray(parameters["z_auto_loc"])[particle]
    scale = np.asarray(parameters["z_auto_scale"])[particle]
    draws = density.start + centre + scale * rng.standard_normal(centre.shape)
    evaluations = STEPS * STEIN_PARTICLES**2 * STEIN_DRAWS
    return Run(density.constrain(draws), evaluations, built + seconds)

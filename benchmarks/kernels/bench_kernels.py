"""Seconds of the engine's own kernels, by pytest-benchmark.

``python -m pytest benchmarks/kernels/bench_kernels.py``; the tests' command does not collect it.
The README of ``benchmarks/`` says how to compare two commits. The target is a Gaussian that costs
next to nothing, so that a step's time is the engine's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fluids import gaussian, ill_conditioned
from threadpoolctl import threadpool_limits

from pymc_sph.fluid import interpolation, mass
from pymc_sph.fluid.density import ProbeNoise, density, draw_noise, draw_probes, log_densities
from pymc_sph.fluid.frame import frame_moment, stretch_frame
from pymc_sph.fluid.state import Fluid, new_fluid, to_unconstrained
from pymc_sph.fluid.step import LogDensity, Rates, step

SIZES = {  # d: particles, probes, full tensors; about what the defaults choose, but fixed
    2: (64, 128, True),
    10: (64, 128, True),
    90: (16, 256, False),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Give BLAS one thread, as `pymc.fit` does with the method."""
    with threadpool_limits(1, user_api="blas"):
        yield


@dataclass(frozen=True)
class Scene:
    """A fluid close to its target, and the probes of a step."""

    fluid: Fluid
    target: LogDensity
    noise: ProbeNoise
    y: np.ndarray
    own: np.ndarray


@pytest.fixture(params=SIZES, ids=lambda d: f"d={d}")
def scene(request: pytest.FixtureRequest) -> Scene:
    """Return a scene of each size."""
    d: int = request.param
    n, k, full = SIZES[d]
    rng = np.random.default_rng(d)
    mean, cov = ill_conditioned(d)
    root = np.linalg.cholesky(1.2 * cov)  # a little too wide: forces are not zero
    fluid = new_fluid(mean, root, rng.standard_normal((n, d)), full=full)
    noise = draw_noise(rng, k, d)
    y, own = draw_probes(fluid, noise)
    return Scene(fluid, gaussian(mean, cov), noise, y, own)


def test_log_densities(benchmark: Any, scene: Scene) -> None:
    """Log rho at the probes, for three widths of the kernels."""
    out = benchmark(log_densities, scene.fluid, scene.y, (0.7, 1.0, 1.4))
    assert np.isfinite(out).all()


def test_density(benchmark: Any, scene: Scene) -> None:
    """Log rho, its gradient and the responsibilities."""
    field = benchmark(density, scene.fluid, scene.y)
    np.testing.assert_allclose(field.R.sum(axis=0), 1.0)


def test_interpolation(benchmark: Any, scene: Scene) -> None:
    """Weights, the interpolated acceleration and the tensors' moment."""
    field = density(scene.fluid, scene.y)
    r = -scene.y

    def interpolate() -> tuple[np.ndarray, np.ndarray]:
        weights = interpolation.smoothing_weights(scene.fluid, field.R)
        moment = interpolation.tensor_moment(scene.fluid, field.A_inv, weights, scene.y, r)
        return interpolation.interpolate(weights, r), moment

    force, moment = benchmark(interpolate)
    assert force.shape == scene.fluid.z.shape
    assert moment.shape == scene.fluid.A.shape


def test_step(benchmark: Any, scene: Scene) -> None:
    """One whole step in the force form."""
    moved, seen = benchmark(step, scene.fluid, scene.noise, scene.target, Rates())
    assert moved is not scene.fluid
    assert np.isfinite(seen.elbo)


def test_frame_update(benchmark: Any, scene: Scene) -> None:
    """Moment and update of the frame."""
    offset = scene.y - scene.fluid.z[scene.own]

    def update() -> Fluid:
        moment = frame_moment(-0.2 * scene.y, offset)
        return stretch_frame(scene.fluid, moment, 0.1, 0.5)

    moved = benchmark(update)
    assert not np.array_equal(moved.L, scene.fluid.L)


def test_settle(benchmark: Any, scene: Scene) -> None:
    """Masses brought to rest."""
    logp = scene.target(to_unconstrained(scene.fluid, scene.y))[0]
    settled = benchmark(mass.settle, scene.fluid, scene.y, logp)
    np.testing.assert_allclose(np.exp(settled.log_m).sum(), 1.0)

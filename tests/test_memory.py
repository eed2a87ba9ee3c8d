"""Peak memory: draws, log densities, settling and steps in blocks."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from pymc_sph import mixture as mixtures
from pymc_sph.fluid import density
from pymc_sph.fluid.density import draw_noise
from pymc_sph.fluid.mass import settle
from pymc_sph.fluid.state import new_fluid
from pymc_sph.fluid.step import Rates, step
from pymc_sph.mixture import FluidMixture

NUMBER = 8


def pool(d, n_particles=8, n_fluids=2, *, full=False):
    rng = np.random.default_rng(0)
    L = np.eye(d) + 0.1 * np.tri(d)
    fluids = [
        new_fluid(np.full(d, float(i)), L, rng.standard_normal((n_particles, d)), full=full)
        for i in range(n_fluids)
    ]
    return FluidMixture(tuple(fluids), np.log(np.full(n_fluids, 1 / n_fluids)))


def peak(function):
    """Bytes at the peak of a call, above those before it, and what it returned."""
    tracemalloc.start()
    out = function()
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size, out


@pytest.mark.parametrize("full", [True, False])
def test_draws_and_their_log_density_take_little_beside_the_draws(monkeypatch, full):
    d, n = 25, 60_000
    q = pool(d, full=full)
    whole = q.sample(n, np.random.default_rng(1))
    log_q = q.log_density(whole.theta)
    monkeypatch.setattr(mixtures, "ROWS", 2**16)
    monkeypatch.setattr(density, "BLOCK", 2**16)
    size, drawn = peak(lambda: q.sample(n, np.random.default_rng(1)))
    assert size < 1.5 * d * n * NUMBER  # over 2.2 with random numbers and draws side by side
    np.testing.assert_allclose(drawn.theta, whole.theta, rtol=1e-12)
    size, found = peak(lambda: q.log_density(drawn.theta))
    assert size < 0.3 * d * n * NUMBER
    np.testing.assert_allclose(found, log_q, rtol=1e-10)
    np.testing.assert_allclose(q.log_density(drawn.theta[:9], 1), q.log_density(whole.theta[:9], 1))


def test_blocks_cover_every_row_once_and_have_the_length_of_an_engines_blocks():
    for n, d in ((0, 3), (5, 3), (10**6, 100), (300, 10**9)):
        blocks = mixtures.row_blocks(n, d)
        lengths = [len(range(n)[block]) for block in blocks]
        assert sum(lengths) == n and len(blocks) >= 1
        assert all(length % mixtures.EVEN == 0 for length in lengths[:-1])


def test_settling_full_tensors_holds_no_array_of_particles_probes_and_dimensions(monkeypatch):
    d, n, k = 12, 40, 4000
    fluid = pool(d, n, 1, full=True).fluids[0]
    rng = np.random.default_rng(2)
    y, logp = rng.standard_normal((k, d)), rng.standard_normal(k)
    expected = settle(fluid, y, logp).log_m
    monkeypatch.setattr(density, "BLOCK", 2**15)
    size, settled = peak(lambda: settle(fluid, y, logp))
    assert size < 0.8 * n * k * d * NUMBER  # two such arrays before
    np.testing.assert_allclose(settled.log_m, expected, rtol=1e-12)


def test_a_step_of_diagonal_tensors_holds_some_arrays_of_particles_and_probes_no_more():
    d, n, k = 50, 400, 400
    fluid = pool(d, n, 1).fluids[0]
    noise = draw_noise(np.random.default_rng(3), k, d)
    size, _ = peak(lambda: step(fluid, noise, lambda x: (-0.5 * np.sum(x**2, 1), -x), Rates()))
    assert size < (12 * n * k + 40 * (n + k) * d) * NUMBER


BIG = {
    "sample": (
        3.0,
        "import numpy as np, pymc as pm, pymc_sph\n"
        "with pm.Model():\n"
        "    x = pm.Normal('x', 0, 1, shape=100)\n"
        "    sph = pymc_sph.SPH(random_seed=1, paths=2, draws=400)\n"
        "approx = sph.fit(n=5, progressbar=False)\n"
        "draws = approx.sample(1_000_000, random_seed=1)\n"
        "assert draws['posterior']['x'].shape == (1, 1_000_000, 100)\n",
    ),
    "step": (
        2.0,
        "import numpy as np\n"
        "from pymc_sph.fluid.density import draw_noise\n"
        "from pymc_sph.fluid.state import new_fluid\n"
        "from pymc_sph.fluid.step import Rates, step\n"
        "rng = np.random.default_rng(0)\n"
        "z = rng.standard_normal((1000, 2000))\n"
        "fluid = new_fluid(np.full(2000, .1), 1.1 * np.eye(2000), z, full=False)\n"
        "for _ in range(2):\n"
        "    noise = draw_noise(rng, 1000, 2000)\n"
        "    fluid, seen = step(fluid, noise, lambda x: (-.5 * np.sum(x**2, 1), -x), Rates())\n"
        "assert np.isfinite(seen.elbo)\n",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BIG)
def test_peak_memory_of_a_process(name):
    limit, code = BIG[name]
    code += (
        "import resource, sys\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(peak * (1 if sys.platform == 'darwin' else 1024) / 1e9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) < limit

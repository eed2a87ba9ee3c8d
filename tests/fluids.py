"""Small fluids and targets that the engine's tests share, with brute-force formulas."""

from __future__ import annotations

import numpy as np

from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from pymc_sph.fluid.state import Fluid


def random_fluid(rng, n=4, d=2, *, full=True):
    """A fluid with nothing special about it: unequal masses, skew frame, moving."""
    A = np.eye(d) * 0.6 + 0.2 * rng.standard_normal((n, d, d))
    if not full:
        A = 0.4 + rng.random((n, d))
    log_m = rng.standard_normal(n) * 0.5
    fluid = Fluid(
        z=rng.standard_normal((n, d)),
        u=0.1 * rng.standard_normal((n, d)),
        A=A,
        log_m=log_m - logsumexp(log_m),
        mu=rng.standard_normal(d),
        L=np.eye(d) + 0.3 * rng.standard_normal((d, d)),
    )
    for name in ("z", "u", "A", "log_m", "mu", "L"):
        getattr(fluid, name).setflags(write=False)  # nothing may change a state in place
    return fluid


def factors(fluid):
    """Smoothing tensors as full factors, (N, d, d)."""
    return fluid.A if fluid.full else np.stack([np.diag(s) for s in fluid.A])


def brute_log_rho(fluid, y):
    """Log density in the frame by SciPy's normal density, a particle at a time."""
    parts = [
        m + multivariate_normal(z, A @ A.T).logpdf(y)
        for m, z, A in zip(fluid.log_m, fluid.z, factors(fluid), strict=True)
    ]
    return logsumexp(np.reshape(parts, (fluid.n_particles, len(y))), axis=0)


def gaussian(mean, cov):
    """Normalised log density and gradient of N(mean, cov)."""
    precision, log_det = np.linalg.inv(cov), np.linalg.slogdet(cov)[1]

    def target(theta):
        gap = theta - mean
        pulled = gap @ precision
        constant = -0.5 * (log_det + len(mean) * np.log(2 * np.pi))
        return constant - 0.5 * np.sum(gap * pulled, axis=1), -pulled

    return target


def ill_conditioned(d, condition=100.0, seed=0):
    """Mean and covariance of a Gaussian with this condition number, in random directions."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return rng.standard_normal(d), (axes * np.geomspace(1, condition, d)) @ axes.T


def banana(theta):
    """Log density and gradient of a bent Gaussian in two dimensions."""
    x, y = theta.T
    bent = y - 0.5 * x**2
    logp = -0.5 * x**2 - bent**2 - np.log(2 * np.pi) + 0.5 * np.log(2)
    return logp, np.stack([-x + 2 * bent * x, -2 * bent], axis=1)

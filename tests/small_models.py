"""Small PyMC models of many kinds, for the glue between PyMC and the fluid."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from pymc.blocking import DictToArrayBijection, RaveledVars


def eight_schools():
    with pm.Model(coords={"school": list("ABCDEFGH")}) as model:
        mu = pm.Normal("mu", 0, 5)
        tau = pm.HalfCauchy("tau", 5)
        z = pm.Normal("z", 0, 1, dims="school")
        theta = pm.Deterministic("theta", mu + tau * z, dims="school")
        error = pm.Data("error", [15.0, 10, 16, 11, 9, 11, 10, 18], dims="school")
        effect = [28.0, 8, -3, 7, -1, 1, 18, 12]
        pm.Normal("y", theta, error, observed=effect, dims="school")
    return model


def constrained():
    """Simplex, ordered, interval with a random bound, a potential, and a constant."""
    with pm.Model() as model:
        pm.Dirichlet("p", np.ones(3))
        ordered = pm.distributions.transforms.Ordered()
        pm.Normal("o", 0, 1, shape=3, transform=ordered, initval=[-1, 0, 1])
        low = pm.Normal("low", 0, 1)
        pm.Uniform("u", low, low + 2)
        pm.Potential("bound", -(low**2))
        pm.Deterministic("constant", pt.as_tensor(np.arange(2.0)))
        pm.Normal("y", [0.0, 1.0, 2.0], 1, observed=[0.1, np.nan, 0.3])
    return model


def gaussian_process():
    x = np.linspace(0, 1, 6)
    with pm.Model() as model:
        scale = pm.HalfNormal("scale", 1)
        cov = scale**2 * np.exp(-0.5 * (x[:, None] - x) ** 2) + 0.1 * np.eye(6)
        pm.MvNormal("y", np.zeros(6), chol=pt.linalg.cholesky(cov), observed=np.sin(x))
    return model


def as_point(model, theta):
    """One row of theta as PyMC's dictionary of value variables."""
    info = DictToArrayBijection.map(model.initial_point()).point_map_info
    return DictToArrayBijection.rmap(RaveledVars(theta, info))

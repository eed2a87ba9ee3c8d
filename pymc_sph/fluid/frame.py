"""The frame (mu, L): a linear change of coordinates that all particles share."""

from __future__ import annotations

import dataclasses

from typing import Any

from pymc_sph.fluid.forces import INVERTIBLE, bounded
from pymc_sph.fluid.state import Array, Fluid, namespace


def frame_moment(r: Array, offset: Array, n: Any = None) -> Array:
    """Symmetric part of mean_k r_k (y_k - z_own(k))', (d, d): the force on the frame.

    The mean is over `n` probes, all by default.
    """
    moment = r.T @ offset / (r.shape[0] if n is None else n)
    return 0.5 * (moment + moment.T)


def stretch_frame(fluid: Fluid, moment: Array, rate: float, bound: float) -> Fluid:
    """L <- L (I + rate M), with the particles moved so that they stay where they are.

    Positions keep their places in unconstrained space; the kernels, and with them the velocities
    in units of the kernels, stretch with the frame. The step is shortened where half its squared
    Frobenius norm is above `bound`.
    """
    if isinstance(rate, int | float) and rate == 0:  # else an argument of compiled code
        return fluid
    xp = namespace(moment)
    step = bounded(rate * moment[None], min(bound, INVERTIBLE))[0]
    change = xp.eye(fluid.dim) + step
    return dataclasses.replace(fluid, z=xp.linalg.solve(change, fluid.z.T).T, L=fluid.L @ change)

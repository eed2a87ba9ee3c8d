"""SPH interpolation: values at probes, smoothed onto the particles.

    <B>_i = sum_k (1 / K) / rho_k  B_k W_i(y_k) = (1 / (K m_i)) sum_k R_ik B_k

is the Monte Carlo estimate of the mean of B under particle i's kernel. It is self-normalised: the
divisor is sum_k R_ik, but at least half of its expectation K m_i, so that a particle that few
probes came near to is not thrown by one of them.
"""

from __future__ import annotations

from pymc_sph.fluid.density import blocks
from pymc_sph.fluid.state import Array, Fluid, namespace


def smoothing_weights(fluid: Fluid, R: Array) -> Array:
    """Weights w_ik (N, K) with <B>_i = sum_k w_ik B_k, from responsibilities (N, K).

    Columns of R may be zero: such probes are set aside and the others stand for them.
    """
    xp = namespace(R)
    n_used = xp.sum(R)
    floor = 0.5 * n_used * xp.exp(fluid.log_m)
    return R / xp.maximum(xp.sum(R, axis=1), floor + 1e-300)[:, None]


def interpolate(weights: Array, values: Array) -> Array:
    """<B>_i for values (K,) or (K, d) at the probes."""
    return weights @ values


def tensor_moment(fluid: Fluid, A_inv: Array, weights: Array, y: Array, r: Array) -> Array:
    """First moment of the acceleration within each kernel: the force on its smoothing tensor.

    For full tensors the symmetric part of <e (A_i' r)'>_i, (N, d, d), with e = A_i^-1 (y - z_i);
    for diagonal ones <r (y - z_i)>_i, (N, d). Half of it is the derivative of -F / m_i with
    respect to a relative change M of A_i -> A_i (I + M / 2).
    """
    if not fluid.full:
        return weights @ (r * y) - fluid.z * (weights @ r)
    # expanded: one matrix product in place of N; about the mean, to lose fewer digits
    xp, d = namespace(r), fluid.dim
    centre, moment = xp.mean(fluid.z, axis=0), 0.0
    for block in blocks(fluid, len(y), d * d):
        outer = (y[block] - centre)[:, :, None] * r[block][:, None, :]
        moment = moment + weights[:, block] @ xp.reshape(outer, (-1, d * d))
    own = (fluid.z - centre)[:, :, None] * (weights @ r)[:, None, :]
    moment = A_inv @ (xp.reshape(moment, (-1, d, d)) - own)
    moment = moment @ fluid.A
    return 0.5 * (moment + moment.mT)

"""The Gaussian smoothing kernel W(y - z; A), normalised in d dimensions.

The only room that knows whether a smoothing tensor is a full factor A_i (N, d, d) or a diagonal
(N, d). A full tensor's functions hold an (N, d, K) array: callers block over the probes K.
"""

from __future__ import annotations

import math

from pymc_sph.fluid.state import Array, namespace

LOG_2PI = math.log(2 * math.pi)


def inverse(A: Array) -> Array:
    """Inverse of each smoothing tensor, in the same layout."""
    return namespace(A).linalg.inv(A) if A.ndim == 3 else 1.0 / A


def log_det(A: Array) -> Array:
    """log |det A_i|, (N,)."""
    xp = namespace(A)
    return xp.linalg.slogdet(A)[1] if A.ndim == 3 else xp.sum(xp.log(A), axis=1)


def stretch(A: Array, e: Array) -> Array:
    """A_i e_i for vectors e (N, d): from units of the kernel to the frame."""
    return (A @ e[:, :, None])[:, :, 0] if A.ndim == 3 else A * e


def pull(A: Array, f: Array) -> Array:
    """A_i' f_i for covectors f (N, d): a force of the frame in units of the kernel."""
    return (f[:, None, :] @ A)[:, 0, :] if A.ndim == 3 else A * f


def whiten(A_inv: Array, z: Array, y: Array) -> Array:
    """e_ik = A_i^-1 (y_k - z_i) for full tensors, (N, d, K).

    One matrix product over all particles; about their mean, to lose fewer digits.
    """
    xp = namespace(z)
    (n, d), centre = z.shape, xp.mean(z, axis=0)
    e = xp.reshape(xp.reshape(A_inv, (n * d, d)) @ (y - centre).T, (n, d, -1))
    return e - stretch(A_inv, z - centre)[:, :, None]


def squared_distances(A_inv: Array, z: Array, y: Array, e: Array = None) -> Array:
    """|A_i^-1 (y_k - z_i)|^2 of every particle and probe, (N, K); e as from `whiten`."""
    xp = namespace(z)
    if A_inv.ndim == 3:
        e = whiten(A_inv, z, y) if e is None else e
        return xp.sum(e * e, axis=1)
    # expanded, so that no (N, K, d) array is needed; about the mean, to lose fewer digits
    centre = xp.mean(z, axis=0)
    z, y, precision = z - centre, y - centre, A_inv**2
    square = (z * z * precision) @ xp.ones(z.shape[1])
    cross = (z * precision) @ y.T
    return xp.clip(precision @ (y * y).T - 2 * cross + square[:, None], 0.0, None)


def log_kernel(A: Array, A_inv: Array, z: Array, y: Array, e: Array = None) -> Array:
    """Log W(y_k - z_i; A_i), (N, K); e as from `whiten`."""
    normaliser = log_det(A) + 0.5 * z.shape[1] * LOG_2PI
    return -0.5 * squared_distances(A_inv, z, y, e) - normaliser[:, None]


def pull_back(A_inv: Array, z: Array, y: Array, weights: Array, e: Array = None) -> Array:
    """Sum over particles of w_ik (A_i A_i')^-1 (y_k - z_i), (K, d), for weights (N, K).

    With the responsibilities as weights this is minus the gradient of log rho at the probes.
    """
    xp = namespace(z)
    if A_inv.ndim == 3:
        e = whiten(A_inv, z, y) if e is None else e
        n, d = z.shape
        weighted = xp.reshape(weights[:, None, :] * e, (n * d, -1))
        return (xp.reshape(A_inv, (n * d, d)).T @ weighted).T
    precision = A_inv**2
    return y * (weights.T @ precision) - weights.T @ (z * precision)

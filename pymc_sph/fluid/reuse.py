"""Probes of earlier steps, used again with their importance weights.

A fluid moves little in a step, so that log densities that cost much can serve several steps. The
batches of the last H steps together are a sample of the mixture of the H fluids that drew them,
and the weight of a probe is the density of the current fluid over that of the mixture (the balance
heuristic of Veach and Guibas 1995; "deterministic mixture" weights in Owen and Zhou 2000). These
weights are at most H, so that no single old probe can dominate.
"""

from __future__ import annotations

from dataclasses import dataclass

from pymc_sph.fluid.density import log_density
from pymc_sph.fluid.state import Array, Fluid, log_det_frame, namespace, to_frame

BATCHES = 8
"""Batches kept. On Gaussians, a banana and a funnel eight gave the accuracy of four times as many
new probes; more were no better, and cost more than they saved: each batch needs the density of
every fluid in memory."""


@dataclass(frozen=True)
class Memory:
    """The batches of the last steps, oldest first.

    Attributes
    ----------
    fluids : tuple of Fluid
        The fluid that drew each batch.
    theta : tuple of (K, d)
        The probes, in unconstrained space.
    logp : tuple of (K,)
        Their log densities; -inf where p is zero, another non-finite number where it is unknown.
    log_q : tuple of tuple of (K,)
        ``log_q[b][a]`` is the log density of fluid a at the probes of batch b.
    """

    fluids: tuple[Fluid, ...] = ()
    theta: tuple[Array, ...] = ()
    logp: tuple[Array, ...] = ()
    log_q: tuple[tuple[Array, ...], ...] = ()

    def add(self, fluid: Fluid, theta: Array, logp: Array) -> Memory:
        """Return a memory with one more batch, without the oldest one if there are too many."""
        keep = slice(max(0, len(self.fluids) + 1 - BATCHES), None)
        fluids = (*self.fluids[keep], fluid)
        old = [
            (*row[keep], _log_q(fluid, points))
            for row, points in zip(self.log_q[keep], self.theta[keep], strict=True)
        ]
        new = tuple(_log_q(one, theta) for one in fluids)
        return Memory(fluids, (*self.theta[keep], theta), (*self.logp[keep], logp), (*old, new))

    def recall(self) -> tuple[Array, Array, Array]:
        """All probes, as if the last fluid had drawn them.

        Returns
        -------
        theta : (M, d)
        logp : (M,)
        weights : (M,)
            Importance weights, about 1 on average; 0 where the log density is unknown.
        """
        xp = namespace(self.logp[-1])
        log_q = xp.stack(
            [xp.concat([row[a] for row in self.log_q]) for a in range(len(self.fluids))]
        )
        top = xp.max(log_q, axis=0)
        mixture = top + xp.log(xp.mean(xp.exp(log_q - top), axis=0))
        logp = xp.concat(self.logp)
        known = xp.isfinite(logp) | (logp == -float("inf"))
        weights = xp.where(known, xp.exp(log_q[-1] - mixture), 0.0)
        return xp.concat(self.theta), logp, weights


def _log_q(fluid: Fluid, theta: Array) -> Array:
    """Log density of a fluid at points (K, d) of the unconstrained space."""
    return log_density(fluid, to_frame(fluid, theta)) - log_det_frame(fluid)

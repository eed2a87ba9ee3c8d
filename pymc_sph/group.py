"""The fluid as a group of a PyMC approximation: its density q as a symbolic graph."""

from __future__ import annotations

import math

from typing import TYPE_CHECKING, Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from pymc.variational.approximations import EmpiricalGroup
from pymc.variational.opvi import node_property
from pytensor.tensor.blockwise import Blockwise

from pymc_sph.history import pack
from pymc_sph.idata import PYMC_5

if PYMC_5:
    from pytensor.tensor.nlinalg import SLogDet
else:
    from pytensor.tensor.linalg import SLogDet

if TYPE_CHECKING:
    from pymc_sph.mixture import FluidMixture


class FluidGroup(EmpiricalGroup):
    """All free variables of a model, distributed as a mixture of Gaussian kernels.

    The kernel of particle i has mean ``histogram[i]`` and the factor ``L A_i``, where L is the
    frame of its fluid. Sizes are not fixed in the graphs: they stay valid when a fit goes on.
    """

    # Not registered with PyMC (`@Group.register`): two families with one name or one set of
    # parameters are an error there, and nobody builds this group by its name.
    has_logq = True
    short_name = "fluid"

    def create_shared_params(
        self, trace: Any = None, size: Any = None, jitter: float = 1, start: Any = None
    ) -> dict[str, Any]:
        """Return the parameters before a fit: one particle at the origin."""
        d = self.ddim
        full = self._kwargs.get("full", True)
        values = {
            "histogram": np.zeros((1, d)),
            "tensors": np.eye(d)[None] if full else np.ones((1, d)),
            "frames": np.eye(d)[None],
            "weights": np.ones(1),
            "fluid": np.zeros(1, dtype="int64"),
        }
        return {
            name: pytensor.shared(value, name, shape=(None,) * value.ndim)
            for name, value in values.items()
        }

    @property
    def params(self) -> list[Any]:
        """Shared variables that change during a fit, positions first."""
        return [self.params_dict[k] for k in ("histogram", "weights", "tensors", "frames")]

    def set_mixture(self, mixture: FluidMixture) -> None:
        """Write a mixture into the shared variables.

        Where the mixture has lost particles since the last call, rows of weight 0 take their
        place: callbacks compare parameters between steps and need them to keep their shape.
        """
        values = pack(mixture)
        tensors = self.params_dict["tensors"]
        if tensors.type.ndim != values["tensors"].ndim:
            raise ValueError("The form of the smoothing tensor cannot change: make a new SPH().")
        missing = len(self.params_dict["histogram"].get_value(borrow=True)) - len(values["weights"])
        for name, value in values.items():
            if missing > 0 and name != "frames":
                last = value[-1:] * (0 if name == "weights" else 1)
                value = np.concatenate([value, np.repeat(last, missing, axis=0)])
            self.params_dict[name].set_value(value)

    def randidx(self, size: Any = None) -> Any:
        """Draw indices (size,) of particles by their weights."""
        size = pt.atleast_1d(pt.as_tensor(1 if size is None else size))
        below = pt.cumsum(self.params_dict["weights"])
        # minimum: rounding can leave the last sum below the largest uniform number
        index = pt.searchsorted(below, _random("uniform", size), side="right")
        return pt.minimum(index, below.shape[0] - 1)

    def _moved(self, offset: Any, fluid: Any) -> Any:
        """Offsets (s, d) in frames as offsets in unconstrained space.

        Every frame is applied to every offset: a gather of (s, d, d) frames would not fit into
        memory for large d.
        """
        moved = pt.matmul(offset[None], self.params_dict["frames"].transpose(0, 2, 1))
        return moved[fluid, pt.arange(offset.shape[0])]

    def _new_initial(self, size: Any, deterministic: Any, more_replacements: Any = None) -> Any:
        """Draws (size, d) of q; the mean of q where `deterministic`."""
        size = pt.as_tensor(1 if size is None else size)
        dtype = self.symbolic_initial.dtype  # PyTensor's floatX
        center = pt.repeat(self.mean[None], size, axis=0).astype(dtype)
        if not isinstance(deterministic, pt.TensorVariable) and deterministic:
            return center
        p = self.params_dict
        index = self.randidx(size)
        noise = _random("normal", (size, self.ddim))
        tensors = p["tensors"][index]
        if tensors.ndim == 3:
            offset = pt.matmul(tensors, noise[:, :, None])[:, :, 0]
        else:
            offset = tensors * noise
        draws = p["histogram"][index] + self._moved(offset, p["fluid"][index])
        draws = draws.astype(dtype)
        if isinstance(deterministic, pt.TensorVariable):
            return pt.switch(deterministic, center, draws)
        return draws

    @node_property
    def symbolic_logq_not_scaled(self) -> Any:
        """Log density (s,) of q at the draws, unconstrained space."""
        p = self.params_dict
        dim = self.ddim
        inverse = pt.linalg.inv(p["frames"])
        gap = self.symbolic_random[None] - p["histogram"][:, None]
        standard = pt.matmul(gap, inverse[p["fluid"]].transpose(0, 2, 1))
        if p["tensors"].ndim == 3:
            standard = pt.matmul(standard, pt.linalg.inv(p["tensors"]).transpose(0, 2, 1))
            log_det = _log_abs_det(p["tensors"])
        else:
            standard = standard / p["tensors"][:, None]
            log_det = pt.log(p["tensors"]).sum(-1)
        log_det = log_det + _log_abs_det(p["frames"])[p["fluid"]]
        log_kernel = -0.5 * (standard**2).sum(-1) - 0.5 * dim * math.log(2 * math.pi)
        return pt.logsumexp(log_kernel + (pt.log(p["weights"]) - log_det)[:, None], axis=0)

    @node_property
    def mean(self) -> Any:
        """Mean (d,) of q, unconstrained space."""
        return self.params_dict["weights"] @ self.histogram

    @node_property
    def cov(self) -> Any:
        """Covariance (d, d) of q, unconstrained space."""
        p = self.params_dict
        gap = self.histogram - self.mean
        between = (gap * p["weights"][:, None]).T @ gap
        frames, tensors = p["frames"], p["tensors"]
        if tensors.ndim == 3:
            local = pt.matmul(tensors, tensors.transpose(0, 2, 1)) * p["weights"][:, None, None]
            scaled = pt.matmul(frames, pt.zeros_like(frames)[p["fluid"]].inc(local))
        else:
            local = tensors**2 * p["weights"][:, None]
            scaled = frames * pt.zeros_like(frames[:, 0])[p["fluid"]].inc(local)[:, None]
        return between + pt.matmul(scaled, frames.transpose(0, 2, 1)).sum(0)


def _random(name: str, size: Any) -> Any:
    """Draws of a standard distribution, with a random stream of their own."""
    stream = pytensor.shared(np.random.default_rng())
    if PYMC_5:
        return getattr(pt.random, name)(size=size, rng=stream)
    return getattr(pt.random, name)(size=size, rng=stream, return_next_rng=True)[1]


def _log_abs_det(matrices: Any) -> Any:
    """Log absolute determinants of (n, d, d) matrices.

    `pt.linalg.slogdet` of a batch fails in PyTensor 2.38 (its rewrite expects one matrix).
    """
    return Blockwise(SLogDet())(matrices)[1]

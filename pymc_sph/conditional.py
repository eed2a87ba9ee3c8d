"""Log joint density as a function of some variables, the others held where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pytensor

from numpy.typing import NDArray
from pymc.pytensorf import compile as pymc_compile
from pymc.pytensorf import find_rng_nodes
from pytensor.graph.replace import clone_replace

from pymc_sph.graph import join_value_vars, lower_dims, model_logp
from pymc_sph.target import Target

Array = NDArray[np.float64]
Point = Mapping[str, Any]


class Logp(Protocol):
    """Log joint density at points of some of a model's variables.

    Attributes
    ----------
    others : list of str
        Value variables that the points do not hold.
    random : bool
        Whether the density is random (``pm.Minibatch``).
    """

    others: list[str]
    random: bool

    def __call__(self, theta: Array, point: Point) -> Array:
        """Evaluate at theta (n, d), the other variables as in `point`; returns (n,)."""


class JointLogp:
    """The compiled target of a fit, which has all variables: nothing to compile."""

    def __init__(self, target: Target) -> None:
        self.others: list[str] = []
        self.random = target.random
        self._target = target

    @staticmethod
    def serves(approx: Any, model: Any) -> bool:
        """Whether the approximation has a target for just this model."""
        target = approx._target
        return isinstance(target, Target) and target.serves(model)

    def __call__(self, theta: Array, point: Point) -> Array:
        """Evaluate at theta (n, d)."""
        return self._target.logp(theta)


class ConditionalLogp:
    """Log joint density of a model, compiled as a function of some of its value variables.

    Parameters
    ----------
    model : pymc.Model
    values : sequence of Variable
        Value variables that theta holds, in this order. They may be all there are.
    compile_kwargs : dict, optional
        Arguments of `pymc.compile`.
    """

    def __init__(
        self,
        model: Any,
        values: Sequence[Any],
        compile_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        point = model.initial_point(0)
        others = [value for value in model.value_vars if value not in values]
        self.others = [value.name for value in others]
        self._held = [pytensor.shared(point[v.name], v.name, shape=v.type.shape) for v in others]
        [logp], x = join_value_vars(model, point, [model_logp(model)], values)
        pairs = zip(others, self._held, strict=True)
        replace = {value: value.type.filter_variable(held) for value, held in pairs}
        logp = lower_dims(clone_replace(logp, replace))
        self.random = bool(find_rng_nodes([logp]))
        with model:  # says whether the parameters of distributions are checked
            self._function = pymc_compile([x], logp, **dict(compile_kwargs or {}))

    def __call__(self, theta: Array, point: Point) -> Array:
        """Evaluate at theta (n, d), the other variables as in `point`."""
        for name, held in zip(self.others, self._held, strict=True):
            held.set_value(np.asarray(point[name], held.type.dtype))
        return np.array([self._evaluate(row) for row in theta])

    def _evaluate(self, theta: Array) -> float:
        try:
            return float(self._function(theta))
        except np.linalg.LinAlgError:  # a covariance that is none, far out: no density there
            return -np.inf

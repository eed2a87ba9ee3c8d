"""The log density of a PyMC model as one PyTensor graph of one unconstrained vector."""

from __future__ import annotations

import dataclasses
import logging
import sys

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from numpy.typing import NDArray
from pymc.model import Model
from pymc.pytensorf import find_rng_nodes
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.gradient import DisconnectedInputError, NullTypeGradError
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.op import Op
from pytensor.graph.replace import clone_replace
from pytensor.graph.rewriting.utils import rewrite_graph
from pytensor.graph.traversal import applys_between, graph_inputs
from pytensor.tensor.type import TensorType

from pymc_sph.errors import DiscreteVariableError, GradientError, NoFreeVariablesError
from pymc_sph.links import see
from pymc_sph.minibatch import Source, on_all_data, with_buffers

logger = logging.getLogger(__name__)

Point = dict[str, NDArray[Any]]

LARGE_CONSTANT = 1_000_000
"""Bytes above which Numba refuses to keep code with such a constant on disk."""


@dataclass(frozen=True)
class LogpGraph:
    """Joint log density and gradient as functions of the joined unconstrained vector `x`.

    The gradient is None in the pressure form. With ``pm.Minibatch`` the graphs are those of one
    batch, which the `sources` draw, and `whole` builds those of the whole data.
    """

    x: Variable
    logp: Variable
    grad: Variable | None
    sources: tuple[Source, ...] = ()
    whole: Callable[[], LogpGraph] | None = None

    @property
    def outputs(self) -> list[Variable]:
        """Log density and, where there is one, its gradient."""
        return [self.logp] if self.grad is None else [self.logp, self.grad]

    @property
    def random(self) -> bool:
        """Whether the density is random: ``pm.Minibatch``, or random numbers in the graph."""
        return bool(self.sources or find_rng_nodes(self.outputs))


def shared_variables(outputs: Sequence[Variable]) -> list[SharedVariable]:
    """Shared variables of a graph, such as its data."""
    return [v for v in graph_inputs(outputs) if isinstance(v, SharedVariable)]


class SharedData:
    """The shared variables of a graph: whether `pm.set_data` has given them new values."""

    def __init__(self, outputs: Sequence[Variable]) -> None:
        self._variables = shared_variables(outputs)
        self._seen = self._values()

    def changed(self) -> bool:
        """Whether one has another value than at the last call."""
        before, self._seen = self._seen, self._values()
        return any(now is not then for now, then in zip(self._seen, before, strict=True))

    def _values(self) -> list[Any]:
        return [v.get_value(borrow=True) for v in self._variables]


def check_free_variables(model: Model) -> None:
    """Raise when `model` has nothing to fit, or something that has no gradient.

    Raises
    ------
    NoFreeVariablesError, DiscreteVariableError
    """
    if not model.free_RVs:
        raise NoFreeVariablesError(
            "The model has no free variables, so there is nothing to fit: every variable is "
            "observed or deterministic. Add a random variable without `observed`, or use "
            "pm.sample_prior_predictive to simulate from the model."
        )
    discrete = [model.values_to_rvs[value].name for value in model.discrete_value_vars]
    if discrete:
        raise DiscreteVariableError(
            f"Discrete variables are not supported by pymc-sph: {', '.join(discrete)}. "
            "Sum them out of the model (pm.Mixture, or pymc_extras.marginalize), or use pm.sample, "
            "which combines samplers."
        )


def join_value_vars(
    model: Model,
    point: Point,
    outputs: Sequence[Variable],
    values: Sequence[Variable] | None = None,
) -> tuple[list[Variable], Variable]:
    """Rewrite `outputs` as functions of one float64 vector, the value variables joined.

    Parameters
    ----------
    model : pymc.Model
    point : dict
        A value per value variable; only the shapes matter.
    outputs : sequence of Variable
        Graphs of the model's value variables.
    values : sequence of Variable, optional
        Value variables to join, ``model.value_vars`` by default; others stay as they are.

    Returns
    -------
    outputs : list of Variable
    x : Variable
        Vector of known length; coordinates in the order of `values`.
    """
    values = model.value_vars if values is None else values
    sizes = [point[value.name].size for value in values]
    x = TensorType("float64", shape=(sum(sizes),))("theta")
    replace: dict[Variable, Variable] = {}
    stop = 0
    for value, size in zip(values, sizes, strict=True):
        start, stop = stop, stop + size
        part = x[start:stop].reshape(point[value.name].shape).astype(value.dtype)
        replace[value] = value.type.filter_variable(part)
    # A clone, because rewriting works in place and must not touch the user's model.
    return [clone_replace(out, replace, rebuild_strict=False) for out in outputs], x


def model_logp(model: Model, *, sum: bool = True) -> Any:
    """Joint log density of `model` with the Jacobian, as a graph of its value variables."""
    # pm.sample_posterior_predictive of PyMC 5.28 appends to model.observed_RVs; logp refuses
    # duplicates.
    factors = [*dict.fromkeys(model.basic_RVs), *model.potentials]
    return model.logp(factors, sum=sum)


def build_graph(model: Model, point: Point, formulation: str = "auto") -> LogpGraph:
    """Build the graphs of log density and gradient; compiles nothing.

    Parameters
    ----------
    model : pymc.Model
    point : dict
        A value per value variable; only the shapes matter.
    formulation : {"auto", "force", "pressure"}
        With "pressure" there is no gradient, with "auto" only if it can be built.

    Raises
    ------
    GradientError
        An Op of the model has no gradient, and the force form was asked for; or the log density
        is random, and the pressure form is needed.
    """
    logp, sources = with_buffers(model_logp(model))
    graph = _finish(model, point, logp, formulation)
    if sources:
        whole = partial(_on_all_data, model, point)
        graph = dataclasses.replace(graph, sources=sources, whole=whole)
    if graph.grad is None and graph.random:
        raise GradientError(
            "The log density draws random numbers (pm.Minibatch, pm.Simulator), and the pressure "
            "form compares values at different parameters, which then differ by chance: use a "
            "model with gradient, without Minibatch, or pm.sample_smc for a pm.Simulator."
        )
    return graph


def _on_all_data(model: Model, point: Point) -> LogpGraph:
    """Graphs of a model with ``pm.Minibatch`` for its whole data."""
    whole = on_all_data(model)
    by_name = {value.name: value for value in whole.value_vars}
    values = [by_name[value.name] for value in model.value_vars]  # a copy may order them anew
    return _finish(whole, point, model_logp(whole), "force", values)


def _finish(
    model: Model,
    point: Point,
    logp: Variable,
    formulation: str,
    values: Sequence[Variable] | None = None,
) -> LogpGraph:
    """Graphs of log density and gradient, from the log density of the value variables."""
    check = (
        "local_check_parameter_to_ninf_switch"
        if model.check_bounds
        else "local_remove_check_parameter"
    )
    [logp], x = join_value_vars(model, point, [logp], values)
    # Parameter checks must become a switch *before* the graph is batched: vectorize_graph turns
    # the condition of a check into one condition on the whole batch, and one invalid row would
    # make every row -inf.
    logp = lower_dims(logp)
    logp = rewrite_graph(logp, include=("canonicalize", "stabilize", check))
    logp = _share_large_constants(logp.astype("float64"))
    grad = None if formulation == "pressure" else _gradient(model, logp, x, formulation == "force")
    return LogpGraph(x, logp, grad)


def _gradient(model: Model, logp: Variable, x: Variable, needed: bool) -> Variable | None:
    """Gradient of `logp`; None, or an error where it is needed, if an Op has none."""
    try:
        return pt.grad(logp, x)
    except DisconnectedInputError:
        free = ", ".join(rv.name for rv in model.free_RVs)
        raise GradientError(
            f"The log density does not depend on the free variables {free}: their priors are flat, "
            "and nothing observed depends on them, so there is no posterior. Give them proper "
            "priors."
        ) from None
    except (NotImplementedError, NullTypeGradError) as err:
        culprits = _culprits(logp, x)
        if needed:
            raise GradientError(
                f"The log density of the model has no gradient because of {culprits}: {err}\n"
                "Give the Op a `pullback` (`grad`) method, write it with PyTensor operations, or "
                "use formulation='pressure', which needs no gradient."
            ) from err
        message = "No gradient because of %s: the fit takes the pressure form.%s"
        logger.info(message, culprits, see("no-gradient"))
        return None


def lower_dims(graph: Variable) -> Variable:
    """Write a graph with named dimensions (``pymc.dims``) as one of ordinary tensors."""
    # Asking for the rewrite before it exists would reserve its name, and ``import pymc.dims``
    # would fail from then on.
    if "pytensor.xtensor" not in sys.modules:
        return graph
    # Canonicalised, to clear away the views that stay between the tensors.
    return rewrite_graph(graph, include=("lower_xtensor", "canonicalize"))


def _share_large_constants(graph: Variable) -> Variable:
    """Turn large constants (data) into shared variables, that is, arguments of the compiled code.

    Code with a large constant in it cannot be kept on disk, and Numba warns about it.
    """
    shared = {
        var: pytensor.shared(var.data, name=var.name, shape=var.type.shape, borrow=True)
        for var in graph_inputs([graph])
        if isinstance(var, Constant) and getattr(var.data, "nbytes", 0) >= LARGE_CONSTANT
    }
    return clone_replace(graph, shared) if shared else graph


def _culprits(logp: Variable, x: Variable) -> str:
    """Names of the Ops between `x` and `logp` that define no gradient."""
    names: dict[str, None] = {}
    for node in applys_between([x], [logp]):
        op = type(node.op)
        methods = ("grad", "L_op", "pullback")
        if all(getattr(op, name, None) is getattr(Op, name, None) for name in methods):
            names[f"the Op {op.__name__}"] = None
    return ", ".join(names) or "one of its Ops"


def coordinate_labels(model: Model, point: Point) -> list[str]:
    """One label per coordinate of the unconstrained vector, such as ``theta[3]``."""
    labels = []
    for value in model.value_vars:
        for index in np.ndindex(point[value.name].shape):
            suffix = f"[{', '.join(map(str, index))}]" if index else ""
            labels.append(f"{value.name}{suffix}")
    return labels


def ravel_point(model: Model, point: Point) -> NDArray[np.float64]:
    """Join a point's values in the order of ``model.value_vars``."""
    parts = [np.ravel(point[value.name]) for value in model.value_vars]
    return np.concatenate(parts).astype(np.float64)

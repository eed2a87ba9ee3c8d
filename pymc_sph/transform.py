"""From unconstrained points to the variables a user sees."""

from __future__ import annotations

import logging
import time

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt

from numpy.typing import ArrayLike, NDArray
from pymc.initial_point import make_initial_point_fn
from pymc.model import Model
from pymc.pytensorf import compile as pymc_compile
from pymc.util import get_default_varnames
from pytensor.graph.basic import Variable
from pytensor.graph.replace import vectorize_graph

from pymc_sph.graph import join_value_vars, lower_dims, ravel_point
from pymc_sph.links import see
from pymc_sph.process import graphs

logger = logging.getLogger(__name__)

BLOCK_ELEMENTS = 2**20
"""Numbers per block of output (8 MiB): bounds the memory of the intermediate results."""

MODE = "FAST_COMPILE"
"""These graphs run a few times on large batches: compiling them would cost more than it saves."""


@dataclass(frozen=True)
class Transform:
    """Map from unconstrained points to named variables; made by `compile_transform`.

    Attributes
    ----------
    names : tuple of str
        Variables of the result, in order.
    shapes : tuple of tuple of int
        Shape of each variable, without the axis of the draws, when this was compiled.
    dim : int
        Number of unconstrained coordinates.
    compile_time : float
        Seconds it took to build and compile.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dim: int
    function: Callable[[NDArray[np.float64]], list[NDArray[Any]]]
    compile_time: float = 0.0

    def __call__(self, theta: ArrayLike) -> dict[str, NDArray[Any]]:
        """Transform a batch.

        Parameters
        ----------
        theta : array_like, shape (n, d)
            Points in unconstrained space.

        Returns
        -------
        variables : dict of str to ndarray, shape (n, *shape)

        Raises
        ------
        ValueError
            `theta` does not have shape (n, d).
        """
        theta = np.ascontiguousarray(theta, dtype=np.float64)
        if theta.ndim != 2 or theta.shape[1] != self.dim:
            raise ValueError(f"theta must have shape (n, {self.dim}), got {theta.shape}.")
        with graphs():  # a compiled function serves one thread at a time
            return self._in_blocks(theta)

    def chains(self, theta: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Transform points (..., d): name to array (..., *shape)."""
        flat = self(theta.reshape(-1, theta.shape[-1]))
        return {name: x.reshape(*theta.shape[:-1], *x.shape[1:]) for name, x in flat.items()}

    def _in_blocks(self, theta: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        n = len(theta)
        # a graph may not take an empty batch: the shapes are those of any row
        first = self.function(theta[: self.block_rows] if n else np.zeros((1, self.dim)))
        # the shapes of these, not `shapes`: pm.set_data may have changed the length of some
        out = [np.empty((n, *part.shape[1:]), part.dtype) for part in first]
        for start in range(0, n, self.block_rows):
            rows = slice(start, start + self.block_rows)
            parts = self.function(theta[rows]) if start else first
            for whole, part in zip(out, parts, strict=True):
                whole[rows] = part
        return dict(zip(self.names, out, strict=True))

    @property
    def block_rows(self) -> int:
        """Rows per block."""
        row = self.dim + sum(int(np.prod(shape)) for shape in self.shapes)
        return max(1, BLOCK_ELEMENTS // row)


@graphs()
def compile_transform(
    model: Model, include_transformed: bool = False, names: Sequence[str] | None = None
) -> Transform:
    """Build the map from unconstrained points to free variables and deterministics.

    Parameters
    ----------
    model : pymc.Model
    include_transformed : bool
        Also return the unconstrained values (``tau_log__``).
    names : sequence of str, optional
        Return these variables alone.

    Returns
    -------
    Transform
    """
    began = time.perf_counter()
    point = make_initial_point_fn(model=model)(0)
    if names is None:
        variables = get_default_varnames(model.unobserved_value_vars, include_transformed)
        names = [var.name for var in variables]
    by_name = {var.name: var for var in model.unobserved_value_vars}
    outputs = [_as_tensor(by_name[name]) for name in names]
    outputs, x = join_value_vars(model, point, outputs)
    outputs = [lower_dims(out) for out in outputs]
    theta = ravel_point(model, point)[None, :]
    try:
        function = _batched(outputs, x)
        example = function(theta)
    except Exception as err:  # some Scans cannot be batched
        message = "The transform cannot be batched (%s); looping over the draws.%s"
        logger.info(message, err, see("a-slower-engine"))
        function = _row_by_row(outputs, x)
        example = function(theta)
    return Transform(
        names=tuple(names),
        shapes=tuple(value.shape[1:] for value in example),
        dim=theta.shape[1],
        function=function,
        compile_time=time.perf_counter() - began,
    )


def _as_tensor(var: Variable) -> Variable:
    """Drop the named dimensions of a ``pymc.dims`` variable."""
    return var.values if type(var.type).__name__ == "XTensorType" else var


def _batched(
    outputs: Sequence[Variable], x: Variable
) -> Callable[[NDArray[np.float64]], list[NDArray[Any]]]:
    """Compile the outputs for a batch of points."""
    batch = pt.matrix("theta", dtype="float64", shape=(None, x.type.shape[0]))
    ndims = [out.type.ndim for out in outputs]
    compiled = pymc_compile([batch], vectorize_graph(list(outputs), {x: batch}), mode=MODE)

    def function(theta: NDArray[np.float64]) -> list[NDArray[Any]]:
        results = []
        for value, ndim in zip(compiled(theta), ndims, strict=True):
            value = np.asarray(value)
            if value.ndim == ndim:  # the same in every draw: it does not depend on theta
                value = np.broadcast_to(value, (len(theta), *value.shape))
            results.append(value)
        return results

    return function


def _row_by_row(
    outputs: Sequence[Variable], x: Variable
) -> Callable[[NDArray[np.float64]], list[NDArray[Any]]]:
    """Compile the outputs for one point, called on one row after the other."""
    compiled = pymc_compile([x], list(outputs), mode=MODE)

    def function(theta: NDArray[np.float64]) -> list[NDArray[Any]]:
        rows = [compiled(row) for row in theta]
        return [
            np.stack([np.asarray(value) for value in values]) for values in zip(*rows, strict=True)
        ]

    return function

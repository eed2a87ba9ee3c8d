"""The engine of ``backend="jax"``: the log density as a JAX function, and the steps with it.

PyTensor writes the graph as JAX code, one row at a time, and JAX batches it. All numbers are
float64, whatever the process has chosen for JAX: PyTensor sets JAX's global option when it loads
its JAX code, and here every call says it again for itself.
"""

from __future__ import annotations

import itertools
import os

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray
from pytensor.compile.mode import get_mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import clone_replace
from pytensor.link.jax.dispatch import jax_funcify
from pytensor.tensor import constant

from pymc_sph.engines import NotRandom
from pymc_sph.errors import BackendError
from pymc_sph.fluid.compiled import Stepper, mesh_of, rowwise
from pymc_sph.graph import LogpGraph, shared_variables
from pymc_sph.mixture import PooledField

Array = NDArray[np.float64]

ROWS = 1024
"""Rows of a batch in one call of the compiled density, at most."""
BLOCK_BYTES = {"cpu": 1 << 26}
"""Bytes that the largest temporary array of a block of rows may have, by platform."""
OTHER_BLOCK_BYTES = 1 << 30
REMEDY = "use backend=None (Numba), which takes every model"

jax.tree_util.register_dataclass(PooledField, data_fields=["parts"], meta_fields=[])


def devices() -> tuple[Any, ...]:
    """Devices to spread the probes over: all accelerators, or CPU devices up to the cores.

    CPU devices are simulated (``XLA_FLAGS=--xla_force_host_platform_device_count``), and
    ``pymc.sampling.jax`` asks for a hundred.
    """
    found = jax.devices()
    return tuple(found[: os.cpu_count()] if found[0].platform == "cpu" else found)


class JaxEngine(NotRandom):
    """The log density of a graph, compiled by JAX for batches, and the stepper that goes with it.

    Shared variables (data) are arguments of the compiled code, so that ``pm.set_data`` is
    honoured; whole numbers among them may be shapes, which JAX compiles in: the code is built
    again when they change.

    Raises
    ------
    BackendError
        If JAX cannot run the graph; the message names the Op and the remedy.
    """

    name = "jax"

    def __init__(self, graph: LogpGraph, point: Array) -> None:
        if graph.random:
            raise BackendError(
                "backend='jax' takes no density with random numbers (pm.Minibatch): give the whole "
                f"data, or {REMEDY}."
            )
        self._graph = graph
        shared = shared_variables(graph.outputs)
        self._shapes = [v for v in shared if v.type.ndim == 0 and "int" in str(v.type.dtype)]
        self._shared = [v for v in shared if v not in self._shapes]
        self._devices = devices()
        self._held: dict[Mesh | None, tuple[list[Any], tuple[Any, ...]]] = {}
        self._compiled_in: tuple[int, ...] | None = None
        self._stepper: Stepper | None = None
        try:
            self(point[None, :])
        except Exception as err:
            raise BackendError(
                f"JAX cannot run the log density of this model: {err}\nFor this model, {REMEDY}."
            ) from err

    def __call__(self, theta: Array) -> tuple[Array, Array | None, NDArray[np.bool_]]:
        """Evaluate a batch; no row raises an error here."""
        n, dim = theta.shape
        logp, grad = np.empty(n), np.empty((n, dim))
        self._build()
        for start in range(0, n, ROWS):
            rows = theta[start : start + ROWS]
            some = len(rows)
            # compiled anew for every shape: few shapes, powers of two
            padded = np.concatenate([rows, np.repeat(rows[-1:], _size(some) - some, axis=0)])
            arguments = self._arguments(mesh_of(self._devices, len(padded)))
            with jax.enable_x64(True):
                out = jax.device_get(self._batch(padded, *arguments))
            logp[start : start + some] = out[0][:some]
            if self._graph.grad is not None:
                grad[start : start + some] = out[1][:some]
        failed = np.zeros(n, dtype=bool)
        return logp, None if self._graph.grad is None else grad, failed

    def evaluate_one(self, theta: Array) -> None:
        """Evaluate one row and let errors out."""
        self(theta[None, :])

    def release(self) -> None:
        """Drop the steps that were taken ahead."""
        if self._stepper is not None:
            self._stepper.forget()

    @property
    def stepper(self) -> Stepper | None:
        """Takes the fluids' steps; None without a gradient, in the pressure form."""
        self._build()
        return self._stepper

    def _arguments(self, mesh: Mesh | None) -> tuple[Any, ...]:
        """Values of the shared variables on every device; copied there when they have changed."""
        values = [v.get_value(borrow=True) for v in self._shared]
        held = self._held.get(mesh)
        if held is None or any(a is not b for a, b in zip(held[0], values, strict=True)):
            where = None if mesh is None else NamedSharding(mesh, PartitionSpec())
            with jax.enable_x64(True):
                held = values, tuple(jax.device_put(value, where) for value in values)
            self._held[mesh] = held
        return held[1]

    def _build(self) -> None:
        """Write the graph as JAX code, unless it is there; jit compiles it when it is called."""
        shape_values = tuple(int(v.get_value(borrow=True)) for v in self._shapes)
        if self._compiled_in == shape_values:
            return
        self._compiled_in = shape_values
        with jax.enable_x64(True):
            one = _jaxified(self._graph, self._shared, self._shapes)
            held = [v.get_value(borrow=True) for v in self._shared]
            limit = BLOCK_BYTES.get(self._devices[0].platform, OTHER_BLOCK_BYTES)
            most = max(1, limit // _row_bytes(one, self._graph.x.type.shape[0], held))

        def target(theta: Any, *arguments: Any) -> Any:
            def row(x: Any) -> Any:
                return one(x, *arguments)

            if theta.shape[0] <= most:
                return jax.vmap(row)(theta)
            return jax.lax.map(row, theta, batch_size=most)

        def batch(theta: Any, *arguments: Any) -> Any:
            mesh = mesh_of(self._devices, theta.shape[0])
            return rowwise(target, mesh, len(arguments))(theta, *arguments)

        self._batch = jax.jit(batch)
        if self._graph.grad is not None:
            self._stepper = Stepper(target, self._arguments, self._devices)


def _size(n: int) -> int:
    """Least power of two that is at least n and 16."""
    return max(16, 1 << (n - 1).bit_length())


def _jaxified(
    graph: LogpGraph, shared: Sequence[SharedVariable], shapes: Sequence[SharedVariable]
) -> Any:
    """Return the JAX function (x (d,), *shared) -> logp, or (logp, grad (d,)), of the graph."""
    inputs = [v.type() for v in shared]
    fixed = {v: constant(v.get_value(), dtype=v.type.dtype) for v in shapes}
    x = graph.x.type("theta")
    replace = {graph.x: x} | dict(zip(shared, inputs, strict=True)) | fixed
    outputs = clone_replace(graph.outputs, replace, rebuild_strict=False)
    fgraph = FunctionGraph([x, *inputs], outputs, clone=True)
    get_mode("JAX").optimizer.rewrite(fgraph)
    function = jax_funcify(fgraph)
    n = len(outputs)

    def one(x: Any, *arguments: Any) -> Any:
        out = function(x, *arguments)
        out = tuple(out) if isinstance(out, tuple | list) else (out,)
        # a log density that does not depend on x, or is of lower precision
        kinds = [(), x.shape][:n]
        return tuple(
            jax.numpy.broadcast_to(jax.numpy.asarray(o, dtype="float64"), shape)
            for o, shape in zip(out, kinds, strict=True)
        )

    return one


def _row_bytes(one: Any, dim: int, arguments: Sequence[Any]) -> int:
    """Bytes per row of the largest array on the way to a batch of rows.

    What of the arrays grows from a batch of two rows to one of three: data do not.
    """

    def sizes(n: int) -> list[int]:
        theta = jax.ShapeDtypeStruct((n, dim), "float64")
        batched = jax.vmap(one, in_axes=(0, *[None] * len(arguments)))
        return list(_array_bytes(jax.make_jaxpr(batched)(theta, *arguments).jaxpr))

    pairs = itertools.zip_longest(sizes(2), sizes(3), fillvalue=0)
    return max([1, *(more - less for less, more in pairs)])


def _array_bytes(jaxpr: Any) -> Iterator[int]:
    """Bytes of every array that code in JAX's own language makes."""
    for equation in jaxpr.eqns:
        for out in equation.outvars:
            yield out.aval.size * out.aval.dtype.itemsize
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _array_bytes(inner)

"""``pm.Minibatch``: batches of rows for a log density, and control variates that make them quiet.

The rows of every ``pm.Minibatch`` in a model's graph come from buffers that are filled here, so
that the density is a fixed function between two batches. A batch of b of n rows alone would say
little: in the posterior's sds its gradient is off by sqrt(n / b). So the density and its gradient
over all rows are computed once, at a point c in the middle of the posterior (the anchor), and

    l(theta) = l_B(theta) - l_B(c) + l(c) + (grad l(c) - grad l_B(c))' (theta - c)

is what a batch B says from then on: still right in the mean over batches, exact to first order at
c, and off by about sqrt(d / b) in the posterior's sds around it.

References
----------
Johnson and Zhang (2013), NeurIPS 26 (SVRG). Baker, Fearnhead, Fox, Nemeth (2019), Statistics and
Computing 29: control variates for stochastic gradient MCMC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from numpy.typing import NDArray
from pymc.data import MinibatchIndexRV, MinibatchOp
from pymc.model import Model
from pymc.model.fgraph import fgraph_from_model, model_from_fgraph
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors

if TYPE_CHECKING:
    from pymc_sph.engines import Engine

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """What one ``pm.Minibatch`` draws from.

    Attributes
    ----------
    rows : tuple of callable
        For each of its variables: from indices (b,) to these rows of the whole data.
    length : callable
        Returns the number of rows n of the data, as they are now.
    buffers : tuple of SharedVariable
        Hold the rows of the present batch.
    size : int
        Rows per batch, b.
    """

    rows: tuple[Callable[[NDArray[np.int64]], NDArray[Any]], ...]
    length: Callable[[], int]
    buffers: tuple[Any, ...]
    size: int

    def draw(self, rng: np.random.Generator) -> None:
        """Fill the buffers: rows with replacement, as ``pm.Minibatch`` draws them."""
        # in order, for the sake of data on disk
        index = np.sort(rng.integers(0, self.length(), self.size))
        for rows, buffer in zip(self.rows, self.buffers, strict=True):
            buffer.set_value(rows(index), borrow=True)


def with_buffers(logp: Variable) -> tuple[Variable, tuple[Source, ...]]:
    """Put buffers in the place of every ``pm.Minibatch`` of a graph.

    Returns
    -------
    logp : Variable
    sources : tuple of Source
        What fills the buffers; empty, and the graph as it was, for a model without batches.
    """
    sources: dict[Variable, Source] = {}
    replace: dict[Variable, Variable] = {}
    for node in minibatches([logp]):
        # clones of one pm.Minibatch share its generator, and so draw the same rows
        generator = node.inputs[-1]
        if generator not in sources:
            sources[generator] = _source(node)
        replace |= dict(zip(node.outputs[:-1], sources[generator].buffers, strict=True))
    if replace:
        logp = clone_replace(logp, replace, rebuild_strict=False)
    return logp, tuple(sources.values())


def on_all_data(model: Model) -> Model:
    """Return the model with the whole data in the place of every ``pm.Minibatch``.

    ``total_size`` scales nothing there. The replacement must come before the log density, which
    takes the length of a batch for a constant.
    """
    graph, _ = fgraph_from_model(model)
    replace: dict[Variable, Variable] = {}
    for node in minibatches(graph.outputs):
        replace |= dict(zip(node.outputs[:-1], node.inputs[:-1], strict=True))
    # not graph.replace: the lengths differ
    outputs = clone_replace(graph.outputs, replace, rebuild_strict=False)
    for new, old in zip(outputs, graph.outputs, strict=True):
        new.name = old.name
    whole = FunctionGraph(outputs=outputs, clone=False)
    for name in ("_coords", "_dim_lengths"):
        setattr(whole, name, getattr(graph, name))
    return model_from_fgraph(whole, mutate_fgraph=True)


def minibatches(outputs: Sequence[Variable]) -> list[Apply]:
    """Every ``pm.Minibatch`` of a graph, by its node."""
    nodes = (var.owner for var in ancestors(outputs) if var.owner is not None)
    return list(dict.fromkeys(node for node in nodes if isinstance(node.op, MinibatchOp)))


def _source(node: Apply) -> Source:
    data = node.inputs[:-1]
    size = next(
        int(inner.op.size_param(inner).eval()[0])
        for inner in node.op.fgraph.apply_nodes
        if isinstance(inner.op, MinibatchIndexRV)
    )
    rows = tuple(_rows(var) for var in data)
    first = np.zeros(size, dtype="int64")
    buffers = tuple(
        pytensor.shared(part(first), shape=out.type.shape)
        for part, out in zip(rows, node.outputs[:-1], strict=True)
    )
    return Source(rows, _length(data[0]), buffers, size)


def _rows(var: Variable) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
    """From indices to rows of a variable; data on disk stay there."""
    if isinstance(var, Constant):
        data = var.data
        return lambda index: np.asarray(data[index])
    if isinstance(var, SharedVariable):  # its value may change: pm.set_data
        return lambda index: np.asarray(var.get_value(borrow=True)[index])
    index = pt.lvector("index")
    compiled = pytensor.function([index], var[index])
    return lambda chosen: np.asarray(compiled(chosen))


def _length(var: Variable) -> Callable[[], int]:
    if isinstance(var, Constant):
        return lambda: len(var.data)
    if isinstance(var, SharedVariable):
        return lambda: len(var.get_value(borrow=True))
    compiled = pytensor.function([], var.shape[0])
    return lambda: int(compiled())


@dataclass(frozen=True)
class Anchor:
    """Log density and gradient (d,) of the whole data at a point (d,) of unconstrained space."""

    point: Array
    logp: float
    grad: Array


class MinibatchEngine:
    """An engine on the present batch, with the anchor's control variates once there is one.

    Parameters
    ----------
    sources : sequence of Source
        What fills the buffers of the graph.
    on_batch : Engine
        Engine of the graph with buffers.
    on_all : callable
        Compiles the engine of the whole data when it is first needed.
    """

    def __init__(
        self, sources: Sequence[Source], on_batch: Engine, on_all: Callable[[], Engine]
    ) -> None:
        self.name = on_batch.name
        self.anchor: Anchor | None = None
        self._sources = tuple(sources)
        self._on_batch = on_batch
        self._compile = on_all
        self._on_all: Engine | None = None
        self._at_anchor: tuple[float, Array] | None = None
        self.reseed(0)

    def __call__(self, theta: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Evaluate points (K, d), all by the present batch."""
        logp, grad, failed = self._on_batch(theta)
        assert grad is not None
        if self.anchor is None or not len(theta):
            return logp, grad, failed
        if self._at_anchor is None:
            value, slope, _ = self._on_batch(self.anchor.point[None])
            assert slope is not None
            self._at_anchor = float(value[0]), slope[0]
        tilt = self.anchor.grad - self._at_anchor[1]
        gap = self.anchor.logp - self._at_anchor[0]
        return logp + (gap + (theta - self.anchor.point) @ tilt), grad + tilt, failed

    def whole(self, theta: Array) -> tuple[Array, Array | None, NDArray[np.bool_]]:
        """Evaluate points (K, d) by the whole data."""
        if self._on_all is None:
            self._on_all = self._compile()
        return self._on_all(theta)

    def drop_anchor(self, point: Array) -> Anchor:
        """Move the anchor to a point (d,): one evaluation of the whole data.

        Where that is not finite, there is no anchor.
        """
        logp, grad, _ = self.whole(point[None])
        assert grad is not None
        found = Anchor(np.array(point), float(logp[0]), grad[0])
        finite = np.isfinite(found.logp) and np.isfinite(found.grad).all()
        self.anchor, self._at_anchor = found if finite else None, None
        return found

    def new_batch(self) -> None:
        """Draw a new batch."""
        self._before = self._rng.bit_generator.state
        for source in self._sources:
            source.draw(self._rng)
        self._at_anchor = None

    def evaluate_one(self, theta: Array) -> None:
        """Evaluate one row and let errors out."""
        self._on_batch.evaluate_one(theta)

    def reseed(self, seed: int) -> None:
        """Begin anew: a stream of batches, its first batch, and no anchor."""
        self._rng = np.random.default_rng(seed)
        self.anchor = None
        self.new_batch()

    def generators(self) -> tuple[dict[str, Any], ...]:
        """Return what the present batch was drawn with, and the anchor."""
        state: tuple[dict[str, Any], ...] = (dict(self._before),)
        if self.anchor is not None:
            a = self.anchor
            state += ({"point": a.point.tolist(), "logp": a.logp, "grad": a.grad.tolist()},)
        return state

    def set_generators(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Return to the batch and the anchor of `generators`."""
        self._rng.bit_generator.state = dict(states[0])
        self.anchor = None
        for a in states[1:]:
            self.anchor = Anchor(np.array(a["point"]), float(a["logp"]), np.array(a["grad"]))
        self.new_batch()

    def release(self) -> None:
        """End threads and processes; they start again when needed."""
        self._on_batch.release()
        if self._on_all is not None:
            self._on_all.release()

"""From ``var_names`` to the one or two numbers of every point that a picture shows."""

from __future__ import annotations

import dataclasses
import re

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pymc_sph.plots.source import Source
from pymc_sph.transform import compile_transform

STEP = 0.1
"""Steps of the differences, in sds of a coordinate."""

ELEMENT = re.compile(r"(?P<name>.+?)\[(?P<index>.*)\]$")


@dataclass(frozen=True)
class Projection:
    """One or two quantities as functions of the unconstrained vector.

    Attributes
    ----------
    labels : tuple of str
        Their names.
    function : callable
        theta (n, d) -> (n, k).
    needs : (s,) int
        Coordinates of theta that they depend on.
    own : tuple of int or None
        The coordinate that each depends on, if it depends on one alone.
    """

    labels: tuple[str, ...]
    function: Callable[[np.ndarray], np.ndarray]
    needs: np.ndarray
    own: tuple[int | None, ...]

    @property
    def separate(self) -> tuple[int, ...] | None:
        """The coordinates, if each quantity has one of its own; None otherwise."""
        single = tuple(i for i in self.own if i is not None)
        return single if len(set(single)) == len(self.own) else None

    @property
    def working(self) -> Projection:
        """The same with coordinates in place of quantities that depend on one alone.

        What is smoothed there is not smoothed across a bound.
        """

        def function(theta: np.ndarray) -> np.ndarray:
            out = np.array(self(theta))
            for i, own in enumerate(self.own):
                if own is not None:
                    out[:, i] = theta[:, own]
            return out

        return dataclasses.replace(self, function=function)

    def __call__(self, theta: np.ndarray) -> np.ndarray:
        """Quantities (n, k) at points (n, d) of the unconstrained space."""
        return self.function(theta)

    def along(self, i: int, t: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Quantity i (n,) where its own coordinate is t (n,), the others as in theta (d,).

        Where it has none, t is the quantity itself.
        """
        own = self.own[i]
        if own is None:
            return t
        rows = np.repeat(theta[None], len(t), axis=0)
        rows[:, own] = t
        return self(rows)[:, i]


def projection_of(source: Source, var_names: str | Sequence[str] | None) -> Projection:
    """Find the quantities that `var_names` asks for.

    Parameters
    ----------
    source : Source
        What is drawn.
    var_names : str or sequence of str, optional
        Variables, whole or single elements (``"theta[0]"``, ``"theta[Choate]"``), constrained
        (``"tau"``) or not (``"tau_log__"``): one or two elements in all. The first two coordinates
        of the unconstrained space by default.

    Raises
    ------
    ValueError
        For unknown names, or another number of elements; the message lists what there is.
    """
    if var_names is None:
        return _of_coordinates(source, list(range(min(2, len(source.labels)))))
    given = [var_names] if isinstance(var_names, str) else list(var_names)
    known = _coordinates_by_name(source)
    if not set(map(str, given)) <= set(known):
        known = _elements_by_name(source, known)
    unknown = [name for name in given if not isinstance(name, str) or name not in known]
    elements = [element for name in given if name in known for element in known[name]]
    if unknown or not 1 <= len(elements) <= 2:
        raise ValueError(_explain(source, given, unknown, len(elements), known))
    coordinates = [e for e in elements if isinstance(e, int)]
    if len(coordinates) == len(elements):
        return _of_coordinates(source, coordinates)
    return _of_variables(source, elements)


Element = int | tuple[str, int]
"""A coordinate of the unconstrained space, or a variable with the flat index of an element."""


def _coordinates_by_name(source: Source) -> dict[str, list[Element]]:
    """Names of the unconstrained coordinates and of whole value variables."""
    known: dict[str, list[Element]] = {}
    for i, label in enumerate(source.labels):
        known.setdefault(label, []).append(i)
        if match := ELEMENT.match(label):
            known.setdefault(match["name"], []).append(i)
    return known


def _elements_by_name(source: Source, known: dict[str, list[Element]]) -> dict[str, list[Element]]:
    """Add the model's variables, free and deterministic, to the names that a user may give."""
    known = dict(known)
    if source.model is None:
        return known
    transform = compile_transform(source.model)
    for name, shape in zip(transform.names, transform.shapes, strict=True):
        for flat, index in enumerate(np.ndindex(shape)):
            for label in _labels(source.model, name, index):
                known.setdefault(label, [(name, flat)])
        known.setdefault(name, [(name, flat) for flat in range(int(np.prod(shape)))])
    return known


def _labels(model: Any, name: str, index: tuple[int, ...]) -> list[str]:
    """Names of an element: by numbers, and by coords where the model has them."""
    if not index:
        return [name]
    dims = model.named_vars_to_dims.get(name) or (None,) * len(index)
    coords = [model.coords.get(dim) for dim in dims]
    by_coords = [i if c is None else c[i] for i, c in zip(index, coords, strict=True)]
    # the label with the coords first: it is the one that is shown
    return [f"{name}[{', '.join(map(str, parts))}]" for parts in (by_coords, index)]


def _of_coordinates(source: Source, coordinates: list[int]) -> Projection:
    labels = tuple(source.labels[i] for i in coordinates)
    return Projection(
        labels, lambda theta: theta[:, coordinates], np.unique(coordinates), tuple(coordinates)
    )


def _of_variables(source: Source, elements: list[Element]) -> Projection:
    names = list(dict.fromkeys(e[0] for e in elements if not isinstance(e, int)))
    transform = compile_transform(source.model, names=names)
    shapes = dict(zip(transform.names, transform.shapes, strict=True))
    labels = []
    for element in elements:
        if isinstance(element, int):
            labels.append(source.labels[element])
        else:
            index = tuple(int(i) for i in np.unravel_index(element[1], shapes[element[0]]))
            labels.append(_labels(source.model, element[0], index)[0])

    def function(theta: np.ndarray) -> np.ndarray:
        values = transform(theta)
        columns = [
            theta[:, e] if isinstance(e, int) else values[e[0]].reshape(len(theta), -1)[:, e[1]]
            for e in elements
        ]
        return np.stack(columns, axis=1)

    depends = _depends(source, function)
    own = [np.flatnonzero(row) for row in depends]
    return Projection(
        tuple(labels),
        function,
        np.flatnonzero(depends.any(axis=0)),
        tuple(int(o[0]) if len(o) == 1 else None for o in own),
    )


def _depends(source: Source, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Whether quantity i changes with coordinate j, at some points of q, (k, d)."""
    rng = np.random.default_rng(0)
    d = source.mixture.dim
    sd = np.sqrt(np.diag(source.mixture.cov()))
    out = np.zeros((0, d), dtype=bool)
    for theta in source.mixture.sample(3, rng).theta:
        there = function(np.concatenate([theta[None], theta + STEP * np.diag(sd)]))
        # vectorised functions may round differently from row to row
        changed = (np.abs(there[1:] - there[0]) > 1e-10 * np.abs(there[0])).T
        out = changed if not len(out) else out | changed
    return out


def jacobians(projection: Projection, theta: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Central differences (n, k, s) of the quantities at points (n, d), by coordinates it needs.

    Parameters
    ----------
    projection : Projection
        The quantities; s is the number of coordinates that they need.
    theta : (n, d)
        Points.
    sd : (d,)
        Scale of each coordinate.
    """
    columns = []
    for j in projection.needs:
        step = np.zeros(theta.shape[1])
        step[j] = STEP * sd[j]
        columns.append((projection(theta + step) - projection(theta - step)) / (2 * step[j]))
    return np.stack(columns, axis=2)


def _explain(
    source: Source, given: list[Any], unknown: list[Any], n_elements: int, known: dict[str, Any]
) -> str:
    """Why these names cannot be drawn, and what can."""
    reason = f"{', '.join(map(repr, unknown))} is unknown" if unknown else ""
    if not unknown:
        reason = f"this is {n_elements} numbers, and a picture shows one or two"
    listed = list(dict.fromkeys([*source.labels, *known]))
    more = ", ..." if len(listed) > 24 else ""
    hint = "" if source.model else " Constrained variables need the approximation in place of data."
    return f"var_names={given}: {reason}. Choose from {', '.join(listed[:24])}{more}.{hint}"

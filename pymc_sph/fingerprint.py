"""By what a model is known again: its variables, and a hash of its data."""

from __future__ import annotations

import hashlib

from typing import Any

import numpy as np
import pytensor

from pymc.model import Model
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.traversal import graph_inputs

from pymc_sph.process import graphs


def fingerprint(model: Model) -> dict[str, Any]:
    """Describe a model, in types that JSON knows.

    Returns
    -------
    dict
        ``variables``, a list in the order of the unconstrained coordinates, with ``name`` (of the
        unconstrained value), ``shape``, ``transform`` and ``dtype``; ``data``, a hash by the name
        of each observed variable and each ``pm.Data``; ``floatX``, PyTensor's type of numbers.
    """
    with graphs():
        point = model.initial_point(0)
    variables = []
    for rv in model.free_RVs:
        transform = model.rvs_to_transforms.get(rv)
        value = model.rvs_to_values[rv]
        variables.append(
            {
                "name": value.name,
                "shape": list(np.shape(point[value.name])),
                "transform": None if transform is None else type(transform).__name__,
                "dtype": str(value.dtype),
            }
        )
    order = [value.name for value in model.value_vars]
    variables.sort(key=lambda variable: order.index(variable["name"]))
    data = {var.name: _hash([var]) for var in model.data_vars}
    for rv in model.observed_RVs:
        data[rv.name] = _hash(graph_inputs([model.rvs_to_values[rv]]))
    return {"variables": variables, "data": data, "floatX": str(pytensor.config.floatX)}


def other_variables(stored: dict[str, Any], present: dict[str, Any]) -> list[str]:
    """Say in which variables two fingerprints differ; an empty list if in none."""
    before = {variable["name"]: variable for variable in stored["variables"]}
    now = {variable["name"]: variable for variable in present["variables"]}
    out = [f"{name} is missing" for name in before if name not in now]
    out += [f"{name} is new" for name in now if name not in before]
    for name in before:
        for what in ("shape", "transform", "dtype") if name in now else ():
            old, new = before[name][what], now[name][what]
            if old != new:
                old, new = (tuple(x) if isinstance(x, list) else x for x in (old, new))
                out.append(f"{name} has the {what} {new} instead of {old}")
    if not out and list(before) != list(now):
        out.append(
            f"the variables come in the order {', '.join(now)} instead of {', '.join(before)}"
        )
    if stored["floatX"] != present["floatX"]:
        out.append(f"PyTensor's floatX is {present['floatX']} instead of {stored['floatX']}")
    return out


def other_data(stored: dict[str, Any], present: dict[str, Any]) -> list[str]:
    """Say in which data two fingerprints differ; an empty list if in none."""
    before, now = stored["data"], present["data"]
    out = [f"{name} is no longer there" for name in before if name not in now]
    out += [f"{name} is new" for name in now if name not in before]
    out += [
        f"{name} has other values" for name in before if now.get(name, before[name]) != before[name]
    ]
    return out


def _hash(variables: Any) -> str:
    """SHA-256 of the values of constants and shared variables, without random generators."""
    out = hashlib.sha256()
    for var in variables:
        value = _value(var)
        if value is None:
            continue
        array = np.ascontiguousarray(value)
        out.update(f"{array.dtype.str} {np.shape(value)}\n".encode())
        # text comes as an array of objects, whose bytes are addresses
        if array.dtype.hasobject:
            out.update(repr(array.tolist()).encode())
        else:  # the bytes themselves: a copy of large data on disk would not fit
            out.update(array.reshape(-1).view("uint8").data)
    return out.hexdigest()


def _value(var: Variable) -> Any:
    if isinstance(var, Constant):
        value = var.data
    elif isinstance(var, SharedVariable):
        value = var.get_value(borrow=True)
    else:
        return None
    if hasattr(value, "toarray"):  # a sparse matrix
        value = value.toarray()
    return value if isinstance(value, np.ndarray | np.number | np.bool_ | float | int) else None

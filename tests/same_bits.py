"""Whether two values are the same to the bit, down to the layout of their arrays in memory."""

from __future__ import annotations

import dataclasses

import numpy as np


def differences(one, two, path="", layout=True):
    """Where two values differ, as a list of paths."""
    if type(one) is not type(two):
        return [f"{path}: {type(one).__name__} is not {type(two).__name__}"]
    if dataclasses.is_dataclass(one):
        pairs = [(f.name, getattr(one, f.name), getattr(two, f.name)) for f in _fields(one)]
    elif isinstance(one, dict):
        if list(one) != list(two):
            return [f"{path}: other keys"]
        pairs = [(key, one[key], two[key]) for key in one]
    elif isinstance(one, tuple | list):
        if len(one) != len(two):
            return [f"{path}: {len(one)} and {len(two)} items"]
        pairs = [(str(i), *pair) for i, pair in enumerate(zip(one, two, strict=True))]
    elif isinstance(one, np.ndarray):
        same = one.dtype == two.dtype and one.shape == two.shape
        if not same or one.tobytes() != two.tobytes():
            return [f"{path}: other numbers"]
        return [f"{path}: other strides"] if layout and _strides(one) != _strides(two) else []
    else:
        same = one == two or (isinstance(one, float) and one != one and two != two)
        return [] if same else [f"{path}: {one!r} is not {two!r}"]
    return [x for name, *pair in pairs for x in differences(*pair, f"{path}.{name}", layout)]


def _fields(value):
    return dataclasses.fields(value)


def _strides(array):
    """Strides of the axes that have more than one place."""
    return [s for s, n in zip(array.strides, array.shape, strict=True) if n > 1]

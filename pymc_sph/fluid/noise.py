"""Random streams: a generator for each key, so that noise depends on nothing but its key."""

from __future__ import annotations

import numpy as np


def stream(*key: int) -> np.random.Generator:
    """Return a fresh generator for a key of integers of at least 0: seed, purpose, and so on.

    Different keys give independent streams. NumPy pads keys with zeros, so that (1, 2) and
    (1, 2, 0) would be one; the length, which comes first, keeps them apart.
    """
    return np.random.default_rng([len(key), *key])

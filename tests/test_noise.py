"""Random streams: the same key gives the same numbers, and no two keys share a stream."""

from __future__ import annotations

import itertools

import numpy as np

from pymc_sph import seeds
from pymc_sph.fluid.noise import stream


def test_the_same_key_is_the_same_stream_and_every_other_key_another():
    values = (0, 1, 2**32 - 1)
    keys = [key for n in range(1, 5) for key in itertools.product(values, repeat=n)]
    first = [stream(*key).random() for key in keys]
    assert first == [stream(*key).random() for key in keys]
    assert len(set(first)) == len(keys)  # (1,), (1, 0) and (1, 0, 0) as well


def test_global_state_is_left_alone():
    before = np.random.get_state()[1].copy()
    stream(1, 2).random()
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_no_two_purposes_share_a_key():
    names = [name for name in vars(seeds) if name.isupper()]
    assert len({getattr(seeds, name) for name in names}) == len(names) == 10

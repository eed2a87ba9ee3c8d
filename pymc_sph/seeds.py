"""Random seeds: one integer from whatever PyMC takes, and the keys of a fit's streams."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymc_sph.checks import SettingsError, shown

STEPS, CHECK, START, POSITIONS, MEETING, TOGETHER, EXPLORE, POINTS, WITNESSES, ANCHOR = range(10)
"""What a random stream of a fit is for: the second number of its key, after the seed."""


def integer_seed(random_seed: Any) -> int:
    """Return one integer seed for any random seed that PyMC accepts.

    Parameters
    ----------
    random_seed : int, array of int, SeedSequence, Generator, BitGenerator, RandomState or None
        The same integers give the same seed. None gives another one every time, and a generator
        is drawn from, so that it gives another one at its next use.

    Raises
    ------
    SettingsError
        For anything else.
    """
    if isinstance(random_seed, np.random.RandomState):
        return int(random_seed.randint(2**30))
    if isinstance(random_seed, np.random.BitGenerator):
        random_seed = np.random.Generator(random_seed)
    if isinstance(random_seed, np.random.Generator):
        return int(random_seed.integers(2**30))
    if isinstance(random_seed, np.random.SeedSequence):
        return int(random_seed.generate_state(1)[0])
    try:
        # NumPy reads text as a number and a bool as 0 or 1: slips, both of them
        if isinstance(random_seed, (str, bytes, bool)):
            raise TypeError
        return int(np.random.SeedSequence(random_seed).generate_state(1)[0])
    except (TypeError, ValueError) as err:
        raise SettingsError(
            f"random_seed={shown(random_seed)}: give None, an integer of at least 0, several of "
            "them, or a numpy.random.Generator"
        ) from err


def random_generator(random_seed: Any) -> np.random.Generator:
    """Return the generator itself, or one made from a seed; the arguments of `integer_seed`."""
    if isinstance(random_seed, np.random.RandomState):
        return np.random.default_rng(integer_seed(random_seed))
    if not isinstance(random_seed, np.random.Generator | np.random.BitGenerator):
        integer_seed(random_seed)  # for its error
    return np.random.default_rng(random_seed)

"""A callback that keeps the fluids of a fit as they were, for `animate_fluid`."""

from __future__ import annotations

from typing import Any

from pymc_sph.checks import check_integer
from pymc_sph.mixture import FluidMixture


class Recorder:
    """Callback that records the fluids after every step, for `pymc_sph.plots.animate_fluid`.

    Parameters
    ----------
    every : int
        Record every so many steps, and the last one that falls on them. States are not copied, as
        nothing changes them, but each holds its own arrays: some N d^2 numbers per fluid with full
        smoothing tensors.

    Attributes
    ----------
    steps : list of int
        Steps recorded.
    mixtures : list of FluidMixture
        The fluids after each of them; with equal shares until they have met.
    approx : FluidApproximation or None
        The fit.

    Examples
    --------
    >>> recorder = pymc_sph.plots.Recorder()  # doctest: +SKIP
    >>> approx = pm.fit(method="sph", callbacks=[recorder])  # doctest: +SKIP
    >>> pymc_sph.plots.animate_fluid(recorder).save("flow.gif")  # doctest: +SKIP
    """

    def __init__(self, every: int = 1) -> None:
        self.every = check_integer("every", every, 1)
        self.steps: list[int] = []
        self.mixtures: list[FluidMixture] = []
        self.approx: Any = None

    def __call__(self, approx: Any, losses: Any, i: int) -> None:
        """Record step i, counted from 1; a first step forgets an earlier fit."""
        if self.approx is not approx or (self.steps and i <= self.steps[-1]):
            self.steps, self.mixtures, self.approx = [], [], approx
        if i % self.every == 0 or i == 1:
            self.steps.append(i)
            self.mixtures.append(approx.mixture)

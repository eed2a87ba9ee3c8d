"""The progress bar of a fit: PyMC's own, with the ELBO, the ESS and the temperature beside it."""

from __future__ import annotations

import time

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pymc.progress_bar import CustomProgress
from rich.console import Console
from rich.progress import Progress, TextColumn

from pymc_sph.result import StepInfo

PROGRESS_SECONDS = 0.1
"""The bar is redrawn no more often than this."""


@contextmanager
def progress(
    total: int, progressbar: bool, theme: Any
) -> Iterator[Callable[[StepInfo, int], None]]:
    """Open the bar; yields a function that shows a step, redrawing now and then.

    Parameters
    ----------
    total : int
        Largest number of steps.
    progressbar : bool
        Whether to show anything.
    theme : rich.theme.Theme
        Colours.
    """
    columns = [*Progress.get_default_columns(), TextColumn("{task.fields[figures]}")]
    disable = not progressbar or total == 0
    # on stderr: what a program prints on stdout may be read by another one
    console = Console(theme=theme, stderr=True)
    with CustomProgress(*columns, console=console, disable=disable) as bar:
        task = bar.add_task("Fitting fluids:", total=total, figures="")
        drawn = -np.inf
        last: tuple[int, str] = (0, "")

        def show(info: StepInfo, done: int) -> None:
            nonlocal drawn, last
            figures = f"ELBO {info.elbo:,.2f}, ESS {info.ess:.2f}, T {info.temperature:.1f}"
            last = (done, figures)
            now = time.perf_counter()
            if not disable and now - drawn >= PROGRESS_SECONDS:
                drawn = now
                bar.update(task, completed=done, figures=figures)

        yield show
        if not disable:  # the fit stops on a plateau, long before the last step allowed
            done, figures = last
            bar.update(task, total=done, completed=done, figures=figures)

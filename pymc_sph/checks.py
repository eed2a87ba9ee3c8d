"""Checks of what the user gives: each error names the argument and says what is allowed."""

from __future__ import annotations

import math
import numbers
import reprlib

from collections.abc import Callable, Iterable
from typing import Any

Callback = Callable[[Any, Any, int], Any]

MOST = 10**9
"""Largest integer that any setting takes: more is a slip, and would fill the memory."""


class SettingsError(ValueError):
    """A setting has no meaning; the message names it and says what is allowed."""


def shown(value: Any) -> str:
    """Return a value as it can stand in an error message: on one line, and short."""
    try:
        return " ".join(reprlib.repr(value).split())
    except Exception:  # an integer of more than 4,300 digits has no repr, nor need others have one
        return f"<{type(value).__name__}>"


def check_integer(name: str, value: Any, least: int, *, whole_floats: bool = False) -> int:
    """Return an integer setting as an int.

    Parameters
    ----------
    name : str
        What to call it in the error.
    value : object
        What the user gave.
    least : int
        Smallest value allowed.
    whole_floats : bool
        Whether 1e4 counts as an integer.

    Raises
    ------
    SettingsError
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if whole_floats and isinstance(value, numbers.Real):
        whole = whole or (isinstance(value, float) and value.is_integer())
    if not whole or not least <= value <= MOST:
        high = f" and at most {MOST:,}" if whole and value > MOST else ""
        raise SettingsError(f"{name}={shown(value)}: give an integer of at least {least}{high}")
    return int(value)


def finite_real(value: Any) -> float | None:
    """Return a real number as a float; None for what is none, or is not finite as a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def described(error: BaseException) -> str:
    """Return an error's type and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class CheckedSettings:
    """A frozen dataclass of settings that checks its fields and keeps them as plain values."""

    def _keep(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the one way to set a field of a frozen class

    def _integer(self, name: str, least: int) -> None:
        self._keep(name, check_integer(name, getattr(self, name), least))

    def _real(
        self,
        name: str,
        *,
        above: float = -math.inf,
        least: float = -math.inf,
        most: float = math.inf,
    ) -> None:
        number = finite_real(getattr(self, name))
        if number is None or not (number > above and least <= number <= most):
            low = f"above {above:g}" if above > least else f"of at least {least:g}"
            high = " and finite" if most == math.inf else f" and at most {most:g}"
            given = shown(getattr(self, name))
            raise SettingsError(f"{name}={given}: give a number {low}{high}")
        self._keep(name, number)


def check_callbacks(callbacks: Any) -> list[Callback]:
    """Return the callbacks as a list.

    Raises
    ------
    TypeError
        For something that is no list of functions.
    """
    if callbacks is None:
        return []
    if callable(callbacks) or not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks={shown(callbacks)}: give a list of functions")
    callbacks = list(callbacks)
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"callbacks: {shown(callback)} is no function of (approx, losses, i)")
    return callbacks

"""The engine's frozen dataclasses as JSON and arrays, and back, to the bit.

Field by field, whatever the class: a new field needs no word here. On the way back only the classes
in `CLASSES` are made, by their own constructors, so that nothing in a file can run code.
"""

from __future__ import annotations

import dataclasses

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pymc_sph.checks import shown
from pymc_sph.collocated_settings import CollocatedSettings
from pymc_sph.confluence import Confluence, Witness
from pymc_sph.ensemble import Ensemble
from pymc_sph.exploration import Exploration
from pymc_sph.files import FileError
from pymc_sph.fluid.collocated import Equations, ParticleObservation, Particles
from pymc_sph.fluid.equation_of_state import Isothermal, Linear, Tait
from pymc_sph.fluid.relaxation import Relaxation, RestCheck
from pymc_sph.fluid.reuse import Memory
from pymc_sph.fluid.schedule import Plan, Schedule
from pymc_sph.fluid.simulate import Simulation
from pymc_sph.fluid.state import Fluid
from pymc_sph.fluid.step import Observation, Rates
from pymc_sph.history import History
from pymc_sph.mixture import FluidMixture
from pymc_sph.result import FitResult
from pymc_sph.settings import Settings
from pymc_sph.start import Gaussian
from pymc_sph.verdict import Verdict

CLASSES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        CollocatedSettings, Confluence, Ensemble, Equations, Exploration, FitResult, Fluid,
        FluidMixture, Gaussian, History, Isothermal, Linear, Memory, Observation,
        ParticleObservation, Particles, Plan, Rates, Relaxation, RestCheck, Schedule, Settings, Simulation, Tait,
        Verdict, Witness,
    )
}  # fmt: skip
"""What can be written and read."""

Arrays = dict[str, np.ndarray]


def encode(value: Any) -> tuple[Any, Arrays]:
    """Take a value apart.

    Parameters
    ----------
    value : object
        Numbers, text, None, arrays, functions, objects of `CLASSES`, and tuples, lists and
        dictionaries with text for keys of such.

    Returns
    -------
    tree : object
        The value as JSON knows it, with names in the place of arrays.
    arrays : dict
        The arrays by name, each once, in memory order.

    Raises
    ------
    TypeError
        For a value of another type.
    """
    arrays: Arrays = {}
    return _Encoder(arrays).tree(value), arrays


def decode(tree: Any, arrays: Mapping[str, np.ndarray], function: Callable | None = None) -> Any:
    """Put a value together again.

    Parameters
    ----------
    tree, arrays
        As from `encode`.
    function : callable, optional
        Takes the place of functions, which no file can hold; by default one that raises.

    Raises
    ------
    FileError
        If the tree does not describe a value, or one of another version.
    """
    try:
        return _Decoder(arrays, function).value(tree)
    except FileError:
        raise
    except Exception as err:
        raise FileError(f"the file does not describe a state of a fit: {err!r}") from err


@dataclasses.dataclass
class _Encoder:
    arrays: Arrays
    names: dict[int, tuple[str, np.ndarray]] = dataclasses.field(default_factory=dict)

    def tree(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, np.ndarray):
            return self.array(value)
        if isinstance(value, np.generic):
            return {"scalar": self.name(np.asarray(value))}
        if isinstance(value, tuple):
            return [self.tree(item) for item in value]
        if isinstance(value, list):
            return {"list": [self.tree(item) for item in value]}
        if isinstance(value, Mapping):
            return {"mapping": {str(key): self.tree(item) for key, item in value.items()}}
        kind = type(value)
        if CLASSES.get(kind.__name__) is kind:
            names = [field.name for field in dataclasses.fields(kind)]
            return {
                "class": kind.__name__,
                "fields": {name: self.tree(getattr(value, name)) for name in names},
            }
        if callable(value):
            return {"function": shown(value)}
        raise TypeError(f"{shown(value)}, of the type {kind.__name__}, cannot be written to a file")

    def array(self, value: np.ndarray) -> dict[str, Any]:
        """Describe an array and its layout in memory, on which the last bit of a sum may depend.

        The order of its axes, and those along which one number serves for all.
        """
        order = sorted(range(value.ndim), key=lambda axis: -abs(value.strides[axis]))
        once = [k for k in range(value.ndim) if value.strides[k] == 0 and value.shape[k] > 1]
        known = self.names.get(id(value))
        if known is None:
            part = value[tuple(slice(1) if k in once else slice(None) for k in range(value.ndim))]
            known = self.name(np.asarray(part.transpose(order), order="C")), value
            self.names[id(value)] = known  # and the value, as an id is unique while its owner lives
        return {"array": known[0], "order": order, "shape": list(value.shape)}

    def name(self, value: np.ndarray) -> str:
        name = f"a{len(self.arrays)}"
        self.arrays[name] = value
        return name


@dataclasses.dataclass
class _Decoder:
    arrays: Mapping[str, np.ndarray]
    function: Callable | None

    def value(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return tuple(self.value(item) for item in tree)
        if not isinstance(tree, dict):
            return tree
        if "array" in tree:
            stored = self.arrays[tree["array"]]
            whole = stored.transpose(np.argsort(tree["order"]))
            shape = tuple(tree["shape"])
            return whole if whole.shape == shape else np.broadcast_to(whole, shape)
        if "scalar" in tree:
            return self.arrays[tree["scalar"]][()]
        if "list" in tree:
            return [self.value(item) for item in tree["list"]]
        if "mapping" in tree:
            return {key: self.value(item) for key, item in tree["mapping"].items()}
        if "function" in tree:
            return self.function or _Missing(tree["function"])
        return self.instance(tree["class"], tree["fields"])

    def instance(self, name: str, fields: Mapping[str, Any]) -> Any:
        kind = CLASSES.get(name)
        if kind is None:
            raise FileError(f"the file holds an object of the unknown class {shown(name)}")
        known = {field.name for field in dataclasses.fields(kind)}
        if set(fields) - known:
            others = ", ".join(sorted(set(fields) - known))
            raise FileError(f"{name} has no {others}: the file comes from another version")
        return kind(**{key: self.value(item) for key, item in fields.items()})


@dataclasses.dataclass(frozen=True)
class _Missing:
    """Stands for a function that the file could not hold."""

    shown: str

    def __call__(self, *arguments: Any) -> Any:
        raise FileError(f"{self.shown} is a function, which a file cannot hold: give it again")

"""Steps compiled by JAX: the engine's own code under jit, several steps in a call, on all devices.

Nothing else of the engine imports JAX. States, schedules and random numbers stay NumPy's, so that
whatever looks at a fluid between two steps need not know.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import time

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pymc_sph.fluid.density import ProbeNoise
from pymc_sph.fluid.simulate import Coming
from pymc_sph.fluid.state import Array, Fluid
from pymc_sph.fluid.step import Field, Observation, Rates, numbers, step

MOST = 16
"""Steps in one call, at most."""
BYTES = 1 << 26
"""States and random numbers of the steps of one call, at most, unless it is a single step."""
SECONDS = 0.25
"""Seconds of one call, roughly at most, unless it is a single step: no call can be interrupted."""
DEVICES = "devices"
"""Name of the only axis of a mesh."""
VARYING = ("temperature", "dt", "tensor", "mass", "frame")
"""Rates that a schedule changes: arguments of the compiled code. The others are part of it."""

RowTarget = Callable[..., tuple[Array, Array]]
"""(theta (K, d), *arguments) -> (log density (K,), its gradient (K, d)), each row by itself, of JAX
arrays."""

for _kind in (Fluid, Observation):
    jax.tree_util.register_dataclass(
        _kind, data_fields=[f.name for f in dataclasses.fields(_kind)], meta_fields=[]
    )


def mesh_of(devices: Sequence[Any], n: int) -> Mesh | None:
    """Return a mesh of as many devices as divide n, or None for a single one."""
    size = math.gcd(n, len(devices))
    return Mesh(np.array(devices[:size]), (DEVICES,)) if size > 1 else None


def spread(x: Array, mesh: Mesh | None) -> Array:
    """Spread the rows of an array of compiled code over the devices, if they divide them."""
    if mesh is None or x.shape[0] % mesh.size:
        return x
    return lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(DEVICES)))


def rowwise(target: RowTarget, mesh: Mesh | None, n_arguments: int) -> RowTarget:
    """Return the target with its rows shared out among the devices: none needs another's."""
    if mesh is None:
        return target
    rows, whole = PartitionSpec(DEVICES), PartitionSpec()
    return jax.shard_map(
        target,
        mesh=mesh,
        in_specs=(rows, *[whole] * n_arguments),
        out_specs=rows,
        check_vma=False,
    )


class Stepper:
    """Takes a fluid's steps in compiled code; `take` gives the numbers that `step.step` gives.

    A call into compiled code costs a fraction of a millisecond, and more on an accelerator. So
    `take` runs the steps ahead that the schedule is sure to want, and hands them out one by one.

    Over several devices, the probes are spread, each device evaluating the target at its own, and
    so are the particles, if their number divides. Of what belongs to both, (N, K) arrays, XLA
    keeps rows or columns on each device, as the sizes ask for; what a step needs whole, it gathers.

    Parameters
    ----------
    target : callable
        Log density and gradient, as a function of JAX arrays; see `RowTarget`.
    arguments : callable
        mesh -> the target's further arguments, there where such a mesh needs them; the same
        objects as long as nothing has changed.
    devices : sequence of jax.Device
        Devices to use; as many of them as divide half the probes.
    """

    def __init__(
        self,
        target: RowTarget,
        arguments: Callable[[Mesh | None], tuple[Any, ...]],
        devices: Sequence[Any],
    ) -> None:
        self._arguments = arguments
        self._devices = tuple(devices)
        self._run = jax.jit(partial(_run, target), static_argnames=("fixed", "mesh"))
        self._ahead: dict[tuple[int, ...], list[_Taken]] = {}
        self._used: tuple[Any, ...] = ()
        self._seconds = math.inf  # of a step, the first of which are compiled first

    def take(
        self, key: tuple[int, ...], fluid: Fluid, rates: Rates, n_probes: int, coming: Coming
    ) -> tuple[Fluid, Observation]:
        """Take the next step of a fluid, as `step.step` does.

        Parameters
        ----------
        key : tuple of int
            Names the fluid among those under way.
        fluid : Fluid
            Its state.
        rates : Rates
            Rates of this step.
        n_probes : int
            Probes of a step.
        coming : callable
            Random numbers and rates of this step and those after it; see `simulate.Coming`.
        """
        arguments = self._arguments(mesh_of(self._devices, n_probes // 2))
        same = len(arguments) == len(self._used) and all(map(operator.is_, arguments, self._used))
        if not same:  # data have changed: what was taken ahead is worth nothing
            self.forget()
            self._used = arguments
        ahead = self._ahead.get(key, [])
        if not (ahead and ahead[0].fluid is fluid and ahead[0].rates == rates):
            size = sum(x.nbytes for x in jax.tree.leaves(fluid)) + 4 * n_probes * fluid.dim
            most = max(1, min(MOST, BYTES // size))
            n = max(1, min(most, int(SECONDS / self._seconds)))
            ahead = self._ahead[key] = self._steps(fluid, coming(n), most, None)
        taken = ahead.pop(0)
        return taken.after, taken.seen

    def once(
        self, fluid: Fluid, noise: ProbeNoise, rates: Rates, around: Field | None = None
    ) -> tuple[Fluid, Observation]:
        """Take one step; `around`, as in `step.step`, must be a pytree that JAX knows."""
        [taken] = self._steps(fluid, [(noise, rates)], 1, around)
        return taken.after, taken.seen

    def forget(self) -> None:
        """Drop the steps that were taken ahead."""
        self._ahead.clear()

    def _steps(
        self,
        fluid: Fluid,
        steps: Sequence[tuple[ProbeNoise, Rates]],
        most: int,
        around: Field | None,
    ) -> list[_Taken]:
        """Take some steps, at most `most`, for which the code is compiled."""
        rates = [r for _, r in steps]
        first = rates[0]
        # a rate of 0 leaves its part of the step out
        at_rest = dict.fromkeys(VARYING, 1.0) | {"frame": float(first.frame != 0)}
        fixed = dataclasses.replace(first, **at_rest)
        varying = np.zeros((most, len(VARYING)))
        varying[: len(steps)] = [[getattr(r, name) for name in VARYING] for r in rates]
        offset, e = np.zeros(most), np.zeros((most, *steps[0][0].e.shape))
        for i, (noise, _) in enumerate(steps):
            offset[i], e[i] = noise.offset, noise.e
        mesh = mesh_of(self._devices, e.shape[1])
        arguments, began = self._arguments(mesh), time.perf_counter()
        with jax.enable_x64(True):
            out = self._run(
                fluid, offset, e, varying, len(steps), around, arguments, fixed=fixed, mesh=mesh
            )
            fluids, seen = jax.tree.map(np.asarray, jax.device_get(out))
        self._seconds = min(self._seconds, (time.perf_counter() - began) / len(steps))
        taken = []
        for i, rate in enumerate(rates):
            after = Fluid(**{f.name: getattr(fluids, f.name)[i] for f in dataclasses.fields(Fluid)})
            taken.append(_Taken(fluid, rate, after, numbers(seen, i)))
            fluid = after
        return taken


@dataclasses.dataclass(frozen=True)
class _Taken:
    """A step that was taken: its fluid and rates, the fluid after it, and what its probes saw."""

    fluid: Fluid
    rates: Rates
    after: Fluid
    seen: Observation


def _run(
    target: RowTarget,
    fluid: Fluid,
    offset: Array,
    e: Array,
    varying: Array,
    n: Array,
    around: Field | None,
    arguments: tuple[Any, ...],
    *,
    fixed: Rates,
    mesh: Mesh | None,
) -> tuple[Fluid, Observation]:
    """n steps in a loop: the fluids after each and what they saw, in arrays with a leading axis."""
    evaluate = rowwise(target, mesh, len(arguments))

    def log_density(theta: Array) -> tuple[Array, Array]:
        return evaluate(spread(theta, mesh), *arguments)

    def one(i: Array, fluid: Fluid) -> tuple[Fluid, Observation]:
        values = dict(zip(VARYING, varying[i], strict=True))
        if fixed.frame == 0:
            values["frame"] = 0.0
        own = ProbeNoise(offset[i], spread(e[i], mesh))
        return step(fluid, own, log_density, dataclasses.replace(fixed, **values), around)

    def body(i: Array, carry: Any) -> Any:
        fluid, out = carry
        fluid, seen = one(i, fluid)
        fluid = dataclasses.replace(
            fluid, **{name: spread(getattr(fluid, name), mesh) for name in ("z", "u", "A", "log_m")}
        )
        return fluid, jax.tree.map(lambda a, x: a.at[i].set(x), out, (fluid, seen))

    shapes = jax.eval_shape(one, 0, fluid)
    most = varying.shape[0]
    out = jax.tree.map(lambda s: jax.numpy.zeros((most, *s.shape), s.dtype), shapes)
    out = lax.fori_loop(0, n, body, (fluid, out))[1]
    return out  # type: ignore[no-any-return]

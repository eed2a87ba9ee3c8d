"""States of the engine to files and back: the same bits, and the same steps afterwards."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from fluids import banana
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from same_bits import differences

from pymc_sph import files
from pymc_sph.encoding import CLASSES, decode, encode
from pymc_sph.ensemble import Ensemble
from pymc_sph.files import FileError
from pymc_sph.fluid.state import Fluid
from pymc_sph.schemes import settings_of

SUFFIXES = ("npz", "zarr")


def through_json(value, function=None):
    tree, parts = encode(value)
    return decode(json.loads(json.dumps(tree)), parts, function)


def start(scheme="variational", **settings):
    chosen = settings_of(scheme, settings).in_form(settings.get("formulation", "force"))
    points = np.random.default_rng(0).standard_normal((4, 2))
    return Ensemble.start(banana, points, chosen, 3, 1000)


# few particles, so that q is never as good as the tolerance asks, and the fluids flow on together
CROWDED = {"fluids": 2, "particles": 3, "tol": 1e-6, "window": 4, "cooling": 5, "paths": 4}
SCHEMES = {
    "full": CROWDED,
    "diagonal": CROWDED | {"tensor": "diagonal"},
    "pressure": CROWDED | {"formulation": "pressure", "probes": 16},
    "collocated": {"scheme": "collocated", "fluids": 2, "particles": 32, "temperature": (1, 4)},
    "collocated, tait, continuity": {
        "scheme": "collocated", "fluids": 2, "particles": 32, "eos": "tait",
        "density": "continuity", "smoothing": "nearest",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMES)
def test_a_copy_of_a_state_takes_the_same_steps_to_the_same_result(name):
    ensemble = start(**SCHEMES[name])
    states = [ensemble]
    while not ensemble.done:
        ensemble, _ = ensemble.step(banana)
        states.append(ensemble)
    for state in states:
        assert differences(state, through_json(state)) == []
    result = ensemble.finish(banana)
    assert differences(result, through_json(result)) == []
    together = [s.together is not None and s.together.running for s in states]
    met = together.index(True) if any(together) else len(states) - 2
    assert any(together) == ("collocated" not in name)
    for i in {0, 1, 7, met - 1, met, met + 1, (met + len(states)) // 2, len(states) - 1}:
        copy = through_json(states[i])
        while not copy.done:
            copy, _ = copy.step(banana)
        assert differences(copy, states[-1]) == [], i
        assert differences(copy.finish(banana), result, layout=False) == []


@given(arrays.arrays(
    dtype=st.sampled_from(["float64", "float32", "int64", "uint8", "bool"]),
    shape=arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
), st.permutations(range(4)), st.booleans())  # fmt: skip
def test_arrays_keep_their_bits_and_layout(array, order, spread):
    array = array.transpose([axis for axis in order if axis < array.ndim])
    if spread:
        array = np.broadcast_to(array, (3, *array.shape))
    assert differences(array, through_json(array)) == []


def test_numbers_and_text_keep_their_types():
    value = {
        "a": (1, True, None, 1.5, -0.0, 1e-320, "text\x00ü", 2**127),
        "b": [np.float64(0.1), np.int64(3), np.bool_(True), float("inf"), float("nan")],
        "c": (),
    }
    assert differences(value, through_json(value)) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_both_kinds_of_file_hold_every_number(tmp_path, suffix):
    parts = {
        "special": np.array([-0.0, 0.0, np.nan, np.inf, 5e-324]),
        "zero": np.zeros((3, 0)), "scalar": np.array(2.5), "negative": -np.zeros(4),
        "bool": np.array([True, False]), "whole": np.arange(6).reshape(2, 3),
    }  # fmt: skip
    path = tmp_path / f"run.{suffix}"
    files.write(path, {"what": "ü", "inf": float("inf")}, parts)
    header, found = files.read(path)
    assert header == {"what": "ü", "inf": float("inf")}
    assert differences(dict(sorted(parts.items())), dict(sorted(found.items())), layout=False) == []


def test_every_class_of_the_state_is_known():
    """Each field's class that is a dataclass of the package, wherever it stands in an ensemble."""
    seen = set()

    def walk(value):
        if dataclasses.is_dataclass(value):
            seen.add(type(value).__name__)
            for field in dataclasses.fields(value):
                walk(getattr(value, field.name))
        elif isinstance(value, tuple):
            for item in value:
                walk(item)

    for settings in SCHEMES.values():
        ensemble = start(**settings)
        for _ in range(2):
            ensemble, _ = ensemble.step(banana)
        walk(ensemble)
        walk(ensemble.finish(banana))
    assert seen <= set(CLASSES) and {"Memory", "Relaxation", "Verdict"} <= seen


def test_functions_are_left_out():
    ensemble = start(**CROWDED | {"temperature": math.exp})
    again = through_json(ensemble, math.exp)
    assert differences(ensemble, again) == []
    with pytest.raises(FileError, match=r"exp.*is a function, which a file cannot hold"):
        through_json(ensemble)


def test_what_is_not_a_state_says_so():
    with pytest.raises(TypeError, match=r"object.*cannot be written"):
        encode({"x": object()})
    tree, parts = encode(Fluid(*np.zeros((6, 1))))
    unknown = tree | {"class": "Popen"}
    with pytest.raises(FileError, match="unknown class 'Popen'"):
        decode(unknown, parts)
    more = tree | {"fields": tree["fields"] | {"mass": 1}}
    with pytest.raises(FileError, match="Fluid has no mass: the file comes from another version"):
        decode(more, parts)
    for bad in (tree | {"fields": {}}, {"array": "none"}, {"class": "Fluid"}, {"list": 3}, {}):
        with pytest.raises(FileError, match=r"does not describe a state|other version"):
            decode(bad, parts)

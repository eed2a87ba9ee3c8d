"""Checkpoints: resumed fits to the bit, other models, files that are damaged or foreign."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile

from pathlib import Path

import numpy as np
import pymc as pm
import pytest

from gradient_blocker import block_gradient
from same_bits import differences

import pymc_sph

from pymc_sph import SPH, FileError, MismatchError, SettingsError, checkpoint, files

Y = 1 + 0.3 * np.random.default_rng(0).standard_normal(30)
CROWDED = {"fluids": 2, "particles": 3, "tol": 1e-6, "window": 4, "cooling": 5, "paths": 4}


def line(y=Y, sd=5.0, name="mu", shape=None, sigma=None):
    with pm.Model() as model:
        mu = pm.Normal(name, 0, sd, shape=shape)
        sigma = (sigma or pm.HalfNormal)("sigma")
        data = pm.Data("y_data", y)
        pm.Normal("y", mu if shape is None else mu[0], sigma, observed=data)
    return model


def blocked():
    model = line()
    block_gradient(model)
    return model


def minibatch():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 5)
        batch = pm.Minibatch(Y, batch_size=10)
        pm.Normal("y", mu, 0.3, observed=batch, total_size=len(Y))
    return model


def heat(step):
    return 1 + 3 * 0.5**step if step < 8 else 1.0


FITS = {
    "force": (line, CROWDED),
    "diagonal": (line, CROWDED | {"tensor": "diagonal"}),
    "pressure": (blocked, CROWDED | {"probes": 16}),
    "collocated": (line, {"scheme": "collocated", "fluids": 2, "particles": 24}),
    "minibatch": (minibatch, CROWDED),
    "function": (line, CROWDED | {"temperature": heat}),
}


class Boom(Exception):
    """Ends a fit from a callback."""


def at(n, error=Boom):
    def callback(approx, losses, i):
        if i == n:
            raise error()

    return callback


def everything(inference):
    """All that a fit gives, without what depends on the clock."""
    approx = inference.approx
    return {
        "hist": inference.hist,
        "again": approx.hist,
        "history": approx.history,
        "result": approx.result,
        "status": approx.status,
        "simulations": approx.simulations,
        "theta": approx.mixture.sample(50, np.random.default_rng(5)).theta,
        "ensemble": inference._ensemble,
    }


# --- to the bit


@pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning")
@pytest.mark.parametrize("name", FITS)
def test_a_resumed_fit_is_the_same_to_the_bit(name, tmp_path):
    make, settings = FITS[name]
    path = tmp_path / "run.npz"
    whole = SPH(make(), 7, **settings)
    whole.fit(300, progressbar=False)
    expected = everything(whole)
    n_steps = len(expected["hist"])
    together = expected["ensemble"].together.schedule.step
    assert (together > 0) == (name != "collocated")
    broken = SPH(make(), 7, checkpoint=path, every=5, **settings)
    met = n_steps - together
    for step in sorted({1, met // 2, met, met + together // 2 + 1} - {n_steps + 1}):
        with pytest.raises(Boom):
            broken.fit(300, progressbar=False, callbacks=[at(step)])
        given = {"temperature": heat} if name == "function" else {}
        resumed = SPH.resume(path, make(), progressbar=False, **given)
        # the end of the run that failed wrote its last whole step, whatever `every` says
        assert differences(expected, everything(resumed)) == [], step


def kill_after(step, path, every, monkeypatch):
    """Let a fit end as by kill -9: nothing is written after this step."""
    whole = checkpoint.write

    def write(path, state):
        if state.ensemble.n_steps <= step:
            whole(path, state)

    monkeypatch.setattr(checkpoint, "write", write)
    inference = SPH(line(), 7, checkpoint=path, every=every, **CROWDED)
    inference.fit(60, progressbar=False)
    monkeypatch.undo()
    return inference


@pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning")
def test_the_fit_goes_on_from_the_last_multiple_of_every(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    whole = kill_after(9, path, 4, monkeypatch)
    saved = checkpoint.read(path)
    assert saved.ensemble.n_steps == 8 and len(saved.losses) == 8 and len(saved.hist) == 0
    seen = []

    def look(approx, losses, i):
        seen.append((len(losses), i))

    resumed = SPH.resume(path, line(), progressbar=False, callbacks=[look])
    assert seen[0] == (9, 9) and seen[-1] == (60, 60)
    assert differences(everything(whole), everything(resumed)) == []
    assert checkpoint.read(path).ensemble.n_steps == 60  # it has written on


@pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning")
@pytest.mark.parametrize("name", ["force", "minibatch"])
def test_refine_is_in_the_checkpoint_and_goes_on_after_it(name, tmp_path):
    make, settings = FITS[name]
    whole = SPH(make(), 7, **settings)
    whole.fit(12, progressbar=False)
    whole.refine(15, progressbar=False)
    whole.refine(4, progressbar=False)
    expected = everything(whole)
    assert len(expected["hist"]) == 31
    path = tmp_path / "run.npz"
    broken = SPH(make(), 7, checkpoint=path, **settings)
    broken.fit(12, progressbar=False, callbacks=[at(20)])
    with pytest.raises(Boom):
        broken.refine(15, progressbar=False)
    resumed = SPH.resume(path, make(), progressbar=False)
    assert len(resumed.hist) == 27
    resumed.refine(4, progressbar=False)
    assert differences(expected, everything(resumed)) == []
    # and so does the object whose fit was broken
    broken.refine(7, progressbar=False)
    broken.refine(4, progressbar=False)
    assert differences(expected["hist"], broken.hist) == []


@pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning")
def test_a_finished_fit_can_be_resumed_and_gives_itself(tmp_path):
    path = tmp_path / "run.zarr"
    inference = SPH(line(), 7, checkpoint=path, **CROWDED)
    with inference.model:
        pm.fit(30, method=inference, progressbar=False, score=False)
        again = pymc_sph.resume(path, progressbar=False)
    assert len(inference.hist) == len(again.hist) == 0
    assert differences(inference.approx.result, again.result) == []
    assert not differences(again.attrs["n_failed"], inference.approx.attrs["n_failed"])


@pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning")
def test_checkpoint_goes_in_like_every_setting(tmp_path):
    paths = [tmp_path / name for name in ("a.npz", "b.npz", "c.npz", "~.npz")]
    with line():
        pm.fit(2, method="sph", progressbar=False, checkpoint=paths[0], every=1, fluids=1)
        pm.fit(2, method="sph", progressbar=False,
               inf_kwargs={"checkpoint": str(paths[1]), "fluids": 1})  # fmt: skip
        pymc_sph.fit(10, 1, n=2, progressbar=False, checkpoint=paths[2])
    assert [path.exists() for path in paths] == [True, True, True, False]
    assert sorted(tmp_path.iterdir()) == paths[:3]  # and nothing else


def test_a_missing_or_another_function_says_so(tmp_path):
    path = tmp_path / "run.npz"
    settings = CROWDED | {"temperature": heat}
    with pytest.raises(Boom):
        SPH(line(), 7, checkpoint=path, **settings).fit(progressbar=False, callbacks=[at(2)])
    with pytest.raises(SettingsError, match=r"^temperature: it was a function .* give it again"):
        pymc_sph.resume(path, line())
    with pytest.raises(SettingsError, match=r"^temperature=.*: it was another function"):
        pymc_sph.resume(path, line(), temperature=lambda step: 1.0)
    with pytest.raises(Boom):
        SPH(line(), 7, checkpoint=path, **CROWDED).fit(
            progressbar=False, callbacks=[at(2)], compile_kwargs={"mode": "FAST_COMPILE"}
        )
    with pytest.raises(SettingsError, match=r"^temperature=.*goes on with the settings"):
        pymc_sph.resume(path, line(), temperature=heat)
    with pytest.raises(SettingsError, match=r"^compile_kwargs: this fit had .*FAST_COMPILE"):
        pymc_sph.resume(path, line())


# --- other models


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A checkpoint of `line()`, after three steps."""
    path = tmp_path_factory.mktemp("checkpoint") / "run.npz"
    with pytest.raises(Boom):
        SPH(line(), 7, checkpoint=path, **CROWDED).fit(progressbar=False, callbacks=[at(3)])
    return path


def ordered():
    with pm.Model() as model:
        pm.Data("y_data", Y)
        sigma = pm.HalfNormal("sigma")
        pm.Normal("y", pm.Normal("mu", 0, 5), sigma, observed=model["y_data"])
    return model


OTHERS = {
    "name": (lambda: line(name="nu"), "mu is missing; nu is new"),
    "shape": (lambda: line(shape=(2,)), r"mu has the shape \(2,\) instead of \(\)"),
    "transform": (
        lambda: line(sigma=lambda name: pm.HalfNormal(name, default_transform=None)),
        "sigma_log__ is missing; sigma is new",
    ),
    "data": (lambda: line(y=np.append(Y[:-1], 0.0)), "y_data has other values; y has other values"),
    "length": (lambda: line(y=Y[:-1]), "y_data has other values"),
    "order": (ordered, "in the order sigma_log__, mu instead of mu, sigma_log__"),
    "prior": (lambda: line(sd=5.01), r"its log density at array.* was .* and is "),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_is_an_error_that_says_what_differs(name, broken):
    make, message = OTHERS[name]
    before = broken.read_bytes()
    with pytest.raises(MismatchError, match=message):
        pymc_sph.resume(broken, make(), progressbar=False)
    assert broken.read_bytes() == before


def test_data_set_after_the_fit_are_other_data(broken):
    model = line()
    with model:
        pm.set_data({"y_data": Y + 1})
        with pytest.raises(MismatchError, match="y_data has other values"):
            pymc_sph.resume(broken)
        pm.set_data({"y_data": Y})
        with pytest.raises(Boom):
            pymc_sph.resume(broken, callbacks=[at(4)], progressbar=False)


def test_a_gradient_that_is_gone_is_another_model(broken):
    with pytest.raises(MismatchError, match="in the force form, and the model now takes the pres"):
        pymc_sph.resume(broken, blocked(), progressbar=False)


def test_outside_of_a_model_there_is_none(broken):
    with pytest.raises(TypeError, match="No model on context stack"):
        pymc_sph.resume(broken)


# --- bad files


class Bomb:
    """Makes a file if it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (str(Bomb.target),)


def rewritten(path, change):
    """A file like that in `path`, its header changed."""
    header, parts = files.read(path)
    out = path.parent / "changed.npz"
    files.write(out, change(header) or header, parts)
    return out


def foreign_files(folder, broken):
    """Files that are no checkpoint, with a part of the message that each gets."""
    Bomb.target = folder / "exploded"
    out = {}

    def add(name, message, content=None):
        out[folder / name] = message
        if content is not None:
            (folder / name).write_bytes(content)

    add("text.npz", "was not written by pymc-sph, or it is cut off", b"hello")
    add("empty.npz", "was not written by pymc-sph, or it is cut off", b"")
    add("half.npz", "was not written by pymc-sph, or it is cut off", broken.read_bytes()[:-700])
    add("pickle.npz", "was not written by pymc-sph, or it is cut off", pickle.dumps(Bomb()))
    np.savez(folder / "foreign.npz", x=np.arange(3))
    add("foreign.npz", "was not written by pymc-sph")
    objects = np.array([Bomb()], dtype=object)
    np.savez(folder / "objects.npz", pymc_sph=objects, allow_pickle=True)
    add("objects.npz", "Object arrays cannot be loaded")
    header = np.frombuffer(b'{"sha256": "0"}', dtype="uint8")
    np.savez(folder / "bomb.npz", pymc_sph=header, a0=objects, allow_pickle=True)
    add("bomb.npz", "Object arrays cannot be loaded")
    np.savez(folder / "json.npz", pymc_sph=np.frombuffer(b"__import__('os')", dtype="uint8"))
    add("json.npz", "is damaged: JSONDecodeError")
    np.savez(folder / "digest.npz", pymc_sph=header)
    add("digest.npz", "its arrays are not those that were written")
    flipped = bytearray(broken.read_bytes())
    flipped[flipped.index(b'"settings"') + 3] ^= 1
    add("flipped.npz", "is damaged: the checksum of", bytes(flipped))
    (folder / "folder.npz").mkdir()
    add("folder.npz", "is a folder")
    with zipfile.ZipFile(folder / "zip.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    add("zip.npz", "was not written by pymc-sph")
    return out


def test_bad_files_say_what_is_wrong_and_run_nothing(tmp_path, broken):
    for path, message in foreign_files(tmp_path, broken).items():
        for function in (checkpoint.read, lambda p: pymc_sph.load(p, line())):
            with pytest.raises(FileError, match=message):
                function(path)
    assert not Bomb.target.exists()
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        pymc_sph.resume(tmp_path / "none.npz", line())
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        pymc_sph.load(tmp_path / "none.npz", line())


def test_other_versions_and_kinds_say_so(broken, caplog):
    newer = rewritten(broken, lambda h: h | {"format": 2})
    with pytest.raises(FileError, match=r"format 2, and this pymc-sph .* reads the format 1"):
        pymc_sph.resume(newer, line())
    with pytest.raises(FileError, match=r"holds a checkpoint of a fit: pymc_sph.resume"):
        pymc_sph.load(broken, line())
    older = rewritten(broken, lambda h: h | {"written_by": h["written_by"] | {"numpy": "1.0"}})
    checkpoint.read(older)
    assert "numpy 1.0" in caplog.text and "perhaps not to the bit" in caplog.text
    other = rewritten(broken, lambda h: h | {"content": h["content"]["mapping"]["ensemble"]})
    with pytest.raises(FileError):
        checkpoint.read(other)


@pytest.mark.parametrize("suffix", ["npz", "zarr"])
def test_a_flipped_bit_or_a_missing_end_is_found(tmp_path, broken, suffix):
    """Wherever it is: the file is refused, or what is read is what was written."""
    header, parts = files.read(broken)
    path = tmp_path / f"run.{suffix}"
    files.write(path, header, parts)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(150):
        content = bytearray(good)
        if trial % 3 == 0:
            content = content[: rng.integers(len(good))]
        else:
            # half of them in the directory of the archive, at its end
            low = 0 if trial % 3 == 1 else len(good) - 2000
            content[rng.integers(low, len(good))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            again = files.read(path)
        except FileError:
            refused += 1
        else:
            assert again[0] == header
            assert differences(dict(sorted(parts.items())), dict(sorted(again[1].items())),
                               layout=False) == []  # fmt: skip
    assert refused > 90


# --- writing


def test_paths_that_cannot_be_written_say_so(tmp_path, monkeypatch):
    model = line()
    for value, message in (
        (3, "give a path that ends in .npz or .zarr"),
        ("", "give a path that ends in .npz or .zarr"),
        (tmp_path / "run.h5", "give a path that ends in .npz or .zarr"),
        (tmp_path / "none" / "run.npz", "the folder .*none does not exist"),
    ):
        with pytest.raises(SettingsError, match=rf"^checkpoint=.*{message}"):
            SPH(model, checkpoint=value)
    (tmp_path / "run.zarr").mkdir()
    with pytest.raises(SettingsError, match="is a folder: a Zarr store is written as one file"):
        SPH(model, checkpoint=tmp_path / "run.zarr")
    for every in (0, 1.5, "often"):
        with pytest.raises(SettingsError, match=r"^every="):
            SPH(model, every=every)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(SettingsError, match=r"needs the package zarr.*pymc-sph\[zarr\]"):
        SPH(model, checkpoint=tmp_path / "b.zarr")


def test_another_file_is_not_overwritten(tmp_path, broken, caplog):
    model = line()
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.arange(3))
    before = path.read_bytes()
    with pytest.raises(SettingsError, match="there is another file, which is not overwritten"):
        SPH(model, checkpoint=path, **CROWDED).fit(3, progressbar=False)
    assert path.read_bytes() == before
    path.write_bytes(broken.read_bytes())
    with pytest.raises(Boom):
        SPH(model, checkpoint=path, **CROWDED).fit(progressbar=False, callbacks=[at(1)])
    assert "has not come to its end is overwritten" in caplog.text


@pytest.mark.parametrize("suffix", ["npz", "zarr"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"run.{suffix}"
    files.write(path, {"n": 1}, {"x": np.arange(1000.0)})
    before = path.read_bytes()
    for name, error in (("fsync", OSError(28, "No space left on device")),
                        ("replace", KeyboardInterrupt())):  # fmt: skip

        def fail(*arguments, error=error):
            raise error

        monkeypatch.setattr(os, name, fail)
        with pytest.raises(type(error)):
            files.write(path, {"n": 2}, {"x": np.arange(1000.0)})
        monkeypatch.undo()
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(TypeError):
        files.write(path, {"n": object()}, {})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["npz", "zarr"])
def test_ctrl_c_waits_until_a_file_is_written(tmp_path, suffix, monkeypatch):
    path, fsync = tmp_path / f"run.{suffix}", os.fsync

    def interrupt(descriptor):
        signal.raise_signal(signal.SIGINT)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, {"n": 1}, {"x": np.arange(1000.0)})
    header, arrays = files.read(path)
    assert header == {"n": 1} and np.array_equal(arrays["x"], np.arange(1000.0))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning")
def test_a_full_disk_does_not_end_a_fit_that_has_begun(tmp_path, monkeypatch, caplog):
    path = tmp_path / "run.npz"
    inference = SPH(line(), 7, checkpoint=path, every=2, **CROWDED)
    whole, calls = files.write, []

    def write(*arguments):
        calls.append(1)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        whole(*arguments)

    monkeypatch.setattr(files, "write", write)
    approx = inference.fit(10, progressbar=False)
    assert len(approx.hist) == 10 and approx.status == "max_steps"
    # at the steps 4, 6, 8 and 10, and at the end once more, as 10 is not on the disk
    assert caplog.text.count("could not be written: [Errno 28]") == len(calls) - 2 == 5
    monkeypatch.undo()
    assert checkpoint.read(path).ensemble.n_steps == 2
    monkeypatch.setattr(files, "write", lambda *a: whole(Path("/proc/none.npz"), *a[1:]))
    with pytest.raises(OSError):
        inference.fit(10, progressbar=False)


def test_what_killed_writers_left_is_cleared(tmp_path):
    path = tmp_path / "run.npz"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".run.npz.{dead.pid}-3.tmp", f".run.npz.{os.getppid()}-0.tmp", ".other.npz.1-0.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    files.clear_leftovers(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[1:])


def test_a_checkpoint_is_plain_json_and_arrays(broken):
    with np.load(broken, allow_pickle=False) as archive:
        header = json.loads(archive["pymc_sph"].tobytes())
        kinds = {archive[name].dtype.kind for name in archive.files}
    assert kinds <= set("biuf")
    assert header["kind"] == "checkpoint" and header["format"] == 1
    assert {"pymc", "numpy", "pytensor", "pymc_sph"} <= set(header["written_by"])
    assert header["content"]["mapping"]["settings"]["fields"]["particles"] == 3

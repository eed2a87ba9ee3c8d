"""Files of arrays and one text, as NumPy archives or Zarr stores; free of PyMC.

A file is written beside its place and renamed into it, so that whatever happens meanwhile there is
either the old file or the new one, whole. Reading one never runs code: arrays of objects are
refused, and what describes them is JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import zipfile

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pymc_sph.checks import SettingsError, described, shown
from pymc_sph.interrupts import held_interrupts

SUFFIXES = (".npz", ".zarr")
HEADER = "pymc_sph"
"""Name of the text, an array of bytes or an attribute of the root."""
KINDS = "biuf"
"""Kinds of numbers that an array may hold."""

_numbers = itertools.count()


class FileError(ValueError):
    """A file is not what it should be: damaged, cut off, or written by something else."""


def check_path(name: str, value: Any) -> Path:
    """Return the path of a file to write, with ``~`` resolved.

    Raises
    ------
    SettingsError
        For anything else than a path with a known suffix in a folder that exists, or if the
        package `zarr` is needed and missing.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise SettingsError(f"{name}={shown(value)}: give a path that ends in .npz or .zarr")
    path = Path(os.fsdecode(value)).expanduser()
    if path.suffix not in SUFFIXES:
        raise SettingsError(f"{name}={shown(str(path))}: give a path that ends in .npz or .zarr")
    if path.is_dir():
        raise SettingsError(
            f"{name}={shown(str(path))} is a folder: a Zarr store is written as one file, a zip "
            "archive, because a folder cannot be replaced in one step; give another name"
        )
    if not path.parent.is_dir():
        raise SettingsError(f"{name}={shown(str(path))}: the folder {path.parent} does not exist")
    if path.suffix == ".zarr":
        _zarr()
    return path


def write(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file atomically: all of it, or nothing.

    Ctrl-C comes when it is written: an archive that is left half-way complains as it is collected.

    Parameters
    ----------
    path : Path
        Ends in .npz or .zarr.
    header : mapping
        What describes the arrays, of types that JSON knows.
    arrays : mapping
        Arrays of numbers or bools, by name.

    Raises
    ------
    OSError
        If the disk is full, or the folder cannot be written to; the old file is still there.
    """
    text = json.dumps({**header, "sha256": _digest(arrays)})
    save = _save_zarr if path.suffix == ".zarr" else _save_npz
    with held_interrupts(), _replacing(path) as temporary:
        save(temporary, text, arrays)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a file that `write` has written.

    Returns
    -------
    header : dict
    arrays : dict
        Arrays by name.

    Raises
    ------
    OSError
        If there is none, or it may not be read.
    FileError
        If it is damaged or was not written by this package.
    """
    path = Path(os.fsdecode(path)).expanduser()
    if path.is_dir():
        raise FileError(f"{path} is a folder, and no file of pymc-sph")
    with open(path, "rb"):  # for the errors of files that are not there, or not for us
        pass
    try:
        if not zipfile.is_zipfile(path):
            raise FileError(f"{path} was not written by pymc-sph, or it is cut off")
        with zipfile.ZipFile(path) as archive:
            names, bad = set(archive.namelist()), archive.testzip()
        if bad is not None:
            raise FileError(f"{path} is damaged: the checksum of {bad} is wrong")
        if f"{HEADER}.npy" in names:
            text, arrays = _load_npz(path)
        elif "zarr.json" in names:
            text, arrays = _load_zarr(path)
        else:
            text, arrays = "", {}
        if not text:
            raise FileError(f"{path} was not written by pymc-sph")
        header = json.loads(text)
        if header.pop("sha256") != _digest(arrays):
            raise FileError(f"{path} is damaged: its arrays are not those that were written")
        return header, arrays
    except (FileError, SettingsError):
        raise
    except Exception as err:  # zipfile, NumPy and Zarr raise a dozen kinds
        raise FileError(f"{path} is damaged: {described(err)}") from err


def clear_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote this file have left beside it."""
    if os.name != "posix":  # elsewhere, asking for a process may end it
        return
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)-\d+\.tmp")
    for other in path.parent.iterdir():
        match = pattern.fullmatch(other.name)
        if match is None or int(match[1]) == os.getpid():
            continue
        try:
            os.kill(int(match[1]), 0)
        except ProcessLookupError:
            other.unlink(missing_ok=True)
        except OSError:  # it lives, and belongs to somebody else
            continue


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a path in the same folder; what is written there takes the place of `path`."""
    temporary = path.parent / f".{path.name}.{os.getpid()}-{next(_numbers)}.tmp"
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # else the name may reach the disk before the content
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name itself
        except OSError:  # some file systems cannot
            pass
        finally:
            os.close(folder)


def _save_npz(path: Path, text: str, arrays: Mapping[str, np.ndarray]) -> None:
    header = np.frombuffer(text.encode(), dtype="uint8")
    with open(path, "wb") as file:  # a name would get the suffix .npz
        np.savez(file, allow_pickle=False, **{HEADER: header, **arrays})


def _load_npz(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return arrays.pop(HEADER).tobytes().decode(), arrays


def _save_zarr(path: Path, text: str, arrays: Mapping[str, np.ndarray]) -> None:
    zarr = _zarr()
    store = zarr.storage.ZipStore(path, mode="w")
    try:
        # all at once: a member of an archive cannot be written a second time
        root = zarr.create_group(store, zarr_format=3, attributes={HEADER: text})
        # empty chunks, too: -0.0 counts as the fill value, and would come back as 0.0
        with zarr.config.set({"array.write_empty_chunks": True}):
            for name, array in arrays.items():
                chunk = tuple(max(n, 1) for n in array.shape)
                made = root.create_array(name, shape=array.shape, dtype=array.dtype, chunks=chunk)
                if array.size:
                    made[...] = array
    finally:
        store.close()


def _load_zarr(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    zarr = _zarr()
    store = zarr.storage.ZipStore(path, mode="r")
    try:
        root = zarr.open_group(store, mode="r", zarr_format=3)
        arrays = {name: np.asarray(array[...]) for name, array in root.arrays()}
        return str(root.attrs.get(HEADER, "")), arrays
    finally:
        store.close()


def _zarr() -> Any:
    try:
        import zarr
        import zarr.storage
    except ImportError as err:
        raise SettingsError(
            "a file .zarr needs the package zarr, which is not installed: install pymc-sph[zarr], "
            "or give a path that ends in .npz"
        ) from err
    if int(zarr.__version__.split(".")[0]) < 3:
        raise SettingsError(
            f"a file .zarr needs the package zarr from version 3 on, and this is "
            f"{zarr.__version__}: install pymc-sph[zarr], or give a path that ends in .npz"
        )
    return zarr


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays: a store whose list of members is damaged can still look whole."""
    out = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        if array.dtype.kind not in KINDS:
            raise FileError(f"{name}: an array of {array.dtype} holds no numbers")
        out.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        out.update(np.ascontiguousarray(array).tobytes())
    return out.hexdigest()

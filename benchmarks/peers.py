"""Compare sph with what one would call instead: one command, one table, two figures.

Run ``python benchmarks/peers.py`` (hours), ``--quick`` (two minutes), or parts of it by ``--only``
and ``--methods``. Every posterior, method and seed runs in a process of its own, under a time
limit, with caches of PyTensor and Numba of its own: the first run of a method on a posterior finds
them empty ("cold"), the others what it left ("warm"). Rows go into a file of JSON lines as they
come; what is there already is not run again without ``--fresh``, so a run may be cut and go on.
At the end ``docs/benchmarks.md`` and its figures are written from all rows of that file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import peer_report

from peer_methods import METHODS
from posteriors import POSTERIORS, QUICK

HERE = Path(__file__).resolve().parent
ROWS = HERE / "results" / "peers.jsonl"
QUICK_ROWS = HERE / "results" / "peers_quick.jsonl"
QUICK_METHODS = ("sph", "nutpie", "laplace")
COLD, WARM = "cold", "warm"

Row = dict[str, Any]
Key = tuple[str, str, int, str]  # posterior, method, seed, cache


def plan(posteriors: list[str], methods: list[str], seeds: list[int]) -> Iterator[Key]:
    """Yield the runs, a seed over all methods before the next, so that all see the same load."""
    for posterior in posteriors:
        for method in methods:
            yield posterior, method, seeds[0], COLD
        for seed in seeds:
            for method in methods:
                yield posterior, method, seed, WARM


def read(path: Path) -> dict[Key, Row]:
    """Return the rows of a file by their keys; later ones replace earlier ones."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {(row["posterior"], row["method"], row["seed"], row["cache"]): row for row in rows}


def in_process(key: Key, cache: Path, limit: float) -> Row:
    """Run one key in a process of its own, with this folder of caches, and return its row."""
    posterior, method, seed, _ = key
    cache.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "PYTENSOR_FLAGS": f"base_compiledir={cache}/pytensor",
        "NUMBA_CACHE_DIR": f"{cache}/numba",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, str(HERE / "peer_run.py"), posterior, method, str(seed)]
        began = time.perf_counter()
        with open(Path(folder) / "log", "w+") as log:
            process = subprocess.Popen(
                [*command, str(out)],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that a time limit ends its children, too
            )
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return {"status": "time out", "reason": f"{limit:.0f} s"}
            if not out.exists():  # the interpreter itself died
                log.seek(0)
                last = (log.read().strip().splitlines() or [""])[-1][:200]
                return {"status": "failed", "reason": f"exit {process.returncode}: {last}"}
        return json.loads(out.read_text()) | {"process": time.perf_counter() - began}


def hopeless(rows: dict[Key, Row], key: Key) -> Row | None:
    """Return the row of a run that need not be made, because an earlier one says enough."""
    for cache in (COLD, WARM):
        for (posterior, method, _, other), row in rows.items():
            if (posterior, method, other) == (*key[:2], cache) and row["status"] in (
                "needs a gradient",
                "not installed",
                "time out",
            ):
                return {name: row[name] for name in ("status", "reason") if name in row}
    return None


def measure(
    keys: list[Key], path: Path, caches: Path, limit: float, *, fresh: bool
) -> dict[Key, Row]:
    """Make the runs that the file lacks, and return all of its rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = read(path)
    if fresh:
        rows = {key: row for key, row in rows.items() if key not in set(keys)}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    where = {"commit": commit(), "machine": machine(), "limit": limit}
    for i, key in enumerate(keys):
        if key in rows:
            continue
        posterior, method, seed, cache = key
        row = hopeless(rows, key)
        if row is None:
            folder = caches / posterior / method
            if cache == COLD:
                shutil.rmtree(folder, ignore_errors=True)
            elif not folder.exists():
                in_process(key, folder, limit)  # fills the cache; its times mean nothing
            row = in_process(key, folder, limit)
        named = {"posterior": posterior, "method": method, "seed": seed, "cache": cache}
        rows[key] = named | row | where
        with open(path, "a") as file:
            file.write(json.dumps(rows[key]) + "\n")
        print(f"{i + 1}/{len(keys)} {peer_report.line(rows[key])}", file=sys.stderr, flush=True)
    return rows


def commit() -> str:
    """Return the short hash of the checked-out commit, with a + if files differ from it."""
    git = ["git", "-C", str(HERE)]
    try:
        hash_ = subprocess.run([*git, "rev-parse", "--short", "HEAD"], **_TEXT).stdout.strip()
        # the package alone: what this command writes is no difference
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", str(HERE.parent / "pymc_sph")], **_TEXT
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return hash_ + ("+" if changed.strip() else "")


_TEXT: Any = {"check": True, "capture_output": True, "text": True}


def machine() -> str:
    """Return processor, cores and Python."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def chosen(names: list[str], parts: list[str] | None) -> list[str]:
    """Return the names that contain one of the parts; all without parts.

    Raises
    ------
    SystemExit
        If a part fits no name.
    """
    for part in parts or []:
        if not any(part in name for name in names):
            raise SystemExit(f"{part!r} is part of none of: {', '.join(names)}")
    return [name for name in names if parts is None or any(part in name for part in parts)]


def main() -> None:
    """Measure, and write table and figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one posterior, three methods")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of posteriors' names")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="parts of methods' names")
    parser.add_argument("--seeds", type=int, default=None, help="number of warm runs, 5")
    parser.add_argument("--limit", type=float, default=None, help="seconds for one run, 900")
    parser.add_argument("--fresh", action="store_true", help="run again what has been run")
    parser.add_argument("--rows", type=Path, default=None, help="file of JSON lines")
    parser.add_argument("--out", type=Path, default=None, help="folder of table and figures")
    parser.add_argument("--report", action="store_true", help="run nothing, write the page")
    arguments = parser.parse_args()

    quick = arguments.quick
    posteriors = chosen(list(QUICK) if quick else list(POSTERIORS), arguments.only)
    methods = chosen(list(METHODS), arguments.methods)
    if quick and arguments.methods is None:
        methods = list(QUICK_METHODS)
    seeds = list(range(1, 1 + (arguments.seeds or (1 if quick else 5))))
    rows = arguments.rows or (QUICK_ROWS if quick else ROWS)
    out = arguments.out or (rows.with_suffix("") if quick else HERE.parent / "docs")
    keys = [] if arguments.report else list(plan(posteriors, methods, seeds))
    limit = arguments.limit or (60.0 if quick else 900.0)
    caches = rows.with_suffix(".caches")
    measured = measure(keys, rows, caches, limit, fresh=arguments.fresh or quick)
    if quick:
        shutil.rmtree(caches, ignore_errors=True)
    print(peer_report.write(list(measured.values()), out))


if __name__ == "__main__":
    main()

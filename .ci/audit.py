"""Report known vulnerabilities of the direct dependencies, in the versions installed here.

``python .ci/audit.py FOLDER`` installs pip-audit into a folder of its own and runs it. The exit
status is 0 whatever is found: a vulnerability in a dependency is no fault of the commit under test,
and is mended by a bound in pyproject.toml, if it concerns us at all. Without an advisory service in
reach nothing is checked, and the last line says so.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
import venv

from importlib.metadata import requires, version
from pathlib import Path

SERVICE = "https://pypi.org/pypi/{}/{}/json"
PATIENCE = 8
"""Seconds to wait for an answer of the service."""


def main() -> None:
    """Look for the service, run pip-audit, and say what came of it."""
    pins = {}
    for line in requires("pymc-sph") or ():
        if "extra ==" not in line:
            name = re.split(r"[^A-Za-z0-9._-]", line)[0]
            pins[name] = version(name)
    try:
        why = unreachable(pins["pymc"]) or audit(pins, Path(sys.argv[1]))
    except (OSError, ValueError, subprocess.SubprocessError) as err:
        why = f"{type(err).__name__}: {err}"
    if why:
        print(f"audit: skipped, {why}")


def unreachable(pymc: str) -> str:
    """Why there are no advisories to be had; empty if there are. A mirror need not have them."""
    url = SERVICE.format("pymc", pymc)
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            known = "vulnerabilities" in json.load(answer)
    except (OSError, ValueError) as err:
        return f"{url} cannot be read ({err})"
    return "" if known else f"{url} has no advisories"


def audit(pins: dict[str, str], folder: Path) -> str:
    """Run pip-audit, print what it finds, and return why it could not run, if it could not."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "pip-audit"], check=True, timeout=300)
    listed = folder / "pins.txt"
    listed.write_text("".join(f"{name}=={number}\n" for name, number in pins.items()))
    options = ["--no-deps", "--disable-pip", "--progress-spinner=off", f"--timeout={PATIENCE}"]
    command = [python, "-m", "pip_audit", "-r", listed, *options, "--format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return f"pip-audit failed: {done.stderr.strip()[-300:]}"
    print_findings(packages)
    return ""


def print_findings(packages: list[dict]) -> None:
    """Print the vulnerabilities of each package; the last line sums up."""
    found = 0
    for package in packages:
        if "skip_reason" in package:
            print(f"{package['name']}: not checked: {package['skip_reason']}")
        for flaw in package.get("vulns", ()):
            found += 1
            mended = ", ".join(flaw["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {flaw['id']}, mended in {mended}")
            print(f"    {flaw['description'][:300]}")
    checked = sum("vulns" in package for package in packages)
    print(f"audit: {found} known vulnerabilities in {checked} of {len(packages)} packages checked")


if __name__ == "__main__":
    main()

"""Every message that sends its reader to the page on troubleshooting finds its section there."""

from __future__ import annotations

import ast
import re

from pathlib import Path

import pytest

import pymc_sph

from pymc_sph import links, verdict

ROOT = Path(pymc_sph.__file__).parent
PAGE = ROOT.parent / links.PAGE
MODULES = sorted(ROOT.rglob("*.py"))

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="an installation has no docs")


def anchors():
    """Anchors of a page as GitHub and MyST make them of its headings."""
    headings = re.findall(r"^#+ (.+)$", PAGE.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def calls(tree, *names):
    """Calls of functions or methods of these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            if name in names:
                yield node


def test_every_section_named_in_the_code_exists():
    named = {}
    for module in MODULES:
        tree = ast.parse(module.read_text())
        for call in calls(tree, "see"):
            if isinstance(call.args[0], ast.Constant):
                named[call.args[0].value] = module.name
        for call in calls(tree, "Verdict"):
            for arg in call.args[3:]:
                named[arg.value] = module.name
    assert len(named) > 15
    assert not {name: where for name, where in named.items() if name not in anchors()}


def test_every_warning_and_log_message_names_a_section():
    # the verdict's own message comes with the section of the verdict
    exempt = {"inference.py": 2}
    bare = {}
    for module in MODULES:
        tree = ast.parse(module.read_text())
        found = [c for c in calls(tree, "warn", "info", "warning", "error", "log")
                 if isinstance(c.func, ast.Attribute)
                 and getattr(c.func.value, "id", "") in ("warnings", "logger")]  # fmt: skip
        without = [c for c in found if not any(calls(c, "see"))]
        if len(without) != exempt.get(module.name, 0):
            bare[module.name] = [ast.unparse(c) for c in without]
    assert not bare


def test_every_verdict_names_a_section():
    tree = ast.parse(Path(verdict.__file__).read_text())
    found = [call for call in calls(tree, "Verdict") if ast.unparse(call.args[0]) != "RELIABLE"]
    assert len(found) > 9 and all(len(call.args) == 4 for call in found)
    assert str(verdict.NOISY).endswith(f"See {links.PAGE}#minibatches-make-log-p-noisy.")

"""``python -m pymc_sph``: what it prints and writes, with matplotlib and without."""

from __future__ import annotations

import sys

import pytest

from pymc_sph.__main__ import SCHOOLS, main


@pytest.fixture
def anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_command_prints_verdict_and_writes_a_picture(anywhere, capsys):
    output = anywhere / "new" / "fluid.png"
    assert main(["--seed", "3", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    for word in ("verdict       reliable", "log evidence  -31.3", "ELBO", "compilation"):
        assert word in printed
    for row in ("mu ", "tau ", *(f"theta[{school}]" for school in SCHOOLS), str(output)):
        assert row in printed
    assert output.read_bytes().startswith(b"\x89PNG\r\n")


def test_no_plot_writes_nothing(anywhere, capsys):
    assert main(["--no-plot"]) == 0
    printed = capsys.readouterr().out
    assert "verdict       reliable" in printed and "picture" not in printed
    assert not list(anywhere.iterdir())


def test_without_matplotlib_says_how_to_get_it(anywhere, capsys, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert "pip install 'pymc-sph[plots]'" in printed and "verdict       reliable" in printed
    assert not list(anywhere.iterdir())

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


@pytest.fixture
def no_fit(monkeypatch):
    """Whatever is wrong with an option has to be said before this is called."""
    monkeypatch.setattr("pymc_sph.__main__.eight_schools", lambda: pytest.fail("the fit began"))


@pytest.mark.parametrize(
    ("output", "wrong"),
    [
        ("folder", "folder: is a folder: give the name of a file, such as"),
        ("fluid.xyz", "fluid.xyz: Format 'xyz' is not supported"),
        ("fluid", "fluid: has no suffix"),
        ("file.txt/new/fluid.png", "file.txt is a file, and no folder"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_fit(
    output, wrong, anywhere, capsys, no_fit
):
    (anywhere / "folder").mkdir()
    (anywhere / "file.txt").touch()
    with pytest.raises(SystemExit) as caught:
        main(["--output", str(anywhere / output)])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "argument --output" in said and wrong in said and "such as fluid.png" in said
    assert sorted(path.name for path in anywhere.iterdir()) == ["file.txt", "folder"]


def test_a_place_without_permission_is_refused_before_the_fit(
    anywhere, capsys, no_fit, monkeypatch
):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(SystemExit):
        main([])
    assert "cannot be written to: give another place" in capsys.readouterr().err


def test_a_negative_seed_is_refused_before_the_fit(anywhere, capsys, no_fit):
    with pytest.raises(SystemExit):
        main(["--seed", "-1"])
    assert "argument --seed: -1: give a seed of 0 or more" in capsys.readouterr().err


def test_without_matplotlib_says_how_to_get_it(anywhere, capsys, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert "pip install 'pymc-sph[plots]'" in printed and "verdict       reliable" in printed
    assert not list(anywhere.iterdir())

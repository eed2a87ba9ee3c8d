"""Pictures of real fits: history, animation, draws as the only source; and starting points."""

from __future__ import annotations

import shutil
import subprocess

import arviz as az
import numpy as np
import pymc as pm
import pytest

from pymc.initial_point import make_initial_point_fns_per_chain
from round_trip import netcdf_round_trip

import pymc_sph

from pymc_sph import plots
from pymc_sph.idata import PYMC_5, group

matplotlib = pytest.importorskip("matplotlib")
figure = pytest.importorskip("matplotlib.figure")
FigureCanvasAgg = pytest.importorskip("matplotlib.backends.backend_agg").FigureCanvasAgg

BEND = 0.4


@pytest.fixture(scope="module")
def recorder():
    return plots.Recorder()


@pytest.fixture(scope="module")
def approx(recorder):
    """A fit of a density in two dimensions: log s, and a normal x bent by it."""
    with pm.Model():
        s = pm.LogNormal("s", 0, 0.7)
        pm.Normal("x", BEND * pm.math.log(s) ** 2, 1)
        return pm.fit(
            method="sph", random_seed=1, progressbar=False, callbacks=[recorder],
            inf_kwargs={"temperature": 4.0},
        )  # fmt: skip


@pytest.fixture(scope="module")
def data(approx):
    return approx.sample(50, random_seed=1, include_transformed=True)


def test_history_is_that_of_the_steps(approx, data):
    history = approx.history
    np.testing.assert_allclose(history.elbo, -approx.hist)
    n = approx.result.n_steps
    assert history.fluid_elbo.shape == (n, 4) and len(history.ess) == n
    # the best of the fluids, until they meet
    apart = ~history.together
    np.testing.assert_allclose(history.elbo[apart], history.fluid_elbo[apart].max(axis=1))
    assert history.temperature[0] == pytest.approx(4) and history.temperature[-1] == 1
    fluid = group(data, "fluid")
    np.testing.assert_array_equal(fluid["fluid_elbo"], history.fluid_elbo)
    assert fluid["share"].sum() == pytest.approx(1)
    assert fluid.attrs["log_evidence"] == approx.log_evidence


@pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning")
def test_history_goes_on_when_a_fit_is_refined(approx):
    method = pymc_sph.SPH(approx.model, 2, temperature=4.0)
    method.fit(3, progressbar=False)
    assert len(method.refine(2, progressbar=False).history.elbo) == 5
    assert len(method.fit(1, progressbar=False).history.elbo) == 1


def test_convergence_shows_the_history(approx, data):
    for source in (approx, data):
        axes = figure.Figure().subplots(3)
        assert list(plots.plot_convergence(source, axes)) == list(axes)
        by_label = {line.get_label(): line.get_ydata() for line in axes[0].lines}
        np.testing.assert_allclose(by_label["best, then all"], -approx.hist)
        apart = ~approx.history.together
        np.testing.assert_allclose(by_label["fluid 2"][apart], approx.history.fluid_elbo[apart, 2])
        [evidence] = [y for name, y in by_label.items() if name.startswith("log evidence")]
        assert evidence[0] == approx.log_evidence
        np.testing.assert_allclose(axes[1].lines[0].get_ydata(), approx.history.ess)
        np.testing.assert_allclose(axes[2].lines[0].get_ydata(), approx.history.temperature)
    with pytest.raises(ValueError, match="axes: give three"):
        plots.plot_convergence(approx, figure.Figure().subplots(2))


def test_draws_alone_give_the_same_picture(approx, data):
    one, two = (plots.plot_fluid(s, ax=figure.Figure().subplots()) for s in (approx, data))
    assert one.get_xlabel() == two.get_xlabel() == "s_log__"
    for a, b in zip(one.collections, two.collections, strict=True):
        for p, q in zip(a.get_paths(), b.get_paths(), strict=True):
            np.testing.assert_allclose(p.vertices, q.vertices, atol=1e-7)
    plain = approx.sample(5, random_seed=1)
    with pytest.raises(ValueError, match="include_transformed=True"):
        plots.plot_fluid(plain)
    with pytest.raises(ValueError, match="need the approximation"):
        plots.plot_fluid(data, ("s", "x"))
    assert len(plots.plot_convergence(plain)) == 3
    posterior = {"a": np.zeros((1, 5))}
    foreign = az.from_dict(posterior if PYMC_5 else {"posterior": posterior})
    with pytest.raises(ValueError, match="no group 'fluid'"):
        plots.plot_convergence(foreign)


@pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning")
def test_recorder_keeps_every_state(approx, recorder):
    n = approx.result.n_steps
    assert recorder.steps == list(range(1, n + 1)) and recorder.approx is approx
    np.testing.assert_allclose(
        recorder.mixtures[-1].fluids[0].z.shape, approx.mixture.fluids[0].z.shape
    )
    sparse = plots.Recorder(every=5)
    # never good enough, so that all twelve steps are taken
    method = pymc_sph.SPH(approx.model, 2, temperature=4.0, tol=1e-9)
    method.fit(12, callbacks=[sparse], progressbar=False)
    assert sparse.steps == [1, 5, 10]
    method.fit(3, callbacks=[sparse], progressbar=False)
    assert sparse.steps == [1]


def test_animation_shows_the_states(recorder, tmp_path):
    ax = figure.Figure().subplots()
    animation = plots.animate_fluid(recorder, ax=ax, frames=6, grid=60)
    frames = list(animation.new_frame_seq())
    assert len(frames) == 6 and frames[0] == 0 and frames[-1] == len(recorder.steps) - 1
    assert np.diff(frames)[0] < np.diff(frames)[-1]
    animation._func(frames[2])
    particles = ax.collections[-1].get_offsets()
    fluids = recorder.mixtures[frames[2]].fluids
    wanted = np.concatenate([f.mu + f.z @ f.L.T for f in fluids])
    np.testing.assert_allclose(
        particles[np.argsort(particles[:, 0])], wanted[np.argsort(wanted[:, 0])], rtol=1e-9
    )
    assert ax.get_title() == f"step {recorder.steps[frames[2]]}"
    file = tmp_path / "flow.gif"
    animation.save(file, dpi=40)
    assert file.read_bytes().startswith(b"GIF89a")


def ffmpeg() -> str:
    """Path of ffmpeg: the system's, or that of imageio-ffmpeg."""
    found = shutil.which("ffmpeg")
    return found or pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()


def test_a_film_shows_what_is_drawn(recorder, tmp_path):
    program, file = ffmpeg(), tmp_path / "flow.mp4"
    fig = figure.Figure(figsize=(4, 3), dpi=80)
    animation = plots.animate_fluid(recorder, ax=fig.subplots(), frames=5, grid=60)
    with matplotlib.rc_context({"animation.ffmpeg_path": program}):
        animation.save(file)
    decode = [program, "-v", "error", "-i", str(file), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(decode, capture_output=True, check=True, timeout=60).stdout
    film = np.frombuffer(raw, np.uint8).reshape(-1, 240, 320, 3).astype(float)
    assert len(film) == 5
    drawn = []
    for index in animation.new_frame_seq():
        animation._func(index)
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        drawn.append(np.asarray(canvas.buffer_rgba())[..., :3].astype(float))
    # H.264 loses detail, but every picture is closest to its own drawing
    apart = np.abs(film[:, None] - np.array(drawn)).mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(np.argmin(apart, axis=1), np.arange(5))
    assert apart.diagonal().max() < 6


def test_a_film_without_ffmpeg_names_the_remedy(recorder, tmp_path):
    animation = plots.animate_fluid(recorder, ax=figure.Figure().subplots(), frames=2, grid=60)
    animation._init_draw()  # or Matplotlib warns that nothing was drawn
    with matplotlib.rc_context({"animation.ffmpeg_path": str(tmp_path / "none")}):
        with pytest.raises(RuntimeError, match=r"flow\.mp4: .*pip install imageio-ffmpeg"):
            animation.save(tmp_path / "flow.mp4")
        animation.save(tmp_path / "flow.gif", dpi=40)
    assert [path.name for path in tmp_path.iterdir()] == ["flow.gif"]


def test_behind_the_flow_is_the_density_of_the_model(recorder):
    """Its contours enclose their shares of the exact density, by quadrature."""
    ax = figure.Figure().subplots()
    plots.animate_fluid(recorder, ax=ax, frames=2)._init_draw()
    [lines] = [c for c in ax.collections if type(c).__name__ == "QuadContourSet" and not c.filled]
    t, x = np.meshgrid(np.linspace(-4, 4, 801), np.linspace(-5, 9, 801))
    exact = np.exp(-0.5 * (t / 0.7) ** 2 - 0.5 * (x - BEND * t**2) ** 2)
    exact /= exact.max()
    for level, share in zip(lines.levels, (0.95, 0.8, 0.5), strict=True):
        held = exact[exact >= level].sum() / exact.sum()
        assert held == pytest.approx(share, abs=0.015)


def test_animation_names_what_is_wrong(recorder, approx):
    with pytest.raises(TypeError, match="recorder=FluidApproximation"):
        plots.animate_fluid(approx)
    with pytest.raises(ValueError, match="seen no step"):
        plots.animate_fluid(plots.Recorder())
    with pytest.raises(ValueError, match="two numbers"):
        plots.animate_fluid(recorder, "s")


# --- starting points for samplers


def test_starting_points_are_draws_of_q(approx):
    points = approx.initvals(4000, random_seed=3)
    assert set(points[0]) == {"s", "x"}
    theta = np.array([[np.log(point["s"]), point["x"]] for point in points])
    sd = np.sqrt(np.diag(approx.mixture.cov()))
    # 4,000 draws: standard errors .016 sd of a mean, some .02 of an sd
    np.testing.assert_allclose((theta.mean(0) - approx.mixture.mean()) / sd, 0, atol=0.06)
    np.testing.assert_allclose(theta.std(0) / sd, 1, atol=0.08)
    assert len(np.unique(theta[:, 1])) == 4000
    assert approx.initvals(2, random_seed=3) == approx.initvals(2, random_seed=3)
    with pytest.raises(pymc_sph.SettingsError, match="chains="):
        approx.initvals(0)


def test_pymc_starts_where_they_say(approx):
    points = approx.initvals(2, random_seed=4)
    starts = make_initial_point_fns_per_chain(
        model=approx.model, overrides=points, jitter_rvs=set(), chains=2
    )
    for start, point in zip(starts, points, strict=True):
        found = start(0)
        assert found["s_log__"] == pytest.approx(np.log(point["s"]))
        assert found["x"] == pytest.approx(point["x"])
    with approx.model:
        idata = pm.sample(
            20, tune=20, chains=2, cores=1, initvals=points, init="adapt_diag",
            random_seed=1, progressbar=False, compute_convergence_checks=False,
        )  # fmt: skip
    assert idata["posterior"]["s"].shape == (2, 20)


def test_a_file_holds_history_and_particles(data, tmp_path):
    back = netcdf_round_trip(data, tmp_path)
    one, two = group(data, "fluid"), group(back, "fluid")
    assert set(one) == set(two) and one.attrs == two.attrs
    for name in one:
        np.testing.assert_array_equal(two[name], one[name])
    assert plots.plot_fluid(back, ax=figure.Figure().subplots()).get_xlabel() == "s_log__"
    assert len(plots.plot_convergence(back, figure.Figure().subplots(3))) == 3
    if not PYMC_5:
        back.close()

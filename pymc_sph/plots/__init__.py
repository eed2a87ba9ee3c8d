"""Pictures of the fluid. Matplotlib is imported when a picture is asked for, not before."""

from pymc_sph.plots.animation import animate_fluid
from pymc_sph.plots.convergence import plot_convergence, plot_masses
from pymc_sph.plots.fluid import plot_fluid
from pymc_sph.plots.recorder import Recorder

__all__ = ["Recorder", "animate_fluid", "plot_convergence", "plot_fluid", "plot_masses"]

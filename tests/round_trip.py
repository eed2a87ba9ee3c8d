"""Draws through a file and back."""

from __future__ import annotations

import arviz as az
import xarray as xr

from pymc_sph.idata import PYMC_5


def netcdf_round_trip(data, folder):
    """InferenceData or DataTree as it comes back from a netCDF file in a folder."""
    file = str(folder / "fit.nc")
    data.to_netcdf(file, engine="h5netcdf")
    if PYMC_5:
        return az.from_netcdf(file, engine="h5netcdf")
    return xr.open_datatree(file, engine="h5netcdf")

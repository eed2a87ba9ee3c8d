"""The schemes that a fluid can follow, and their settings by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymc_sph.checks import SettingsError, shown
from pymc_sph.collocated_settings import CollocatedSettings
from pymc_sph.settings import Settings, make_settings

AnySettings = Settings | CollocatedSettings

SCHEMES: dict[str, type[AnySettings]] = {
    "variational": Settings,
    "collocated": CollocatedSettings,
}
"""Settings by scheme: the variational fluid, and SPH as the paper writes it."""


def settings_of(scheme: Any, values: Mapping[str, Any], others: Sequence[str] = ()) -> AnySettings:
    """Make a scheme's settings from keyword arguments.

    Parameters
    ----------
    scheme : str
        A key of `SCHEMES`.
    values : mapping
        The settings.
    others : sequence of str
        Other names that the caller takes, one of which may have been meant.

    Raises
    ------
    SettingsError
        For an unknown scheme or setting, with the nearest known one, or a value out of range.
    """
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        known = " or ".join(repr(name) for name in SCHEMES)
        raise SettingsError(f"scheme={shown(scheme)}: choose {known}")
    for name in values:
        for other, kind in SCHEMES.items():
            mine = SCHEMES[scheme].__dataclass_fields__
            if name not in mine and name in kind.__dataclass_fields__:
                raise SettingsError(
                    f"{name}: only scheme={other!r} has this setting, and this is scheme={scheme!r}"
                )
    settings: AnySettings = make_settings(values, others, SCHEMES[scheme])
    return settings

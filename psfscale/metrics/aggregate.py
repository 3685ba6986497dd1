"""From stars and CCDs to exposures and the survey."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr


def aggregate(
    stars: xr.Dataset, survey_stars: xr.Dataset, ccds: xr.Dataset
) -> dict[str, xr.Dataset]:
    """Metrics of every exposure and of the survey, from reserved stars alone.

    Parameters
    ----------
    stars : group ``stars`` of the run store, (exposure, ccd, star)
    survey_stars : group ``stars`` of the survey store, of which ``role`` is read
    ccds : group ``ccds`` of the run store, (exposure, ccd)

    Returns
    -------
    dict
        ``exposures``: arrays over exposure; ``summary``: scalars.
    """
    raise NotImplementedError

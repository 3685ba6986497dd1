from __future__ import annotations

import numpy as np
import xarray as xr

from psfscale.metrics.field import sky_jacobian


def test_sky_jacobian__is_the_instruments_scale_where_no_wcs_is_known() -> None:
    turned = np.array([[0.06, -0.08], [0.08, 0.06]])
    stored = np.stack([turned, np.full((2, 2), np.nan)])
    objects = xr.Dataset({"x": ("star", np.zeros(2))})
    square = 0.2 * np.eye(2)
    np.testing.assert_array_equal(sky_jacobian(objects, pixel_scale=0.2), [square, square])
    objects["jacobian"] = (("star", "sky", "pixel"), stored)
    np.testing.assert_array_equal(sky_jacobian(objects, pixel_scale=0.2), [turned, square])

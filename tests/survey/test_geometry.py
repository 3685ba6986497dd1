from __future__ import annotations

import numpy as np

from psfscale.survey.geometry import sky_jacobian


def test_sky_jacobian__is_the_instruments_scale_where_no_wcs_is_known() -> None:
    turned = np.array([[0.06, -0.08], [0.08, 0.06]])
    stored = np.stack([turned, np.full((2, 2), np.nan)])
    found = sky_jacobian(stored, pixel_scale=0.2)
    np.testing.assert_array_equal(found, [turned, 0.2 * np.eye(2)])

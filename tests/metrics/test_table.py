from __future__ import annotations

import numpy as np
import xarray as xr

from psfscale.arrays import Role
from psfscale.metrics import metrics_table

HERE = ("exposure", "ccd", "star")


def test_metrics_table__is_one_row_a_star_with_its_place() -> None:
    role = np.array([[[1, 2, 0], [0, 0, 0]], [[2, 0, 0], [1, 1, 2]]], np.uint8)
    number = np.arange(12.0).reshape(role.shape)
    axes = {"exposure": ["e1", "e2"], "ccd": [7, 8]}
    survey = xr.DataTree.from_dict(
        {
            "/": xr.Dataset(coords=axes),
            "/stars": xr.Dataset(
                {
                    "role": (HERE, role),
                    "id": (HERE, number.astype(int) + 100),
                    "x": (HERE, number),
                    "y": (HERE, -number),
                    "image": ((*HERE, "stamp_y", "stamp_x"), np.zeros((*role.shape, 2, 2))),
                }
            ),
        }
    )
    run = xr.DataTree.from_dict(
        {
            "/": xr.Dataset(coords=axes),
            "/stars": xr.Dataset({"e1_star": (HERE, number / 10), "flags": (HERE, role + 30)}),
        }
    )
    table = metrics_table(run, survey=survey)
    assert list(table["exposure"]) == ["e1", "e1", "e2", "e2", "e2", "e2"]
    assert list(table["ccd"]) == [7, 7, 7, 8, 8, 8]
    assert list(table["id"]) == [100, 101, 106, 109, 110, 111]
    assert list(table["reserved"]) == [False, True, True, False, False, True]
    assert list(table["x"]) == [0, 1, 6, 9, 10, 11]
    assert list(table["e1_star"]) == [0, 0.1, 0.6, 0.9, 1.0, 1.1]
    assert list(table["metric_flags"]) == [31, 32, 32, 31, 31, 32]
    assert (role[role > 0] == Role.RESERVED).sum() == table["reserved"].sum()

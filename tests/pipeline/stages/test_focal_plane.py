from __future__ import annotations

import numpy as np
import pytest
import toy

from psfscale.arrays import FieldPoints, PixelGrid
from psfscale.errors import InputError
from psfscale.pipeline.stages.focal_plane import CcdPlace, OnCcd, half_turn
from psfscale.survey import load_survey
from psfscale.survey.geometry import field_position


@pytest.fixture
def instrument(tmp_path):
    return load_survey(toy.write_instrument(tmp_path)).instrument


def with_layout(instrument, **changes):
    plane = instrument.focal_plane
    layout = plane.layout.model_copy(update=changes)
    return instrument.model_copy(
        update={"focal_plane": plane.model_copy(update={"layout": layout})}
    )


def place(instrument, ccd, x, y, field):
    return CcdPlace.of(instrument, ccd, x=x, y=y, field_x=field[0], field_y=field[1])


@pytest.mark.parametrize("turned", [(), (2,)])
def test_place__is_where_the_layout_has_the_ccd(instrument, turned) -> None:
    instrument = with_layout(instrument, turned=turned)
    x, y = np.array([0.0, 399.0, 7.5]), np.array([0.0, 299.0, 200.0])
    field = field_position(instrument, 2, x, y)
    found = place(instrument, 2, x, y, field)
    assert found.turned == bool(turned)
    np.testing.assert_allclose(np.array(found.position(x, y)) * 0.012, field, atol=1e-9)


def test_place__refuses_objects_of_a_ccd_that_is_turned_in_secret(instrument) -> None:
    x, y = np.array([10.0, 300.0]), np.array([20.0, 100.0])
    field = field_position(with_layout(instrument, turned=(2,)), 2, x, y)
    with pytest.raises(InputError, match=r"CCD 2: .* name it in layout.turned"):
        place(instrument, 2, x, y, field)


def test_place__follows_the_objects_where_headers_place_ccds(instrument) -> None:
    plane = instrument.focal_plane
    header = type(plane).model_validate(
        {"first_ccd": 1, "n_ccds": 2, "layout": {"kind": "reference_pixel"}}
    )
    free = instrument.model_copy(update={"focal_plane": header})
    x, y = np.array([10.0, 300.0]), np.array([20.0, 100.0])
    field = field_position(free, 1, x, y, reference_pixel=(-50.0, 900.0))
    found = place(free, 1, x, y, field)
    assert found.position(np.zeros(1), np.zeros(1))[0] == pytest.approx(51.0)
    none = np.empty(0)
    with pytest.raises(InputError, match="CCD 1 holds no object"):
        place(free, 1, none, none, (none, none))


@pytest.mark.parametrize("shape", [(5, 7), (6, 8), (5, 8)])
def test_half_turn__keeps_the_centre_and_undoes_itself(shape) -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(size=(2, *shape))
    there, weight = half_turn(image, np.ones(image.shape))
    centre = shape[0] // 2, shape[1] // 2
    np.testing.assert_array_equal(there[:, *centre], image[:, *centre])
    np.testing.assert_array_equal(
        there[:, centre[0] + 1, centre[1]], image[:, centre[0] - 1, centre[1]]
    )
    back, again = half_turn(there, weight)
    seen = again > 0
    assert seen.mean() > 0.6
    np.testing.assert_array_equal(back[seen], image[seen])
    assert (weight == 0).sum() == image[0].size * 2 - 2 * np.prod([n - 1 + n % 2 for n in shape])


class Lopsided:
    """A PSF with a tail along +x and +y, and its place in its first pixel's value."""

    name, settings, stamp_shape = "lopsided", None, (7, 7)

    def predict(self, at, grid):
        y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in grid.shape), indexing="ij")
        psf = np.exp(-(x**2 + y**2) / 4.0) * (1 + 0.2 * np.tanh(x + 2.0 * y))
        weight = 1 + 1e-3 * np.asarray(at.x)
        psf = psf ** weight[:, None, None]
        return psf / psf.sum((1, 2), keepdims=True)


@pytest.mark.parametrize("shape", [(9, 9), (8, 10)])
def test_field__is_turned_on_a_turned_ccd_about_its_centre(shape) -> None:
    at = FieldPoints(x=np.array([10.0, 20.0]), y=np.array([5.0, 6.0]))
    straight = OnCcd(Lopsided(), CcdPlace(x=100, y=0))
    turned = OnCcd(Lopsided(), CcdPlace(x=120, y=0, turned=True))
    seen = turned.predict(at, PixelGrid(shape=shape))
    np.testing.assert_allclose(seen.sum((1, 2)), 1, rtol=1e-6)
    same = FieldPoints(x=120 - at.x - 100, y=at.y)
    whole = straight.predict(same, PixelGrid(shape=(11, 11)))[:, ::-1, ::-1]
    inner = tuple(slice(5 - n // 2, 5 - n // 2 + n) for n in shape)
    expected = whole[:, *inner]
    expected = expected / expected.sum((1, 2), keepdims=True)
    np.testing.assert_allclose(seen, expected, rtol=1e-5)

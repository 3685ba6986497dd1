"""Fields that stand in for a doubtful one, and fits held to the phases of their stars."""

from __future__ import annotations

import numpy as np
import pytest

from psfscale.arrays import FieldPoints, PixelGrid, StarBatch
from psfscale.models.rca.model import RCA
from psfscale.models.rca.settings import RCASettings
from psfscale.models.sprite.field import SpriteField
from psfscale.models.sprite.settings import SpriteFieldSettings
from psfscale.models.state import widened


def stars(*, phase: float | None = None, n: int = 24, side: int = 11) -> StarBatch:
    rng = np.random.default_rng(4)
    x, y = rng.uniform(0, 500, (2, n))
    dx, dy = rng.uniform(-0.5, 0.5, (2, n, 1, 1)) if phase is None else np.full((2, n, 1, 1), phase)
    j, i = np.mgrid[:side, :side] - side // 2
    image = 2e4 / 9 * np.exp(-((j - dy) ** 2 + (i - dx) ** 2) / (2 * 1.2**2))
    image = image + rng.normal(0, 5, image.shape)
    weight = np.full(image.shape, 1 / 25, "f4")
    return StarBatch(image=image.astype("f4"), weight=weight, x=x, y=y)


AT = FieldPoints(x=np.array([50.0, 400.0]), y=np.array([300.0, 20.0]))
GRID = PixelGrid(shape=(11, 11), oversampling=1)


@pytest.mark.parametrize(
    ("model", "settings", "kinds"),
    [
        (
            RCA,
            RCASettings(degree=2, spatial="hybrid", upsampling=1, max_components=4, graph_nodes=8),
            ["a field of degree 1", "a mean star"],
        ),
        (SpriteField, SpriteFieldSettings(upsampling=1, n_rounds=2), ["a mean star"]),
    ],
    ids=["rca", "sprite"],
)
def test_simpler__fields_are_kept_in_the_arrays_of_the_model(model, settings, kinds) -> None:
    ladder = settings.simpler()
    assert [kind for kind, _ in ladder] == kinds
    field = model(ladder[-1][1])
    field.fit(stars())
    state = widened(field, settings)
    for array in model.state_arrays(settings, (11, 11)):
        assert state[array.name].shape == array.shape
        assert state[array.name].dtype == array.dtype
    kept = model.from_state(state, settings)
    drawn = np.asarray(kept.predict(AT, GRID))
    np.testing.assert_allclose(drawn, np.asarray(field.predict(AT, GRID)), atol=1e-6)
    np.testing.assert_allclose(drawn[0], drawn[1], atol=1e-6)


def test_rca__of_one_phase_is_held_to_the_sampling_that_it_carries() -> None:
    field = RCA(upsampling=2, degree=1)
    report = field.fit(stars(phase=0.3))
    assert [doubt.check for doubt in report.doubts] == ["phases"]
    assert float(field.state()["band_limit"]) == 0.5
    fine = np.asarray(field.predict(AT, PixelGrid(shape=(33, 33), oversampling=3)))
    spectrum = np.abs(np.fft.fft2(fine[0]))
    # A comb repeats the spectrum every cycle a CCD pixel: fine bin 11 of 33.
    assert spectrum[0, 11] < 1e-3 * spectrum[0, 0]


def test_rca__in_a_batch_is_held_ccd_by_ccd() -> None:
    settings = RCASettings(upsampling=2, degree=1)
    free, held = RCA.fit_batch([stars(), stars(phase=0.3)], settings)
    assert not isinstance(free, ArithmeticError)
    assert not isinstance(held, ArithmeticError)
    assert [doubt.check for doubt in free[1].doubts] == []
    assert [doubt.check for doubt in held[1].doubts] == ["phases"]
    assert float(held[0].state()["band_limit"]) == 0.5

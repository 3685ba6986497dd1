from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from psfscale.kernels.optics.pupil import PupilShape, pupil_amplitude, pupil_axis
from psfscale.survey import load_survey

CATALOGS = Path(__file__).parents[3] / "catalogs"
EUCLID = load_survey(CATALOGS / "euclid_vis.yaml").instrument


def test_published_pupil__is_cut_by_the_circle_and_blurred_by_two_samples() -> None:
    amplitude = pupil_amplitude(PupilShape.of(EUCLID.telescope), 256, grid="edges")
    assert amplitude.shape == (256, 256)
    assert set(np.unique(amplitude)) <= {0, 0.25, 0.5, 0.75, 1}
    u = np.linspace(-1, 1, 256)
    assert not amplitude[np.hypot(*np.meshgrid(u, u)) > 1].any()
    # The cap of the primary, 51 mm off the axis along y.
    assert amplitude[138, 128] == 0


@pytest.mark.parametrize("survey", sorted(p.stem for p in CATALOGS.glob("*.yaml")))
def test_pupil__passes_the_same_light_at_every_sampling(survey: str) -> None:
    shape = PupilShape.of(load_survey(CATALOGS / f"{survey}.yaml").instrument.telescope)
    share = [pupil_amplitude(shape, n, grid="areas").mean() for n in (64, 128, 256)]
    np.testing.assert_allclose(share, share[-1], rtol=2e-3)


def test_axis__covers_the_aperture() -> None:
    areas = pupil_axis(4, grid="areas")
    assert areas.tolist() == [-0.75, -0.25, 0.25, 0.75]
    edges = pupil_axis(4, grid="edges")
    np.testing.assert_allclose(edges, [-1, -1 / 3, 1 / 3, 1])

"""The wavefront field itself in a run: what is stored draws what was fitted."""

from __future__ import annotations

import numpy as np
import toy
import yaml

from psfscale.arrays import FieldPoints, PixelGrid
from psfscale.models.wavediff.model import WaveDiff
from psfscale.pipeline import open_run, run
from psfscale.survey import load_survey
from psfscale.survey.geometry import field_position

SMALL = {
    "n_zernikes": 4,
    "degree": 0,
    "n_wavelengths": 2,
    "surfaces": False,
    "centroids": True,
    "optics": {"pupil_samples": 64, "normalised": "stamp"},
}


def test_stored_field__draws_what_the_model_itself_does(survey, monkeypatch) -> None:
    file = survey / "toy.yaml"
    content = yaml.safe_load(file.read_text())
    content["instrument"]["psf"]["fwhm_maximum"]["value"] = 0.5  # smaller stamps to check
    file.write_text(yaml.safe_dump(content))
    toy.place_and_colour(survey)
    model = {"name": "wavediff", "settings": SMALL}
    fitted: list[WaveDiff] = []
    fit = WaveDiff.fit

    def keep(self, stars):
        fitted.append(self)
        return fit(self, stars)

    monkeypatch.setattr(WaveDiff, "fit", keep)
    config = toy.make_config(survey, model=model)
    summary = run(config, serial=True, observers=[])
    assert summary.exit_code == 0, summary.failures
    found = open_run(config.output)
    assert found["models/wavediff/zernike"].dims == ("exposure", "mode", "function")
    rng = np.random.default_rng(7)
    x, y = rng.uniform(0, 300, (2, 40))
    sed = toy.SPECTRA[rng.integers(0, 3, 40)]
    drawn = found.psf(
        exposure="exp-1", ccd=2, x=x, y=y, sed=sed, wavelength=toy.WAVELENGTHS, size=15
    )
    instrument = load_survey(survey / "toy.yaml").instrument
    u, v = (value / 0.012 for value in field_position(instrument, 2, x, y))
    at = FieldPoints(x=u, y=v, sed=sed, wavelength=toy.WAVELENGTHS)
    own = fitted[1].predict(at, PixelGrid(shape=(15, 15)))
    np.testing.assert_allclose(drawn, own, atol=1e-6)
    peak = drawn.values[:, 7, 7]
    blue, red = peak[(sed == toy.SPECTRA[1]).all(1)], peak[(sed == toy.SPECTRA[2]).all(1)]
    # a field without change in position: colour alone tells PSFs apart
    assert max(np.ptp(blue), np.ptp(red)) < 1e-6
    assert abs(blue[0] / red[0] - 1) > 5e-3

"""The dictionary that RCA and SPRITE take from their settings."""

import numpy as np
import pytest
import torch
from astropy.io import fits

from psfscale.errors import ConfigError, InputError
from psfscale.kernels.spectral import frequency_grid
from psfscale.models.dictionary import dictionary
from psfscale.models.dictionary_settings import DictionarySettings
from psfscale.models.rca.model import RCA
from psfscale.models.sprite.model import SPRITE

SMOOTH = np.array([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
BANK = np.stack([np.pad([[1.0]], 1) - SMOOTH, SMOOTH])
CHOICES = [
    {"transform": "starlet", "n_scales": 2},
    {"transform": "biorthogonal", "n_scales": 2},
    {"transform": "user", "filters": BANK},
]


def ids(choice):
    return choice["transform"]


@pytest.mark.parametrize("choice", CHOICES, ids=ids)
@pytest.mark.parametrize("case", [((7, 10), 3, None), ((9, 11), 3, 0.72)])
def test_dictionary__gives_the_image_back_and_has_its_adjoint(choice, case):
    grid = frequency_grid(case[0], upsampling=case[1], band_limit=case[2])
    bank = dictionary(grid, DictionarySettings(**choice))
    g = torch.Generator().manual_seed(3)
    c = grid.coefficients(torch.randn(2, *grid.fine_shape, generator=g, dtype=torch.float64))
    bands = bank.forward(c)
    assert torch.allclose(bank.inverse(bands), c, atol=1e-10)
    other = torch.randn(bands.shape, generator=g, dtype=torch.float64)
    left, right = (bands * other).sum(), grid.inner(c, bank.adjoint(other))
    assert abs(left - right) < 1e-10 * bands.norm() * other.norm()


@pytest.mark.parametrize("choice", CHOICES, ids=ids)
def test_dictionary__propagates_noise_that_changes_in_space(choice):
    grid = frequency_grid((15, 12), upsampling=2)
    bank = dictionary(grid, DictionarySettings(**choice))
    y = torch.linspace(-1, 1, grid.fine_shape[0], dtype=torch.float64)[:, None]
    variance = torch.exp(-3 * y**2).expand(grid.fine_shape)
    n = 4000
    g = torch.Generator().manual_seed(5)
    white = torch.randn(n, *grid.fine_shape, generator=g, dtype=torch.float64)
    noise = grid.coefficients(grid.image(grid.coefficients(white)) * variance.sqrt())
    measured = bank.forward(noise).std(0)
    # 4000 draws know σ to 1.1 %.
    assert float((measured / bank.noise(variance) - 1).abs().mean()) < 0.02


def test_dictionary__noise_of_constant_variance_is_its_norms():
    grid = frequency_grid((9, 11), upsampling=3, band_limit=0.72)
    bank = dictionary(grid, DictionarySettings(transform="biorthogonal"))
    noise = bank.noise(torch.full(grid.fine_shape, 4.0, dtype=torch.float64))
    assert torch.allclose(noise, 2 * bank.noise_norms[:, None, None].expand_as(noise))


@pytest.mark.parametrize("kind", ["bank.npy", "bank.fits"])
def test_settings__read_a_filter_bank_from_a_file(tmp_path, kind):
    path = tmp_path / kind
    if path.suffix == ".npy":
        np.save(path, BANK)
    else:
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(BANK)]).writeto(path)
    settings = DictionarySettings(transform="user", filters=str(path))
    path.unlink()
    assert np.array_equal(settings.filters, BANK)
    assert DictionarySettings(**settings.model_dump(mode="json")) == settings


def test_settings__name_what_is_wrong_with_filters(tmp_path):
    np.save(tmp_path / "flat.npy", SMOOTH)
    (tmp_path / "text.fits").write_text("no FITS")
    fits.PrimaryHDU().writeto(tmp_path / "empty.fits")
    for value, message in (
        (SMOOTH, r"array \(band, y, x\), got shape"),
        (tmp_path / "flat.npy", r"array \(band, y, x\), got shape"),
        (None, "give filters with transform 'user'"),
    ):
        with pytest.raises(ConfigError, match=message):
            RCA(transform="user", filters=value)
    for name, message in (
        ("none.npy", "no such file"),
        ("text.fits", "cannot be read as npy or FITS"),
        ("empty.fits", "no image with data"),
    ):
        with pytest.raises((ConfigError, InputError), match=message):
            SPRITE(transform="user", filters=tmp_path / name)

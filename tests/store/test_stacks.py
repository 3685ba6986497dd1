"""Star and PSF stacks in and out of npz files."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from psfscale.arrays import FieldPoints
from psfscale.errors import InputError
from psfscale.store.stacks import border_sigma, read_points, read_stars, write_psfs

if TYPE_CHECKING:
    from pathlib import Path


def stars(n: int = 6, size: int = 17, sigma: float = 2.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:size, :size] - size // 2
    image = 500 * np.exp(-(x**2 + y**2) / 4) + rng.normal(0, sigma, (n, size, size))
    return {"image": image, "x": rng.uniform(0, 99, n), "y": rng.uniform(0, 99, n)}


def test_read_stars__takes_weights_as_given(tmp_path: Path) -> None:
    arrays = stars()
    weight = np.full(arrays["image"].shape, 0.25)
    weight[0, :3] = 0
    np.savez(tmp_path / "s.npz", weight=weight, **arrays)
    batch = read_stars(tmp_path / "s.npz")
    np.testing.assert_array_equal(batch.weight, weight)
    np.testing.assert_allclose(batch.image, arrays["image"], rtol=1e-6)


def test_read_stars__turns_sigma_into_inverse_variance(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", sigma=np.arange(1.0, 7.0), **stars())
    batch = read_stars(tmp_path / "s.npz")
    np.testing.assert_allclose(batch.weight[:, 0, 0], 1 / np.arange(1.0, 7.0) ** 2, rtol=1e-6)


def test_read_stars__measures_noise_where_none_is_given(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", **stars(n=40))
    batch = read_stars(tmp_path / "s.npz")
    # 104 border pixels a star: the MAD scatters by 1.17/sqrt(2·104) = 8 % a star, 1.3 % in the mean
    assert np.mean(batch.weight[:, 0, 0] ** -0.5) == pytest.approx(2.0, rel=0.05)


def test_read_stars__masks_pixels_that_are_not_finite(tmp_path: Path) -> None:
    arrays = stars()
    arrays["image"][2, 5, 6] = np.nan
    np.savez(tmp_path / "s.npz", sigma=np.ones(6), **arrays)
    batch = read_stars(tmp_path / "s.npz")
    assert batch.weight[2, 5, 6] == 0
    assert np.count_nonzero(batch.weight == 0) == 1
    assert np.isfinite(batch.image).all()


def test_read_stars__refuses_nan_under_a_positive_weight(tmp_path: Path) -> None:
    arrays = stars()
    arrays["image"][2, 5, 6] = np.nan
    np.savez(tmp_path / "s.npz", weight=np.ones_like(arrays["image"]), **arrays)
    with pytest.raises(InputError, match=r"1 stars have NaN .*\[2\].*mask them"):
        read_stars(tmp_path / "s.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((6, 4))}, r"image has shape \(6, 4\), expected \(star, y, x\)"),
        ({"x": np.zeros(5)}, r"x has shape \(5,\), expected \(6,\)"),
        ({"sigma": np.ones(5)}, r"sigma has shape \(5,\), expected \(6,\)"),
        ({"sigma": np.zeros(6)}, "sigma must be finite and positive"),
        ({"weight": -np.ones((6, 17, 17))}, "weight must be finite and not negative"),
        ({"weight": np.zeros((6, 17, 17))}, "6 stars are masked everywhere"),
        ({"x": np.full(6, np.nan)}, "x must be finite"),
        ({"image": np.zeros((6, 17, 17))}, "noise of 6 stars cannot be measured"),
        ({"image": np.full((6, 17, 17), np.nan)}, "6 stars hold no finite pixel"),
        ({"sed": np.ones((6, 3))}, "sed and wavelength go together"),
        ({"x": np.array(list("abcdef"))}, "x must hold real numbers, got <U1"),
    ],
)
def test_read_stars__says_what_is_wrong(
    tmp_path: Path, change: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "s.npz", **{**stars(), **change})
    with pytest.raises(InputError, match=message):
        read_stars(tmp_path / "s.npz")


def test_read_stars__names_missing_arrays_and_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", image=stars()["image"])
    with pytest.raises(InputError, match="lacks x, y; it holds image"):
        read_stars(tmp_path / "s.npz")
    with pytest.raises(InputError, match="no such file"):
        read_stars(tmp_path / "none.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "s.npz").read_bytes()[:300])
    with pytest.raises(InputError, match=r"is not an \.npz file"):
        read_stars(tmp_path / "cut.npz")
    np.savez(tmp_path / "objects.npz", image=np.array([None]), x=[0], y=[0])
    with pytest.raises(InputError, match=r"cannot be read: Object arrays"):
        read_stars(tmp_path / "objects.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"is not an \.npz file"):
        read_stars(tmp_path / "one.npy")


def test_read_points__carries_spectra(tmp_path: Path) -> None:
    np.savez(tmp_path / "at.npz", x=[1, 2], y=[3, 4], sed=[[0.5, 0.5]] * 2, wavelength=[0.6, 0.7])
    at = read_points(tmp_path / "at.npz")
    assert len(at) == 2
    assert at.sed is not None
    np.testing.assert_allclose(at.wavelength, [0.6, 0.7], rtol=1e-6)


def test_write_psfs__is_whole_or_absent(tmp_path: Path) -> None:
    at = FieldPoints(x=np.arange(2.0), y=np.arange(2.0))
    write_psfs(
        tmp_path / "psf.npz", np.ones((2, 3, 3), np.float32), at=at, extrapolated=np.zeros(2)
    )
    with np.load(tmp_path / "psf.npz") as file:
        assert set(file.files) == {"psf", "x", "y", "extrapolated"}
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_psfs(
            tmp_path / "nowhere" / "psf.npz",
            np.ones((2, 3, 3), np.float32),
            at=at,
            extrapolated=np.zeros(2),
        )
    assert [p.name for p in tmp_path.iterdir()] == ["psf.npz"]


def test_border_sigma__ignores_the_star() -> None:
    image = stars(n=200)["image"]
    assert np.mean(border_sigma(image)) == pytest.approx(2.0, rel=0.03)


@pytest.mark.parametrize(
    ("unknown", "hint"),
    [("weights", "do you mean 'weight'"), ("rms", ""), ("mask", ""), ("flux", "")],
)
def test_read_stars__refuses_unknown_arrays_with_the_nearest_name(
    tmp_path: Path, unknown: str, hint: str
) -> None:
    arrays = stars()
    np.savez(tmp_path / "s.npz", **arrays, **{unknown: np.ones(6)})
    with pytest.raises(InputError, match=rf"s\.npz holds '{unknown}'.*{hint}.*known: image, x, y"):
        read_stars(tmp_path / "s.npz")
    np.savez(tmp_path / "at.npz", x=[1.0], y=[2.0], **{unknown: np.ones(6)})
    with pytest.raises(InputError, match=rf"at\.npz holds '{unknown}'"):
        read_points(tmp_path / "at.npz")


def test_read_stars__refuses_two_statements_of_the_noise(tmp_path: Path) -> None:
    arrays = stars()
    np.savez(tmp_path / "s.npz", weight=np.ones_like(arrays["image"]), sigma=np.ones(6), **arrays)
    with pytest.raises(InputError, match="weight and sigma both say"):
        read_stars(tmp_path / "s.npz")


@pytest.mark.parametrize("sigma", [0.8, 1.2, 2.2, 3.7])
def test_read_stars__measures_the_noise_of_integer_stamps(tmp_path: Path, sigma: float) -> None:
    arrays = stars(n=200, sigma=sigma)
    np.savez(tmp_path / "s.npz", **{**arrays, "image": np.round(arrays["image"]).astype(np.int16)})
    found = read_stars(tmp_path / "s.npz").weight[:, 0, 0] ** -0.5
    # 104 border pixels a star, 200 stars, seed 3: 0.6 % from scatter; rounding adds 1/12 of
    # variance; below 1 the median of dithered numbers is 5 % low (their density has steps)
    tolerance = 0.07 if sigma < 1 else 0.03
    assert np.mean(found) == pytest.approx(np.sqrt(sigma**2 + 1 / 12), rel=tolerance)
    assert len(np.unique(found)) > 100


def test_read_stars__keeps_small_units(tmp_path: Path) -> None:
    arrays = stars()
    image = (arrays["image"] * 1e-25).astype(np.float32)
    np.savez(tmp_path / "s.npz", **{**arrays, "image": image})
    weight = read_stars(tmp_path / "s.npz").weight
    assert np.isfinite(weight).all()
    assert np.mean(weight**-0.5) == pytest.approx(2e-25, rel=0.1)


def test_read_npz__refuses_what_unpacks_beyond_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(2_000_000), y=np.zeros(1))
    assert (tmp_path / "bomb.npz").stat().st_size < 40_000
    memory = type("Memory", (), {"available": 20_000_000})
    monkeypatch.setattr("psfscale.npzfile.psutil.virtual_memory", lambda: memory)
    monkeypatch.setattr(np, "load", None)  # it must not be asked
    with pytest.raises(InputError, match=r"unpacks to 0.0 GB, more than half of the free memory"):
        read_points(tmp_path / "bomb.npz")


def test_read_npz__refuses_a_header_that_says_more_than_the_file_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "at.npz", x=np.zeros(4), y=np.zeros(4))
    with zipfile.ZipFile(tmp_path / "at.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        for name, content in members.items():
            lie = content.replace(b"(4,), }" + b" " * 9, b"(400000000,), } ")
            assert len(lie) == len(content)
            archive.writestr(name, lie)
    with pytest.raises(InputError, match=r"is damaged: x\.npy is shorter than its header says"):
        read_points(tmp_path / "lie.npz")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".fits", ".zarr"])
def test_write_psfs__writes_the_format_of_the_ending(tmp_path: Path, suffix: str) -> None:
    at = FieldPoints(x=[1.0, 2.0], y=[3.0, 4.0])
    psf = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    path = tmp_path / f"psf{suffix}"
    for _ in range(2):  # an old one is replaced
        write_psfs(path, psf, at=at, extrapolated=np.array([False, True]))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if suffix == ".npy":
        np.testing.assert_array_equal(np.load(path), psf)
        return
    if suffix == ".npz":
        found = dict(np.load(path))
    elif suffix == ".zarr":
        found = dict(xr.open_zarr(path, consolidated=False))
        found |= {name: found["psf"].coords[name] for name in ("x", "y")}
        assert found["psf"].dims == ("object", "psf_y", "psf_x")
    else:
        with fits.open(path) as hdus:
            found = {"psf": hdus[0].data.copy(), **{n: hdus[1].data[n] for n in ("x", "y")}}
            found["extrapolated"] = hdus["OBJECTS"].data["extrapolated"].copy()
    np.testing.assert_array_equal(found["psf"], psf)
    np.testing.assert_array_equal(found["x"], at.x)
    np.testing.assert_array_equal(found["extrapolated"], [False, True])

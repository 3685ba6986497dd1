"""How often quality checks trip: on clean CCDs (they should not) and on bad ones (they should).

python benchmarks/quality.py --ccds 200 --seed 1
python benchmarks/quality.py --bad 2 --seed 2

Clean CCDs are drawn at random: diffraction, Moffat or Gaussian PSFs of 1.3 to 6 pixels FWHM whose
size and shape change over the CCD, 24 to 60 stars, S/N from 10 to 30 ... 1000, noise from 0.05 to
200 electrons, upsampling as the width asks for. RCA is fitted with its defaults but for the
upsampling; a fifth of the stars is held out. Printed are the CCDs that each check finds doubtful,
and how near the others come to each limit.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from psfscale.arrays import StarBatch
from psfscale.config import Quality
from psfscale.metrics.against_mean import compare_with_mean_star
from psfscale.models.rca.model import RCA
from psfscale.pipeline.stages.quality import mean_star_doubt
from psfscale.quality import StampMeasures, fit_doubts, position_doubt
from psfscale.quality.checks import sky_level

LIMITS = Quality()
FINE = 5
"""Samples of a drawn PSF per pixel."""
SIZE = 1000.0
"""Side of the CCD [pixel]."""


@dataclass(frozen=True, kw_only=True)
class Ccd:
    """Stars of a CCD, which are held out, and the settings of the fit."""

    stars: StarBatch
    held_out: np.ndarray
    upsampling: int
    kind: str


def _field(rng: np.random.Generator, size: float) -> np.ndarray:
    """Coefficients of 1, u, v, u², uv, v² of a parameter over the CCD, u and v from −1 to 1."""
    return rng.normal(0, size, 6) * [1, 1, 1, 0.5, 0.5, 0.5]


def _at(field: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(u), u, v, u**2, u * v, v**2], -1) @ field


def _diffraction(n: int, fwhm: float, waves: np.ndarray) -> np.ndarray:
    """An obscured aperture with defocus, astigmatism and coma [wave], on n fine samples."""
    cutoff = FINE * fwhm / 1.03  # λ/D in fine samples
    side = int(np.ceil(max(n, 4 * cutoff)))
    y, x = np.mgrid[:side, :side] - side // 2
    r = np.hypot(x, y) / (side / cutoff / 2)
    angle = np.arctan2(y, x)
    defocus, astigmatism, oblique, coma = waves
    phase = defocus * (2 * r**2 - 1) + r**2 * (
        astigmatism * np.cos(2 * angle) + oblique * np.sin(2 * angle)
    )
    phase += coma * (3 * r**3 - 2 * r) * np.cos(angle)
    pupil = ((r < 1) & (r > 0.3)) * np.exp(2j * np.pi * phase)
    psf = np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(pupil)))) ** 2
    first = side // 2 - n // 2
    return psf[first : first + n, first : first + n]


def _profile(kind: str, n: int, fwhm: float, e: np.ndarray, beta: float) -> np.ndarray:
    y, x = np.mgrid[:n, :n] - n // 2
    sigma = FINE * fwhm / 2.3548
    q = ((1 - e[0]) * x**2 - 2 * e[1] * x * y + (1 + e[0]) * y**2) / (1 - (e**2).sum())
    if kind == "gauss":
        return np.exp(-q / (2 * sigma**2))
    scale = FINE * fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    return (1 + q / scale**2) ** -beta


def _stamp(psf: np.ndarray, side: int, dy: float, dx: float) -> np.ndarray:
    """A fine PSF moved by a part of a pixel, summed over pixels; unit sum."""
    n = len(psf)
    f = np.fft.fftfreq(n)
    move = np.exp(-2j * np.pi * FINE * (f[:, None] * dy + f[None, :] * dx))
    moved = np.fft.ifft2(np.fft.fft2(psf) * move).real
    whole = moved[: side * FINE, : side * FINE].reshape(side, FINE, side, FINE).sum((1, 3))
    return whole / moved.sum()


def clean_ccd(seed: int, *, other: bool = False) -> Ccd:
    """A CCD without any fault, of a kind drawn from the seed.

    `other` ones have 30 to 150 stars up to S/N 3000 and PSFs of up to 8 pixels.
    """
    rng = np.random.default_rng([seed, 0])
    kind = str(rng.choice(["diffraction", "moffat", "gauss"]))
    fwhm = float(
        np.exp(
            rng.uniform(
                np.log(1.3), np.log(2.2 if kind == "diffraction" else 8.0 if other else 6.0)
            )
        )
    )
    side = int(np.clip(2 * round(2 * fwhm) + 9, 13, 31 if other else 23))
    n = int(rng.integers(30, 151) if other else rng.integers(24, 61))
    noise = float(np.exp(rng.uniform(np.log(0.05), np.log(200))))
    brightest = float(np.exp(rng.uniform(np.log(30), np.log(3000 if other else 1000))))
    x, y = rng.uniform(20, SIZE - 20, (2, n))
    u, v = 2 * x / SIZE - 1, 2 * y / SIZE - 1
    change = rng.uniform(0, 1)
    fields = [_field(rng, s * change) for s in (0.04, 0.05, 0.05)]
    wave_fields = [_field(rng, 0.05 * change) for _ in range(4)]
    beta = float(rng.uniform(2.5, 5))
    stamps = np.empty((n, side, side))
    for k in range(n):
        local = [float(_at(f, u[k], v[k])) for f in fields]
        waves = np.array([float(_at(f, u[k], v[k])) for f in wave_fields])
        width = fwhm * np.exp(np.clip(local[0], -0.3, 0.3))
        grid = side * FINE
        psf = (
            _diffraction(grid, width, waves)
            if kind == "diffraction"
            else _profile(kind, grid, width, np.clip(local[1:], -0.4, 0.4), beta)
        )
        # The middle sample of the fine grid lies in the middle of the middle pixel.
        dx, dy = x[k] - np.floor(x[k] + 0.5), y[k] - np.floor(y[k] + 0.5)
        stamps[k] = _stamp(psf, side, dy, dx)
    snr = np.exp(rng.uniform(np.log(10), np.log(brightest), n))
    flux = snr * noise / np.sqrt((stamps**2).sum((1, 2)))
    image = flux[:, None, None] * stamps + rng.normal(0, noise, stamps.shape)
    weight = np.full(stamps.shape, noise**-2)
    stars = StarBatch(image=image.astype("f4"), weight=weight.astype("f4"), x=x, y=y)
    return Ccd(
        stars=stars,
        held_out=np.arange(n) % 5 == 0,
        upsampling=1 if fwhm > 3 else 2,
        kind=f"{kind} {fwhm:.1f} px, {n} stars to S/N {brightest:.0f}",
    )


def bad_ccds(seed: int, *, other: bool = False) -> dict[str, tuple[tuple[str, ...], Ccd]]:
    """CCDs of one clean one, each spoiled in one way, with the checks that may find it."""
    good = clean_ccd(seed, other=other)
    rng = np.random.default_rng([seed, 1])
    stars, noise = good.stars, float(good.stars.weight[0, 0, 0]) ** -0.5
    empty = rng.normal(0, noise, stars.image.shape).astype("f4")

    def spoiled(**changes: np.ndarray) -> Ccd:
        return replace(good, stars=replace(stars, **changes))

    return {
        "galaxies": (
            ("mean_star_excess", "chi2_maximum", "clipped_fraction"),
            spoiled(image=_galaxies(stars, noise, rng)),
        ),
        "galaxies as bright": (
            ("mean_star_excess", "chi2_maximum", "clipped_fraction"),
            spoiled(image=_galaxies(stars, noise, rng, brighter=1)),
        ),
        "rms": (("weight_factor",), spoiled(weight=stars.weight**-0.5)),
        "x and y swapped": (("position_offset",), spoiled(x=stars.y, y=stars.x)),
        "sky of 100 σ": (("sky",), spoiled(image=stars.image + 100 * np.float32(noise))),
        "variances": (("weight_factor",), spoiled(weight=1 / stars.weight)),
        "no stars": (("starless_fraction",), spoiled(image=empty)),
        "constant": (("starless_fraction",), spoiled(image=np.full_like(stars.image, 3 * noise))),
        "origin off by 1": (
            ("position_offset",),
            spoiled(
                image=np.roll(stars.image, (-1, -1), axis=(1, 2)), x=stars.x + 1, y=stars.y + 1
            ),
        ),
        "one phase": (("phases",), spoiled(image=_one_phase(stars))),
    }


def _galaxies(
    stars: StarBatch, noise: float, rng: np.random.Generator, *, brighter: float = 20
) -> np.ndarray:
    """Stamps of which 60 % are smeared by 1 to 3 pixels, and so many times as bright."""
    image = stars.image.astype(np.float64)
    for k in np.flatnonzero(rng.random(len(image)) < 0.6):
        shape = rng.uniform(1, 3, 2)
        image[k] = brighter * gaussian_filter(image[k], shape) + rng.normal(
            0, noise, image[k].shape
        )
    return image.astype("f4")


def _one_phase(stars: StarBatch) -> np.ndarray:
    """Stamps of the brightest star alone, at the noise and flux of each."""
    best = int(np.argmax(stars.image.sum((1, 2))))
    scale = stars.image.sum((1, 2)) / stars.image[best].sum()
    return stars.image[best] * np.abs(scale[:, None, None]).astype("f4")


def doubts_of(ccd: Ccd) -> tuple[dict[str, str], dict[str, float]]:
    """The checks that trip on a CCD, and how far it is from the limits."""
    fitted, held_out = ccd.stars.select(~ccd.held_out), ccd.stars.select(ccd.held_out)
    model = RCA(upsampling=ccd.upsampling)
    report = model.fit(fitted)
    stamps = StampMeasures.of(fitted.image, fitted.weight)
    found = [
        *fit_doubts(
            stamps, used=report.used, chi2=report.chi2, limits=LIMITS,
            upsampling=model.settings.n_aliases,
        ),
        position_doubt(stamps, fitted.x, fitted.y, LIMITS),
    ]  # fmt: skip
    compared = compare_with_mean_star(model, fitted.select(report.used), held_out)
    found.append(mean_star_doubt(compared, LIMITS))
    level, error = sky_level(stamps)
    ratio = float(np.nanmedian(stamps.variance_ratio))
    measures = {
        "mean_star_excess": compared.excess,
        "clipped_fraction": float(1 - report.used.mean()),
        "chi2_maximum": float(np.median(report.chi2[report.used])),
        "chi2_minimum": -float(np.median(report.chi2[report.used])),
        "starless_fraction": float((stamps.significance < LIMITS.starless_snr).mean()),
        "sky": max(abs(level) - 3 * error, 0) / float(np.median(stamps.noise)),
        "weight_factor": max(ratio, 1 / ratio),
    }
    return {doubt.check: doubt.message for doubt in found if doubt}, measures


def clean(n: int, seed: int) -> None:
    """Print which checks trip on clean CCDs, and how near the others come."""
    tripped: Counter[str] = Counter()
    nearest: dict[str, list[float]] = {}
    n_doubtful = 0
    for k in range(n):
        ccd = clean_ccd(1000 * seed + k)
        doubts, measures = doubts_of(ccd)
        tripped.update(doubts)
        n_doubtful += bool(doubts)
        for check, message in doubts.items():
            print(f"CCD {k} ({ccd.kind}): {check}: {message}", flush=True)
        for name, value in measures.items():
            nearest.setdefault(name, []).append(value)
    print(f"{n} clean CCDs, seed {seed}: {n_doubtful} doubtful")
    for name, values in nearest.items():
        top = ", ".join(f"{abs(value):.3g}" for value in sorted(values)[-3:])
        limit = getattr(LIMITS, name)
        print(f"{name:18} tripped {tripped[name]:3}, limit {limit}, nearest {top}")


def bad(n: int, seed: int, *, other: bool) -> None:
    """Print which checks trip on spoiled CCDs."""
    found: Counter[str] = Counter()
    for k in range(n):
        for name, (checks, ccd) in bad_ccds(1000 * seed + k, other=other).items():
            try:
                doubts, _ = doubts_of(ccd)
            except ArithmeticError as error:
                doubts = {"failed": str(error)}
            found[name] += bool({*checks, "failed"} & set(doubts))
            print(f"{name:18} {k}: {', '.join(doubts) or 'NOT FOUND'}", flush=True)
    for name, times in found.items():
        print(f"{name:18} found on {times} of {n}")


def main() -> None:
    """Print how often each check trips."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ccds", type=int, default=0, help="clean CCDs")
    parser.add_argument("--bad", type=int, default=0, help="CCDs spoiled in every way")
    parser.add_argument("--other", action="store_true", help="bad ones of other stars and PSFs")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.ccds:
        clean(options.ccds, options.seed)
    if options.bad:
        bad(options.bad, options.seed, other=options.other)


if __name__ == "__main__":
    main()

"""The sample of stars on simulated fields with galaxies, and roles of stars seen twice.

    python benchmarks/selection.py fields [N] [SEED]      completeness, and share of galaxies
    python benchmarks/selection.py saturation [N] [SEED]  sizes of the brightest stars taken
    python benchmarks/selection.py roles [N] [SEED]       stars whose role differs between exposures

Each field draws its own conditions: seeing, profile, gradients, ellipticity, sky, densities.
Drawing shares no code with the package: sources are sampled from their Fourier transforms. The
settings were chosen on fields of seed 77; the default here is another. Stars count for completeness
where their S/N and flux are within the limits that the selection set itself.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import galsim
import numpy as np

from psfscale.arrays import Role
from psfscale.ingest.objects import Objects
from psfscale.ingest.roles import Reservation
from psfscale.ingest.sample import refusals_by_size
from psfscale.store.refusal import Refusal
from psfscale.survey.selection import SizeMagnitude

KINDS = ("ground", "space", "odd", "crowded")
OVER = 4
"""Samples a pixel, along an axis, of a source before it is read out at the pixels' centres."""
TAKEN = -1


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """One field: lengths in arcsec, levels in electrons, gradients relative from -1 to 1."""

    space: bool
    pixel: float
    fwhm: float
    beta: float
    gradient: float
    curvature: float
    ellipticity: float
    sky: float
    saturation: float
    n_stars: int
    galaxies_a_star: float
    scatter: float = 0.0
    binaries: float = 0.0
    blends: float = 0.0
    shape: tuple[int, int] = (4096, 2048)

    @property
    def stamp(self) -> int:
        return 25 if self.space else 31


def conditions(kind: str, rng: np.random.Generator) -> Conditions:
    """Draw a field: ``ground`` oversampled, ``space`` undersampled, ``odd`` beyond the tuning's.

    Odd fields have steeper gradients, stars of another size for their colour (1 %) and binaries;
    in ``crowded`` ones, of the ground, stars have neighbours and are fewer.
    """
    space = kind == "space" or (kind == "odd" and rng.uniform() < 0.3)
    odd, crowded = kind == "odd", kind == "crowded"
    return Conditions(
        space=space,
        pixel=0.1 if space else rng.uniform(0.18, 0.3),
        fwhm=rng.uniform(0.13, 0.18) if space else rng.uniform(0.5, 1.3),
        beta=rng.uniform(2.5, 4.5),
        gradient=rng.uniform(0.05, 0.2) if odd else rng.uniform(0, 0.08 if space else 0.12),
        curvature=rng.uniform(-0.05, 0.05),
        ellipticity=rng.uniform(0, 0.1 if odd else 0.06),
        sky=rng.uniform(8, 14) if space else rng.uniform(8, 30),
        saturation=200e3 if space else rng.uniform(60e3, 200e3),
        n_stars=int(rng.integers(80, 200) if crowded else rng.integers(100, 500)),
        galaxies_a_star=10 ** rng.uniform(-0.3, 0.7),
        scatter=0.01 if odd else 0.0,
        binaries=0.02 if odd else 0.0,
        blends=rng.uniform(0.03, 0.12) if crowded else 0.0,
        shape=(4132, 4096) if space else (4096, 2048),
    )


def _power(rng: np.random.Generator, n: int, slope: float, low: float, high: float) -> np.ndarray:
    a = 1 - slope
    return np.asarray((low**a + rng.uniform(size=n) * (high**a - low**a)) ** (1 / a))


def field(c: Conditions, rng: np.random.Generator) -> tuple[Objects, np.ndarray, np.ndarray]:
    """Return the objects of a field down to S/N 18, which are stars, and which have neighbours."""
    area = 4 * np.pi * ((c.fwhm / 2.355 / c.pixel) ** 2 + 0.1)
    flux_at = {s: (s**2 + np.sqrt(s**4 + 4 * s**2 * area * c.sky**2)) / 2 for s in (18, 50)}
    low, high = flux_at[18], c.saturation * area * 3
    # Counts of 0.16 dex a magnitude for stars, 0.38 for galaxies; their ratio is that at S/N 50.
    density = [
        flux_at[50] ** -s * (1 - s) / (high ** (1 - s) - low ** (1 - s)) for s in (1.4, 1.95)
    ]
    n = c.n_stars
    n_galaxies = min(int(n * c.galaxies_a_star * density[0] / density[1]), 6000)
    faint = _power(rng, n_galaxies, 1.95, low, high)
    flux = np.concatenate([_power(rng, n, 1.4, low, high), faint])
    magnitude = (23.3 if c.space else 21.8) - 2.5 * np.log10(faint / flux_at[50])
    # Discs after Miller et al. 2013 (arXiv:1210.8201): their median scale length, and a prior that
    # goes to zero radius in proportion to the radius.
    median = np.exp(-1.145 - 0.269 * (magnitude - 23))
    radius = np.concatenate([np.zeros(n), median * rng.gamma(1.5, 1, n_galaxies) ** 0.75 / 1.13])
    bulge = np.concatenate([np.zeros(n, bool), rng.uniform(size=n_galaxies) < 0.25])
    total = len(flux)
    x = rng.uniform(c.stamp, c.shape[1] - c.stamp, total)
    y = rng.uniform(c.stamp, c.shape[0] - c.stamp, total)
    light = [flux, *_neighbours(c, total, rng)]
    image = _draw(c, x, y, light, radius, bulge, rng)
    image += rng.normal(size=image.shape) * np.sqrt(c.sky**2 + np.maximum(image, 0))
    full = image >= c.saturation
    blank = np.full(total, np.nan)
    objects = Objects(
        id=np.arange(total),
        x=x + rng.normal(0, 0.1, total),
        y=y + rng.normal(0, 0.1, total),
        ra=blank,
        dec=blank,
        flux=blank,
        snr=blank,
        flags=np.zeros(total, np.uint32),
        image=np.minimum(image, c.saturation).astype(np.float32),
        weight=np.where(full, 0, 1 / c.sky**2).astype(np.float32),
        sed_id=np.zeros(total, np.int64),
        full=np.full(total, c.saturation),
    )
    return objects, np.arange(total) < n, light[1] > 0


def _neighbours(c: Conditions, n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Flux of each source's neighbour over its own, 0 without one, and its place [arcsec]."""
    if not c.blends:
        return np.zeros(n), np.zeros(n), np.zeros(n)
    ratio = np.where(rng.uniform(size=n) < c.blends, 10 ** rng.uniform(-1.5, 0, n), 0.0)
    apart, angle = c.fwhm * rng.uniform(0.7, 3, n), rng.uniform(0, 2 * np.pi, n)
    return ratio, apart * np.cos(angle), apart * np.sin(angle)


def _draw(c, x, y, light, radius, bulge, rng):  # type: ignore[no-untyped-def]
    """Stamps (object, y, x) [electron] of all sources, without noise."""
    size = 2 * c.stamp * OVER
    kx = 2 * np.pi * np.fft.rfftfreq(size, c.pixel / OVER)
    ky = 2 * np.pi * np.fft.fftfreq(size, c.pixel / OVER)
    kx, ky = np.meshgrid(kx, ky)
    unit = (
        galsim.Airy(lam=725, diam=1.2, obscuration=0.33)
        if c.space
        else galsim.Moffat(beta=c.beta, fwhm=1.0)
    )
    grid = np.linspace(0, 400, 4001)
    transfer = np.array([unit.kValue(k, 0).real for k in grid])
    pixel = np.sinc(kx * c.pixel / 2 / np.pi) * np.sinc(ky * c.pixel / 2 / np.pi)
    flux, ratio, beside_x, beside_y = light
    shear = np.clip(rng.normal(0, 0.25, (len(x), 2)), -0.55, 0.55)
    wide = 1 + c.scatter * rng.normal(size=len(x))
    double = (rng.uniform(size=len(x)) < c.binaries) & (radius == 0)
    image = np.zeros((len(x), c.stamp, c.stamp), np.float32)
    for i in range(len(x)):
        u, v = 2 * x[i] / c.shape[1] - 1, 2 * y[i] / c.shape[0] - 1
        fwhm = c.fwhm * wide[i]
        fwhm *= 1 + c.gradient * (u + v) / 2 + c.curvature * (u * u + v * v - 2 / 3)
        a, b = _sheared(kx, ky, c.ellipticity * (0.5 + 0.5 * u), c.ellipticity * 0.5 * v)
        k = np.hypot(a, b)
        if c.space:
            blur = np.sqrt(max(fwhm**2 - 0.12**2, 0.02**2)) / 2.3548
            source = np.interp(k, grid, transfer, right=0) * np.exp(-0.5 * (k * blur) ** 2)
        else:
            source = np.interp(k * fwhm, grid, transfer)
        if radius[i] > 0:
            a, b = _sheared(kx, ky, *shear[i])
            k2 = a * a + b * b
            # A disc, or a Spergel profile of index -0.6, which is about a de Vaucouleurs bulge.
            disc = (1 + k2 * radius[i] ** 2) ** -1.5
            source = source * ((1 + 4 * k2 * radius[i] ** 2) ** -0.4 if bulge[i] else disc)
        if double[i]:
            apart = 0.5 * fwhm * kx
            source = source * (0.8 + 0.2 * np.exp(-1j * apart))
        if ratio[i]:
            source = source * (1 + ratio[i] * np.exp(-1j * (kx * beside_x[i] + ky * beside_y[i])))
        ox, oy = x[i] - np.floor(x[i] + 0.5), y[i] - np.floor(y[i] + 0.5)
        source = source * pixel * np.exp(-1j * (kx * ox + ky * oy) * c.pixel)
        light = np.fft.irfft2(source, s=(size, size)) * OVER**2
        shift = c.stamp // 2 * OVER
        light = np.roll(light, (shift, shift), (0, 1))
        image[i] = flux[i] * light[: c.stamp * OVER : OVER, : c.stamp * OVER : OVER]
    return image


def _sheared(kx, ky, g1, g2):  # type: ignore[no-untyped-def]
    scale = 1 / np.sqrt(1 - g1 * g1 - g2 * g2)
    return ((1 + g1) * kx + g2 * ky) * scale, (g2 * kx + (1 - g1) * ky) * scale


def fields(n: int, seed: int) -> None:
    """Print completeness and share of galaxies over n fields of each kind."""
    for kind in KINDS:
        counts = np.zeros(6, int)
        for number in range(n):
            rng = np.random.default_rng([seed, KINDS.index(kind), number])
            c = conditions(kind, rng)
            objects, star, beside = field(c, rng)
            reason = refusals_by_size(objects, ccd_shape=c.shape, settings=SizeMagnitude())
            taken, within = reason == TAKEN, (reason == TAKEN) | (reason == Refusal.NOT_A_STAR)
            single = star & ~beside
            counts += [
                np.sum(taken & single),
                np.sum(within & single),
                np.sum(taken & star),
                np.sum(taken & ~star),
                np.sum(within & ~star),
                np.all(reason == Refusal.NO_LOCUS),
            ]
        singles, all_singles, stars, galaxies, all_galaxies, none = counts.tolist()
        print(
            f"{kind}: {n} fields, {none} without a locus; completeness "
            f"{singles / max(all_singles, 1):.4f} ({singles} of {all_singles} single stars), "
            f"galaxies {galaxies / max(stars + galaxies, 1):.4f} ({galaxies} of {all_galaxies} in "
            "limits)",
            flush=True,
        )


def saturation(n: int, seed: int) -> None:
    """Print the mean size, relative to all stars', of the brightest stars that each cut takes."""
    found: dict[str, list[float]] = {"peak cut alone": [], "as selected": []}
    for number in range(n):
        rng = np.random.default_rng([seed, 9, number])
        c = conditions("space" if number % 2 else "ground", rng)
        c = replace(c, gradient=0.25, n_stars=500, galaxies_a_star=0.5)
        objects, star, _ = field(c, rng)
        reason = refusals_by_size(objects, ccd_shape=c.shape, settings=SizeMagnitude())
        size = 1 + c.gradient * (objects.x / c.shape[1] + objects.y / c.shape[0] - 1)
        peak = objects.image[:, c.stamp // 2 - 1 : c.stamp // 2 + 2].max(axis=(1, 2))
        flux = objects.image.sum(axis=(1, 2))
        for name, taken in (
            ("peak cut alone", star & (peak < c.saturation)),
            ("as selected", star & (reason == TAKEN)),
        ):
            brightest = np.flatnonzero(taken)[np.argsort(flux[taken])[-10:]]
            found[name].append(float(size[brightest].mean() - size[star].mean()))
    for name, excess in found.items():
        error = np.std(excess) / np.sqrt(len(excess))
        print(
            f"{name}: brightest ten {np.mean(excess):+.4f} ± {error:.4f} in relative FWHM (n = {n})"
        )


def roles(n: int, seed: int) -> None:
    """Print how many stars, seen twice with scatter, change between fit and reserved."""
    reservation = Reservation(rule="sky", fraction=0.2, cell=128 * 0.263 / 3600)
    for scatter in (0.1, 0.2, 0.5):
        rng = np.random.default_rng(seed)
        ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
        one, other = (
            reservation.sky_roles(
                ra + rng.normal(0, scatter / 3600, n) / np.cos(np.radians(dec)),
                dec + rng.normal(0, scatter / 3600, n),
            )
            for _ in range(2)
        )
        used = (one != Role.EMPTY) & (other != Role.EMPTY)
        print(
            f"scatter {scatter} arcsec: {np.mean(used & (one != other)):.1e} change role, "
            f"{np.mean(one == Role.EMPTY):.4f} left out, "
            f"{np.mean(one == Role.RESERVED):.4f} reserved (n = {n}, seed {seed})"
        )


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or ["fields"]
    numbers = [int(word) for word in rest]
    defaults = {"fields": (20, 2026), "saturation": (20, 2026), "roles": (4_000_000, 11)}[what]
    chosen = (*numbers, *defaults[len(numbers) :])
    {"fields": fields, "saturation": saturation, "roles": roles}[what](*chosen)

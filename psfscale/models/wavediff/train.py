"""The moving parts of a WaveDiff fit: coarse optics, corrected until they are the full ones."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from psfscale.errors import FitError
from psfscale.kernels.centroid import windowed_centroid
from psfscale.models.wavediff.blur import SHARP, Blur
from psfscale.models.wavediff.fit import Refined, blur_error, refine, search, silent
from psfscale.models.wavediff.forward import DEFOCUS, TIP_TILT, Normal, Nuisances, Scene, Wavefronts
from psfscale.models.wavediff.joint import linearised
from psfscale.models.wavediff.normal_equations import own_gain
from psfscale.models.wavediff.setup import around, coarse_factor, spectra_of
from psfscale.models.wavediff.stars import StarLight, WeightedStars
from psfscale.models.wavediff.surface import (
    SurfaceBasis,
    cosines,
    field_functions,
    n_cosines,
    waves_of,
)
from psfscale.models.wavediff.surface_test import Trial, solved, split

if TYPE_CHECKING:
    from torch import Tensor

    from psfscale.arrays import StarBatch
    from psfscale.models.wavediff.fit import Tell
    from psfscale.models.wavediff.fixed import FixedWavefront
    from psfscale.models.wavediff.joint import Joint
    from psfscale.models.wavediff.optics import LightPath
    from psfscale.models.wavediff.prior import Roughness
    from psfscale.models.wavediff.settings import OpticsSettings, WaveDiffSettings
    from psfscale.models.wavediff.surface import Wave

__all__ = ["STILL", "Training"]

COARSE_WAVELENGTHS = 3
CORRECTED_STEPS = 6
CORRECTIONS = 4
"""Times that the coarse optics are corrected by the full ones, at most."""
TRIAL_STARS, TRIAL_COSINES = 100, 15
"""Stars, the brightest, and cosines along an axis by which surfaces are judged."""
STILL = 0.02
"""Change of the correction that ends them [noise σ of the star's best pixel, rms over stars]."""
SEARCH_STARS = 100
"""Stars of the search; the brightest."""
SCATTERED = 0.1
"""Scatter of the centroids about a smooth field [pixel] beyond which each star has its own."""
SIGNIFICANT = 5.0
"""Excess [σ] beyond which stars are held to need a background of their own."""
UNSEEN, ALIKE = 0.01, 2.0
"""Distance of the mean flux from 1, and scatter about it [variance of the noise], below which the
stars are held to be normalised."""
WINDOW = 1.5
"""σ of the window of the first centroids [pixel]."""


class Training:
    """The moving parts of one fit; `psfscale.models.wavediff.phases` says in which order they move.

    Attributes
    ----------
    wavefronts, nuisances, used : the parameters, what is fitted, and of which stars
    found, refined : the last refinement, and the stars it was of
    stamp : (star, y, x) PSFs of the stars through the full optics
    moved : what the last correction changed [noise σ]
    roughness : prior of the surfaces, None where there are none
    tell : told the reduced χ² of the stars of every step
    """

    def __init__(
        self,
        stars: StarBatch,
        settings: WaveDiffSettings,
        *,
        optics: OpticsSettings,
        path: LightPath,
        fixed: FixedWavefront | None = None,
    ) -> None:
        device = path.amplitude.device
        self.settings = settings
        self.size = max(stars.stamp_shape)
        self.n_cosines = n_cosines(self.size, path.band_limit)
        self.pixels = WeightedStars.of(stars, self.size, device)
        self.positions = around(stars, settings.degree)
        self.functions = torch.from_numpy(self.positions(stars.x, stars.y)).float().to(device)
        self.field = field_functions(settings, self.positions.box)
        self.features = torch.from_numpy(self.field(stars.x, stars.y)).float().to(device)
        known = None if fixed is None else fixed(stars.x, stars.y)
        self.known = None if known is None else torch.from_numpy(known).float().to(device)
        coarse = path.coarser(coarse_factor(path, self.size))
        self.full = self._scene(stars, optics, path, settings.n_wavelengths)
        n_coarse = min(COARSE_WAVELENGTHS, settings.n_wavelengths)
        self.scene = self._scene(stars, optics, coarse, n_coarse)
        self.used = self._bright()
        self._start(optics)
        self.tell: Tell = silent
        none = self.functions.new_zeros(0)
        self.refined = torch.nonzero(none)[:, 0]
        self.stamp, self.moved = none, math.inf
        self.roughness: Roughness | None = None
        self.found = Refined(
            wavefronts=self.wavefronts,
            chi2=math.nan,
            normal=Normal(matrix=none, vector=none),
            nuisances=self.nuisances,
            n_steps=0,
            converged=False,
        )

    def _scene(
        self, stars: StarBatch, optics: OpticsSettings, path: LightPath, n_nodes: int
    ) -> Scene:
        nodes, weights = spectra_of(stars.points, optics, n_nodes)
        n_known = 0 if self.known is None else self.known.shape[1]
        return Scene(
            pixels=self.pixels,
            functions=self.functions,
            spectra=torch.from_numpy(weights).to(path.amplitude),
            camera=path.camera(nodes.tolist(), self.size),
            path=path,
            modes=path.modes(max(self.settings.n_zernikes, n_known)),
            known=self.known,
        )

    def _bright(self) -> Tensor:
        snr = self.pixels.signal_to_noise
        bright = snr > self.settings.min_snr
        needed = max(self.settings.min_stars, self.settings.n_functions)
        if int(bright.sum()) < needed:
            msg = (
                f"{int(bright.sum())} of {len(bright)} stars have S/N above "
                f"{self.settings.min_snr}; a wavefront of degree {self.settings.degree} in "
                f"position needs {needed}"
            )
            raise FitError(msg)
        return bright

    def _start(self, optics: OpticsSettings) -> None:
        """A plane wavefront; the stars' own tilts from their centroids, where those scatter."""
        offset = (optics.binned - 1) / (2 * optics.binned) if optics.binned else 0.0
        y, x = windowed_centroid(self.pixels.image, width=WINDOW)
        # Tip and tilt have slope 2 [rms] over a radius, which is half the samples.
        micron = self.full.path.step * len(self.full.path.axis) / 4
        shift = torch.stack([x, y], dim=1) - self.size // 2 + offset
        if self.known is not None:
            known = self.known[:, list(TIP_TILT)[: max(self.known.shape[1] - 1, 0)]]
            shift[:, : known.shape[1]] -= known / micron
        wanted = self.settings.centroids
        own = self._scattered(shift) if wanted == "auto" else wanted
        self.nuisances = Nuisances(
            fluxes=self.settings.fluxes is not False,
            background=self.settings.background is True,
            centroids=own,
            jitter=False,
        )
        n, jitter = self.settings.n_zernikes, self.settings.jitter
        self.wavefronts = Wavefronts(
            zernike=self.functions.new_zeros((n, self.settings.n_functions)),
            tilt=shift * micron if own else torch.zeros_like(shift),
            blur=SHARP if isinstance(jitter, str | bool) else Blur(round=float(jitter) ** 2),
        )

    def _scattered(self, shift: Tensor) -> bool:
        functions = self.functions[self.used]
        smooth = torch.linalg.lstsq(functions, shift[self.used]).solution
        rest = (shift[self.used] - functions @ smooth).abs().median()
        scatter = 1.4826 * float(rest)
        return bool(scatter > SCATTERED)

    def search(self) -> None:
        """Find the minimum's neighbourhood on the brightest stars."""
        chosen = self._brightest(SEARCH_STARS)
        found = search(
            self.scene.select(chosen),
            self.wavefronts.select(chosen),
            nuisances=self.nuisances,
            tell=self._reduced(chosen),
        )
        tilt = self.wavefronts.tilt.clone()
        tilt[chosen] = found.tilt
        self.wavefronts = replace(found, tilt=tilt)

    def _brightest(self, n: int) -> Tensor:
        """Indices of so many of the stars in use, in their order."""
        snr = torch.where(self.used, self.pixels.signal_to_noise, 0.0)
        n = min(n, int(self.used.sum()))
        return torch.argsort(snr, descending=True, stable=True)[:n].sort().values

    def refine(self, max_steps: int, *, brightest: int | None = None) -> None:
        """Gauss-Newton on the stars in use, or the brightest of them."""
        n = len(self.used) if brightest is None else brightest
        chosen = self._brightest(n)
        found = refine(
            self.scene.select(chosen),
            self.wavefronts.select(chosen),
            nuisances=self.nuisances,
            max_steps=max_steps,
            kept=self._kept(chosen),
            tell=self._reduced(chosen),
        )
        tilt = self.wavefronts.tilt.clone()
        tilt[chosen] = found.wavefronts.tilt
        self.wavefronts = replace(found.wavefronts, tilt=tilt)
        self.refined, self.found = chosen, found

    def _kept(self, chosen: Tensor) -> Normal | None:
        """Matrices of the last refinement, where it was of these stars and nuisances."""
        same = torch.equal(self.refined, chosen) and self.found.nuisances == self.nuisances
        return self.found.normal if same else None

    def correct(self) -> float:
        """Set the coarse optics' offset to the full ones; by how much it moved [noise σ]."""
        self.stamp = self.full.stamps(self.wavefronts)
        offset = self.stamp - replace(self.scene, offset=None).stamps(self.wavefronts)
        moved = offset if self.scene.offset is None else offset - self.scene.offset
        self.scene = replace(self.scene, offset=offset)
        noise = self.pixels.weight.amax((1, 2)) * self.light().flux ** 2
        return float(((moved**2).amax((1, 2)) * noise)[self.used].mean().sqrt())

    def light(self) -> StarLight:
        """Flux and background of the stars as they are."""
        return self.pixels.light(
            self.stamp, fluxes=self.nuisances.fluxes, background=self.nuisances.background
        )

    def free_jitter(self) -> None:
        """Fit the blur from here on, unless the settings hold it."""
        if self.settings.jitter in ("auto", True) and not isinstance(self.settings.jitter, float):
            stretch = self.settings.jitter_shape == "elliptical"
            self.nuisances = replace(self.nuisances, jitter=True, stretch=stretch)

    @property
    def reduced_chi2(self) -> float | None:
        """Of the last refinement, if there was one."""
        if not len(self.refined):
            return None
        return self.found.chi2 / self._n_pixels(self.refined)

    def _n_pixels(self, chosen: Tensor) -> float:
        return float((self.pixels.weight[chosen] > 0).sum())

    def _reduced(self, chosen: Tensor) -> Tell:
        """Tells χ² of these stars, reduced."""
        n_pixels = self._n_pixels(chosen)
        return lambda chi2: self.tell(chi2 / n_pixels)

    def settle_jitter(self) -> None:
        """Drop a blur that is no more than noise."""
        if self.settings.jitter != "auto" or not self.nuisances.jitter:
            return
        functions = self.functions[self.refined]
        error = blur_error(self.found.normal, functions, self.nuisances)
        if self.wavefronts.blur.round < SIGNIFICANT * error:
            self.wavefronts = replace(self.wavefronts, blur=SHARP)
            self.nuisances = replace(self.nuisances, jitter=False, stretch=False)

    def settle(self) -> None:
        """Hold what the stars do not show to vary, and free what they do."""
        settings, used = self.settings, self.used
        limit = 1 + SIGNIFICANT * (2 / int(used.sum())) ** 0.5
        both = self.pixels.light(self.stamp, fluxes=True, background=True)
        if settings.background == "auto":
            excess = ((both.background / both.background_error) ** 2)[used].mean()
            self.nuisances = replace(self.nuisances, background=float(excess) > limit)
        if settings.fluxes == "auto":
            self.nuisances = replace(self.nuisances, fluxes=not self._normalised())
        held = settings.centroids == "auto" and not self.nuisances.centroids
        if held and own_gain(self.found.normal, list(TIP_TILT), self.nuisances.own) > SIGNIFICANT:
            self.free_centroids()
        wanted = settings.defocus
        if wanted == "auto":
            wanted = own_gain(self.found.normal, [DEFOCUS], self.nuisances.own) > SIGNIFICANT
        if wanted:
            self.free_defocus()

    def _normalised(self) -> bool:
        """Whether all fluxes are 1, but for what the model misses.

        Wavefronts beyond the Zernikes scatter light to where the model has none, which leaves a
        fitted flux below 1 by as much, and alike in all stars; held at 1, it calls for that light.
        """
        light = self.light()
        flux, weight = light.flux[self.used], light.flux_error[self.used] ** -2
        mean = float((flux * weight).sum() / weight.sum())
        scatter = float((weight * (flux - mean) ** 2).mean())
        return abs(mean - 1) < UNSEEN and scatter < ALIKE

    def polish(self) -> None:
        """Gauss-Newton through the full optics."""
        for _ in range(CORRECTIONS):
            self.refine(CORRECTED_STEPS)
            self.moved = self.correct()
            if not self.clip() and self.moved < STILL:
                break

    def try_surfaces(self) -> None:
        """Allow surfaces where stars kept aside gain by them, or where the settings say so."""
        settings = self.settings
        if settings.surfaces is False:
            return
        parts = split(self._brightest(TRIAL_STARS), settings.reserved, settings.seed)
        waves = waves_of(min(self.n_cosines, TRIAL_COSINES))
        trial = Trial.of([self._joint(part, waves) for part in parts], self.field.degrees)
        if settings.surfaces is True or trial.wins:
            self.allow_surfaces(trial.roughness)

    def fit_surfaces(self) -> None:
        """Solve for Zernikes and surfaces together."""
        if self.roughness is None:
            return
        chosen = torch.nonzero(self.used)[:, 0]
        found, self.roughness = solved(
            self._joint(chosen, waves_of(self.n_cosines)),
            degrees=self.field.degrees,
            start=self.roughness,
            n_waves=self.n_cosines,
        )
        tilt = self.wavefronts.tilt.clone()
        tilt[chosen] = found.tilt
        self.wavefronts = replace(found, tilt=tilt)
        self.moved = self.correct()

    def _joint(self, chosen: Tensor, waves: list[Wave]) -> Joint:
        return linearised(
            self.scene.select(chosen),
            self.wavefronts.select(chosen),
            self.nuisances,
            features=self.features[chosen],
            waves=waves,
        )

    def allow_surfaces(self, roughness: Roughness) -> None:
        """Have surfaces, none so far, of this roughness a priori."""
        self.roughness = roughness
        for name in ("scene", "full"):
            scene = getattr(self, name)
            waves = cosines(scene.path.axis, self.n_cosines).to(self.features)
            basis = SurfaceBasis(cosines=waves, functions=self.features)
            setattr(self, name, replace(scene, surfaces=basis))
        shape = (self.features.shape[1], self.n_cosines, self.n_cosines)
        self.wavefronts = replace(self.wavefronts, surface=self.features.new_zeros(shape))

    def free_centroids(self) -> None:
        """Turn the field's tip and tilt into the stars' own."""
        own = list(TIP_TILT)
        zernike = self.wavefronts.zernike.clone()
        tilt = self.functions @ zernike[own].T
        zernike[own] = 0
        self.wavefronts = replace(self.wavefronts, zernike=zernike, tilt=tilt)
        self.nuisances = replace(self.nuisances, centroids=True)

    def free_defocus(self) -> None:
        """Turn the field's defocus into the stars' own."""
        zernike = self.wavefronts.zernike.clone()
        defocus = self.functions @ zernike[DEFOCUS]
        zernike[DEFOCUS] = 0
        tilt = torch.cat([self.wavefronts.tilt, defocus[:, None]], dim=1)
        self.wavefronts = replace(self.wavefronts, zernike=zernike, tilt=tilt)
        self.nuisances = replace(self.nuisances, defocus=True)

    def smoothed(self) -> Wavefronts:
        """The wavefronts with a field of defocus where stars have their own: its weighted mean."""
        if not self.nuisances.defocus:
            return self.wavefronts
        root = self.found.normal.matrix[:, DEFOCUS, DEFOCUS].sqrt()[:, None]
        functions = self.functions[self.refined].double()
        own = self.wavefronts.tilt[self.refined, -1:].double()
        smooth = torch.linalg.lstsq(root * functions, root * own).solution[:, 0]
        zernike = self.wavefronts.zernike.clone()
        zernike[DEFOCUS] = smooth.to(zernike.dtype)
        return replace(self.wavefronts, zernike=zernike)

    def clip(self) -> bool:
        """Leave out stars whose χ² stands out; whether that changed anything."""
        light = self.light()
        n_pixels = (self.pixels.weight > 0).sum((1, 2)).clamp(min=4).float()
        residual = (self.pixels.chi2(light.of(self.stamp)) / n_pixels).sqrt()
        typical = residual[self.used].median()
        spread = 1.4826 * (residual[self.used] - typical).abs().median()
        excess = (residual - typical) / torch.maximum(spread, (0.5 / n_pixels).sqrt())
        kept = self._bright() & (excess < self.settings.clip) & (light.flux > 0)
        changed = bool((kept != self.used).any())
        self.used = kept
        return changed

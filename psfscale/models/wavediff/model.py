"""WaveDiff: a field of wavefronts, seen through the telescope's pupil at every star's colour.

Paper: Liaudat, Starck, Kilbinger & Frugier 2023, Inverse Problems 39, 035008
(arXiv:2203.04908). What is solved, and what departs from the paper, stands in
``docs/methods/wavediff.md``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from pydantic import BaseModel

from psfscale.errors import ConfigError
from psfscale.kernels.centroid import matched_width, windowed_centroid
from psfscale.models.base import Checkpoint, FitReport, StateArray
from psfscale.models.flux_unit import in_flux_unit
from psfscale.models.judged import judged
from psfscale.models.position import PositionPolynomials
from psfscale.models.state import CENTROID_WINDOW, StoredField, position_box
from psfscale.models.wavediff.blur import Blur
from psfscale.models.wavediff.drawing import Drawing
from psfscale.models.wavediff.fixed import FixedWavefront, fixed_arrays
from psfscale.models.wavediff.optics import LightPath, amplitude_of
from psfscale.models.wavediff.phases import train
from psfscale.models.wavediff.result import Phase, Step, Trained
from psfscale.models.wavediff.settings import OpticsSettings, WaveDiffSettings
from psfscale.models.wavediff.surface import field_functions, n_cosines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jaxtyping import Float

    from psfscale.arrays import FieldPoints, PixelGrid, StarBatch

__all__ = ["WaveDiff"]

T = TypeVar("T")

STRETCH = StateArray(
    name="stretch",
    dims=("stretch",),
    shape=(2,),
    dtype="float64",
    units="pixel^2",
    long_name="half the difference of the blur's variances along x and y, and their covariance",
)


class WaveDiff(StoredField[WaveDiffSettings]):
    """Wavefront field: ``W(x, y) = Σ_jk C_jk π_k(x, y) Z_j``, PSFs by diffraction.

    Parameters
    ----------
    settings : all settings, or None for the defaults
    pupil : (y, x) amplitude of the pupil, or None for the recipe of the settings
    prior : wavefront that the fitted one is added to, or None
    **options : single settings, over `settings`

    Attributes
    ----------
    observer : told of every step of a fit, and of every phase as it ends, if set
    checkpoint : given the fit after every phase, if set, and asked where to go on from
    history : phases of the fit, with the χ² of their steps; saved with the model

    Raises
    ------
    ConfigError
        An option is unknown or its value is wrong, or the pupil or the prior does not fit the
        settings.
    """

    name: ClassVar[str] = "wavediff"
    settings_class: ClassVar[type[BaseModel]] = WaveDiffSettings

    def __init__(
        self,
        settings: WaveDiffSettings | None = None,
        *,
        pupil: Float[np.ndarray, "y x"] | None = None,
        prior: FixedWavefront | None = None,
        **options: Any,
    ) -> None:
        if prior is not None:
            options["fixed"] = prior.sizes
        super().__init__(settings, **options)
        self._fixed = prior
        if self._settings.optics is None:
            msg = "wavediff computes PSFs from the telescope: give a survey file, or optics"
            raise ConfigError(msg)
        if prior is None and any(self._settings.fixed):
            msg = f"settings tell of a fixed wavefront {self._settings.fixed}: give it as `prior`"
            raise ConfigError(msg)
        self._optics: OpticsSettings = self._settings.optics
        self._pupil = amplitude_of(self._optics, pupil)
        self.observer: Callable[[Phase | Step], None] | None = None
        self.checkpoint: Checkpoint | None = None
        self.history: list[Phase] = []

    @classmethod
    def state_arrays(
        cls,
        settings: Any,
        stamp_shape: tuple[int, int],
    ) -> tuple[StateArray, ...]:
        """The arrays that `state` returns for these settings."""
        n = 256 if settings.optics is None else settings.optics.pupil_samples
        limit = 1.0 if settings.optics is None else settings.optics.band_limit
        waves = n_cosines(max(stamp_shape), limit)
        return (
            *fixed_arrays(settings.fixed),
            *((STRETCH,) if settings.jitter_shape == "elliptical" else ()),
            StateArray(
                name="zernike",
                dims=("mode", "function"),
                shape=(settings.n_zernikes, settings.n_functions),
                dtype="float64",
                units="um",
                long_name="weight of each position function in each Zernike (Noll, unit rms)",
            ),
            StateArray(
                name="pupil",
                dims=("pupil_y", "pupil_x"),
                shape=(n, n),
                dtype="float32",
                units="1",
                long_name="amplitude of the pupil, edge to edge",
            ),
            position_box("range of x and y that the position functions map to [-1, 1]"),
            CENTROID_WINDOW,
            StateArray(
                name="surface",
                dims=("feature", "wave_y", "wave_x"),
                shape=(settings.n_surfaces, waves, waves),
                dtype="float32",
                units="um",
                long_name="weights of cosines over the pupil, beyond the Zernikes",
            ),
            StateArray(
                name="jitter",
                dims=(),
                shape=(),
                dtype="float64",
                units="pixel",
                long_name="σ of the Gaussian blur, the rms of those along x and y [CCD pixel]",
            ),
            StateArray(
                name="on_axis",
                dims=(),
                shape=(),
                dtype="int8",
                units="1",
                long_name="1 where the stamps were registered to the optical axis",
            ),
            StateArray(
                name="stamp",
                dims=("side",),
                shape=(2,),
                dtype="int32",
                units="pixel",
                long_name="rows and columns of the stars' stamps",
            ),
        )

    @in_flux_unit
    def fit(self, stars: StarBatch) -> FitReport:
        """Fit the field to the stars, replacing what was fitted before.

        Raises
        ------
        FitError
            Too few stars with signal, or their positions do not determine the field.
        """
        path = LightPath.of(self._optics, self._pupil).to(device_of(self._settings.device))
        trained = _in_memory(path, lambda light: self._train(stars, light))
        self._state = self._state_of(trained, stars)
        return judged(_report(trained), stars)

    def _train(self, stars: StarBatch, path: LightPath) -> Trained:
        self.history = []

        def observe(event: Phase | Step) -> None:
            if isinstance(event, Phase):
                self.history.append(event)
            if self.observer is not None:
                self.observer(event)

        return train(
            stars,
            self._settings,
            optics=self._optics,
            path=path,
            observe=observe,
            checkpoint=self.checkpoint,
            fixed=self._fixed,
        )

    def predict(self, at: FieldPoints, grid: PixelGrid) -> Float[np.ndarray, "object y x"]:
        """PSFs at positions and spectra, each of unit sum.

        Raises
        ------
        FitError
            The model was not fitted yet.
        InputError
            The stamp is wider than the pupil's samples resolve, or spectra have no photons.
        """
        drawing = self._drawing()
        psf = _in_memory(drawing.path, lambda light: replace(drawing, path=light).draw(at, grid))
        return psf.cpu().numpy()

    def zernikes(self, at: FieldPoints) -> Float[np.ndarray, "object zernike"]:
        """Zernike coefficients of the wavefront at positions [µm rms], Noll order from 1.

        Surfaces are projected on the Zernikes over the obscured pupil, all modes together.
        """
        return self._drawing().zernikes(at)

    def positions(
        self, x: Float[np.ndarray, " object"], y: Float[np.ndarray, " object"]
    ) -> Float[np.ndarray, "object function"]:
        """Values of the Zernikes' functions of position [pixel]."""
        return self._drawing().positions(x, y)

    def wavefront(self, at: FieldPoints) -> Float[np.ndarray, "object y x"]:
        """OPD [µm] at positions, on the samples of the pupil; 0 where it is blocked."""
        return self._drawing().wavefront(at).cpu().numpy()

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], settings: Any) -> Self:
        """The model that `state` came from; predicts the same bits.

        Raises
        ------
        InputError
            An array is missing or of another shape than the settings say.
        """
        arrays = cls._checked(state, settings, _stamp_of(state))
        model = cls(settings, pupil=arrays["pupil"], prior=FixedWavefront.from_state(arrays))
        model._state = arrays
        return model

    def remember(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Take up the history of the fit from its plain values, as a store has them."""
        self.history = [Phase.of(record) for record in history]

    def _stamp(self, state: Mapping[str, np.ndarray]) -> tuple[int, int]:
        return _stamp_of(state)

    def _drawing(self) -> Drawing:
        state = self._fitted()
        (x0, x1), (y0, y1) = state["box"].tolist()
        path = LightPath.of(self._optics, state["pupil"])
        return Drawing(
            path=path.to(device_of(self._settings.device)),
            optics=self._optics,
            n_wavelengths=self._settings.n_wavelengths,
            zernike=torch.from_numpy(state["zernike"]),
            surface=torch.from_numpy(state["surface"]),
            field=field_functions(self._settings, ((x0, x1), (y0, y1))),
            positions=PositionPolynomials(degree=self._settings.degree, box=((x0, x1), (y0, y1))),
            width=float(state["width"]),
            blur=_blur_of(state),
            on_axis=bool(state["on_axis"]),
            fixed=self._fixed,
        )

    def _state_of(self, trained: Trained, stars: StarBatch) -> dict[str, np.ndarray]:
        shape = self.state_arrays(self._settings, stars.stamp_shape)
        surface = np.zeros(next(a.shape for a in shape if a.name == "surface"), np.float32)
        if trained.surface is not None:
            surface[:] = trained.surface.cpu().numpy()
        mean = trained.stamp[trained.used].mean(0)
        blur, stretched = trained.wavefronts.blur, self._settings.jitter_shape == "elliptical"
        return {
            **({} if self._fixed is None else self._fixed.state()),
            "zernike": trained.wavefronts.zernike.double().cpu().numpy(),
            "pupil": np.asarray(self._pupil, dtype=np.float32),
            "box": np.array(trained.positions.box),
            "width": np.array(float(matched_width(mean.double().cpu(), start=1.5, smallest=0.5))),
            "surface": surface,
            "jitter": np.array(blur.round**0.5),
            **({"stretch": np.array([blur.plus, blur.cross])} if stretched else {}),
            "on_axis": np.array(not trained.nuisances.centroids, dtype=np.int8),
            "stamp": np.array(stars.stamp_shape, dtype=np.int32),
        }


def _blur_of(state: Mapping[str, np.ndarray]) -> Blur:
    plus, cross = state.get("stretch", np.zeros(2)).tolist()
    return Blur(round=float(state["jitter"]) ** 2, plus=plus, cross=cross)


def _stamp_of(state: Mapping[str, np.ndarray]) -> tuple[int, int]:
    ny, nx = np.ravel(state.get("stamp", (0, 0)))[:2].tolist()
    return ny, nx


def device_of(wanted: str) -> torch.device:
    """The device of a setting.

    Raises
    ------
    ConfigError
        There is no such device here.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        n = torch.cuda.device_count()
        msg = f"device {wanted!r} is not here: this process sees {n} CUDA devices; use auto or cpu"
        raise ConfigError(msg)
    return device


def _in_memory(path: LightPath, work: Callable[[LightPath], T]) -> T:
    """What `work` returns; once more with batches half as large where memory runs out."""
    try:
        return work(path)
    except torch.OutOfMemoryError:
        pass  # the error holds what `work` had made, until it is let go of
    torch.cuda.empty_cache()
    return work(replace(path, batch_bytes=path.batch_bytes / 2))


def _report(trained: Trained) -> FitReport:
    ny, nx = trained.stamp.shape[1:]
    y, x = windowed_centroid(trained.stamp.double(), width=1.5)
    used, chi2 = trained.used, trained.chi2.double()
    n_pixels = (trained.n_pixels - 3).clamp(min=1)
    none = np.full(len(used), np.nan)
    return FitReport(
        used=used.cpu().numpy(),
        flux=trained.light.flux.double().cpu().numpy(),
        shift_x=(x - nx // 2).cpu().numpy(),
        shift_y=(y - ny // 2).cpu().numpy(),
        flux_error=none,
        shift_x_error=none,
        shift_y_error=none,
        chi2=(chi2 / n_pixels).cpu().numpy(),
        reduced_chi2=float(chi2[used].sum() / n_pixels[used].sum()),
        n_iterations=trained.n_steps,
        converged=trained.converged,
    )

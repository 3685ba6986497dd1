"""All that the units of a run share: configuration, instrument, model settings, shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psfscale.arrays import PixelGrid
from psfscale.store.schema import MODEL_CODES

if TYPE_CHECKING:
    from pathlib import Path

    from psfscale.config import RunConfig
    from psfscale.deconvolve.learnt.settings import PriorNumbers
    from psfscale.deconvolve.settings import DeconvolutionSettings
    from psfscale.models.base import Checkpoint
    from psfscale.models.fitted import FittedModel
    from psfscale.survey import Instrument


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What every stage may ask for; the same in the driver, on a worker and in a notebook.

    Attributes
    ----------
    config : of the run
    instrument : of the survey
    models : PSF models of the run, in the order of preference
    restore_settings : frozen settings of the restoration, all resolved
    sizes : length of every dim of the run store; ``group.dim`` comes before ``dim``
    stamp_shape : (y, x) [pixel] of the star stamps
    has_galaxies : whether the survey store holds galaxies
    has_spectra : whether it holds spectra
    has_jacobians : whether it holds Jacobians of the sky, as stores do since schema version 2
    checkpoint : where a long fit keeps itself between two phases, if anywhere
    device : where to compute what leaves it open
    given_prior : what galaxies look like, where the run does not learn that
    """

    config: RunConfig
    instrument: Instrument
    models: tuple[FittedModel, ...]
    restore_settings: DeconvolutionSettings
    sizes: dict[str, int]
    stamp_shape: tuple[int, int]
    has_galaxies: bool
    has_spectra: bool = False
    has_jacobians: bool = False
    checkpoint: Checkpoint | None = None
    device: str = "auto"
    given_prior: PriorNumbers | None = None

    @property
    def run(self) -> Path:
        """Path of the run store."""
        return self.config.output

    def model_of_code(self, code: int) -> FittedModel:
        """The model that ``ccds/model`` says stands for a CCD."""
        return next(model for model in self.models if MODEL_CODES[model.name] == code)

    @property
    def chromatic(self) -> bool:
        """Whether a model of the run is to be told spectra that the survey store holds."""
        return self.has_spectra and any(model.chromatic for model in self.models)

    @property
    def psf_grid(self) -> PixelGrid:
        """The stamp on which PSFs at galaxies are drawn."""
        shape = self.sizes["psf_y"], self.sizes["psf_x"]
        return PixelGrid(shape=shape, oversampling=self.config.psf.oversampling)

    @property
    def wants_galaxy_psfs(self) -> bool:
        """Whether the run draws PSFs at galaxies."""
        return self.has_galaxies and self.config.psf.at_galaxies

    @property
    def wants_restoration(self) -> bool:
        """Whether the run restores galaxies."""
        return self.has_galaxies and self.config.restore.at_galaxies

    @property
    def wants_prior(self) -> bool:
        """Whether restored galaxies share a prior that some exposures teach."""
        learnt = self.restore_settings.mode == "learnt"
        own = self.given_prior is None and self.config.restore.learn_exposures > 0
        return self.wants_restoration and learnt and own

    @property
    def restored_grid(self) -> PixelGrid:
        """The grid of restored galaxies and of the PSFs they are restored with."""
        shape = self.sizes["galaxies.restored_y"], self.sizes["galaxies.restored_x"]
        return PixelGrid(shape=shape, oversampling=self.restore_settings.fine_pixels)

"""Settings of the deconvolution, importable without torch; names are those of the command."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from psfscale.deconvolve.learnt.settings import LearntSettings

__all__ = ["DeconvolutionSettings"]


PUBLISHED_FACTORS = (3.0, 3.0, 4.0)
FACTORS_ALONE = (4.5, 4.5, 6.0)
"""Of mode sparse [noise σ]. The published ones met a noise that galaxies' light had raised by 7 to
80 %, and a stop long before the end. 100 simulated galaxies (seed 301), solved to the end, at 1,
1.33, 1.67 and 2 times the published: pixel errors 0.105, 0.072, 0.068, 0.066 at S/N 1 and 0.0231,
0.0183, 0.0168, 0.0174 at S/N 5; ellipticity errors 0.093, 0.090, 0.092, 0.097 at S/N 1."""


class DeconvolutionSettings(BaseModel):
    """How galaxies are restored, `psfscale.deconvolve`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mode: Literal["learnt", "all", "sparse", "lowr", "grad"] = Field(
        default="learnt",
        description="prior: learnt from the catalogue, sparse wavelets of each galaxy, low rank "
        "of the stack, both (all), or none but positivity (grad)",
    )
    opt_type: Literal["condat", "fwbw", "gfwbw"] = Field(
        default="condat",
        description="splitting: primal-dual, accelerated or generalised forward-backward",
    )
    grad_type: Literal["psf_known", "psf_unknown", "shape", "none"] = Field(
        default="psf_known",
        description="data term: PSFs as given, refined on the way, with a shape constraint, or "
        "no data term (the priors alone act on the start)",
    )
    learnt: LearntSettings = Field(
        default=LearntSettings(), description="settings of mode learnt alone"
    )
    boundary: Literal["circular", "zero"] = Field(
        default="circular", description="the sky outside a stamp: periodic, or dark"
    )
    positivity: bool = Field(default=True, description="hold the galaxies positive")
    n_iter: int = Field(default=150, ge=1, description="iterations of a pass at most [1]")
    convergence: float = Field(
        default=1e-4,
        ge=0,
        description="a galaxy is done where its pixel error still to come, the squared distance "
        "to the limit relative to its square, is below; parity: change of the mean cost [1]",
    )
    cost_window: int | None = Field(
        default=None,
        ge=0,
        description="iterations between evaluations of the cost; 0 = none but the last; "
        "unset = 0, in parity 1 [1]",
    )
    noise_est: float | None = Field(
        default=None,
        gt=0,
        description="noise of all galaxies; unset = measured for each, in parity for all [image]",
    )
    lowr_thresh_factor: float | None = Field(
        default=None,
        gt=0,
        description="low-rank threshold over the published one, √max(N + 1, pixels); unset = a "
        "share of the largest singular value that noise gives, in parity 1 [1]",
    )
    lowr_type: Literal["standard", "ngole"] = Field(
        default="standard",
        description="thresholded: singular values, or the galaxies' coefficients on the singular "
        "images",
    )
    lowr_thresh_type: Literal["hard", "soft"] = Field(
        default="hard", description="values above the threshold stay, or are lowered by it"
    )
    wavelet: Literal["linear", "starlet", "biorthogonal"] = Field(
        default="linear", description="à trous [1,2,1]/4, B3 starlet, or undecimated 7/9"
    )
    wave_thresh_factor: tuple[float, ...] | None = Field(
        default=None,
        min_length=1,
        description="threshold of each scale, finest first; unset = 3 3 4, in mode sparse 4.5 4.5 "
        "6, in parity 3 3 4 [noise σ]",
    )
    n_reweights: int = Field(default=1, ge=0, description="reweighted passes of the sparsity [1]")
    relax: float | None = Field(
        default=None, gt=0, description="relaxation of condat; unset = chosen, in parity 0.8 [1]"
    )
    condat_sigma: float | None = Field(
        default=None, gt=0, description="dual step; unset = chosen, in parity 0.5 [1]"
    )
    condat_tau: float | None = Field(
        default=None, gt=0, description="primal step; unset = chosen, in parity 0.5 [1]"
    )
    lambda_psf: float = Field(
        default=1.0, ge=0, description="psf_unknown: weight of ½‖psf − given psf‖² [image²]"
    )
    beta_psf: float = Field(
        default=1.0, gt=0, description="psf_unknown: step of the PSF, shortened where too long [1]"
    )
    lambda_shape: float = Field(
        default=1.0, ge=0, description="shape: extra weight of the residual's moments [1]"
    )
    parity: bool = Field(
        default=False,
        description="the published program's own arithmetic, start, noise estimate and stop test",
    )

    @property
    def wave_factors(self) -> tuple[float, ...]:
        """`wave_thresh_factor`, settled."""
        if self.wave_thresh_factor is not None:
            return self.wave_thresh_factor
        alone = self.mode == "sparse" and not self.parity
        return FACTORS_ALONE if alone else PUBLISHED_FACTORS

    @model_validator(mode="after")
    def _meaningful(self) -> Self:
        reason = self._refusal()
        if reason:
            raise ValueError(reason)
        return self

    def _refusal(self) -> str | None:
        if self.mode == "learnt":
            return self._learnt_refusal()
        if self.learnt != LearntSettings():
            return f"the settings `learnt` belong to mode learnt, the mode is {self.mode}"
        if any(k < 0 for k in self.wave_factors):
            return "wave_thresh_factor must not be negative"
        if self.grad_type == "none" and self.mode == "grad":
            return "mode grad with grad_type none leaves neither data nor prior: nothing to solve"
        if self.opt_type != "condat" and (self.relax or self.condat_sigma or self.condat_tau):
            return "relax, condat_sigma and condat_tau are steps of opt_type condat alone"
        if self.parity:
            return self._parity_refusal()
        return None

    def _learnt_refusal(self) -> str | None:
        own = {"mode", "learnt", "noise_est"}
        foreign = [
            name
            for name, field in type(self).model_fields.items()
            if name not in own and getattr(self, name) != field.default
        ]
        if foreign:
            return (
                f"mode learnt has no {', '.join(foreign)}: these belong to the modes lowr, sparse, "
                "all and grad; name one"
            )
        return None

    def _parity_refusal(self) -> str | None:
        if self.opt_type != "condat":
            return "parity holds for opt_type condat; the published fwbw drops positivity silently"
        if self.mode == "all":
            return "parity has no mode all: the published program cannot run it"
        if self.grad_type in {"shape", "none"}:
            return f"parity has no grad_type {self.grad_type}: the published program cannot run it"
        if self.mode == "sparse" and (self.wavelet == "biorthogonal" or self.boundary == "zero"):
            return "parity of mode sparse holds for à trous wavelets and the circular boundary"
        return None

    @property
    def fine_pixels(self) -> int:
        """Pixels of a restored galaxy per CCD pixel, along an axis."""
        return self.learnt.oversampling if self.mode == "learnt" else 1

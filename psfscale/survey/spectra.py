"""Spectra of a survey's objects: a few templates, as photons in equal bins of the passband."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from psfscale.survey.instrument import Part
from psfscale.survey.quantity import Kelvin, Pure

if TYPE_CHECKING:
    from jaxtyping import Float

    from psfscale.survey.instrument import Passband

__all__ = ["SpectraRecipe", "Template"]

_SECOND_RADIATION = 14387.768775
"""hc/k, CODATA 2018 [µm K]."""
_FINE = 16
"""Points in a bin at which a template is averaged."""


class _Named(Part):
    name: str = Field(min_length=1, description="as catalogues call it")


class Blackbody(_Named):
    """A black body."""

    kind: Literal["blackbody"]
    temperature: Kelvin = Field(gt=0, description="temperature [K]")

    def density(self, wavelength: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
        """Photons per wavelength [µm], to a factor."""
        return np.asarray(
            wavelength**-4 / np.expm1(_SECOND_RADIATION / (wavelength * self.temperature))
        )


class PowerLaw(_Named):
    """Photons per wavelength that go as a power of the wavelength."""

    kind: Literal["power_law"]
    slope: Pure = Field(description="p of dN/dλ ~ λ^p")

    def density(self, wavelength: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
        """Photons per wavelength [µm], to a factor."""
        return np.asarray(wavelength**self.slope)


class Tabulated(_Named):
    """Photons per wavelength at some wavelengths, straight lines between them."""

    kind: Literal["table"]
    wavelength: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        min_length=2, description="rising [µm]"
    )
    photons: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        description="photons per wavelength there, to a factor"
    )
    source: str = Field(default="", description="where the numbers come from")

    @model_validator(mode="after")
    def _pairs_rise(self) -> Self:
        if len(self.wavelength) != len(self.photons):
            msg = f"{len(self.wavelength)} wavelengths for {len(self.photons)} photon numbers"
            raise ValueError(msg)
        if (np.diff(self.wavelength) <= 0).any():
            msg = "wavelengths must rise"
            raise ValueError(msg)
        return self

    def density(self, wavelength: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
        """Photons per wavelength [µm], to a factor; 0 beyond the table."""
        return np.asarray(np.interp(wavelength, self.wavelength, self.photons, left=0, right=0))


Template = Annotated[Blackbody | PowerLaw | Tabulated, Field(discriminator="kind")]


class SpectraRecipe(Part):
    """The spectra that a survey's catalogues name; what they do not name is flat."""

    bins: int = Field(default=32, ge=1, le=512, description="equal bins of the passband")
    templates: tuple[Template, ...] = Field(min_length=1, description="numbered from 1")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len(set(self.names)) < len(self.templates):
            msg = f"two templates have the same name: {', '.join(self.names)}"
            raise ValueError(msg)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the templates, in order."""
        return tuple(template.name for template in self.templates)

    def table(
        self, passband: Passband, bins: int | None = None
    ) -> tuple[Float[np.ndarray, "template wavelength"], Float[np.ndarray, " wavelength"]]:
        """Photons in each bin, summing to 1, and the bins' centres [µm].

        Row 0 is the flat spectrum, row k the template number k.

        Parameters
        ----------
        passband : whose range is cut into bins
        bins : the recipe's, if None

        Raises
        ------
        ValueError
            A template has no photons in the passband.
        """
        n = bins or self.bins
        step = (passband.maximum - passband.minimum) / n
        points = passband.minimum + (np.arange(n * _FINE) + 0.5) * (step / _FINE)
        rows = [np.ones(n), *(t.density(points).reshape(n, _FINE).sum(1) for t in self.templates)]
        for name, row in zip(("flat", *self.names), rows, strict=True):
            if not row.sum() > 0:
                msg = f"template {name!r} has no photons in the passband"
                raise ValueError(msg)
        sed = np.stack([row / row.sum() for row in rows])
        return sed, points.reshape(n, _FINE).mean(1)

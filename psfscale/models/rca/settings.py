"""Settings of the PSF models, importable without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from psfscale.models.star_selection import StarSelection, SuperResolution

__all__ = ["RCASettings"]


class RCASettings(SuperResolution, StarSelection):
    """Settings of the resolved-components field, `psfscale.models.rca.model.RCA`."""

    n_components: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = Field(
        default="auto",
        description="eigen-PSFs kept at most; auto keeps those that stand out of the noise [1]",
    )
    max_components: int = Field(
        default=28, ge=1, description="largest number that auto may keep; sizes the state [1]"
    )
    spatial: Literal["polynomial", "graph", "hybrid"] = Field(
        default="polynomial",
        description="functions of position that the coefficients follow: polynomials, frequency "
        "atoms of the stars' positions, or polynomials to two degrees less and atoms",
    )
    degree: int = Field(
        default=6,
        ge=0,
        le=10,
        description="total degree of the position polynomials; lowered where stars are few; "
        "graph and hybrid use as many functions [1]",
    )
    graph_nodes: int = Field(
        default=256,
        ge=4,
        description="stars that the graph of the frequency atoms joins, those furthest apart; "
        "sizes the state [1]",
    )
    row_sparsity: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] | None = Field(
        default=None,
        description="functions of position that each component may use; auto = those that show "
        "more than noise, unset = all, each as far as it does [1]",
    )
    threshold: float = Field(
        default=1.0, ge=0, description="threshold of the coefficients; 0 = no sparsity [noise σ]"
    )
    positivity: bool = Field(default=True, description="hold the PSFs of the field positive")
    n_rounds: int = Field(
        default=10, ge=4, description="alternations of field and star parameters [1]"
    )
    snr_limit: float = Field(
        default=150.0,
        gt=0,
        description="a star's weight saturates at this signal-to-noise times the number of stars "
        "per function of position [1]",
    )

    @property
    def fine_upsampling(self) -> int:
        """Fine pixels per CCD pixel that a fit works with and its state holds.

        The effective PSF of an undersampled star has frequencies beyond the CCD's Nyquist
        limit, without which it cannot be moved by part of a pixel. Twice the CCD's sampling
        holds them: the pixel's own response has its first zero at 1 cycle/CCD pixel.
        """
        well_sampled = self.band_limit is not None and self.band_limit <= 0.5
        return max(self.upsampling, 1 if well_sampled else 2)

    @property
    def largest_rank(self) -> int:
        """Components that a fit with these settings can return at most."""
        limit = self.max_components if self.n_components == "auto" else self.n_components
        return min(limit, self.n_functions)

    @property
    def n_functions(self) -> int:
        """Functions of position at the full degree."""
        return _n_polynomials(self.degree)

    def lead_degree(self, degree: int) -> int:
        """Degree of the polynomials among as many functions as those of `degree`."""
        return {"polynomial": degree, "graph": 0, "hybrid": max(degree - 2, 0)}[self.spatial]

    @property
    def n_atoms(self) -> int:
        """Frequency atoms among the functions of position, at most."""
        return self.n_functions - _n_polynomials(self.lead_degree(self.degree))

    def simpler(self) -> tuple[tuple[str, RCASettings], ...]:
        """Return settings of simpler fields, in the order in which they stand in, with a name."""
        plain = {"spatial": "polynomial", "row_sparsity": None}
        lower = [d for d in (2, 1) if d < self.degree]
        fields = [
            (f"a field of degree {d}", self.model_copy(update={**plain, "degree": d}))
            for d in lower
        ]
        constant = {**plain, "degree": 0, "n_components": 1}
        return (*fields, ("a mean star", self.model_copy(update=constant)))


def _n_polynomials(degree: int) -> int:
    return (degree + 1) * (degree + 2) // 2

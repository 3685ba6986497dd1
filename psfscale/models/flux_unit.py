"""Fits in a flux unit in which float32 holds all squares, whatever unit the stars are in."""

from __future__ import annotations

from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from psfscale.arrays import StarBatch
    from psfscale.models.base import FitReport

__all__ = ["in_flux_unit", "report_times"]

Model = TypeVar("Model")


def in_flux_unit(
    fit: Callable[[Model, StarBatch], FitReport],
) -> Callable[[Model, StarBatch], FitReport]:
    """Let a model's `fit` work in the stars' `StarBatch.flux_unit`; the report is in their own."""

    @wraps(fit)
    def fitted(model: Model, stars: StarBatch) -> FitReport:
        unit = stars.flux_unit
        return report_times(fit(model, stars.over(unit)), unit)

    return fitted


def report_times(report: FitReport, unit: float) -> FitReport:
    """The report in a flux unit `unit` times smaller: fluxes are multiplied by it."""
    return replace(report, flux=report.flux * unit, flux_error=report.flux_error * unit)

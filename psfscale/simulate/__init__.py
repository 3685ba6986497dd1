"""Draw a survey with known truth: FITS exposures, catalogues and truth tables."""

from __future__ import annotations

from psfscale.simulate.simulation import SimulateEvent, SimulateSummary, simulate

__all__ = ["SimulateEvent", "SimulateSummary", "simulate"]

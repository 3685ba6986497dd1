"""How the files of a survey are read: formats, header cards, column maps, units."""

from __future__ import annotations

from psfscale.survey.instrument import Part


class IngestRecipe(Part):
    """How exposures and catalogues of a survey become a survey store."""

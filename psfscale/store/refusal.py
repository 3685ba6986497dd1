"""Why an object of a catalogue is not in the survey store."""

from __future__ import annotations

from enum import IntEnum


class Refusal(IntEnum):
    """Index along the ``reason`` axis of ``exposures/n_refused``; published beside it."""

    NOT_SELECTED = 0
    """The recipe's cuts leave it out; counted, not listed."""
    NO_POSITION = 1
    """Its position is not finite, or the sky position does not fall on the image."""
    OUTSIDE_CCD = 2
    """Its centre lies outside the CCD."""
    NOT_FINITE = 3
    """No pixel of its stamp is finite."""
    ALL_MASKED = 4
    """Every pixel of its stamp is masked."""
    DUPLICATE_ID = 5
    """An object of the same id stands before it in the catalogue of the CCD."""
    OVERFLOW = 6
    """The store, made for smaller catalogues, has no room left on this CCD."""
    BESIDE_RESERVED = 7
    """It lies in the margin of a patch of sky whose stars are reserved; counted, not listed."""
    NOT_MATCHED = 8
    """The recipe's list of stars has none within the radius; counted, not listed, as all below."""
    MATCH_TAKEN = 9
    """A nearer object has the star of the list."""
    LOW_SNR = 10
    """It is fainter than stars are told from galaxies."""
    SATURATED = 11
    """A pixel of its core is saturated, or stars of its flux may saturate."""
    NOT_A_STAR = 12
    """Its size is not that of the stars, or cannot be measured."""
    NO_LOCUS = 13
    """Neither its CCD nor its exposure has enough stars to know their size."""

    @property
    def listed(self) -> bool:
        """Whether each such object is a line of ``refused.jsonl``, not only counted."""
        return Refusal.NO_POSITION <= self <= Refusal.OVERFLOW

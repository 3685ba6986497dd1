"""The sample of stars: rows of the catalogues that a list of stars or the stellar locus leaves.

The pixels decide, so each CCD is read once more before the store is made: the store's room for
stars follows from how many are taken.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from psfscale.errors import InputError
from psfscale.ingest.events import IngestEvent
from psfscale.ingest.formats.facts import FileDefectError, sibling
from psfscale.ingest.formats.fitsfile import FitsFiles
from psfscale.ingest.formats.reader import Sample
from psfscale.ingest.formats.tables import read_table
from psfscale.ingest.locus import Locus, fit_locus, mode_of
from psfscale.ingest.sizes import Measurement, Sizes, measure
from psfscale.ingest.star_list import StarList
from psfscale.store.refusal import Refusal
from psfscale.survey.geometry import field_position

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from psfscale.ingest.formats.reader import CcdContent, Piece, Reader
    from psfscale.ingest.objects import Objects
    from psfscale.ingest.scan import ExposurePlan, IngestPlan
    from psfscale.survey import Survey
    from psfscale.survey.selection import SampleRecipe, SizeMagnitude

__all__ = ["choose_stars", "refusals_by_size"]

_TAKEN = -1
_LISTS_KEPT = 4
_BRIGHT = 30.0
"""Least S/N of objects that show the mode of the sizes."""
_STEP = 1.1
"""Ratio of the S/N limits that are tried."""
_SHOULDER = 0.15
"""Width of the sizes beside the locus in which galaxies are counted, in the logarithm."""
_GAP = 1.0
"""From the edge of the locus to the shoulder, where stars scatter to [standard deviations]."""
_LOPSIDED = 30.0
"""χ² of four third moments beyond which an object is lopsided. Of 48 stars of a DECam CCD the
largest is 22; of blends and defects beside their locus 71 to 626."""
_FEWEST_SHAPES = 5
"""Stars that tell the third moments of the PSF."""
_MAD = 1.4826
_PEAKS = 0.99
"""Quantile of the stars' peaks over their fluxes by which the saturated fluxes are known."""


def choose_stars(
    survey: Survey,
    reader: Reader,
    plan: IngestPlan,
    tell: Callable[[IngestEvent], None],
    *,
    done: Collection[str] = (),
) -> IngestPlan:
    """Return the plan with the sample of stars of each CCD, where the recipe wants one.

    Parameters
    ----------
    survey : with the recipe
    reader : of the files
    plan : of all files
    tell : called after every CCD
    done : exposures that stand complete in the store and are not looked at

    Raises
    ------
    InputError
        The list of stars is missing or does not fit the recipe.
    """
    if not survey.ingest.stars.select.needs_pixels:
        return plan
    sampler = _Sampler(survey, reader, tell, plan, done)
    try:
        exposures = tuple(
            exposure if exposure.facts.id in done else sampler.exposure(exposure)
            for exposure in plan.exposures
        )
    finally:
        sampler.close()
    return replace(plan, exposures=exposures)


@dataclass(kw_only=True)
class _Ccd:
    """Rows of one CCD, with what decides about them.

    Attributes
    ----------
    reason : (object,) why a row is not taken, -1 where it is
    identity : (object,) of its star in the list, -1 without
    rows : of the objects that were measured
    measured : their sizes, None where sizes do not matter
    full : level above the sky at which a pixel saturates [electron], infinite where unknown
    u, v : place on the CCD, from -1 to 1
    field_x, field_y : place in the focal plane [mm]
    """

    reason: Int[np.ndarray, " object"]
    identity: Int[np.ndarray, " object"]
    rows: Int[np.ndarray, " row"]
    measured: Measurement | None = None
    full: Float[np.ndarray, " row"] | None = None
    u: Float[np.ndarray, " row"] | None = None
    v: Float[np.ndarray, " row"] | None = None
    field_x: Float[np.ndarray, " row"] | None = None
    field_y: Float[np.ndarray, " row"] | None = None

    def measure(self, stars: Objects, shape: tuple[int, int]) -> Objects:
        """Measure the sizes of the rows on a CCD of shape (y, x); return their objects."""
        chosen = stars.take(self.rows)
        self.measured = measure(chosen)
        self.full = np.full(len(chosen), np.inf)
        if chosen.full is not None:
            # A little less: images are of float32, and a pixel may be cut off at the very level.
            self.full = np.where(np.isfinite(chosen.full), chosen.full * (1 - 1e-5), np.inf)
        self.u, self.v = 2 * chosen.x / shape[1] - 1, 2 * chosen.y / shape[0] - 1
        return chosen


class _Sampler:
    """Chooses stars, exposure by exposure."""

    def __init__(
        self,
        survey: Survey,
        reader: Reader,
        tell: Callable[[IngestEvent], None],
        plan: IngestPlan,
        done: Collection[str],
    ) -> None:
        self._survey, self._reader, self._tell = survey, reader, tell
        self._recipe: SampleRecipe = survey.ingest.stars.select
        self._files = FitsFiles()
        self._lists: dict[Path, StarList] = {}
        self._total = sum(len(e.pieces) for e in plan.exposures if e.facts.id not in done)
        self._done = 0

    def close(self) -> None:
        """Close all files."""
        self._files.close()

    def exposure(self, exposure: ExposurePlan) -> ExposurePlan:
        """Return the plan of an exposure with the samples of its CCDs."""
        ccds = [self._read(piece) for piece in exposure.pieces]
        if self._recipe.size_magnitude is not None:
            sound = [ccd for ccd in ccds if isinstance(ccd, _Ccd)]
            choose_by_size(sound, self._recipe.size_magnitude)
        pieces = (_sampled(p, ccd) for p, ccd in zip(exposure.pieces, ccds, strict=True))
        return replace(exposure, pieces=tuple(pieces))

    def _read(self, piece: Piece) -> _Ccd | str:
        """Read a CCD, join it to the list and measure its stars; or say why it cannot be read."""
        stars_of = self._star_list(piece) if self._recipe.match is not None else None
        try:
            content = self._reader.read(piece)
            stars = content.on_sky("star")
        except Exception as error:  # noqa: BLE001  the writing pass quarantines the CCD with this
            return f"{type(error).__name__}: {error}"
        finally:
            self._done += 1
        ccd = self._joined(stars, stars_of, piece)
        if self._recipe.size_magnitude is not None:
            self._measure(ccd, stars, content, piece)
        self._tell(
            IngestEvent(
                phase="select",
                done=self._done,
                total=self._total,
                file=piece.path,
                exposure=piece.exposure.id,
                ccd=piece.ccd,
            )
        )
        return ccd

    def _joined(self, stars: Objects, star_list: StarList | None, piece: Piece) -> _Ccd:
        reason = np.full(len(stars), _TAKEN, np.int8)
        identity = np.full(len(stars), -1, np.int64)
        if star_list is not None and self._recipe.match is not None:
            matches = star_list.match(
                stars.ra, stars.dec, mjd=piece.exposure.time, radius=self._recipe.match.radius
            )
            reason[matches.star < 0] = Refusal.NOT_MATCHED
            reason[matches.rival] = Refusal.MATCH_TAKEN
            matched = matches.star >= 0
            identity[matched] = star_list.identity[matches.star[matched]]
        rows = (reason == _TAKEN) & np.isfinite(stars.x + stars.y)
        return _Ccd(reason=reason, identity=identity, rows=np.flatnonzero(rows))

    def _measure(self, ccd: _Ccd, stars: Objects, content: CcdContent, piece: Piece) -> None:
        detector = self._survey.instrument.detector
        chosen = ccd.measure(stars, (detector.rows, detector.columns))
        ccd.field_x, ccd.field_y = field_position(
            self._survey.instrument,
            piece.ccd,
            chosen.x,
            chosen.y,
            reference_pixel=content.reference_pixel,
        )

    def _star_list(self, piece: Piece) -> StarList:
        recipe = self._recipe.match
        if recipe is None:
            msg = "the recipe has no list of stars"
            raise InputError(msg)
        path = sibling(piece.path, recipe.path, {"exposure": piece.exposure.id, "ccd": piece.ccd})
        if path not in self._lists:
            while len(self._lists) >= _LISTS_KEPT:
                del self._lists[next(iter(self._lists))]
            try:
                table = read_table(path, self._files, hdu=recipe.hdu)
            except FileDefectError as error:
                msg = f"{error}: select.match names it as the list of stars"
                raise InputError(msg) from error
            self._lists[path] = StarList.of(table, recipe)
        return self._lists[path]


def _sampled(piece: Piece, ccd: _Ccd | str) -> Piece:
    if isinstance(ccd, str):
        return replace(piece, sample=Sample(failure=ccd))
    n_taken = int(np.count_nonzero(ccd.reason == _TAKEN))
    return replace(
        piece,
        counts={**piece.counts, "star": n_taken},
        sample=Sample(reason=ccd.reason, identity=ccd.identity),
    )


def refusals_by_size(
    stars: Objects, *, ccd_shape: tuple[int, int], settings: SizeMagnitude
) -> Int[np.ndarray, " object"]:
    """Return why each object of one CCD of shape (y, x) is no star, -1 where it is one."""
    n = len(stars)
    ccd = _Ccd(
        reason=np.full(n, _TAKEN, np.int8),
        identity=np.full(n, -1, np.int64),
        rows=np.flatnonzero(np.isfinite(stars.x + stars.y)),
    )
    ccd.measure(stars, ccd_shape)
    ccd.field_x, ccd.field_y = ccd.u, ccd.v
    choose_by_size([ccd], settings)
    return ccd.reason


def choose_by_size(ccds: Collection[_Ccd], settings: SizeMagnitude) -> None:
    """Refuse the objects that are not on the stellar locus of their CCD, or of the exposure.

    The exposure's locus serves the CCDs with too few stars for one of their own.
    """
    left = [ccd for ccd in ccds if len(ccd.rows)]
    if settings.region != "exposure":
        left = [ccd for ccd in left if not _choose([ccd], settings, of_exposure=False)]
    if settings.region != "ccd" and left:
        everything = [ccd for ccd in ccds if len(ccd.rows)]
        if _choose(everything, settings, of_exposure=True, changed=left):
            return
    for ccd in left:
        ccd.reason[ccd.rows] = Refusal.NO_LOCUS


def _choose(
    ccds: list[_Ccd],
    settings: SizeMagnitude,
    *,
    of_exposure: bool,
    changed: list[_Ccd] | None = None,
) -> bool:
    """Choose by the locus of some CCDs together; False, and nothing done, where there is none."""
    found = _verdicts(ccds, settings, of_exposure=of_exposure)
    if found is None:
        return False
    start = 0
    for ccd in ccds:
        verdict = found[start : start + len(ccd.rows)]
        start += len(ccd.rows)
        if changed is None or any(ccd is other for other in changed):
            ccd.reason[ccd.rows] = verdict
    return True


def _verdicts(
    ccds: list[_Ccd], settings: SizeMagnitude, *, of_exposure: bool
) -> Int[np.ndarray, " row"] | None:
    """The reason of each measured row of some CCDs; None where there is no locus."""
    sizes = _under_one_window(ccds)
    if sizes is None:
        return None
    full = np.concatenate([ccd.full for ccd in ccds if ccd.full is not None])
    places = ("field_x", "field_y") if of_exposure else ("u", "v")
    u, v = (np.concatenate([getattr(ccd, name) for ccd in ccds]) for name in places)
    if of_exposure:
        reach = max(np.abs(u).max(), np.abs(v).max(), 1e-9)
        u, v = u / reach, v / reach
    unsaturated = sizes.peak < full
    locus = fit_locus(sizes, unsaturated, u, v, degree=settings.degree)
    if locus is None:
        return None
    inside = (locus.excess >= -settings.below) & (locus.excess <= settings.above)
    saturated = ~unsaturated | _too_bright(sizes, full, unsaturated & inside, settings)
    limit = _faint_limit(locus, sizes, ~saturated, settings)
    taken = inside & ~saturated & (sizes.snr >= limit)
    if taken.sum() < settings.fewest:
        return None
    reason = np.full(len(sizes), int(Refusal.NOT_A_STAR), np.int8)
    reason[sizes.snr < limit] = Refusal.LOW_SNR
    reason[saturated] = Refusal.SATURATED
    reason[taken] = _TAKEN
    return reason


def _under_one_window(ccds: list[_Ccd]) -> Sizes | None:
    """Sizes of all objects under the window nearest to the mode of their own sizes."""
    measured = [ccd.measured for ccd in ccds if ccd.measured is not None]
    if not measured:
        return None
    sigma = np.concatenate([one.sigma for one in measured])
    error = np.concatenate([one.error for one in measured])
    snr = np.concatenate([one.windows[0].snr for one in measured])
    rows = np.flatnonzero(np.isfinite(sigma + error) & (snr >= _BRIGHT))
    if rows.size == 0:
        return None
    mode = np.exp(mode_of(2 * np.log(sigma[rows]), error[rows]) / 2)
    return Sizes.together([one.under(float(mode)) for one in measured])


def _too_bright(
    sizes: Sizes, full: np.ndarray, stars: np.ndarray, settings: SizeMagnitude
) -> Bool[np.ndarray, " row"]:
    """True for objects of fluxes at which a star of the locus may saturate, itself or not.

    A cut on the peak alone leaves, of the brightest stars, only the widest ones and those that lie
    between pixels. The sharpest star of the locus sets one flux for all.
    """
    bright = stars & (sizes.snr >= settings.snr_minimum)
    if bright.sum() < settings.fewest:
        return np.zeros(len(sizes), bool)
    sharpest = np.quantile(sizes.peak[bright] / sizes.flux[bright], _PEAKS)
    with np.errstate(invalid="ignore"):
        return np.asarray(sizes.flux * sharpest >= full)


def _faint_limit(locus: Locus, sizes: Sizes, usable: np.ndarray, settings: SizeMagnitude) -> float:
    """The S/N from which on galaxies are few enough in the locus.

    Close above the locus galaxies are evenly strewn in size; each in the shoulder beside it stands
    for as many in the locus as the ratio of their widths. Blended stars and defects lie there too,
    at any S/N: those with lopsided light are not counted, and one object alone is chance. Where no
    limit does, it is that of the smallest share that keeps half of the stars.
    """
    edge = settings.above * locus.deviation
    excess = locus.excess * locus.deviation
    beyond = excess - (settings.above + _GAP) * locus.deviation
    inside = usable & (locus.excess >= -settings.below) & (locus.excess <= settings.above)
    shoulder = usable & (beyond > 0) & (beyond <= _SHOULDER) & ~_lopsided(sizes, inside)
    best, smallest, n_all = settings.snr_minimum, np.inf, None
    limit = settings.snr_minimum
    while (n := np.count_nonzero(inside & (sizes.snr >= limit))) >= settings.fewest:
        beside = edge[shoulder & (sizes.snr >= limit)]
        share = beside.sum() / _SHOULDER / n
        if share <= settings.galaxies or len(beside) == 1:
            return float(limit)
        n_all = n if n_all is None else n_all
        if share < smallest and 2 * n >= n_all:
            best, smallest = limit, share
        limit *= _STEP
    return float(best)


def _lopsided(sizes: Sizes, stars: np.ndarray) -> Bool[np.ndarray, " row"]:
    """True for objects whose light is less even about its centre than that of stars and galaxies.

    The stars' own third moments, of a PSF with coma, and their scatter over the field are allowed.
    """
    if np.count_nonzero(stars) < _FEWEST_SHAPES:
        return np.zeros(len(sizes), bool)
    rest = sizes.skew - np.median(sizes.skew[stars], axis=0)
    spread = _MAD * np.median(np.abs(rest[stars]), axis=0)
    noise = np.median(sizes.skew_error[stars], axis=0)
    own = np.maximum(spread**2 - noise**2, 0)
    with np.errstate(invalid="ignore"):
        chi2 = (rest**2 / (sizes.skew_error**2 + own)).sum(axis=1)
    return np.asarray(chi2 > _LOPSIDED)

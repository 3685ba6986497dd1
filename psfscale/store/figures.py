"""Names, units and meanings of the figures that metrics give of a CCD, an exposure, the survey."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ON_SKY = "along the sky's axes, u west and v north"
"""Of shapes in the tangent plane; where no WCS is known, u and v are taken to be x and y."""
METRIC_COUNTS = (
    ("n_fit", "stars given to the fit"),
    ("n_clipped", "of them, clipped as outliers"),
    ("n_reserved", "reserved stars"),
    ("n_flagged", "of them, blended, struck or off their positions: not in what follows but *_all"),
    ("n_measured", "reserved stars whose moments could be measured, star and model"),
    ("n_measured_all", "the same with those that are flagged"),
)


_EVERY = "all reserved stars, flagged ones too"


def metric_values(where: str) -> Iterable[tuple[str, str, str]]:
    """Name, unit and meaning of what is known of the stars of a CCD, exposure or survey."""
    yield "clipped_fraction", "1", "n_clipped / n_fit"
    yield "chi2_median", "1", "median reduced chi² of the reserved stars"
    yield "model_rel_rmse", "1", "relative pixel RMSE over the reserved stars, noise included"
    yield "noise_rel_rmse", "1", "the same for a perfect model: what the weights promise"
    yield "mean_star_rel_rmse", "1", "the same with the mean fit star of the CCD as the model"
    yield "star_power", "electron2", "sum of squared reserved pixels, the RMSEs' denominator"
    for suffix, frame in (("", ""), ("_sky", f", {ON_SKY}")):
        for name in ("e1", "e2", "R2"):
            what = "relative R2" if name == "R2" else name
            yield (
                f"{name}_bias{suffix}",
                "1",
                f"mean {what} residual, star - model, reserved{frame}",
            )
            yield f"{name}_rmse{suffix}", "1", f"rms {what} residual, star - model, reserved{frame}"
            for kind in ("bias", "rmse"):
                plain = f"{name}_{kind}{suffix}"
                yield f"{plain}_all", "1", f"{plain} over {_EVERY}"
        mean = f"of the model, mean over a grid on the {where}{frame}"
        yield f"psf_R2{suffix}", "arcsec2", f"Mxx + Myy {mean}"
        yield f"psf_e1{suffix}", "1", f"e1 {mean}"
        yield f"psf_e2{suffix}", "1", f"e2 {mean}"
    yield "model_rel_rmse_all", "1", f"model_rel_rmse over {_EVERY}"
    yield "star_power_all", "electron2", f"star_power over {_EVERY}"

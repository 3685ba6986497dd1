"""On the path of child processes, so that the toy model is theirs too."""

import failing_start  # noqa: F401
import mean_star
import plane_star

from psfscale import models

models.MODELS["rca"] = "mean_star:MeanStar"
models.SETTINGS["rca"] = mean_star.MeanStarSettings
models.MODELS["wavediff"] = "plane_star:PlaneStar"
models.SETTINGS["wavediff"] = plane_star.PlaneStarSettings

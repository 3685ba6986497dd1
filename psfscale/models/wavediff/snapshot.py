"""A fit between two phases as plain arrays, from which it goes on to the same bits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from psfscale.models.wavediff.blur import Blur
from psfscale.models.wavediff.fit import Refined
from psfscale.models.wavediff.forward import Normal, Nuisances, Wavefronts
from psfscale.models.wavediff.prior import Roughness
from psfscale.models.wavediff.result import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psfscale.arrays import StarBatch
    from psfscale.models.wavediff.fixed import FixedWavefront
    from psfscale.models.wavediff.optics import LightPath
    from psfscale.models.wavediff.settings import WaveDiffSettings
    from psfscale.models.wavediff.train import Training

__all__ = ["fingerprint", "restore", "snapshot"]

COURSE_VERSION = 6
"""To be raised when a phase computes something else, so that older snapshots are not taken up."""


def fingerprint(
    stars: StarBatch,
    settings: WaveDiffSettings,
    path: LightPath,
    fixed: FixedWavefront | None = None,
) -> str:
    """A hash of all that determines a fit, but for the device it runs on."""
    digest = hashlib.sha256(str(COURSE_VERSION).encode())
    digest.update(settings.model_dump_json(exclude={"device"}).encode())
    pupil = path.amplitude.cpu().numpy()
    of_stars = (stars.image, stars.weight, stars.x, stars.y, stars.sed, stars.wavelength)
    arrays = (*of_stars, pupil, *({} if fixed is None else fixed.state()).values())
    for array in arrays:
        values = np.ascontiguousarray(np.empty(0) if array is None else array)
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def snapshot(training: Training, told: Sequence[Phase], own: str) -> dict[str, np.ndarray]:
    """All that the next phases start from.

    Parameters
    ----------
    told : the phases that have ended
    own : fingerprint of the fit
    """
    here, found, normal = training.wavefronts, training.found, training.found.normal
    tensors = {
        "zernike": here.zernike,
        "tilt": here.tilt,
        "surface": here.surface,
        "used": training.used,
        "offset": training.scene.offset,
        "stamp": training.stamp,
        "refined": training.refined,
        "matrix": normal.matrix,
        "vector": normal.vector,
    }
    arrays = {name: t.cpu().numpy() for name, t in tensors.items() if t is not None}
    numbers = {"moved": training.moved, "chi2": found.chi2}
    law = training.roughness
    roughness = [] if law is None else [*law.rms, law.slope]
    return {
        **arrays,
        "roughness": np.array(roughness, np.float64),
        "blur": np.array(json.dumps(asdict(here.blur))),
        **{name: np.array(value, np.float64) for name, value in numbers.items()},
        "n_steps": np.array(found.n_steps),
        "converged": np.array(found.converged),
        "nuisances": np.array(json.dumps(asdict(training.nuisances))),
        "of": np.array(json.dumps(asdict(found.nuisances))),
        "phases": np.array(json.dumps([asdict(phase) for phase in told])),
        "fingerprint": np.array(own),
    }


def restore(training: Training, arrays: Mapping[str, np.ndarray] | None, own: str) -> list[Phase]:
    """Set a fit to where a snapshot left it; the phases that had ended.

    A snapshot of another fit is left alone, and the fit begins anew.
    """
    if arrays is None or str(arrays.get("fingerprint")) != own:
        return []
    device = training.used.device
    tensors = {
        name: torch.from_numpy(np.array(array)).to(device)
        for name, array in arrays.items()
        if array.dtype.kind in "fbi"
    }
    if len(law := arrays["roughness"].tolist()):
        training.allow_surfaces(Roughness(rms=tuple(law[:-1]), slope=law[-1]))
    training.wavefronts = Wavefronts(
        zernike=tensors["zernike"],
        tilt=tensors["tilt"],
        blur=Blur(**json.loads(str(arrays["blur"]))),
        surface=tensors.get("surface"),
    )
    training.nuisances = Nuisances(**json.loads(str(arrays["nuisances"])))
    training.used, training.refined = tensors["used"], tensors["refined"]
    training.stamp, training.moved = tensors["stamp"], float(arrays["moved"])
    training.scene = replace(training.scene, offset=tensors.get("offset"))
    training.found = Refined(
        wavefronts=training.wavefronts,
        chi2=float(arrays["chi2"]),
        normal=Normal(matrix=tensors["matrix"], vector=tensors["vector"]),
        nuisances=Nuisances(**json.loads(str(arrays["of"]))),
        n_steps=int(arrays["n_steps"]),
        converged=bool(arrays["converged"]),
    )
    return [Phase.of(phase) for phase in json.loads(str(arrays["phases"]))]

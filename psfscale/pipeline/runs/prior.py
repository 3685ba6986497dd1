"""A prior of galaxies that a run does not learn itself: another run's, or a file's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from psfscale.deconvolve.learnt.settings import N_SUMS
from psfscale.errors import ConfigError, StoreError
from psfscale.pipeline.ledger.table import read_known, stages_in
from psfscale.store.stores import open_root, values_of

if TYPE_CHECKING:
    from psfscale.deconvolve.learnt.prior import Prior
    from psfscale.deconvolve.learnt.settings import PriorNumbers


def read_prior(path: Path) -> Prior:
    """Return the prior that a run has learnt, or that a file holds.

    Parameters
    ----------
    path : run store, or ``.npz`` of `Prior.arrays`

    Raises
    ------
    ConfigError
        There is no file, or it holds no prior.
    StoreError
        There is no run, or it has not learnt a prior yet.
    """
    return _of_file(path) if path.suffix == ".npz" else _of_run(path)


def prior_numbers(prior: Prior) -> PriorNumbers:
    """Return the arrays of a prior as numbers, to be kept with a run."""
    return {name: array.tolist() for name, array in prior.arrays().items()}


def _of_file(path: Path) -> Prior:
    from psfscale.deconvolve.learnt.prior import Prior

    try:
        with np.load(path, allow_pickle=False) as file:
            return Prior.from_arrays(dict(file))
    except (OSError, KeyError, ValueError) as error:
        msg = f"{path} holds no prior, as `numpy.savez(path, **prior.arrays())` writes one: {error}"
        raise ConfigError(msg) from error


def _of_run(path: Path) -> Prior:
    """By the sums of the sample as the run's latest settings have it."""
    from psfscale.deconvolve.learnt.prior import shared_prior

    root = open_root(path)
    if "prior/sums" in root and "learn" in stages_in(root):
        k = stages_in(root).index("learn")
        wanted = values_of(root, "units/wanted")[:, k]
        done = read_known(path, ["learn"]).fingerprints[:, 0] == wanted
        sums = values_of(root, "prior/sums")
        if sums.shape[-1] != N_SUMS:
            msg = f"the prior in {path} is of another psfscale: run it again, or take another"
            raise StoreError(msg)
        prior = shared_prior(sums[wanted > 0])
        if done[wanted > 0].all() and prior is not None:
            return prior
    msg = (
        f"{path} has not learnt a prior of galaxies yet: run it first, with restore.at_galaxies, "
        "mode learnt and learn_exposures above 0"
    )
    raise StoreError(msg)

"""What is said of a stage: to the runner, and to the plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import xarray as xr

    from psfscale.pipeline.stages.context import RunContext
    from psfscale.pipeline.stages.quality import Verdict
    from psfscale.store.schema import ArraySpec


@dataclass(frozen=True, kw_only=True)
class Input:
    """One array that a stage reads: its path, and in which store it lies.

    A gathered array is read whole of every sampled exposure, with axes exposure and ccd.
    """

    path: str
    store: Literal["survey", "run"] = "survey"
    gathered: bool = False


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step from stars to products, as declared to the runner.

    Attributes
    ----------
    name : its key in `DECLARED`
    version : counts changes of the code that change results; part of the fingerprint
    needs : stages whose results on the same CCD it reads
    gathers : stages whose results on all sampled exposures it reads
    run : the function
    inputs : arrays it reads
    outputs : arrays it returns
    settings : all that it depends on beside its inputs; part of the fingerprint
    objects : the array of roles that says whether a CCD has anything to do
    missing : the array of flags that tells its objects that a CCD has no result
    resources : that a worker should have to run it
    whole : it takes all CCDs of an exposure at once, with an axis ``ccd``
    release : of a whole stage, the verdict on a CCD; it raises where the CCD is not to pass
    needs_any : it runs where any of the stages it needs has a result, and is told which
    sampled : it runs on a sample, of which CCDs that a stage before failed on are left out
    """

    name: str
    version: int
    needs: tuple[str, ...]
    gathers: tuple[str, ...]
    run: Callable[[xr.Dataset, RunContext], xr.Dataset]
    inputs: tuple[Input, ...]
    outputs: tuple[ArraySpec, ...]
    settings: Mapping[str, Any]
    objects: str
    missing: str
    resources: Mapping[str, float] = field(default_factory=dict)
    whole: bool = False
    release: Callable[[xr.Dataset, RunContext], Verdict] | None = None
    needs_any: bool = False
    sampled: bool = False


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What the plan knows of a stage; an entry of `DECLARED` is all that adds one to a run.

    Attributes
    ----------
    version : counts changes of the code that change results; part of the fingerprint
    build : the stage, from the context
    settings : the part of the configuration that it depends on, JSON-able; in the fingerprint
    needs : stages whose results on the same CCD it reads
    gathers : stages whose results on all sampled exposures it reads, where a run has them
    sampled : it runs on the first exposures alone, ``restore.learn_exposures`` of them
    objects : whose it is; exposures without any are left out
    wanted : whether a run of this context has it
    """

    version: int
    build: Callable[[RunContext], Stage]
    settings: Callable[[RunContext], dict[str, Any]]
    needs: tuple[str, ...] = ()
    gathers: tuple[str, ...] = ()
    sampled: bool = False
    objects: Literal["stars", "galaxies"] = "stars"
    wanted: Callable[[RunContext], bool] = lambda _: True

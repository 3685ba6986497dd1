"""Metrics of the exposures and of the survey, which the driver writes as a run ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psfscale.store.stores import array_of, open_root, open_tree

if TYPE_CHECKING:
    from psfscale.pipeline.stages.context import RunContext

__all__ = ["write_aggregates"]


def write_aggregates(context: RunContext) -> None:
    """Write the metrics of every exposure and of the survey; the driver's alone."""
    from psfscale.metrics import aggregate

    tree, survey = open_tree(context.run), open_tree(context.config.survey)
    groups = aggregate(
        tree["stars"].to_dataset(), survey["stars"].to_dataset(), tree["ccds"].to_dataset()
    )
    root = open_root(context.run, mode="r+")
    for group, arrays in groups.items():
        for name, values in arrays.items():
            array_of(root, f"{group}/{name}")[...] = values.values

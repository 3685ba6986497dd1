from __future__ import annotations

from pathlib import Path

import pytest

from psfscale.errors import RunError
from psfscale.pipeline.results import tallies as tallying
from psfscale.pipeline.workers.executor import ExecutorLostError, Outcome
from psfscale.pipeline.workers.profiles import LocalProfile

PARTS = [(Path("runs/a.zarr"), 0), (Path("runs/a.zarr"), 256), (Path("runs/b.zarr"), 0)]


class Cluster:
    """Executors whose workers die of one part, and which are lost, as often as told."""

    window = n_workers = 2

    def __init__(self, *, deaths: int = 0, lost: tuple[int, ...] = (), error: str = "") -> None:
        self.deaths, self.lost, self.error = deaths, list(lost), error
        self.counted: list[tuple[str, int]] = []
        self.parcels: list[tuple[tallying.Task, ...]] = []
        self.kills: list[bool] = []

    def __call__(self, *_: object, **__: object) -> Cluster:
        self.parcels = []
        return self

    def submit(self, parcels: list[tuple[tallying.Task, ...]]) -> None:
        self.parcels += parcels
        assert len(self.parcels) <= self.window

    def collect(self, timeout: float) -> list[Outcome]:
        if self.lost and self.lost.pop(0):
            msg = "the scheduler is lost"
            raise ExecutorLostError(msg)
        (task,) = self.parcels.pop(0)
        if task.exposure == 256 and self.deaths:
            self.deaths -= 1
            return [Outcome(task=task, died="its worker died")]
        if self.error:
            return [Outcome(task=task, error=("ValueError", self.error, "traceback"))]
        self.counted.append((task.run, task.exposure))
        return [Outcome(task=task, counts={})]

    def close(self, *, kill: bool) -> None:
        self.kills.append(kill)


@pytest.fixture
def count(monkeypatch):
    def counted_by(cluster: Cluster) -> None:
        monkeypatch.setattr("psfscale.pipeline.workers.cluster.DaskExecutor", cluster)
        tallying._count_elsewhere(PARTS, rho=False, cluster=LocalProfile())

    return counted_by


@pytest.mark.parametrize("lost", [(), (1,), (0, 1, 1, 0, 1)])
def test_parts__are_counted_once_whatever_dies(count, lost) -> None:
    cluster = Cluster(deaths=2, lost=lost)
    count(cluster)
    assert sorted(cluster.counted) == [(str(store), first) for store, first in PARTS]
    assert cluster.kills == [True] * sum(lost) + [False]


@pytest.mark.parametrize(
    ("cluster", "reason"),
    [
        (Cluster(deaths=3), r"tallying exposures 256 to 511 of runs/a\.zarr killed 3 workers"),
        (Cluster(lost=(1, 1, 1, 1)), "gave up after 4 clusters without progress: the scheduler"),
        (Cluster(error="odd"), r"exposures 0 to 255 of runs/a\.zarr failed \(ValueError: odd\)"),
    ],
)
def test_parts__that_cannot_be_counted_are_named(count, cluster, reason) -> None:
    with pytest.raises(RunError, match=reason):
        count(cluster)
    assert cluster.kills[-1]

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from pydantic import BaseModel

import psfscale.models as registry
from psfscale.errors import ConfigError, StoreError
from psfscale.models.base import StateArray
from psfscale.store.saved_models import load_model, run_sizes, run_specs, save_model
from psfscale.store.stores import create_store


class Settings(BaseModel):
    n: int = 3


class Model:
    """Only what storing a model takes."""

    name: ClassVar[str] = "toy"
    stamp_shape = (5, 4)

    def __init__(self, settings: Settings, values: np.ndarray) -> None:
        self.settings, self.values = settings, values

    @classmethod
    def state_arrays(cls, settings, stamp_shape):
        more = {"dtype": "f8", "units": "1", "long_name": "numbers"}
        return (
            StateArray(
                name="values", dims=("row", "y"), shape=(settings.n, stamp_shape[0]), **more
            ),
            StateArray(name="scale", dims=(), shape=(), **more),
        )

    def state(self):
        return {"values": self.values, "scale": np.float64(2.5)}

    @classmethod
    def from_state(cls, state, settings):
        assert state["scale"] == 2.5
        return cls(settings, state["values"])


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "toy", f"{__name__}:Model")
    monkeypatch.setitem(registry.SETTINGS, "toy", Settings)
    monkeypatch.setattr(registry, "load_model_class", lambda name: Model)
    return Model(Settings(n=2), np.random.default_rng(0).normal(size=(2, 5)))


def test_saved_model__loads_with_the_same_bits_and_settings(model, tmp_path) -> None:
    save_model(model, tmp_path / "model.zarr")
    loaded = load_model(tmp_path / "model.zarr")
    assert loaded.settings == model.settings
    np.testing.assert_array_equal(loaded.values, model.values)


def test_save_model__refuses_to_overwrite(model, tmp_path) -> None:
    save_model(model, tmp_path / "model.zarr")
    with pytest.raises(StoreError, match="exists already"):
        save_model(model, tmp_path / "model.zarr")


def test_save_model__refuses_a_state_other_than_declared(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Model, "state", lambda self: {"other": self.values})
    with pytest.raises(StoreError, match=r"toy declares \['values', 'scale'\], its state has"):
        save_model(model, tmp_path / "model.zarr")
    assert not (tmp_path / "model.zarr").exists()


def test_save_model__refuses_a_state_of_another_shape(model, tmp_path) -> None:
    model.values = model.values[:1]
    with pytest.raises(StoreError, match=r"values has shape \(1, 5\), declared \(2, 5\)"):
        save_model(model, tmp_path / "model.zarr")
    assert not (tmp_path / "model.zarr").exists()


def test_load_model__refuses_what_is_no_model(model, tmp_path) -> None:
    create_store(tmp_path / "run.zarr", [], sizes={}, attributes={"kind": "run"})
    with pytest.raises(StoreError, match="not of a model"):
        load_model(tmp_path / "run.zarr")
    with pytest.raises(StoreError, match="no psfscale store"):
        load_model(tmp_path / "nothing.zarr")


def test_load_model__names_the_model_it_does_not_know(model, tmp_path, monkeypatch) -> None:
    save_model(model, tmp_path / "model.zarr")
    monkeypatch.delitem(registry.MODELS, "toy")
    with pytest.raises(ConfigError, match="no PSF model 'toy'"):
        load_model(tmp_path / "model.zarr")


def test_run_specs__give_each_array_an_exposure_and_a_ccd(model) -> None:
    arrays = Model.state_arrays(Settings(n=2), (5, 4))
    values, scale = run_specs("toy", arrays)
    assert (values.path, values.dims) == ("models/toy/values", ("exposure", "ccd", "row", "y"))
    sizes = {"exposure": 7, "ccd": 3, "y": 99, **run_sizes("toy", arrays)}
    assert values.shape(sizes) == (7, 3, 2, 5)
    assert values.shard(sizes) == (1, 3, 2, 5)
    assert scale.shape(sizes) == (7, 3)


def test_run_sizes__refuse_one_dim_of_two_lengths(model) -> None:
    arrays = [
        *Model.state_arrays(Settings(n=2), (5, 4)),
        *Model.state_arrays(Settings(n=3), (5, 4)),
    ]
    with pytest.raises(StoreError, match="dim 'row' with lengths 2 and 3"):
        run_sizes("toy", arrays)

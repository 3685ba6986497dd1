import numpy as np
import pytest
from ingest_samples import exposures, make_survey, stack_arrays, stack_recipe, stored

from psfscale.errors import InputError
from psfscale.ingest import ingest
from psfscale.store.stores import open_tree
from psfscale.survey import Survey
from psfscale.survey.quantity import WITH_SOURCES
from psfscale.survey.spectra import SpectraRecipe

COLUMNS = {"x": "x", "y": "y", "sed": "colour"}


def survey(*, red=3.0, spectra=True):
    recipe = stack_recipe(stars={"origin": 0, "columns": COLUMNS})
    templates = [
        {
            "name": name,
            "kind": "power_law",
            "slope": {"value": slope, "unit": "", "source": "test"},
        }
        for name, slope in (("red", red), ("blue", -1.0))
    ]
    made = make_survey(recipe)
    if not spectra:
        return made
    given = SpectraRecipe.model_validate({"bins": 5, "templates": templates})
    return made.model_copy(update={"spectra": given})


def run(folder, colour, given=None, *, name="s", append=False, file="e1"):
    np.savez(folder / f"{file}.npz", **stack_arrays(colour=np.asarray(colour)))
    return ingest(
        given or survey(), [folder / f"{file}.npz"], folder / f"{name}.zarr", append=append
    )


def test_spectra__stand_by_number_beside_their_table(tmp_path):
    run(tmp_path, ["red", "", "blue", "0", "red", "red"])
    assert stored(tmp_path / "s.zarr")["sed_id"].values.tolist() == [1, 0, 2, 0, 1, 1]
    table = open_tree(tmp_path / "s.zarr")["seds"]
    assert table["name"].values.tolist() == ["flat", "red", "blue"]
    np.testing.assert_allclose(table["sed"].sum("wavelength"), 1, rtol=1e-12)
    sed, wavelength = survey().spectra.table(survey().instrument.passband)
    np.testing.assert_array_equal(table["sed"], sed)
    np.testing.assert_array_equal(table["wavelength"], wavelength)


def test_spectra__may_be_numbers_in_the_catalogue(tmp_path):
    run(tmp_path, np.array([2, 1, 0, 2, 1, 1]))
    assert stored(tmp_path / "s.zarr")["sed_id"].values.tolist() == [2, 1, 0, 2, 1, 1]


@pytest.mark.parametrize("colour", [["green"] * 6, [3] * 6, [-1] * 6])
def test_spectra__unknown_to_the_survey_are_refused_by_name(tmp_path, colour):
    says = r"expected one of \['red', 'blue'\], a number up to 2, or nothing"
    with pytest.raises(InputError, match=says):
        run(tmp_path, colour)


def test_spectra__are_part_of_the_content(tmp_path):
    colour = ["red"] * 6
    run(tmp_path, colour, name="one")
    run(tmp_path, colour, name="same")
    run(tmp_path, colour, survey(red=2.0), name="other")
    one, same, other = (
        exposures(tmp_path / f"{name}.zarr")["content"].item() for name in ("one", "same", "other")
    )
    assert one == same != other


def test_spectra__without_a_recipe_leave_the_store_as_it_was(tmp_path):
    plain = make_survey(stack_recipe())
    run(tmp_path, ["red"] * 6, plain)
    tree = open_tree(tmp_path / "s.zarr")
    assert "seds" not in tree.children
    assert "sed_id" not in tree["stars"]


def test_append__refuses_other_spectra(tmp_path):
    run(tmp_path, ["red"] * 6)
    with pytest.raises(InputError, match="has other spectra than these files"):
        run(tmp_path, ["red"] * 6, survey(red=2.0), append=True, file="e2")


BINS = np.linspace(0.56, 0.89, 4)


def inline(folder, sed, wavelength=BINS, *, file="e1", **options):
    arrays = stack_arrays(spectra=np.asarray(sed, float), bins=wavelength)
    np.savez(folder / f"{file}.npz", **arrays)
    given = make_survey(stack_recipe(sed="spectra", wavelength="bins"))
    return ingest(given, [folder / f"{file}.npz"], folder / "s.zarr", **options)


def test_stars__may_bring_their_own_spectra(tmp_path):
    sed = np.random.default_rng(4).uniform(0, 5, (6, 4))
    sed[2], sed[3, 1], sed[4, 0] = 0, np.nan, -1
    assert inline(tmp_path, sed).ok
    stars, table = stored(tmp_path / "s.zarr"), open_tree(tmp_path / "s.zarr")["seds"]
    np.testing.assert_array_equal(table["wavelength"], BINS)
    assert "sed" not in table
    found = stars["sed"].values
    for good in (0, 1, 5):
        np.testing.assert_allclose(found[good], sed[good] / sed[good].sum(), rtol=1e-6)
    np.testing.assert_array_equal(found[2:5], 0.25)  # dark, unknown or negative: flat


def test_stars__bring_spectra_of_the_same_wavelengths(tmp_path):
    inline(tmp_path, np.ones((6, 4)))
    with pytest.raises(InputError, match="has other spectra"):
        inline(tmp_path, np.ones((6, 4)), BINS + 0.01, file="e2", append=True)
    assert inline(tmp_path, np.ones((6, 4)), file="e3", append=True).ok
    refused = inline(tmp_path, np.ones((6, 3)), file="e4", append=True)
    assert "spectra has shape (6, 3), expected (6, 4)" in str(refused)


def test_recipe__refuses_spectra_from_two_places():
    with pytest.raises(ValueError, match="sed and wavelength go together"):
        make_survey(stack_recipe(sed="spectra"))
    told = {"mode": "json", "context": WITH_SOURCES}
    own = make_survey(stack_recipe(sed="spectra", wavelength="bins")).model_dump(**told)
    with pytest.raises(ValueError, match=r"by template \(spectra\) or with each star"):
        Survey.model_validate(own | {"spectra": survey().spectra.model_dump(**told)})

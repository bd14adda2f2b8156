"""The plan of an import, source by source: with another one, all that is there would be imported
again.
"""

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError

from flows.config.database import Rebuild
from flows.config.images import SOURCES, Coco, ImportFolder, ImportImages, ImportShapes, source_of
from flows.data.import_images import drawing, import_plan
from flows.deployed import rebuild, train_rdm
from storage.manifest import made_from
from storage.sources import Listing

DRAWN = {"count": 7, "split": "train", "styles": ["sketch"], "seed": 3, "size": 32}
CROPPED = {"crop": "random", "frame": 300, "crops_per_image": 2}
STATED = {"dataset": "own", "licence": "L", "author": "A", "quality": 80}
RECORDED = [
    ({"source": "shapes"}, "d1a1c26c455d", "7cb331c4023688d7"),
    (
        {"source": "shapes", **DRAWN, "encoding": "png", "images_per_part": 5},
        "d795bc1b466c",
        "8307dddc098a71bd",
    ),
    ({"source": "coco", "path": "c"}, "4a29cd3a61ba", "08b52152094c5d7c"),
    (
        {"source": "coco", "path": "c", "split": "train", **CROPPED},
        "a414a259e621",
        "8f1501b32ea95aba",
    ),
    (
        {"source": "openimages", "path": "c", "split": "validation"},
        "15fe3626f1ea",
        "a6a76a0f8ec9bd56",
    ),
    ({"source": "wikiart", "path": "c"}, "89c4c873447c", "0bcfe7b473c429e0"),
    ({"source": "folder", "path": "c"}, "cc117eecafa7", "dc3d9073d2bac559"),
    ({"path": "c", **STATED}, "8c05ee3e1d57", "759cb01cfc92c0c1"),
]
"""Parameters, the id of their plan, and the hash of those that a part is made from: as they were
when one class held the parameters of all sources.
"""
RECORDED_OF_COCO = {
    **{"source": "coco", "split": "all", "size": 256, "crop": "centre", "crops_per_image": 1},
    **{"frame": 1200, "encoding": "jpg", "quality": 95, "seed": 0, "images_per_part": "auto"},
    **{"max_pixels": 100000000, "max_bytes": 268435456, "min_side": 16, "dataset": "folder"},
    **{"licence": None, "author": None, "count": 1000, "styles": (), "shapes": ()},
    **{"backgrounds": (), "positions": (), "sizes": (), "revision": 2},
    "colours": "sRGB, through the ICC profile",
}


def plan_of(config):
    return import_plan(config, Listing((), "snap", {}))


@pytest.mark.parametrize(("parameters", "plan_id", "part_hash"), RECORDED)
def test_the_plan_and_the_parts_of_an_import_are_those_of_before(parameters, plan_id, part_hash):
    config = ImportImages(root="/nowhere", name="n", **parameters)
    assert plan_of(config).id == plan_id
    assert made_from(drawing(config)) == part_hash


def test_a_plan_holds_the_parameters_of_every_source():
    assert plan_of(ImportImages(name="n", source="coco", path="c")).parameters == RECORDED_OF_COCO


def test_an_import_without_a_source_is_of_a_folder_and_any_other_of_its_own_class():
    assert type(ImportImages(name="n", path="c")) is ImportFolder
    assert type(ImportImages(name="n", source="shapes")) is ImportShapes
    assert type(Rebuild(name="n", images={"source": "coco", "path": "c"}).images) is Coco


@pytest.mark.parametrize("kind", SOURCES, ids=source_of)
def test_a_parameter_of_another_source_is_refused_by_the_class_itself(kind):
    source = source_of(kind)
    needed = {} if source == "shapes" else {"path": "c"}
    own = set(kind.model_fields)
    for other in SOURCES:
        for name in set(other.model_fields) - own:
            said = f"{name}: is for the sources? .*'{source_of(other)}'.*, this is '{source}', whi"
            with pytest.raises(ValidationError, match=said):
                kind(**needed, **{name: other.model_fields[name].default})


def test_the_path_of_a_data_set_can_be_taken_back_for_shapes():
    """Changes are merged into what is deployed, as `rdm run` does."""
    assert ImportImages(name="n", source="shapes", path=None).path is None
    with pytest.raises(ValidationError, match="path: is not for shapes, which are drawn"):
        ImportImages(name="n", source="shapes", path="c")


def test_a_source_that_is_none_is_refused_with_those_that_there_are():
    with pytest.raises(ValidationError, match="source: Input should be one of 'shapes', 'coco', "):
        ImportImages(name="n", source="imagenet", path="c")


def test_the_form_of_a_deployment_offers_the_sources_as_a_choice():
    """Prefect's form knows `anyOf` and no `oneOf`, nor one `anyOf` inside another."""
    described = parameter_schema(rebuild).model_dump_for_openapi()
    choices = described["definitions"]["Rebuild"]["properties"]["images"]["anyOf"]
    kinds = {f"#/definitions/{kind.__name__}" for kind in SOURCES}
    assert {choice["$ref"] for choice in choices} == kinds
    upstream = parameter_schema(train_rdm).model_dump_for_openapi()["definitions"]["Upstream"]
    for name in ("images", "database_images"):
        *choices, nothing = upstream["properties"][name]["anyOf"]
        assert {choice["$ref"] for choice in choices} == kinds and nothing == {"type": "null"}


def test_the_form_takes_a_folder_without_its_source():
    described = parameter_schema(rebuild).model_dump_for_openapi()
    config = {"name": "n", "images": {"path": "c", "licence": "CC0"}}
    assert validate({"config": config}, described, raise_on_error=True) == []
    assert rebuild.validate_parameters({"config": config})["config"].images.licence == "CC0"

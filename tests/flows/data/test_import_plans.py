"""The plan of an import, source by source: with another one, all that is there would be imported
again.
"""

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError

from flows.config.database import Rebuild
from flows.config.images import (
    SOURCES,
    Coco,
    Drawn,
    ImportFolder,
    ImportImages,
    ImportShapes,
    source_of,
)
from flows.data.import_images import drawing, import_plan
from flows.deployed import rebuild, train_rdm
from storage.manifest import made_from
from storage.sources import Listing

RECORDED_OF_COCO = {
    **{"source": "coco", "split": "all", "size": 256, "crop": "centre", "crops_per_image": 1},
    **{"frame": 1200, "encoding": "jpg", "quality": 95, "seed": 0, "images_per_part": "auto"},
    **{"max_pixels": 100000000, "max_bytes": 268435456, "min_side": 16, "revision": 2},
    "colour_profile": "sRGB, through the ICC profile",
}


def plan_of(config):
    return import_plan(config, Listing((), "snap", {}))


def test_a_plan_holds_the_parameters_of_its_source():
    assert plan_of(ImportImages(name="n", source="coco", path="c")).parameters == RECORDED_OF_COCO


CHANGES = {
    **{"count": 8, "split": "other", "styles": ["sketch"], "shapes": ["ring"], "colours": ["red"]},
    **{"backgrounds": ["dark"], "positions": ["centre"], "sizes": ["small"], "seed": 1},
    **{"accessories": ["hat"], "frequencies": "uneven", "pairs": "known"},
    **{"size": 64, "encoding": "png", "quality": 80, "images_per_part": 3},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_parameter_of_drawn_images_makes_another_plan(name):
    plain = {"root": "/nowhere", "name": "n", "source": "shapes"}
    changed = plan_of(ImportImages(**plain, **{name: CHANGES[name]}))
    assert changed.id != plan_of(ImportImages(**plain)).id


CHANGES_OF_ENTITIES = {"entities": "held out"} | {
    name: CHANGES[name]
    for name in ("count", "split", "backgrounds", "positions", "seed", "size", "images_per_part")
}


@pytest.mark.parametrize("name", CHANGES_OF_ENTITIES)
def test_every_parameter_of_entities_makes_another_plan(name):
    plain = {"root": "/nowhere", "name": "n", "source": "entities"}
    changed = plan_of(ImportImages(**plain, **{name: CHANGES_OF_ENTITIES[name]}))
    assert changed.id != plan_of(ImportImages(**plain)).id


@pytest.mark.parametrize("name", ["dataset", "licence", "author", "crop", "size", "quality"])
def test_every_parameter_of_a_folder_makes_another_plan_and_other_parts(name):
    values = {"dataset": "own", "licence": "L", "author": "A", "crop": "random", "size": 64}
    plain = {"root": "/nowhere", "name": "n", "source": "folder", "path": "c"}
    config, changed = (ImportImages(**plain, **more) for more in ({}, {name: values.get(name, 80)}))
    assert plan_of(changed).id != plan_of(config).id
    assert made_from(drawing(changed)) != made_from(drawing(config))


def test_where_a_data_set_lies_is_in_no_plan():
    here, there = (
        ImportImages(root="/nowhere", name="n", source="coco", path=path) for path in ("c", "d")
    )
    assert plan_of(here).id == plan_of(there).id


def test_an_import_without_a_source_is_of_a_folder_and_any_other_of_its_own_class():
    assert type(ImportImages(name="n", path="c")) is ImportFolder
    assert type(ImportImages(name="n", source="shapes")) is ImportShapes
    assert type(Rebuild(name="n", images={"source": "coco", "path": "c"}).images) is Coco


@pytest.mark.parametrize("kind", SOURCES, ids=source_of)
def test_a_parameter_of_another_source_is_refused_by_the_class_itself(kind):
    source = source_of(kind)
    needed = {} if issubclass(kind, Drawn) else {"path": "c"}
    own = set(kind.model_fields)
    for other in SOURCES:
        for name in set(other.model_fields) - own:
            said = f"{name}: is for the sources? .*'{source_of(other)}'.*, this is '{source}', whi"
            with pytest.raises(ValidationError, match=said):
                kind(**needed, **{name: other.model_fields[name].default})


@pytest.mark.parametrize("source", ["shapes", "entities"])
def test_the_path_of_a_data_set_can_be_taken_back_for_what_is_drawn(source):
    """Changes are merged into what is deployed, as `rdm run` does."""
    assert ImportImages(name="n", source=source, path=None).path is None
    with pytest.raises(ValidationError, match=f"path: is not for {source}, which are drawn"):
        ImportImages(name="n", source=source, path="c")


def test_a_value_that_the_entities_world_does_not_have_is_refused():
    with pytest.raises(ValidationError, match="positions: 'middle' is not one of centre, top left"):
        ImportImages(name="n", source="entities", positions=["middle"])
    with pytest.raises(ValidationError, match="Input should be 'all', 'known', .* or 'held out'"):
        ImportImages(name="n", source="entities", entities="unseen")


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

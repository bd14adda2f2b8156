"""What a run says of its model beside the weights: weights/model.json, written, read, described."""

import ast
import inspect
import json
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from itertools import pairwise
from types import NoneType

import pytest
from test_format import TEXT, table_after

from flows.model.opening import facts_of
from rdm_core.errors import WeightsError
from rdm_core.families import FACTS_FILE, read_facts
from rdm_core.families.facts import RunFacts, Version

WORDS = {str: "string", int: "integer", bool: "boolean", float: "number", Mapping: "object"}


def described():
    """A row a field: its name, its type in JSON's words, and the docstring below it."""
    (cls,) = ast.parse(inspect.getsource(RunFacts)).body
    hints = typing.get_type_hints(RunFacts)
    rows = []
    for field, docstring in pairwise(cls.body):
        if isinstance(field, ast.AnnAssign):
            name, meaning = field.target.id, " ".join(docstring.value.value.split())
            rows.append([name, word_of(hints[name]), meaning.replace("`", "")])
    return rows


def word_of(hint):
    kinds = [kind for kind in typing.get_args(hint) if kind is not NoneType]
    if NoneType in typing.get_args(hint):
        return f"{word_of(kinds[0])} or null"
    return WORDS[typing.get_origin(hint) or hint]


def test_the_table_of_model_json_is_what_is_written():
    assert table_after("Each field of `weights/model.json`") == described()
    assert [one.name for one in fields(Version)] == ["name", "id", "fingerprint"]
    assert "An entry of `trained_on` holds `name`, `id` and `fingerprint`" in TEXT
    with_default = []
    for field in fields(RunFacts):
        if field.default is not MISSING or field.default_factory is not MISSING:
            with_default.append(field.name)
    assert with_default == [row[0] for row in described()[-4:]], "as the page says"


def test_what_a_run_says_of_itself_comes_back_as_it_was(small_world):
    path = small_world.run.file("weights") / FACTS_FILE
    facts = facts_of(small_world.run)
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told == json.loads(json.dumps(asdict(facts))) and RunFacts.of(told) == facts
    for version in facts.trained_on.values():
        assert isinstance(version, Version)
    assert set(told) == {one.name for one in fields(RunFacts)}
    assert (facts.ema_length, facts.converted_from) == (None, None)
    shape = (facts.shape.channels, facts.shape.side, facts.shape.dimension)
    assert shape == (3, 32, facts.encoder["dimension"])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"family": "unheard-of"}, "family 'unheard-of' is none of diffusion"),
        ({"sampler": "ddim"}, "sampler: unknown"),
        ({"k": None, "less": True}, "less: unknown"),
        ("[]", "model.json: cannot be read"),
        ("{", "model.json: cannot be read"),
        ("{}", "missing .* required"),
    ],
)
def test_what_is_not_of_this_version_is_refused_with_the_cure(small_world, tmp_path, changed, told):
    whole = json.loads((small_world.run.file("weights") / FACTS_FILE).read_text())
    text = changed if isinstance(changed, str) else json.dumps(whole | changed)
    (tmp_path / FACTS_FILE).write_text(text)
    with pytest.raises(WeightsError, match=told) as refused:
        read_facts(tmp_path)
    assert refused.value.cure == "Give a run's name or its weights folder, or train again."


def test_a_run_of_before_is_refused_by_name_with_the_cure(tmp_path):
    (tmp_path / "context.json").write_text("{}")
    with pytest.raises(WeightsError, match="has no model.json: .* one of an older version") as told:
        read_facts(tmp_path)
    assert "train or convert an older run again" in str(told.value)
    assert str(tmp_path) in str(told.value)

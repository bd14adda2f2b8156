"""FORMAT.md says what the code does: its tables are the code's schemas, and its examples run."""

import hashlib
import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import storage
from storage.build import begin
from storage.embeddings import NORMS_OF, VECTORS_OF, embeddings_schema, write_embeddings
from storage.index import write_vectors
from storage.latents import LATENT_KEYS, LAYOUTS
from storage.layout import KINDS
from storage.manifest import FORMAT_VERSION, Part, PartFile, Plan
from storage.neighbors import neighbors_schema, write_neighbors
from storage.samples import SAMPLES, write_samples
from storage.shards import SIDECAR, SampleRecord, accepted, read_sidecar, write_shard

TEXT = (Path(storage.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
SCHEMAS = {
    "SIDECAR": (SIDECAR, ""),
    "embeddings_schema": (embeddings_schema(512), "D"),
    "neighbors_schema": (neighbors_schema(20), "k"),
    "LATENT_KEYS": (LATENT_KEYS, ""),
    "SAMPLES": (SAMPLES, ""),
}
SQL = re.findall(r"```sql\n(.*?)```", TEXT, re.S)
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def table_after(sentence):
    """The rows of the first table after a sentence, backticks dropped."""
    assert TEXT.count(sentence) == 1, sentence
    lines = TEXT.split(sentence)[1].split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:  # the heading and the rule
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return rows


def type_text(kind, width):
    """A type as FORMAT.md writes it; `width` is the letter for a width that is no constant."""
    if pa.types.is_fixed_size_list(kind):
        return f"{type_text(kind.value_type, '')}[{width or kind.list_size}]"
    if pa.types.is_list(kind):
        return f"list<{type_text(kind.value_type, '')}>"
    return {"halffloat": "float16", "float": "float32"}.get(str(kind), str(kind))


# Tables


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_table_of_a_schema_is_the_schema(name):
    schema, width = SCHEMAS[name]
    declared = [
        [
            field.name,
            type_text(field.type, width),
            "yes" if field.nullable else "no",
            field.metadata[b"doc"].decode(),
        ]
        for field in schema
    ]
    assert table_after(f"Schema `{name}` of ") == declared


def test_every_schema_has_a_table():
    assert set(re.findall(r"Schema `(\w+)` of ", TEXT)) == set(SCHEMAS)
    declared = {
        name
        for path in Path(storage.__file__).parent.glob("*.py")
        if path.name not in ("views.py", "saved.py")  # of answers, which nothing stores
        for name in re.findall(
            r"^(?:def )?(\w+)\(?.*(?: = |-> )pa\.[sS]chema\b", path.read_text(), re.M
        )
    }
    assert declared == set(SCHEMAS), "a schema of the code is missing in FORMAT.md or in this test"


def test_what_vectors_and_norms_are_of_is_documented():
    rows = [[of, VECTORS_OF[of], NORMS_OF[of]] for of in VECTORS_OF]
    assert table_after("the plan's `of` says") == rows


def test_the_layouts_of_latents_are_the_documented_ones():
    documented = {row[0]: row[1:3] for row in table_after("laid out as the plan's `stored` says")}
    assert documented == {
        stored: [str(kind), str(axes)] for stored, (kind, axes) in LAYOUTS.items()
    }


def test_a_sample_record_has_the_columns_of_the_sidecar():
    assert [field.name for field in fields(SampleRecord)] == SIDECAR.names


def test_every_kind_is_described_in_the_order_of_the_code():
    assert [row[0] for row in table_after("## Where things lie")] == list(KINDS)


def test_the_version_is_the_one_the_code_writes():
    assert TEXT.startswith(f"# The format on disk, version {FORMAT_VERSION}\n")


# Manifest


def test_the_fields_of_plan_and_manifest_are_the_documented_ones(small):
    directory = small["embeddings"].directory
    plan, manifest = (
        json.loads((directory / name).read_text()) for name in ("plan.json", "manifest.json")
    )
    assert set(plan) == {"kind", "name", "parameters", "inputs"}
    assert all(f"`{field}`" in TEXT.split("## plan.json")[1].split("##")[0] for field in plan)
    documented = {row[0]: row[1] for row in table_after("## manifest.json")}
    assert set(manifest) == set(documented)
    assert [row[0] for row in table_after("Each part, in the manifest")] == [
        field.name for field in fields(Part)
    ]
    assert [row[0] for row in table_after("Each file of a part:")] == [
        field.name for field in fields(PartFile)
    ]
    assert set(manifest["parts"][0]) == {field.name for field in fields(Part)}
    assert set(manifest["parts"][0]["files"][0]) == {field.name for field in fields(PartFile)}
    kinds = {"integer": int, "string": str, "object": dict, "array of parts": list}
    assert all(isinstance(manifest[name], kinds[kind]) for name, kind in documented.items())


def test_both_identities_can_be_computed_from_the_description(small):
    """A second implementation, from the words of FORMAT.md alone."""

    def canonical(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    for artifact in small.values():
        manifest = json.loads((artifact.directory / "manifest.json").read_text(encoding="utf-8"))
        identity = {name: manifest[name] for name in ("format", "kind", "parameters", "inputs")}
        assert (
            hashlib.sha256(canonical(identity)).hexdigest()[:12]
            == manifest["id"]
            == artifact.directory.name
        )
        files = [
            [file["path"], file["sha256"]] for part in manifest["parts"] for file in part["files"]
        ]
        assert hashlib.sha256(canonical(files)).hexdigest()[:16] == manifest["fingerprint"]
        for part in manifest["parts"]:
            assert [file["path"] for file in part["files"]] == sorted(
                file["path"] for file in part["files"]
            )
            for file in part["files"]:
                raw = (artifact.directory / file["path"]).read_bytes()
                assert (len(raw), hashlib.sha256(raw).hexdigest()) == (
                    file["bytes"],
                    file["sha256"],
                )


# Examples


@pytest.fixture
def small(tmp_path, monkeypatch, sample, unit_vectors):
    """data/<kind>/paintings of each kind the examples read, in the working directory; 6 images, the
    last one rejected.
    """
    root = tmp_path / "data"
    images = [sample(i, captions=("café",) if i else ()) for i in range(5)] + [
        sample(5, reason="too small")
    ]
    images[0] = sample(0, key="folder-a-00", source_key="folder-a")
    vectors, norms = unit_vectors(5)
    made = {}

    def publish(kind, writers, inputs=None, **measured):
        with begin(
            root, Plan(kind, "paintings", {"größe": 64, "scale": 0.1}, inputs or {})
        ) as build:
            made[kind] = build.commit(
                [build.write_part(name, "", write) for name, write in writers.items()], measured
            )

    publish(
        "shards",
        {
            "00000": lambda d: write_shard(d, "00000", images[:3]),
            "00001": lambda d: write_shard(d, "00001", images[3:]),
        },
    )
    sidecars = [accepted(read_sidecar(made["shards"], name)) for name in ("00000", "00001")]
    publish(
        "embeddings",
        {
            "00000": lambda d: (
                write_embeddings(d, "00000", sidecars[0], vectors[:3], norms[:3]),
                {},
            ),
            "00001": lambda d: (
                write_embeddings(d, "00001", sidecars[1], vectors[3:], norms[3:]),
                {},
            ),
        },
        {"shards": made["shards"].fingerprint},
        seconds=1.5,
    )
    publish("index", {"index": lambda d: (write_vectors(d, [(vectors, norms)], len(vectors)), {})})
    keys = np.asarray([key for table in sidecars for key in table["key"].to_pylist()], dtype=object)
    rows, scores = np.array([[1, 2], [0, -1]]), np.array([[0.5, 0.25], [0.5, -2]], np.float32)
    publish(
        "neighbors",
        {"00000": lambda d: (write_neighbors(d, "00000", ["q0", "q1"], keys, rows, scores), {})},
    )
    record = {
        "file": "00000.png",
        "query": "a cat",
        "seed": 1,
        "guidance_scale": 2,
        "weights": "w",
        "database": "d",
        "neighbor_keys": ["a", "b", "c"],
        "neighbor_scores": [0.9, 0.8, 0.7],
        "licences": ["CC0", "CC0", "CC-BY"],
        "authors": ["Ada", "Ada", "Bob"],
        "source_urls": [None] * 3,
        "style_database": None,
        "given_images": [],
        "attributions": None,
    }
    publish("samples", {"samples": lambda d: (write_samples(d, [b"png"], [record], b"grid"), {})})
    monkeypatch.chdir(tmp_path)
    return made


def filled(example):
    """An example with `<id>` replaced as the text says: by the line in `current`."""
    assert "<id>" in example
    return re.sub(
        r"data/(\w+)/(\w+)/<id>",
        lambda m: f"{m[0][:-4]}{(Path('data') / m[1] / m[2] / 'current').read_text().strip()}",
        example,
    )


def answer(words):
    (example,) = [example for example in SQL if words in example]
    return duckdb.sql(filled(example)).fetchall()


def test_there_are_as_many_examples_as_tests_below():
    assert (len(SQL), len(PYTHON)) == (6, 2)


def test_the_example_for_nearest_images_runs(small, unit_vectors):
    vectors, _ = unit_vectors(5)
    order = sorted(range(1, 5), key=lambda i: -float(vectors[0] @ vectors[i]))
    rows = answer("other.embedding")
    assert [key for key, _, _ in rows] == [f"folder-{i}-00" for i in order]
    np.testing.assert_allclose(
        [score for _, _, score in rows], [vectors[0] @ vectors[i] for i in order], atol=2e-3
    )
    licences = {1: None, 2: "CC0", 3: "CC-BY", 4: None}
    assert [licence for _, licence, _ in rows] == [licences[i] for i in order]


def test_the_example_for_index_ids_gives_row_order(small):
    keys = ["folder-a-00", *(f"folder-{i}-00" for i in range(1, 5))]
    assert answer("file_row_number") == list(enumerate(keys))


def test_the_example_for_neighbors_runs(small):
    assert answer("unnest(rows)") == [
        ("q0", 1, "folder-1-00", 0.5),
        ("q0", 2, "folder-2-00", 0.25),
        ("q1", 0, "folder-a-00", 0.5),
    ]


def test_the_example_for_samples_runs(small):
    assert answer("unnest(authors)") == [("Ada", "CC0", 2), ("Bob", "CC-BY", 1)]


def test_the_example_for_rejects_runs(small):
    assert answer("status = 'rejected'") == [("too small", 1)]


def test_the_example_for_a_manifest_runs(small):
    embeddings = small["embeddings"]
    assert answer("manifest.json") == [
        (
            "paintings",
            embeddings.fingerprint,
            {"shards": small["shards"].fingerprint},
            {"seconds": 1.5},
        )
    ]


def test_the_example_for_webdataset_reads_our_shard(small):
    (example,) = [example for example in PYTHON if "webdataset" in example]
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(filled(example), {})
    assert printed.getvalue().splitlines() == [
        "folder-a-00 11 CC-BY caption 0",
        "folder-1-00 11 None café",
        "folder-2-00 11 CC0 café",
    ]


def test_the_example_for_an_index_reads_our_matrix(small):
    (example,) = [example for example in PYTHON if "numpy" in example]
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(filled(example), {})
    assert printed.getvalue() == "(5, 8) float16\n"


def test_webdataset_gives_each_image_record_and_caption(small, make, sample):
    webdataset = pytest.importorskip("webdataset")
    samples = [
        sample(0, image=b"p"),
        sample(1, image=b"j", extension="jpg"),
        sample(2, captions=()),
        sample(3, reason="x"),
    ]
    path = make("shards", "b", lambda d, n: write_shard(d, n, samples)).file("00000.tar")
    read = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [one["__key__"] for one in read] == ["folder-0-00", "folder-1-00", "folder-2-00"]
    assert [set(one) - {"__key__", "__url__", "__local_path__"} for one in read] == [
        {"png", "json", "txt"},
        {"jpg", "json", "txt"},
        {"png", "json"},
    ]
    assert (read[0]["png"], read[1]["jpg"], read[1]["txt"]) == (b"p", b"j", b"caption 1")
    assert json.loads(read[1]["json"])["source_url"] == "https://example.org/1"

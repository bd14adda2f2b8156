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
from building import keys_of

import storage
from storage.build import begin
from storage.embeddings import NORMS_OF, VECTORS_OF, embeddings_schema, write_embeddings
from storage.index import write_vectors
from storage.latents import LATENT_KEYS, LAYOUTS
from storage.layout import KINDS
from storage.manifest import FORMAT_VERSION, Part, PartFile, Plan
from storage.neighbors import SCORES_OF, neighbors_schema, write_neighbors
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
    table = re.search(r"^\|.*?(?=^[^|]|\Z)", TEXT.split(sentence)[1], re.DOTALL | re.MULTILINE)
    rows = []
    for line in table[0].split("\n")[2:]:  # after the heading and the rule
        if line:
            rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return rows


def first_cells(sentence):
    """The first cell of each row of the table after a sentence."""
    return [row[0] for row in table_after(sentence)]


def names_of_fields(schema_or_dataclass):
    return [field.name for field in schema_or_dataclass]


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
    declared = []
    for field in schema:
        nullable, doc = "yes" if field.nullable else "no", field.metadata[b"doc"].decode()
        declared.append([field.name, type_text(field.type, width), nullable, doc])
    assert table_after(f"Schema `{name}` of ") == declared


def test_every_schema_has_a_table():
    assert set(re.findall(r"Schema `(\w+)` of ", TEXT)) == set(SCHEMAS)
    # NAME = pa.schema(... and def name(...) -> pa.Schema
    declaration = re.compile(r"^(?:def )?(\w+)\(?.*(?: = |-> )pa\.[sS]chema\b", re.MULTILINE)
    declared = set()
    for path in Path(storage.__file__).parent.glob("*.py"):
        if path.name not in ("views.py", "saved.py"):  # of answers, which nothing stores
            declared.update(declaration.findall(path.read_text()))
    assert declared == set(SCHEMAS), "a schema of the code is missing in FORMAT.md or in this test"


def test_what_vectors_and_norms_are_of_is_documented():
    rows = [[of, VECTORS_OF[of], NORMS_OF[of]] for of in VECTORS_OF]
    assert table_after("the plan's `of` says") == rows


def test_what_scores_are_of_is_documented():
    assert f"| `scores` | `float32[k]` | no | {SCORES_OF['vectors']} |" in TEXT
    assert SCORES_OF["words"] in " ".join(TEXT.split())


def test_the_layouts_of_latents_are_the_documented_ones():
    rows = table_after("laid out as the plan's `stored` says")
    assert len(rows) == len(LAYOUTS)
    for stored, kind, axes, *_ in rows:
        documented_kind, documented_axes = LAYOUTS[stored]
        assert (kind, axes) == (str(documented_kind), str(documented_axes))


def test_a_sample_record_has_the_columns_of_the_sidecar():
    assert names_of_fields(fields(SampleRecord)) == SIDECAR.names


def test_every_kind_is_described_in_the_order_of_the_code():
    assert first_cells("## Where things lie") == list(KINDS)


def test_the_version_is_the_one_the_code_writes():
    assert TEXT.startswith(f"# The format on disk, version {FORMAT_VERSION}\n")


# Manifest


def test_the_fields_of_plan_and_manifest_are_the_documented_ones(small):
    directory = small["embeddings"].directory
    plan = json.loads((directory / "plan.json").read_text())
    manifest = json.loads((directory / "manifest.json").read_text())
    assert set(plan) == {"kind", "name", "parameters", "inputs"}
    description = TEXT.split("## plan.json")[1].split("##")[0]
    for name in plan:
        assert f"`{name}`" in description
    part, file = names_of_fields(fields(Part)), names_of_fields(fields(PartFile))
    assert first_cells("Each part, in the manifest") == part
    assert first_cells("Each file of a part:") == file
    assert set(manifest["parts"][0]) == set(part)
    assert set(manifest["parts"][0]["files"][0]) == set(file)
    assert set(manifest) == set(first_cells("## manifest.json"))
    kinds = {"integer": int, "string": str, "object": dict, "array of parts": list}
    for name, kind, *_ in table_after("## manifest.json"):
        assert isinstance(manifest[name], kinds[kind])


def test_both_identities_can_be_computed_from_the_description(small):
    """A second implementation, from the words of FORMAT.md alone."""

    def canonical(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    for artifact in small.values():
        manifest = json.loads((artifact.directory / "manifest.json").read_text(encoding="utf-8"))
        identity = {name: manifest[name] for name in ("format", "kind", "parameters", "inputs")}
        identifier = hashlib.sha256(canonical(identity)).hexdigest()[:12]
        assert identifier == manifest["id"] == artifact.directory.name
        files = []
        for part in manifest["parts"]:
            paths = [file["path"] for file in part["files"]]
            assert paths == sorted(paths)
            for file in part["files"]:
                raw = (artifact.directory / file["path"]).read_bytes()
                assert len(raw) == file["bytes"]
                assert hashlib.sha256(raw).hexdigest() == file["sha256"]
                files.append([file["path"], file["sha256"]])
        assert hashlib.sha256(canonical(files)).hexdigest()[:16] == manifest["fingerprint"]


# Examples


@pytest.fixture
def small(tmp_path, monkeypatch, sample, unit_vectors):
    """data/<kind>/paintings of each kind the examples read, in the working directory; 6 images, the
    last one rejected.
    """
    root = tmp_path / "data"
    images = [sample(number, captions=("café",)) for number in range(5)]
    images[0] = sample(0, key="folder-a-00", source_key="folder-a")
    images.append(sample(5, reason="too small"))
    vectors, norms = unit_vectors(5)
    made = {}

    def publish(kind, writers, inputs=None, **measured):
        plan = Plan(kind, "paintings", {"größe": 64, "scale": 0.1}, inputs or {})
        with begin(root, plan) as build:
            parts = [build.write_part(name, "", write) for name, write in writers.items()]
            made[kind] = build.commit(parts, measured)

    publish(
        "shards",
        {
            "00000": lambda d: write_shard(d, "00000", images[:3]),
            "00001": lambda d: write_shard(d, "00001", images[3:]),
        },
    )
    first, second = read_sidecar(made["shards"], "00000"), read_sidecar(made["shards"], "00001")
    sidecars = [accepted(first), accepted(second)]
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
    keys = np.asarray(pa.concat_tables(sidecars)["key"].to_pylist(), dtype=object)
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


def example_with(words, examples):
    """The only example that holds these words."""
    (example,) = [example for example in examples if words in example]
    return filled(example)


def answer(words):
    return duckdb.sql(example_with(words, SQL)).fetchall()


def printed_by(words):
    """The lines that the Python example with these words prints."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(example_with(words, PYTHON), {})
    return printed.getvalue().splitlines()


def test_there_are_as_many_examples_as_tests_below():
    assert (len(SQL), len(PYTHON)) == (6, 2)


def test_the_example_for_nearest_images_runs(small, unit_vectors):
    vectors, _ = unit_vectors(5)
    cosines = vectors @ vectors[0]
    nearest_first = np.argsort(-cosines)[1:]  # without the image itself
    keys, licences, scores = zip(*answer("other.embedding"), strict=True)
    assert list(keys) == keys_of(nearest_first)
    np.testing.assert_allclose(scores, cosines[nearest_first], atol=2e-3)
    stated = {1: None, 2: "CC0", 3: "CC-BY", 4: None}
    assert list(licences) == [stated[number] for number in nearest_first]


def test_the_example_for_index_ids_gives_row_order(small):
    keys = ["folder-a-00", *keys_of(range(1, 5))]
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
    assert printed_by("webdataset") == [
        "folder-a-00 11 CC-BY caption 0",
        "folder-1-00 11 None café",
        "folder-2-00 11 CC0 café",
    ]


def test_the_example_for_an_index_reads_our_matrix(small):
    assert printed_by("numpy") == ["(5, 8) float16"]


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
    assert [image["__key__"] for image in read] == keys_of(range(3))
    members = [{"png", "json", "txt"}, {"jpg", "json", "txt"}, {"png", "json"}]
    for image, endings in zip(read, members, strict=True):
        assert set(image) - {"__key__", "__url__", "__local_path__"} == endings
    assert (read[0]["png"], read[1]["jpg"], read[1]["txt"]) == (b"p", b"j", b"caption 1")
    assert json.loads(read[1]["json"])["source_url"] == "https://example.org/1"

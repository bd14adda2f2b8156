"""A data set is fetched from where it lives, and only what is new or changed a second time."""

import io
import json
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn_icons import false_npm, publish_emoji
from PIL import Image
from serving import serving

from flows.config.acquire import acquisition
from flows.config.arguments import UsageError
from flows.config.database import Rebuild
from flows.config.images import ImportImages
from flows.data.acquire import acquire, rehearsed
from flows.data.import_images import import_images
from flows.data.rebuild import rebuild
from rdm_core.errors import WeightsError
from storage.errors import CannotWrite, SourceError
from storage.shards import read_sidecar
from storage.web.record import RECORD_FILE


@pytest.fixture
def site():
    with serving() as site:
        yield site


def jpeg(number, side=40):
    """A picture of its own for each number."""
    pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "jpeg")
    return sink.getvalue()


def zip_of(members):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return sink.getvalue()


def publish_coco(site, pictures):
    """A site that has COCO's validation split: number -> bytes of the picture."""
    licences = [{"id": 1, "name": "CC0", "url": "http://cc0"}]
    images = [
        {"id": number, "file_name": f"{number:012d}.jpg", "license": 1,
         "coco_url": f"http://images.cocodataset.org/val2017/{number:012d}.jpg"}
        for number in pictures
    ]  # fmt: skip
    captions = [
        {"id": number, "image_id": number, "caption": f"picture {number}"} for number in pictures
    ]
    said = {"images": images, "licenses": licences, "annotations": captions}
    instances = {"images": images, "licenses": licences, "annotations": [], "categories": []}
    lists = {
        "annotations/captions_val2017.json": json.dumps(said).encode(),
        "annotations/instances_val2017.json": json.dumps(instances).encode(),
    }
    members = {f"val2017/{number:012d}.jpg": data for number, data in pictures.items()}
    site.add("/val2017.zip", zip_of(members))
    site.add("/annotations_trainval2017.zip", zip_of(lists))


def coco(site, tmp_path, unpack=True, **more):
    files = {name: {"address": site.url(f"/{name}"), "bytes": None, "sha256": None}
             for name in ("val2017.zip", "annotations_trainval2017.zip")}  # fmt: skip
    return acquisition(
        source="coco", path=tmp_path / "coco", splits=["val"], files=files, unpack=unpack,
        allow_hosts=[site.host], requests_per_second=1000, **more,
    )  # fmt: skip


def imported(tmp_path):
    shards = import_images(
        ImportImages(root=tmp_path / "root", name="coco", source="coco", path=tmp_path / "coco",
                     size=32, images_per_part=2)
    )  # fmt: skip
    rows = []
    for part in shards.parts:
        columns = ["key", "status", "licence", "captions", "sha256"]
        rows += read_sidecar(shards, part.name, columns).to_pylist()
    return shards, rows


@pytest.mark.parametrize("unpack", [True, False])
def test_a_source_that_is_unchanged_changed_or_poorer_costs_what_changed(site, tmp_path, unpack):
    pictures = {number: jpeg(number) for number in range(1, 7)}
    publish_coco(site, pictures)
    record = acquire(coco(site, tmp_path, unpack))
    assert [each["status"] for each in record["files"]] == ["new", "new"]
    shards, rows = imported(tmp_path)
    assert len(rows) == 6 and {row["licence"] for row in rows} == {"CC0 (http://cc0)"}
    assert shards.measured["acquired"]["files"][0]["address"] == site.url("/val2017.zip")
    assert shards.measured["acquired"]["files"][0]["etag"]

    sent = len(site.requests)
    record = acquire(coco(site, tmp_path, unpack))
    assert [each["status"] for each in record["files"]] == ["unchanged", "unchanged"]
    assert len(site.requests) == sent + 2, "it was asked of each file whether it changed"
    assert imported(tmp_path)[0].id == shards.id

    publish_coco(site, pictures | {3: jpeg(33)})
    acquire(coco(site, tmp_path, unpack))
    changed, rows_then = imported(tmp_path)
    assert changed.id != shards.id
    assert sum(one != other for one, other in zip(rows, rows_then, strict=True)) == 1
    same = {part.content for part in shards.parts} & {part.content for part in changed.parts}
    assert len(same) == len(shards.parts) - 1, "the parts of other images are taken over"

    publish_coco(site, {number: data for number, data in pictures.items() if number != 5})
    acquire(coco(site, tmp_path, unpack))
    _, rows_last = imported(tmp_path)
    assert len(rows_last) == 5 and not any("000000000005" in row["key"] for row in rows_last)
    assert not (tmp_path / "coco/val2017/000000000005.jpg").exists()


def test_a_path_that_can_be_no_folder_is_told_with_the_cure(site, tmp_path):
    publish_coco(site, {1: jpeg(1)})
    (tmp_path / "coco").write_text("a file")
    with pytest.raises(SourceError, match="coco: is no folder, and cannot be made one.*--path"):
        acquire(coco(site, tmp_path))
    assert not site.requests


def test_what_would_be_fetched_is_told_and_nothing_is_written(site, tmp_path):
    publish_coco(site, {1: jpeg(1)})
    text, value = rehearsed(coco(site, tmp_path))
    total = sum(len(page.body) for page in site.pages.values())
    assert value["bytes"] == total and f"2 files, {total:,} bytes to be fetched" in text
    assert not (tmp_path / "coco").exists()
    acquire(coco(site, tmp_path))
    assert rehearsed(coco(site, tmp_path))[1]["bytes"] == 0


def test_a_file_that_cannot_be_had_is_told_with_its_address_and_the_cure(site, tmp_path):
    publish_coco(site, {1: jpeg(1)})
    del site.pages["/val2017.zip"]
    with pytest.raises(
        SourceError, match=r"/val2017.zip: val2017.zip cannot be fetched: status 404"
    ):
        acquire(coco(site, tmp_path))
    with pytest.raises(SourceError, match="cats.zip is no file of coco. Its files: train2017.zip"):
        acquire(
            acquisition(source="coco", path=tmp_path, files={"cats.zip": {"address": "http://a"}})
        )


def test_a_signature_in_an_address_is_not_in_the_record(site, tmp_path):
    publish_coco(site, {1: jpeg(1)})
    site.pages["/val2017.zip?signature=secret"] = site.pages["/val2017.zip"]
    config = coco(site, tmp_path)
    signed = config.files["val2017.zip"].model_copy(
        update={"address": site.url("/val2017.zip?signature=secret")}
    )
    files = config.files | {"val2017.zip": signed}
    acquire(config.model_copy(update={"files": files}))
    told = (tmp_path / "coco" / RECORD_FILE).read_text()
    assert site.url("/val2017.zip") in told and "secret" not in told
    assert "secret" not in str(imported(tmp_path)[0].measured)


def test_a_mirror_is_held_to_what_is_published(site, tmp_path):
    publish_coco(site, {1: jpeg(1)})
    files = {"val2017.zip": {"address": site.url("/val2017.zip")}}
    asked = {"source": "coco", "path": tmp_path / "c", "splits": ["val"], "files": files}
    with pytest.raises(SourceError, match="bytes there, 815,585,330 are published"):
        files["annotations_trainval2017.zip"] = {
            "address": site.url("/annotations_trainval2017.zip"), "bytes": None, "sha256": None,
        }  # fmt: skip
        acquire(acquisition(**asked, allow_hosts=[site.host], requests_per_second=1000))


def test_a_private_address_needs_somebody_to_vouch_for_it(site, tmp_path):
    publish_coco(site, {1: jpeg(1)})
    config = coco(site, tmp_path).model_copy(update={"allow_hosts": ()})
    with pytest.raises(SourceError, match="a private address: 127.0.0.1 is 127.0.0.1; allow_hosts"):
        acquire(config)


def urls(site, tmp_path, rows, **more):
    path = tmp_path / "list.csv"
    lines = [",".join(row) for row in [("url", "caption", "license", "author"), *rows]]
    path.write_text("\n".join(lines) + "\n")
    return acquisition(
        source="urls", path=tmp_path / "urls", urls=path, allow_hosts=[site.host],
        requests_per_second=1000, contact="me@example.org", **more,
    )  # fmt: skip


def test_a_list_of_addresses_becomes_images_with_licences_and_rows_with_reasons(site, tmp_path):
    rows = [
        (site.add(f"/{number}.jpg", jpeg(number), type="image/jpeg"), f"{number}", "CC0", "Ada")
        for number in range(4)
    ]  # fmt: skip
    rows.append((site.url("/dead.jpg"), "gone", "CC0", "Bob"))
    record = acquire(urls(site, tmp_path, rows))
    assert record["images"] == {"kept": 4, "failed: status 404": 1}
    assert "me@example.org" not in (tmp_path / "urls" / RECORD_FILE).read_text()
    shards = import_images(
        ImportImages(root=tmp_path / "root", name="web", source="urls", path=tmp_path / "urls",
                     size=32)
    )  # fmt: skip
    assert shards.rows == 5
    columns = ["key", "status", "reason", "detail", "licence", "author", "captions", "source_url"]
    found = read_sidecar(shards, shards.parts[0].name, columns).to_pylist()
    good = [row for row in found if row["status"] == "ok"]
    (bad,) = [row for row in found if row["status"] != "ok"]
    assert len(good) == 4 and {row["author"] for row in good} == {"Ada"}
    assert bad["author"] == "Bob" and bad["reason"] == "not fetched"
    assert "status 404" in bad["detail"]
    assert {row["source_url"] for row in found} == {row[0] for row in rows}


def test_a_full_disk_is_told_and_what_is_there_is_gone_on_from(site, tmp_path, monkeypatch):
    kind = {"type": "image/jpeg"}
    rows = [(site.add(f"/{n}.jpg", jpeg(n), **kind), "x", "CC0", "Ada") for n in range(6)]
    free = iter([10**9] * 3 + [0] + [10**9] * 9)
    monkeypatch.setattr("storage.web.gather.SPACE_SECONDS", 0.0)
    monkeypatch.setattr("storage.web.gather.free_bytes", lambda folder: next(free))
    with pytest.raises(CannotWrite, match="urls: its disk is almost full.* Free some space, 0.02"):
        acquire(urls(site, tmp_path, rows, connections=1))
    found = pq.read_table(tmp_path / "urls" / "fetched.parquet").column("status").to_pylist()
    assert sorted(found, key=str) == [None] * 3 + ["kept"] * 3
    assert acquire(urls(site, tmp_path, rows))["images"] == {"kept": 6}
    assert max(site.asked.values()) == 1


def test_an_owners_no_is_the_reason_of_the_row(site, tmp_path):
    said = {"X-Robots-Tag": "noai"}
    rows = [(site.add("/no.jpg", jpeg(1), type="image/jpeg", headers=said), "x", "CC0", "Ada")]
    acquire(urls(site, tmp_path, rows))
    shards = import_images(
        ImportImages(root=tmp_path / "root", name="web", source="urls", path=tmp_path / "urls",
                     size=32)
    )  # fmt: skip
    (row,) = read_sidecar(shards, shards.parts[0].name, ["reason", "detail"]).to_pylist()
    assert row["reason"] == "forbidden by its owner" and "X-Robots-Tag: noai" in row["detail"]


def test_addresses_of_strangers_need_a_contact(tmp_path):
    with pytest.raises(ValueError, match="contact: is needed"):
        acquisition(source="urls", urls=tmp_path / "list.csv")


def test_wikiart_is_fetched_once_its_terms_are_accepted(site, tmp_path):
    pictures = zip_of({f"wikiart/Cubism/juan-gris_{n}.jpg": jpeg(n) for n in range(3)})
    lists = zip_of({"wikiart_csv/Style/style_class.txt": b"0 Cubism\n"})
    files = {
        "wikiart.zip": {"address": site.add("/wikiart.zip", pictures)},
        "wikiart_csv.zip": {"address": site.add("/wikiart_csv.zip", lists)},
    }
    asked = {
        "source": "wikiart",
        "path": tmp_path / "w",
        "files": files,
        "allow_hosts": [site.host],
    }
    with pytest.raises(SourceError, match="non-commercial research .* say --set accept_terms=true"):
        acquire(acquisition(**asked))
    assert not site.requests
    acquire(acquisition(**asked, accept_terms=True))
    assert len(list((tmp_path / "w/Cubism").iterdir())) == 3
    assert (tmp_path / "w/Style/style_class.txt").is_file()


IDS = [f"{number:016x}" for number in range(8)]


def publish_open_images(site):
    columns = ("ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,"
               "Title,OriginalSize,OriginalMD5,Thumbnail300KURL,Rotation")  # fmt: skip
    lines = [columns]
    for number, image_id in enumerate(IDS):
        licence = "https://creativecommons.org/licenses/by/2.0/" if number % 2 else "https://other/"
        lines.append(f"{image_id},validation,http://o/{number},http://l/{number},{licence},http://p,"
                     f"Ada,title,1,md5,http://t,0")  # fmt: skip
        if number != 5:
            site.add(f"/validation/{image_id}.jpg", jpeg(number), type="image/jpeg")
    boxes = ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,"
             "IsGroupOf,IsDepiction,IsInside"]  # fmt: skip
    for number, image_id in enumerate(IDS):
        label = "/m/dog" if number < 4 else "/m/cat"
        boxes.append(f"{image_id},xclick,{label},1,0,1,0,1,0,0,0,0,0")
    pages = {
        "class-descriptions-boxable.csv": "/m/dog,Dog\n/m/cat,Cat\n",
        "validation-images-with-rotation.csv": "\n".join(lines) + "\n",
        "validation-annotations-bbox.csv": "\n".join(boxes) + "\n",
    }
    return {name: {"address": site.add(f"/{name}", text.encode())} for name, text in pages.items()}


def open_images(site, tmp_path, files, **more):
    return acquisition(
        source="openimages", path=tmp_path / "oi", files=files, bucket=site.url(""),
        allow_hosts=[site.host], requests_per_second=1000, **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    "asked, numbers",
    [
        ({}, {0, 1, 2, 3, 4, 6, 7}),
        ({"classes": ["dog"]}, {0, 1, 2, 3}),
        ({"licences": ["licenses/by/2.0"]}, {1, 3, 7}),
        ({"classes": ["Cat"], "licences": ["licenses/by/2.0"]}, {7}),
    ],
)
def test_a_choice_of_open_images_is_fetched_into_the_layout_of_its_reader(
    site, tmp_path, asked, numbers
):
    record = acquire(open_images(site, tmp_path, publish_open_images(site), **asked))
    there = {path.stem for path in (tmp_path / "oi/validation").iterdir()}
    assert there == {IDS[number] for number in numbers} and record["images"]["kept"] == len(numbers)
    shards = import_images(
        ImportImages(root=tmp_path / "root", name="oi", source="openimages", path=tmp_path / "oi",
                     size=32)
    )  # fmt: skip
    rows = read_sidecar(shards, shards.parts[0].name, ["author", "labels"]).to_pylist()
    assert {row["author"] for row in rows} == {"Ada"} and all(row["labels"] for row in rows)


def test_labels_of_whole_images_are_fetched_where_they_are_asked_for_and_choose_too(site, tmp_path):
    columns = "ImageID,Source,LabelName,Confidence"
    rows = [f"{IDS[6]},verification,/m/sky,1", f"{IDS[7]},verification,/m/sky,0"]
    pages = {
        "oidv7-class-descriptions.csv": 'LabelName,DisplayName\n/m/sky,"Sky, blue"\n/m/cat,Cat\n',
        "oidv7-val-annotations-human-imagelabels.csv": "\n".join([columns, *rows, ""]),
    }
    files = publish_open_images(site)
    for name, text in pages.items():
        files[name] = {"address": site.add(f"/{name}", text.encode())}
    with pytest.raises(SourceError, match=r"no class sky, blue\. See .* --set image_labels=true"):
        acquire(open_images(site, tmp_path, files, classes=["sky, blue"]))
    assert not (tmp_path / "oi/oidv7-class-descriptions.csv").exists()
    acquire(open_images(site, tmp_path, files, classes=["sky, blue"], image_labels=True))
    shards = import_images(
        ImportImages(root=tmp_path / "root", name="oi", source="openimages", path=tmp_path / "oi",
                     size=32)
    )  # fmt: skip
    rows = read_sidecar(shards, shards.parts[0].name, ["labels"]).to_pylist()
    assert [row["labels"] for row in rows] == [["Cat", "Sky, blue"]]


def test_a_larger_count_keeps_what_a_smaller_one_fetched(site, tmp_path):
    files = publish_open_images(site)
    acquire(open_images(site, tmp_path, files, count=3))
    few = {path.name for path in (tmp_path / "oi/validation").iterdir()}
    acquire(open_images(site, tmp_path, files, count=6))
    more = {path.name for path in (tmp_path / "oi/validation").iterdir()}
    assert few < more and max(site.asked[f"/validation/{name}"] for name in few) == 1


def test_a_choice_that_leaves_nothing_is_refused(site, tmp_path):
    files = publish_open_images(site)
    with pytest.raises(SourceError, match=r"hold no image of validation with .*'nobody'.* others"):
        acquire(open_images(site, tmp_path, files, licences=["nobody"]))
    with pytest.raises(SourceError, match="has no class Unicorn"):
        acquire(open_images(site, tmp_path, files, classes=["Unicorn"]))


def test_two_that_fetch_into_one_folder_wait_for_each_other(site, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    publish_coco(site, {number: jpeg(number) for number in range(4)})
    with ThreadPoolExecutor(2) as pool:
        records = list(pool.map(acquire, [coco(site, tmp_path)] * 2))
    told = sorted(each["status"] for record in records for each in record["files"])
    assert told == ["new", "new", "unchanged", "unchanged"]


def test_a_rebuild_fetches_first_where_it_is_told_to(site, tmp_path):
    pictures = {number: jpeg(number) for number in range(1, 5)}
    publish_coco(site, pictures)
    asked = coco(site, tmp_path, False)
    images = {"source": "coco", "path": tmp_path / "coco", "size": 32}
    encoder = {"encoder": "rdm-shapes", "weights": "built-in", "autoencoder": "pixels"}
    config = Rebuild(root=tmp_path / "r", name="a", images=images, acquire=asked, k=2, **encoder)
    first = rebuild(config)
    assert first.rows == 4
    sent = len(site.requests)
    assert rebuild(config).id == first.id and len(site.requests) == sent + 2
    publish_coco(site, pictures | {9: jpeg(9)})
    assert rebuild(config).rows == 5
    publish_coco(site, pictures)
    assert rebuild(config).rows == 4
    sent = len(site.requests)
    with pytest.raises(WeightsError, match="autoencoder .*nowhere"):
        rebuild(config.model_copy(update={"autoencoder": str(tmp_path / "nowhere")}))
    assert len(site.requests) == sent, "nothing is fetched that nothing could be made of"
    with pytest.raises(ValueError, match="acquire.path: is .*coco, and images.path is elsewhere"):
        Rebuild(name="a", images=images | {"path": "elsewhere"}, acquire=asked)


def test_emoji_are_fetched_drawn_and_recorded(tmp_path, monkeypatch):
    publish_emoji(false_npm(tmp_path, monkeypatch), monkeypatch)
    config = acquisition(
        source="emoji", path=tmp_path / "e", styles=["noto", "openmoji"], pixels=32,
        databases=False,
    )  # fmt: skip
    record = acquire(config)
    assert record["images"]["drawn"] == 5 and record["images"]["rejected"] == 1
    assert acquire(config)["images"]["drawn"] == 0
    shards = import_images(
        ImportImages(root=tmp_path / "root", name="e", source="emoji", path=tmp_path / "e", size=32)
    )
    assert shards.measured["acquired"]["source"] == "emoji" and shards.rows == 6


def test_an_unknown_source_is_told_with_those_there_are():
    from flows import cli

    options = cli.parser().parse_args(["acquire", "imagenet"])
    with pytest.raises(UsageError, match="source: Input should be one of 'coco', 'openimages'"):
        options.command(options)

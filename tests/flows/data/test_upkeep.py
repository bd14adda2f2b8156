"""Old versions go by the deployment gc; what is current, or what something that stays was made
from, does not.
"""

from flows.config.images import ImportImages
from flows.data.encode_latents import encode_latents
from flows.data.import_images import import_images
from flows.data.upkeep import CollectVersions, gc
from storage.artifact import artifacts, check


def imported(root, count):
    return import_images(
        ImportImages(root=root, name="a", source="shapes", size=32, encoding="png", count=count)
    )


def test_gc_keeps_the_newest_versions_and_what_they_were_made_from_and_says_what_went(
    tmp_path, capsys
):
    from flows.config.database import EncodeLatents

    first = imported(tmp_path, 20)
    latents = encode_latents(EncodeLatents(root=tmp_path, name="a", shards="a"))
    second, third = imported(tmp_path, 24), imported(tmp_path, 28)
    capsys.readouterr()
    freed = gc(CollectVersions(root=tmp_path, keep=1))
    kept = {artifact.reference for artifact in artifacts(tmp_path)}
    assert kept == {first.reference, latents.reference, third.reference}, (
        "the latents were made from the first"
    )
    told = capsys.readouterr().err
    assert second.reference in told and "1 removed" in told and freed > 0
    for artifact in artifacts(tmp_path):
        check(artifact)
    assert gc(CollectVersions(root=tmp_path, keep=1)) == 0

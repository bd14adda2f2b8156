"""Who takes an image out of a database hears of the autoencoders that were trained on it."""

from flows.config.autoencoder import TrainAutoencoder
from flows.config.database import RemoveKeys
from flows.data.rehearse import rehearse
from flows.data.remove import remove_keys
from flows.model.train_autoencoder import train_autoencoder
from storage.artifact import open_artifact
from storage.shards import accepted, read_sidecar


def test_they_are_listed_and_stay_while_they_are_current(root, tmp_path):
    network = {"widths": (8, 16), "latent_channels": 4, "batch": 4, "steps": 1}
    made = train_autoencoder(
        TrainAutoencoder(root=root, name="e", shards="shapes", autoencoder=network, held_out=0.2)
    )
    shards = open_artifact(root, "shards", "shapes")
    keys = accepted(read_sidecar(shards, shards.parts[0].name))["key"].to_pylist()
    (tmp_path / "keys.txt").write_text(f"{keys[0]}\n")
    config = RemoveKeys(root=root, database="shapes", keys_file=tmp_path / "keys.txt")
    for told, value in (rehearse(config), remove_keys(config).answer()):
        (trained,) = value["runs"]
        assert trained["reference"] == made.reference and trained["finished"]
        assert trained["held"] == {"shards": shards.reference}
        (holder,) = [one for one in value["holders"] if one["reference"] == made.reference]
        assert (holder["what"], holder["goes_with_gc"]) == ("weights, pictures of some", False)
        assert (made.directory / "checkpoints").is_dir(), "which go, and are not all of it"
        assert made.reference in told

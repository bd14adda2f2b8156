"""What a training draws while it runs: the same samples at every checkpoint, each beside its
neighbors' pictures.
"""

import numpy as np
from PIL import Image
from prefect import get_client

from flows.config.train import TrainRDM
from flows.model.preview import newest_preview, preview_directory, preview_rows
from flows.model.train_rdm import train_rdm
from flows.run.artifacts import MOST_BYTES_SHOWN, show_image
from flows.run.stage import stage_flow
from rdm_core.images import CELL_PIXELS


def test_the_drawn_samples_are_spread_over_the_training_set_and_never_more_than_there_are():
    assert preview_rows(3, 11).tolist() == [0, 5, 10]
    assert preview_rows(8, 2).tolist() == [0, 1]


def test_every_checkpoint_has_a_picture_and_the_weights_are_those_of_a_run_that_drew_nothing(
    small_world, small_training, in_one_process
):
    config = TrainRDM(**small_training(small_world.root, "shown"), preview=2)
    shown = in_one_process(train_rdm, config)
    assert sorted(path.name for path in preview_directory(shown.directory).iterdir()) == [
        "00000003.png", "00000006.png", "neighbors.png",
    ]  # fmt: skip
    pictures = [
        np.asarray(Image.open(preview_directory(shown.directory) / f"0000000{step}.png"))
        for step in (3, 6)
    ]
    assert pictures[0].shape[0] >= 2 * CELL_PIXELS and pictures[0].shape[1] >= 4 * CELL_PIXELS, (
        "a sample and 3 neighbors"
    )
    assert (pictures[0][:, :CELL_PIXELS] != pictures[1][:, :CELL_PIXELS]).any(), (
        "the samples change"
    )
    assert (pictures[0][:, CELL_PIXELS + 4 :] == pictures[1][:, CELL_PIXELS + 4 :]).all(), (
        "their neighbors do not"
    )
    assert newest_preview(shown.directory).name == "00000006.png"
    weights = "weights/network/diffusion_pytorch_model.safetensors"
    assert shown.file(weights).read_bytes() == small_world.run.file(weights).read_bytes()


def test_pictures_of_a_training_take_one_row_of_prefects_database_and_little_of_it(
    recorded, tmp_path
):
    noise = np.random.default_rng(0).integers(0, 256, (900, 1300, 3), np.uint8)
    path = tmp_path / "00000010.png"
    Image.fromarray(noise).save(path)
    shown = []

    @stage_flow("shows")
    def shows():
        for text in ("first", "second"):
            shown.append(
                show_image("pictures", path, text, instead_of=shown[-1] if shown else None)
            )

    shows()
    assert shown[0] is not None and shown[0] == shown[1]
    with get_client(sync_client=True) as client:
        (kept,) = [a for a in client.read_artifacts() if a.key == "pictures-images"]
    assert kept.description == "second" and len(kept.data) < 1.4 * MOST_BYTES_SHOWN
    assert kept.data.startswith("data:image/jpeg;base64,")

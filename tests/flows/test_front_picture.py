"""The picture of the first page, made of a small demo."""

from PIL import Image

from benchmarks.front_picture import BESIDE, main, rows_of


def test_every_row_of_the_picture_shows_samples_beside_their_neighbors(small_demo, tmp_path):
    rows = list(rows_of(small_demo.config.root, tmp_path).values())
    assert [len(cells) for cells in rows] == [6, 6, 6, 6, 6]
    given = [cell for cell in rows[-1] if cell[2] == "given"]
    assert len(given) == 2 and not any(near for _, near, _ in given), "no model drew these"
    for cells in rows:
        for image, near, asked_for in cells:
            assert image.shape == (64, 64, 3) and asked_for
            assert asked_for == "given" or len(near) == BESIDE
    kept = given[1][0].astype(int)
    for image, _, _ in rows[-1][-2:]:
        # The decoder sees the middle too, so that what is kept is not kept to the bit.
        assert abs(image[:4, :4] - kept[:4, :4]).mean() < 30, "outside of the mask it is as given"


def test_it_is_written_to_a_file(small_demo, tmp_path, monkeypatch):
    out = tmp_path / "front.png"
    arguments = ["front_picture", "--root", str(small_demo.config.root), "--out", str(out)]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    assert Image.open(out).size[0] > 1000

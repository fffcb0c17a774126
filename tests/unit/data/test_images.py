"""Rules of image decoding: torchvision's resize and crop, decoded once, keyed by content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotune.cache import Cache
from autotune.data.images import ImageFault, image_from_file
from autotune.data.split import load_split
from autotune.errors import SpecError
from autotune.spec.model import PreprocessSpec, SplitSpec


def write(folder: Path, names: str = "abc", size: tuple[int, int] = (4, 4)) -> SplitSpec:
    (folder / "images").mkdir(exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", size, (i, 10 * i, 100)).save(folder / "images" / f"{name}.png")
    rows = [f"{name}.png,{i},val" for i, name in enumerate(names)]
    (folder / "labels.csv").write_text("\n".join(["file,label,split", *rows]) + "\n")
    return SplitSpec(images=folder / "images", labels=folder / "labels.csv", split="val")


@pytest.mark.parametrize(
    ("size", "resize", "crop", "expected"),
    [
        ((8, 4), 2, None, (2, 4)),  # the shorter side becomes 2, the longer 2·8/4
        ((4, 7), 2, None, (3, 2)),  # 2·7/4 = 3.5 is cut to 3
        ((8, 4), (5, 6), None, (5, 6)),
        ((8, 4), None, 3, (3, 3)),
        ((8, 4), 4, (2, 6), (2, 6)),
    ],
)
def test_sizes_are_torchvisions(
    tmp_path: Path, size: tuple[int, int], resize: object, crop: object, expected: tuple[int, int]
) -> None:
    """An integer resizes the shorter side, a pair both; crop takes the centre. Sizes are (height, width)."""
    Image.new("RGB", size).save(tmp_path / "a.png")
    spec = PreprocessSpec.model_validate({"resize": resize, "crop": crop})
    assert image_from_file(tmp_path / "a.png", spec).shape == (*expected, 3)


def test_the_crop_is_the_centre(tmp_path: Path) -> None:
    """Of 4 columns 0…3 a crop of 2 keeps columns 1 and 2; of 5, columns 2 and 3 (1.5 rounds to the even 2)."""
    for width, kept in ((4, [1, 2]), (5, [2, 3])):
        pixels = np.tile(np.arange(width, dtype=np.uint8), (2, 1))
        Image.fromarray(pixels).save(tmp_path / "a.png")
        found = image_from_file(tmp_path / "a.png", PreprocessSpec(color="L", crop=(2, 2)))
        assert found[0, :, 0].tolist() == kept


def test_colors(tmp_path: Path) -> None:
    """BGR is RGB reversed; L has one channel, 0.299 R + 0.587 G + 0.114 B; a palette with transparency becomes RGB."""
    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "a.png")
    assert image_from_file(tmp_path / "a.png", PreprocessSpec(color="RGB")).tolist() == [[[255, 0, 0]]]
    assert image_from_file(tmp_path / "a.png", PreprocessSpec(color="BGR")).tolist() == [[[0, 0, 255]]]
    assert image_from_file(tmp_path / "a.png", PreprocessSpec(color="L")).tolist() == [[[76]]]
    Image.new("RGBA", (1, 1), (1, 2, 3, 4)).save(tmp_path / "a.png")
    assert image_from_file(tmp_path / "a.png", PreprocessSpec()).tolist() == [[[1, 2, 3]]]


def test_a_format_that_would_start_a_program_is_refused(tmp_path: Path) -> None:
    """Pillow hands EPS to Ghostscript; whatever the file is called, it is told by its content and not opened."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ImageFault, match="not a readable image"):
        image_from_file(tmp_path / "a.png", PreprocessSpec())


def test_an_image_of_very_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit against decompression bombs is an error here from the first pixel above it."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(ImageFault, match="4x4 pixels; at most 15"):
        image_from_file(tmp_path / "a.png", PreprocessSpec())


def test_a_folder_is_decoded_once_and_then_memory_mapped(tmp_path: Path) -> None:
    """The second load reads the array of the first, with the labels in the order of the CSV."""
    split, cache = write(tmp_path), Cache(tmp_path / "cache")
    first = load_split(split, PreprocessSpec(), cache)
    again = load_split(split, PreprocessSpec(), cache)
    assert isinstance(again.arrays["image"], np.memmap)
    assert len(list((tmp_path / "cache").rglob("samples.npy"))) == 1
    assert first.digest == again.digest
    assert again.labels is not None and again.labels.tolist() == [0, 1, 2]
    assert again.arrays["image"][:, 0, 0].tolist() == [[0, 0, 100], [1, 10, 100], [2, 20, 100]]


def test_the_key_follows_the_content_not_the_name(tmp_path: Path) -> None:
    """Another pixel gives another digest, another mean too; a normalisation alone decodes nothing again."""
    split, cache = write(tmp_path), Cache(tmp_path / "cache")
    plain = load_split(split, PreprocessSpec(), cache).digest
    scaled = load_split(split, PreprocessSpec(scale=0.5), cache).digest
    assert len(list((tmp_path / "cache").rglob("samples.npy"))) == 1
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "images" / "a.png")
    changed = load_split(split, PreprocessSpec(), cache).digest
    assert len({plain, scaled, changed}) == 3


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    """`limit: 2` keeps the first two rows of the split."""
    split = write(tmp_path).model_copy(update={"limit": 2})
    data = load_split(split, None, Cache(tmp_path / "cache"))
    assert len(data) == 2


def test_faults_of_many_images_are_cut_short(tmp_path: Path) -> None:
    """A wrong folder gives a page of faults, not one for each of a million images."""
    split = write(tmp_path, names="".join(map(chr, range(97, 122))))
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(SpecError, match="and 4 more faults") as caught:
        load_split(split, None, Cache(tmp_path / "cache"))
    assert len(caught.value.problems) == 21

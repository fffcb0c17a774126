"""Image files as one uint8 array: decoded once, resized and cropped, and memory-mapped from then on."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.cache import Cache
from autotune.data.listing import Listing, told
from autotune.errors import EnvironmentProblem, SpecError
from autotune.fingerprint import digest_of, file_digest, usable_cores
from autotune.spec.model import PreprocessSpec, SplitSpec

_FILE = "samples.npy"
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Told by their content. Pillow knows more, and starts Ghostscript for one of them (EPS)."""
_FORMAT = 1
"""Part of the key; raised when decoding changes, so that older arrays are not taken for the new ones."""

Size = int | tuple[int, int] | None


class ImageFault(Exception):
    """One image cannot be used; the message says why."""


def image_samples(
    split: SplitSpec, listing: Listing, preprocess: PreprocessSpec | None, cache: Cache
) -> tuple[NDArray[Any], str]:
    """The images as uint8 (n, height, width, channels), memory-mapped from the cache, and the key of their content.

    The key covers the bytes of every file, their order, and color, resize and crop. Raises SpecError naming the images
    that are damaged, or that differ in size without a resize and crop to make them equal.
    """
    spec = preprocess or PreprocessSpec()
    with ThreadPoolExecutor(_workers()) as pool:
        digests = list(pool.map(file_digest, listing.paths))
    key = digest_of({"files": digests, "format": _FORMAT, "color": spec.color, "resize": spec.resize, "crop": spec.crop})

    def make(folder: Path) -> Mapping[str, Any]:
        shape = _decode_all(split, listing, spec, folder / _FILE)
        return {"shape": list(shape)}

    made = cache.get_or_make("samples", key, make)
    return np.load(made.folder / _FILE, mmap_mode="r", allow_pickle=False), key


def image_from_file(path: Path, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """The decoded image (height, width, channels), resized and centre-cropped as torchvision does. Raises ImageFault.

    Resize: an integer is the length of the shorter side; bilinear with antialiasing. Unlike torchvision, a crop larger than
    the image is refused instead of padded. The orientation tag of cameras (EXIF) is not applied, as in torchvision.
    """
    image_module = _pillow()
    try:
        with image_module.open(path, formats=_FORMATS) as image:
            limit = image_module.MAX_IMAGE_PIXELS or 0
            if limit and image.width * image.height > limit:
                raise ImageFault(f"{image.width}x{image.height} pixels; at most {limit} are decoded")
            if image.mode.startswith(("I", "F")):
                raise ImageFault(f"an image of mode {image.mode}; 8 bits per channel are needed")
            pixels = image.convert("L" if spec.color == "L" else "RGB")
    except ImageFault:
        raise
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as exc:
        raise ImageFault(f"not a readable image ({exc})") from exc
    pixels = _cropped(_resized(pixels, spec.resize), spec.crop)
    values = np.asarray(pixels, dtype=np.uint8)
    values = values[..., None] if values.ndim == 2 else values
    return values[..., ::-1] if spec.color == "BGR" else values


def _decode_all(split: SplitSpec, listing: Listing, spec: PreprocessSpec, target: Path) -> tuple[int, ...]:
    """The array is written to `target`; its shape. The first readable image decides the size of all."""
    samples: Any = None
    first = ""
    faults = []
    with ThreadPoolExecutor(_workers()) as pool:
        decoded = pool.map(lambda path: _decoded_or_fault(path, spec), listing.paths)
        for i, (name, image) in enumerate(zip(listing.names, decoded, strict=True)):
            if isinstance(image, str):
                faults.append(split.problem("images", f"{name}: {image}", "JPEG, PNG and other images that Pillow reads"))
                continue
            if samples is None:
                first, shape = name, (len(listing.names), *image.shape)
                samples = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)
            if image.shape != samples.shape[1:]:
                found = f"{name} of {_size(image.shape)} and {first} of {_size(samples.shape[1:])}"
                faults.append(split.problem("images", found, "images of one size, or data.preprocess with resize and crop"))
                continue
            samples[i] = image
    if faults:
        raise SpecError(told(faults))
    samples.flush()
    return tuple(samples.shape)


def _decoded_or_fault(path: Path, spec: PreprocessSpec) -> NDArray[np.uint8] | str:
    try:
        return image_from_file(path, spec)
    except ImageFault as exc:
        return str(exc)


def _resized(image: Any, resize: Size) -> Any:
    if resize is None:
        return image
    width, height = image.size
    if isinstance(resize, int):
        # torchvision.transforms.functional._compute_resized_output_size: the longer side is truncated, not rounded
        short, long = min(width, height), max(width, height)
        other = int(resize * long / short)
        size = (resize, other) if width <= height else (other, resize)
    else:
        size = (resize[1], resize[0])
    return image if size == (width, height) else image.resize(size, _pillow().Resampling.BILINEAR)


def _cropped(image: Any, crop: Size) -> Any:
    if crop is None:
        return image
    height, width = (crop, crop) if isinstance(crop, int) else crop
    if width > image.width or height > image.height:
        raise ImageFault(f"{image.width}x{image.height} pixels, less than the crop of {width}x{height}; resize first")
    # torchvision.transforms.functional.center_crop rounds half to even, as Python's round does
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} pixels"


def _workers() -> int:
    return min(8, usable_cores())


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as exc:
        raise EnvironmentProblem("reading images needs Pillow.", remedy="pip install 'pillow>=10'") from exc
    return Image

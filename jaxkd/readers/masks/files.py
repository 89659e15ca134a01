"""Image and mask files as forensics needs them: no pixel is invented, doubts are told.

Unlike with ``images.decode``, transparency is dropped and not composed, which would
leave traces that the picture never had. Of masks the values decide: two values are
foreground and background, whatever they are; more have to be named.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.readers import depth, images

Note = Callable[[str], None]

_EXIF_ORIENTATION = 0x0112
_MOSTLY = 0.6
_DARK, _BRIGHT = 10, 245
_MOST_BETWEEN = 0.05
_NAMED = ("nonzero", "bright")


class Picture(NamedTuple):
    """A decoded image.

    Attributes:
      pixels: uint8 ``[height, width, 3]``, upright.
      orientation: EXIF orientation that was undone; 1 for none.
      stored: ``(height, width)`` as it lies in the file.
    """

    pixels: np.ndarray
    orientation: int
    stored: tuple[int, int]


def read_image(path: Path, note: Note, max_pixels: int | None = None) -> Picture:
    """Decodes an image to RGB, upright; colour profiles are ignored.

    Args:
      path: of the file.
      note: takes what is doubtful about it.
      max_pixels: see ``images.decode``.

    Raises:
      UserError: if it cannot be read.
    """

    def decode(image: Any) -> Picture:
        orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1))
        stored = (image.height, image.width)
        _note_pages(image, path, note)
        image = images.upright(image)
        return Picture(_to_rgb(image, path, note), orientation, stored)

    return images.opened(path, decode, max_pixels)


def read_mask(
    path: Path,
    note: Note,
    *,
    invert: bool = False,
    foreground: str = "",
    max_pixels: int | None = None,
) -> np.ndarray:
    """Decodes a mask of whatever kind to uint8 ``[height, width]``, 0 or 255.

    Of two values the foreground is what differs from the background: of greys the
    brighter, of colours what is not black, or not white where there is no black. Of
    more values, nearly all black or white (as JPEG and smoothing make them), the
    brighter half is. Any others need ``foreground``. A picture of one colour whose
    transparency varies is a mask by its transparency.

    Args:
      path: of the file.
      note: takes what is doubtful about it.
      invert: whether the background is foreground, and the reverse.
      foreground: "nonzero" for all but black, "bright" for the brighter half, or values
        or colours, such as "1,2" or "#ff0000"; empty for the rule above.
      max_pixels: see ``images.decode``.

    Raises:
      UserError: if it cannot be read, or has more values than two.
    """

    def decode(image: Any) -> np.ndarray:
        _note_pages(image, path, note)
        return _layers(image)

    layers = images.opened(path, decode, max_pixels)
    values = _one_layer(layers, path, note)
    if foreground:
        inside = _chosen(values, foreground, path)
    else:
        inside = _two_values(values, path, note)
    inside = inside != invert
    if inside.mean() > _MOSTLY:
        advice = "unset" if invert else "set"
        note(
            f"{path}: {inside.mean():.0%} of it is foreground; if it is inverted, "
            f"{advice} invert_masks"
        )
    return np.where(inside, 255, 0).astype(np.uint8)


def check_foreground(foreground: str) -> None:
    """Checks an option of that name.

    Raises:
      UserError: if it is neither a rule nor values or colours.
    """
    if foreground and foreground not in _NAMED:
        for part in foreground.split(","):
            _value(part)


def _note_pages(image: Any, path: Path, note: Note) -> None:
    if (count := getattr(image, "n_frames", 1)) > 1:
        note(f"{path}: it holds {count} pictures, of which the first is read")


def _layers(image: Any) -> np.ndarray:
    """Returns a mask's values ``[height, width, layers]``: grey or RGB, then alpha."""
    if image.mode.startswith(("I", "F")):
        depth.to_eight_bits(image)  # refuses floats and negative numbers
        labels = np.asarray(image).astype(np.uint16)  # as they are stored
        if depth.is_darkness(image):
            labels = np.iinfo(np.uint16).max - labels
        return labels[..., None]
    if image.mode == "1":
        return np.asarray(image.convert("L"))[..., None]
    if image.mode == "P" or image.mode == "PA":
        clear = image.has_transparency_data
        image = image.convert("RGBA" if clear else "RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    values = np.asarray(image)
    return values[..., None] if values.ndim == 2 else values


def _one_layer(layers: np.ndarray, path: Path, note: Note) -> np.ndarray:
    """Returns grey ``[h, w]`` or colours ``[h, w, 3]``, or the transparency."""
    if layers.shape[-1] in (2, 4):
        colours, alpha = layers[..., :-1], layers[..., -1]
        if alpha.min() != alpha.max():
            if (colours == colours[0, 0]).all():
                note(f"{path}: it is of one colour; its transparency is the mask")
                return alpha
            note(f"{path}: its transparency is dropped, its colours are the mask")
        layers = colours
    if layers.shape[-1] == 3 and not (layers == layers[..., :1]).all():
        return layers
    return layers[..., 0]


def _two_values(values: np.ndarray, path: Path, note: Note) -> np.ndarray:
    """Returns where a mask differs from its background."""
    flat = values.reshape(-1, 1 if values.ndim == 2 else 3)
    found = np.unique(flat, axis=0)
    shades = depth.scaled(values, 16)[0]
    if len(found) == 1:
        shade = shades.reshape(flat.shape)[0]
        if not shade.any() or (shade == 255).all():
            return np.full(values.shape[:2], bool(shade.any()))
    if len(found) == 2:
        ground = _background(found, path, note)
        if values.ndim == 2 and found.max() == 1:
            note(f"{path}: its values are 0 and 1, scaled to 0 and 255")
        return (values != ground).reshape(*values.shape[:2], -1).any(-1)
    if values.ndim == 2 and len(found) > 2:
        between = float(np.mean((shades > _DARK) & (shades < _BRIGHT)))
        ends = shades.min() <= _DARK and shades.max() >= _BRIGHT
        label = len(found) == 3 and between > 0  # smoothing makes more values
        if between <= _MOST_BETWEEN and ends and not label:
            return shades > 127
    shown = ", ".join(_shown(value) for value in found[:6])
    more = f" and {len(found) - 6} more" if len(found) > 6 else ""
    raise UserError(
        f"{path} has the values {shown}{more}, expected two, foreground and "
        "background. Name the foreground: foreground='nonzero', 'bright', or values "
        "or colours such as '1,2' or '#ff0000'."
    )


def _background(found: np.ndarray, path: Path, note: Note) -> np.ndarray:
    if found.shape[1] == 1:
        return found[0, 0]  # the darker
    for extreme in (0, 255):
        if (place := np.flatnonzero((found == extreme).all(-1))).size:
            return found[place[0]]
    darker = int(np.argmin(found.sum(-1)))
    note(
        f"{path}: neither of its colours {_shown(found[0])} and {_shown(found[1])} is "
        f"black or white; {_shown(found[1 - darker])} is taken for foreground"
    )
    return found[darker]


def _chosen(values: np.ndarray, foreground: str, path: Path) -> np.ndarray:
    """Returns where a mask has the values that an option names."""
    colours = values.ndim == 3
    if foreground == "nonzero":
        return np.any(values, axis=-1) if colours else values > 0
    if foreground == "bright":
        return (values.max(-1) if colours else depth.scaled(values, 16)[0]) > 127
    inside = np.zeros(values.shape[:2], bool)
    for part in foreground.split(","):
        value = _value(part)
        if len(value) == 1 or not colours:
            grey = values if not colours else np.full(values.shape[:2], -1)
            inside |= np.isin(grey, value) & (len(set(value)) == 1)
        else:
            inside |= (values == np.array(value)).all(-1)
    return inside


def _value(text: str) -> tuple[int, ...]:
    text = text.strip()
    try:
        if text.startswith("#") and len(text) == 7:
            return tuple(bytes.fromhex(text[1:]))
        if 0 <= int(text) < 1 << 16:
            return (int(text),)
    except ValueError:
        pass
    raise UserError(
        f"foreground is {text!r}, expected 'nonzero', 'bright', or values from 0 to "
        "65535 and colours, such as '1,2' or '#ff0000'."
    )


def _shown(value: np.ndarray) -> str:
    return str(int(value[0])) if len(value) == 1 else f"#{bytes(value.tolist()).hex()}"


def fit_mask(
    mask: np.ndarray, picture: Picture, origin: str, note: Note, *, resize: str = ""
) -> np.ndarray:
    """Brings a mask into the frame of its image.

    A mask may be drawn on the image as it is shown or as it is stored; where only the
    latter fits, it is turned as the image was.

    Args:
      mask: ``[height, width]``.
      picture: its image.
      origin: names both files.
      note: takes what is doubtful.
      resize: "nearest" to accept masks of another size.

    Raises:
      UserError: if the sizes differ and ``resize`` is empty.
    """
    shown = picture.pixels.shape[:2]
    turned = picture.orientation > 1
    if mask.shape == shown:
        if turned and picture.stored == shown:
            note(
                f"{origin}: the image has an EXIF orientation of {picture.orientation};"
                " the mask is taken to be drawn on the image as it is shown"
            )
        return mask
    if turned and mask.shape == picture.stored:
        note(f"{origin}: the mask is turned as the image's EXIF orientation says")
        return _turn(mask, picture.orientation)
    if resize == "nearest":
        from PIL import Image

        size = (shown[1], shown[0])
        return np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    hint = ""
    if mask.shape == shown[::-1]:
        hint = " One is the other turned on its side: was it rotated, or its EXIF lost?"
    raise UserError(
        f"{origin}: the image is {_size(shown)} pixels, the mask {_size(mask.shape)}."
        f"{hint} Expected equal sizes; resize_masks='nearest' accepts such masks."
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _to_rgb(image: Any, path: Path, note: Note) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        grey, bits = depth.to_eight_bits(image)
        if bits < 16:
            top = int(np.asarray(image).max(initial=0))
            note(f"{path}: read as {bits} bits of grey: its values are at most {top}")
        return np.repeat(grey[..., None], 3, axis=-1)
    if "A" in image.mode or image.mode == "PA":
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() != alpha.max():
            note(f"{path}: its transparency is dropped, the colours kept as stored")
    if image.mode == "RGBA":
        return np.array(image)[..., :3].copy()
    if image.mode == "LA":
        image = image.getchannel("L")
    return np.array(image.convert("RGB"))


def _turn(mask: np.ndarray, orientation: int) -> np.ndarray:
    from PIL import Image

    ways = Image.Transpose
    way = {
        2: ways.FLIP_LEFT_RIGHT,
        3: ways.ROTATE_180,
        4: ways.FLIP_TOP_BOTTOM,
        5: ways.TRANSPOSE,
        6: ways.ROTATE_270,
        7: ways.TRANSVERSE,
        8: ways.ROTATE_90,
    }[orientation]
    return np.array(Image.fromarray(mask).transpose(way))

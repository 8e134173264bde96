"""Images on disk <-> float tensors in [-1, 1]."""

import os
import re
import struct
import zlib

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from util.files import PictureError, UserError, atomic, warn

SUFFIXES = (
    ".png",
    ".apng",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".bmp",
    ".dib",
    ".tif",
    ".tiff",
    ".webp",
    ".gif",
    ".avif",
    ".jp2",
    ".j2k",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".tga",
)
BESIDE_IMAGES = (
    "readme",
    "license",
    "licence",
    "thumbs.db",
    "desktop.ini",
)  # how files that nobody takes for images begin
UNREADABLE = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
)  # as Pillow raises them
LONGEST_NAME = 249  # bytes; a disk's 255 less ".state"
FULL_SCALES = (255, 1023, 4095, 16383, 65535)  # of 8, 10, 12, 14 and 16 bits
FULL_RANGE = ("PPM", "JPEG2000")  # formats that say what white is, which Pillow makes 65535


def natural(name):
    """A sort key by which 2 comes before 10; all else, and numbers of equal length, keeps the order of its letters."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(LONGEST_NAME), name), name


def is_image_name(name):
    """Has the file an image's suffix, and is it none of the hidden files that some systems add?"""
    return name.lower().endswith(SUFFIXES) and not os.path.basename(name).startswith(".")


def split_names(names, is_file=lambda name: True):
    """(images, others) of the names of files, both in natural order; hidden ones and those BESIDE_IMAGES are neither. is_file: whether
    one can be read, which a pipe, a socket and a link to nowhere cannot."""
    names = sorted((n for n in names if not os.path.basename(n).startswith(".")), key=natural)
    images = [n for n in names if is_image_name(n) and is_file(n)]
    taken = set(images)
    return images, [
        n
        for n in names
        if n not in taken and not os.path.basename(n).lower().startswith(BESIDE_IMAGES)
    ]


def files_below(folder):
    """Paths of what is below `folder` and no folder, hidden folders left out, relative to it; links are followed, but in no circle."""
    found, seen = [], set()
    for directory, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(directory))
        folders[:] = [
            f
            for f in folders
            if not f.startswith(".") and os.path.realpath(os.path.join(directory, f)) not in seen
        ]
        found += [os.path.relpath(os.path.join(directory, file), folder) for file in files]
    return found


def find_images(folder, option="--data"):
    """-> (images, others), names within `folder` in natural order: its images or, where it has none itself, those in the folders
    below; and what else is there, folders with a slash. option: what the folder was named with. Raises UserError where there is no folder
    or no image."""
    if not os.path.isdir(folder):
        raise UserError(
            f"{folder}: no such folder; put the images there or name their folder with {option}"
        )
    try:
        here = os.listdir(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    is_file = lambda name: os.path.isfile(os.path.join(folder, name))
    marked = [f"{name}/" if os.path.isdir(os.path.join(folder, name)) else name for name in here]
    images, others = split_names(marked, is_file)
    if not images:
        images, others = split_names(files_below(folder), is_file)
    if not images:
        instead = f" but {listed(others)}" if others else ""
        raise UserError(
            f"{folder}: no images in it{instead}; read are {', '.join(SUFFIXES)}: put some there or name a folder with {option}"
        )
    return images, others


def list_images(folder):
    """Paths of the images of `find_images`."""
    return [os.path.join(folder, name) for name in find_images(folder)[0]]


def listed(names, shown=3):
    """The first few of some names, and how many more there are."""
    return ", ".join(names[:shown]) + (
        f" and {len(names) - shown} more" if len(names) > shown else ""
    )


def say_unread(folder, others):
    """One line that names what was found beside the images, if anything was."""
    if others:
        warn(f"{folder}: not read: {listed(others)} (read are {', '.join(SUFFIXES)})")


def image_names(paths, folder):
    """What the images in `folder` are called in a run: their paths in it without suffix, with slashes; where it is None, their own
    names alone. Raises UserError if two are called alike, or if a name leaves no room for the suffixes of a run's files."""
    names = [os.path.relpath(path, folder) if folder else os.path.basename(path) for path in paths]
    names = [os.path.splitext(name)[0].replace(os.sep, "/") for name in names]
    seen = {}
    for name, path in zip(names, paths):
        other = seen.setdefault(name.lower(), path)  # some file systems do not tell cases apart
        if other != path:
            raise UserError(
                f"{path}: would share its folder of results with {other}; rename one of them"
            )
        if len(os.fsencode(os.path.basename(name))) > LONGEST_NAME:
            raise UserError(f"{path}: its name is longer than {LONGEST_NAME} bytes; rename it")
    return names


def declared_white(file):
    """What white is in the wide values of an opened image, by its format or its tags; None where these do not say it."""
    if file.format in FULL_RANGE:
        return 65535
    if file.format != "TIFF":
        return None
    (bits, *_), largest = (
        file.tag_v2.get(258, (16,)),
        file.tag_v2.get(281, (None,)),
    )  # BitsPerSample, MaxSampleValue
    return 2**bits - 1 if 8 < bits < 16 else largest[0]


def probable_white(top, is_float):
    """What white is where the largest value is `top`, None where that cannot be told."""
    if is_float and top <= 1:
        return 1
    if top in FULL_SCALES:  # it reaches white
        return top
    if (127 if is_float else 1) < top < 255:  # in a wider range it would be next to black
        return 255
    return 65535 if 16383 < top < 65535 else None  # 15 bits are used nowhere


def full_scale(image, white, name):
    """A picture of 16 or 32 bits or of floats -> (H, W) float64 in [0, 1]. white: as declared, or None. Raises UserError, with what to do,
    where nobody can tell what white is."""
    values = np.asarray(image).astype(np.float64)
    low, top = float(values.min()), float(values.max())
    white = white or probable_white(top, image.mode == "F")
    if not low == top == 0 and not (low >= 0 and white):
        raise PictureError(
            f"{name}: its values, {low:g} to {top:g}, do not tell what white is; scale them to 0 … 255 and save them as 8 bits: "
            "Image.fromarray((255 * values / white).round().astype('uint8')).save(…)"
        )
    return (values / (white or 1)).clip(0, 1)


def narrowed(image, white, name):
    """A picture of 16 or 32 bits or of floats -> 8 bits, "L"; Pillow's own conversion would cut everything above 255 off. See `full_scale`."""
    return Image.fromarray((full_scale(image, white, name) * 255).round().astype(np.uint8))


def refuse_dark_colours(file, name):
    """Raise UserError for a TIFF of 16 bits a channel, of which Pillow keeps the upper 8, whose values may have fewer."""
    is_wide = (
        file.format == "TIFF" and max(file.tag_v2.get(258, (8,))) == 16 and len(file.getbands()) > 1
    )
    if is_wide and 0 < max(high for _, high in file.getextrema()[:3]) < 64:
        raise PictureError(
            f"{name}: its 16-bit values do not tell what white is (of 12 or 14 bits?); scale them and save 8 bits a channel"
        )


def unreadable(path, error, what):
    """The UserError for a file that the system does not give (its reason) or that is not `what`."""
    reason = getattr(error, "strerror", None)
    return PictureError(
        f"{path}: cannot be read ({reason})" if reason else f"{path}: cannot be read as {what}"
    )


def open_rgb(file, name):
    """A path or an open file -> an upright RGB Pillow image: wide values are reduced to 8 bits, alpha is laid on white.

    name: what an error calls it. Raises UserError for what Pillow cannot read.
    """
    try:
        opened = Image.open(file)
        refuse_dark_colours(opened, name)
        image = ImageOps.exif_transpose(opened)
        if image.mode == "F" or image.mode.startswith("I"):
            image = narrowed(image, declared_white(opened), name)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except UNREADABLE as error:
        raise unreadable(name, error, f"an image ({error})") from error


def load_image(path, resize=None):
    """-> (1, 3, H, W) float32 in [-1, 1]. resize: the side to which the middle square, cut out, is scaled. Raises UserError for an
    unreadable image."""
    image = open_rgb(path, path)
    if resize:
        image = ImageOps.fit(image, (resize, resize), Image.LANCZOS)
    pixels = np.asarray(image) / 255.0  # float64 until [-1, 1], as the published scripts do
    return torch.from_numpy((pixels * 2 - 1).transpose(2, 0, 1)).float()[None]


def is_grey_mode(mode):
    """Is it a mode of Pillow's of one channel (and perhaps alpha)?"""
    return mode in ("1", "L", "LA", "La", "F") or mode.startswith("I")


def is_grey(path):
    """Has an image file one channel (and perhaps alpha)? Raises UserError for what Pillow cannot read."""
    try:
        with Image.open(path) as image:
            return is_grey_mode(image.mode)
    except UNREADABLE as error:
        raise unreadable(path, error, f"an image ({error})") from error


def to_pixels(x):
    """(C, H, W) in [-1, 1], clamped -> (H, W, C) float64 in [0, 1], numpy."""
    return (x.detach().double().cpu().clamp(-1, 1).permute(1, 2, 0).numpy() + 1) / 2


def save_image(path, x, bits=8, alpha=None, tags=None):
    """Write (3, H, W), or (1, H, W) for a grey one, in [-1, 1] as a PNG of 8 or 16 bits, whole. alpha: (h, w) float32 in [0, 1], an opacity that
    is enlarged to the picture; tags: what else Pillow's save takes (dpi, exif, icc_profile)."""
    pixels = to_pixels(x)
    if alpha is not None:
        alpha = np.asarray(Image.fromarray(alpha).resize(pixels.shape[1::-1], Image.BICUBIC))
        pixels = np.concatenate([pixels, alpha[..., None].clip(0, 1)], -1)
    pixels = (pixels * (2**bits - 1)).round().astype(np.uint16 if bits == 16 else np.uint8)
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    with atomic(path) as tmp:
        if bits == 16 and pixels.ndim == 3:
            write_png16(tmp, pixels, tags or {})
        else:
            Image.fromarray(pixels).save(tmp, **(tags or {}))


def write_png16(path, pixels, tags):
    """Write (H, W, C) uint16 as a PNG, which Pillow cannot: 2, 3 or 4 channels (grey and opacity, RGB, RGBA). tags: see `save_image`."""
    chunk = lambda kind, data: (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    parts = [
        b"\x89PNG\r\n\x1a\n",
        chunk(
            b"IHDR",
            struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0),
        ),
    ]
    if "icc_profile" in tags:
        parts.append(chunk(b"iCCP", b"profile\0\0" + zlib.compress(tags["icc_profile"])))
    if "dpi" in tags:
        parts.append(
            chunk(b"pHYs", struct.pack(">IIB", *(round(one / 0.0254) for one in tags["dpi"]), 1))
        )
    if "exif" in tags:
        parts.append(chunk(b"eXIf", tags["exif"].removeprefix(b"Exif\0\0")))
    filtered = np.concatenate(
        [np.zeros((height, 1), np.uint8), rows], 1
    )  # every row as it is, which its first byte says
    parts += [chunk(b"IDAT", zlib.compress(filtered.tobytes(), 6)), chunk(b"IEND", b"")]
    with open(path, "wb") as f:
        f.write(b"".join(parts))


def tile(rows, pad=2):
    """A list of rows of (3, H, W) images in [-1, 1], sizes free, -> one (3, H', W') picture on white."""
    height = max(x.shape[1] for row in rows for x in row)
    width = max(x.shape[2] for row in rows for x in row)
    columns = max(len(row) for row in rows)
    canvas = torch.ones(3, len(rows) * (height + pad) + pad, columns * (width + pad) + pad)
    for r, row in enumerate(rows):
        for c, x in enumerate(row):
            top, left = pad + r * (height + pad), pad + c * (width + pad)
            canvas[:, top : top + x.shape[1], left : left + x.shape[2]] = x.cpu()
    return canvas

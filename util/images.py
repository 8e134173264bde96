"""Images on disk <-> float tensors in [-1, 1]."""

import importlib.util
import os
import re
import struct
import zlib

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from util.files import PictureError, UserError, atomic, warn

SUFFIXES = tuple(
    ".png .apng .jpg .jpeg .jpe .jfif .bmp .dib .tif .tiff .webp .gif .avif .jp2 .j2k .ppm .pgm "
    ".pbm .pnm .tga".split()
)
# Beginnings of the names of files that are expected beside images.
BESIDE_IMAGES = ("readme", "license", "licence", "thumbs.db", "desktop.ini")
if importlib.util.find_spec("pillow_heif"):
    from pillow_heif import register_heif_opener

    register_heif_opener()
    SUFFIXES = (*SUFFIXES, ".heic", ".heif")
HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # brands of ftyp
FITS = (
    "is FITS, whose rows run from the bottom up and whose values may have an offset (BZERO); read "
    "it with astropy and save a TIFF or, for kernels and masks, an .npy the way up that you see it"
)
UNREADABLE = (  # what Pillow raises
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,  # what damaged headers lead to
    LookupError,
    ArithmeticError,
    struct.error,
    MemoryError,
)
LONGEST_NAME = 249  # bytes; 255 in most file systems, minus ".state"
FULL_SCALES = (255, 1023, 4095, 16383, 65535)  # white of 8, 10, 12, 14 and 16 bits
PNG_HEADER = 33  # bytes before the chunks of a PNG: signature and IHDR
FULL_RANGE = ("PPM", "JPEG2000")  # formats that declare white, which Pillow scales to 65535


def natural(name):
    """A sort key by which 2 precedes 10; otherwise alphabetical."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(LONGEST_NAME), name), name


def is_image_name(name):
    """Whether a name has an image's suffix and is not hidden."""
    return name.lower().endswith(SUFFIXES) and not os.path.basename(name).startswith(".")


def split_names(names, is_file=lambda name: True):
    """(images, others) of file names, both in natural order, without hidden ones and BESIDE_IMAGES.

    is_file: False for a name that is not a regular file, as a pipe or a broken link.
    """
    names = sorted((n for n in names if not os.path.basename(n).startswith(".")), key=natural)
    images = [n for n in names if is_image_name(n) and is_file(n)]
    others = [n for n in names if not os.path.basename(n).lower().startswith(BESIDE_IMAGES)]
    chosen = set(images)
    return images, [n for n in others if n not in chosen]


def files_below(folder, runs=None):
    """Paths of all files below `folder`, relative to it, without hidden folders; follows links,
    each folder once. runs: a list; folders of a run's results, which hold settings.json, are
    appended to it and not searched."""
    paths, visited = [], set()
    for directory, folders, files in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(directory))
        real = {f: os.path.realpath(os.path.join(directory, f)) for f in folders}
        if runs is not None and "settings.json" in files:
            runs.append(os.path.relpath(directory, folder))
            folders[:] = []
            continue
        folders[:] = [f for f in folders if not f.startswith(".") and real[f] not in visited]
        paths += [os.path.relpath(os.path.join(directory, file), folder) for file in files]
    return paths


def find_images(folder, option="--data"):
    """-> (images, others), paths relative to `folder` in natural order: its images or, without any,
    those in folders below, except results of a run; and other files, folders with a slash.

    option: by which the folder was given, for errors. Raises UserError without a folder or images.
    """
    if not os.path.isdir(folder):
        raise UserError(
            f"{folder}: no such folder; put the images there or name their folder with {option}"
        )
    try:
        here = os.listdir(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error

    def is_file(name):
        return os.path.isfile(os.path.join(folder, name))

    names = [f"{name}/" if os.path.isdir(os.path.join(folder, name)) else name for name in here]
    images, others = split_names(names, is_file)
    if not images:
        runs = []
        images, others = split_names(files_below(folder, runs), is_file)
        others += [f"{run}/ (results of a run)" for run in sorted(runs, key=natural)]
    if not images:
        instead = f" but {listed(others)}" if others else ""
        raise UserError(
            f"{folder}: no images in it{instead}; formats: {', '.join(SUFFIXES)}. Put some there "
            f"or name a folder with {option}"
        )
    return images, others


def list_images(folder, option="--data"):
    """Paths of the images of `find_images`."""
    return [os.path.join(folder, name) for name in find_images(folder, option)[0]]


def listed(names, first=3):
    """The first few names and the number of the others, as a text."""
    more = f" and {len(names) - first} more" if len(names) > first else ""
    return ", ".join(names[:first]) + more


def say_unread(folder, others):
    """Warn about files that are no images, if any."""
    if others:
        warn(f"{folder}: not read: {listed(others)} (formats: {', '.join(SUFFIXES)})")


def image_names(paths, folder):
    """The images' names in a run: paths relative to `folder`, with slashes and without suffix; with
    None, file names only. Raises UserError for equal names and for too long ones."""
    names = [os.path.relpath(path, folder) if folder else os.path.basename(path) for path in paths]
    names = [os.path.splitext(name)[0].replace(os.sep, "/") for name in names]
    known = {}
    for name, path in zip(names, paths):
        other = known.setdefault(name.lower(), path)  # some file systems ignore case
        if other != path:
            raise UserError(
                f"{path}: would share its folder of results with {other}; rename one of them"
            )
        if len(os.fsencode(os.path.basename(name))) > LONGEST_NAME:
            raise UserError(f"{path}: its name is longer than {LONGEST_NAME} bytes; rename it")
    return names


def declared_white(file):
    """White's value in an opened image of more than 8 bits, by format or tags; None: unknown."""
    if file.format in FULL_RANGE:
        return 65535
    if file.format != "TIFF":
        return None
    bits = file.tag_v2.get(258, (16,))[0]  # BitsPerSample
    if bits == 16 and file.tag_v2.get(339, (1,))[0] == 2:  # SampleFormat: signed
        return 32767
    return 2**bits - 1 if 8 < bits < 16 else file.tag_v2.get(281, (None,))[0]  # MaxSampleValue


def probable_white(top, is_float):
    """The probable value of white if the largest value is `top`; None: ambiguous."""
    if is_float and top <= 1:
        return 1
    if top in FULL_SCALES:
        return top
    if (127 if is_float else 1) < top < 255:  # nearly black in a wider range
        return 255
    return 65535 if 16383 < top < 65535 else None  # 15 bits are not in use


def full_scale(image, file, name):
    """An image of 16 or 32 bits or of floats, upright, of an opened file -> (H, W) float64 in
    [0, 1]. Raises PictureError, with advice, if white is unknown."""
    values = np.asarray(image).astype(np.float64)
    low, top = float(values.min()), float(values.max())
    white = declared_white(file) or probable_white(top, image.mode == "F")
    if not low == top == 0 and not (low >= 0 and white):
        raise PictureError(
            f"{name}: its values, {low:g} to {top:g}, do not tell what white is; scale them to 0 … "
            "255 and save 8 bits: Image.fromarray((255 * values / white).round().astype('uint8'))"
            ".save(…)"
        )
    values = (values / (white or 1)).clip(0, 1)
    # PhotometricInterpretation 0: 0 is white, which Pillow heeds for 8 bits only.
    return 1 - values if file.format == "TIFF" and file.tag_v2.get(262) == 0 else values


def narrowed(image, file, name):
    """`full_scale` as an image of 8 bits, mode "L"; Pillow's conversion clips values at 255."""
    return Image.fromarray((full_scale(image, file, name) * 255).round().astype(np.uint8))


def refuse_dark_colours(file, name, wide=None):
    """Raise PictureError for a TIFF of 16 bits per channel whose white may be below 65535: Pillow
    keeps the upper 8 bits only. wide: its values, if they could be read."""
    is_tiff = file.format == "TIFF" and len(file.getbands()) > 1
    if (
        is_tiff
        and max(file.tag_v2.get(258, (8,))) == 16
        and 0
        < (max(high for _, high in file.getextrema()[:3]) if wide is None else wide.max() >> 8)
        < 64
    ):
        raise PictureError(
            f"{name}: its 16-bit values do not tell what white is (of 12 or 14 bits?); scale them "
            "and save 8 bits per channel"
        )


def refuse_fits(path):
    """Raise PictureError for a FITS file, of which Pillow ignores the offset and turns the rows."""
    with open(path, "rb") as f:
        if f.read(9) == b"SIMPLE  =":
            raise PictureError(f"{path}: {FITS}")


def true_reason(path, error):
    """Why Pillow cannot read an image file and what to do, where that is known; else None."""
    if isinstance(error, Image.DecompressionBombError):
        size, limit = (int(n) // 10**6 for n in re.findall(r"\d+", str(error))[:2])
        return f"has {size} megapixels, {limit} at most; crop or reduce it"
    try:
        with open(path, "rb") as f:
            head = f.read(32)
        if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            import tifffile

            with tifffile.TiffFile(path) as file:
                page = file.pages[0]
                channels = page.samplesperpixel
                what = f"is a TIFF of {channels} channel{'s' * (channels > 1)} of {page.dtype}"
                what += f", compressed by {page.compression.name}" * (page.compression != 1)
            return f"{what}; save it uncompressed, 8 or 16 bits per channel, grey, RGB or RGBA"
    except Exception:  # of a file that is damaged; Pillow's words remain
        return None
    is_heic = head[4:8] == b"ftyp" and head[8:12] in HEIC
    advice = "is HEIC, whatever its name; install pillow-heif, or save it as JPEG or PNG"
    return advice if is_heic else None


def unreadable(path, error, what):
    """The PictureError for a file that raised `error`: its reason, or that it is no `what`."""
    kinds = Image.DecompressionBombError, UnidentifiedImageError
    reason = true_reason(path, error) if isinstance(error, kinds) else None
    if reason:
        return PictureError(f"{path}: {reason}")
    reason = getattr(error, "strerror", None)
    return PictureError(f"{path}: cannot be read {f'({reason})' if reason else f'as {what}'}")


def open_rgb(file, name):
    """A path or an open file -> an upright RGB Pillow image of 8 bits, alpha composited on white.

    name: for errors. Raises PictureError for unreadable files.
    """
    try:
        opened = Image.open(file)
        refuse_dark_colours(opened, name)
        image = ImageOps.exif_transpose(opened)
        if image.mode == "F" or image.mode.startswith("I"):
            image = narrowed(image, opened, name)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except UNREADABLE as error:
        raise unreadable(name, error, f"an image ({error})") from error


def load_image(path, resize=None):
    """-> (1, 3, H, W) float32 in [-1, 1]. resize: crop the central square and scale it to this
    side. Raises PictureError for unreadable files."""
    image = open_rgb(path, path)
    if resize:
        image = ImageOps.fit(image, (resize, resize), Image.LANCZOS)
    values = np.asarray(image) / 255.0  # float64 up to [-1, 1], as in the published scripts
    return torch.from_numpy((values * 2 - 1).transpose(2, 0, 1)).float()[None]


def is_grey_mode(mode):
    """Whether a mode of Pillow has one channel, apart from alpha."""
    return mode in ("1", "L", "LA", "La", "F") or mode.startswith("I")


def is_grey(path):
    """Whether an image file has one channel, not counting alpha. Raises PictureError."""
    try:
        with Image.open(path) as image:
            return is_grey_mode(image.mode)
    except UNREADABLE as error:
        raise unreadable(path, error, f"an image ({error})") from error


def to_pixels(x):
    """(C, H, W) -> (H, W, C) float64 in [0, 1], numpy; values outside [-1, 1] are clamped."""
    values = x.detach().to("cpu", torch.float64, copy=True)  # the rest is done in its memory
    return values.clamp_(-1, 1).add_(1).div_(2).permute(1, 2, 0).numpy()


def save_image(path, x, bits=8, alpha=None, tags=None):
    """Write (3, H, W) or (1, H, W) in [-1, 1] as a PNG of 8 or 16 bits, atomically.

    alpha: opacity (h, w) float32 in [0, 1], scaled to the image; tags: further arguments of
    Pillow's save (dpi, exif, icc_profile).
    """
    values = to_pixels(x)
    if alpha is not None:
        alpha = np.asarray(Image.fromarray(alpha).resize(values.shape[1::-1], Image.BICUBIC))
        values = np.concatenate([values, alpha[..., None].clip(0, 1)], -1)
    values *= 2**bits - 1
    values = values.round(out=values).astype(np.uint16 if bits == 16 else np.uint8)
    values = values[..., 0] if values.shape[-1] == 1 else values
    with atomic(path) as tmp:
        if bits == 16 and values.ndim == 3:
            write_png16(tmp, values, tags or {})
        else:
            Image.fromarray(values).save(tmp, **(tags or {}))


def write_png16(path, values, tags):
    """Write (H, W, C) uint16 as a PNG, which Pillow cannot; C: 2 (grey and opacity), 3 or 4 (RGBA).
    tags: see `save_image`."""
    import imagecodecs

    chunks = {}
    if "icc_profile" in tags:
        chunks[b"iCCP"] = b"profile\0\0" + zlib.compress(tags["icc_profile"])
    if "dpi" in tags:
        chunks[b"pHYs"] = struct.pack(">IIB", *(round(one / 0.0254) for one in tags["dpi"]), 1)
    if "exif" in tags:
        chunks[b"eXIf"] = tags["exif"].removeprefix(b"Exif\0\0")
    encoded = imagecodecs.png_encode(np.ascontiguousarray(values))
    with open(path, "wb") as f:
        f.write(encoded[:PNG_HEADER])
        for kind, data in chunks.items():
            check = zlib.crc32(kind + data)
            f.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check))
        f.write(encoded[PNG_HEADER:])


def tile(rows, pad=2):
    """Rows of (3, H, W) images in [-1, 1] of any size -> one (3, H', W') image, on white."""
    height = max(x.shape[1] for row in rows for x in row)
    width = max(x.shape[2] for row in rows for x in row)
    columns = max(len(row) for row in rows)
    canvas = torch.ones(3, len(rows) * (height + pad) + pad, columns * (width + pad) + pad)
    for r, row in enumerate(rows):
        for c, x in enumerate(row):
            top, left = pad + r * (height + pad), pad + c * (width + pad)
            canvas[:, top : top + x.shape[1], left : left + x.shape[2]] = x.cpu()
    return canvas

"""Images on disk <-> float tensors in [-1, 1]."""
import os

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from util.files import UserError, atomic

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def is_image_name(name):
    """Has the file an image's suffix, and is it none of the hidden files that some systems add?"""
    return name.lower().endswith(SUFFIXES) and not os.path.basename(name).startswith(".")


def list_images(folder):
    """Paths of the images in `folder`, sorted by name. Raises UserError where there is no folder or no image."""
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; put the images there or name their folder with --data")
    try:
        names = sorted(name for name in os.listdir(folder) if is_image_name(name))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    if not names:
        raise UserError(f"{folder}: no images in it ({', '.join(SUFFIXES)}); put some there or name a folder with --data")
    return [os.path.join(folder, n) for n in names]


def image_names(paths):
    """What the images are called in a run: their file names without suffix. Raises UserError if two are called alike."""
    names, seen = [os.path.splitext(os.path.basename(path))[0] for path in paths], {}
    for name, path in zip(names, paths):
        other = seen.setdefault(name.lower(), path)  # some file systems do not tell cases apart
        if other != path:
            raise UserError(f"{path}: would share its folder of results with {other}; rename one of them")
    return names


def open_rgb(file, name):
    """A path or an open file -> an upright RGB Pillow image: 16 bits are reduced to 8, alpha is laid on white.

    name: what an error calls it. Raises UserError for what Pillow cannot read.
    """
    try:
        image = ImageOps.exif_transpose(Image.open(file))
        if image.mode.startswith("I"):  # Pillow's own conversion would cut everything above 255 off
            image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{name}: cannot be read as an image ({error})") from error


def load_image(path, resize=None):
    """-> (1, 3, H, W) float32 in [-1, 1]. resize: the side to which the middle square, cut out, is scaled. Raises UserError for an
    unreadable image."""
    image = open_rgb(path, path)
    if resize:
        image = ImageOps.fit(image, (resize, resize), Image.LANCZOS)
    pixels = np.asarray(image) / 255.0  # float64 until [-1, 1], as the published scripts do
    return torch.from_numpy((pixels * 2 - 1).transpose(2, 0, 1)).float()[None]


def is_grey(path):
    """Has an image file one channel (and perhaps alpha)? Raises UserError for what Pillow cannot read."""
    try:
        with Image.open(path) as image:
            return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from error


def load_mask(path):
    """An image -> (1, 1, H, W) float32: 0, missing, where it is darker than half, else 1. Raises UserError for one that is
    unreadable or leaves nothing."""
    mask = torch.from_numpy(np.asarray(open_rgb(path, path).convert("L")) >= 128).float()[None, None]
    if not mask.any():
        raise UserError(f"{path}: this mask leaves nothing of the picture; dark means missing, so paint what is there white")
    return mask


def load_kernel(path, flip=False):
    """An image or a .npy file -> (1, h, w) float32, a blur kernel for cross-correlation: negative values are set to 0, the sum is
    one, h and w are odd (a last row or column of zeros is added). flip: turn it by 180 degrees, for a file that means
    convolution. Raises UserError for one that is unreadable or empty."""
    try:
        if path.lower().endswith(".npy"):
            kernel = np.load(path, allow_pickle=False).astype(np.float64)
        else:
            with Image.open(path) as image:
                kernel = np.asarray(image if image.mode.startswith("I") else image.convert("L"), np.float64)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as a kernel ({error}); give an image or a .npy of two dimensions") from error
    if kernel.ndim != 2 or not kernel.size or not np.isfinite(kernel).all() or not (kernel > 0).any():
        raise UserError(f"{path}: is no kernel; it needs two dimensions of finite numbers, one of them above 0")
    kernel = np.pad(kernel.clip(0), [(0, 1 - side % 2) for side in kernel.shape])
    kernel = kernel[::-1, ::-1] if flip else kernel
    return torch.from_numpy(kernel / kernel.sum()).float()[None]


def to_pixels(x):
    """(C, H, W) in [-1, 1], clamped -> (H, W, C) float64 in [0, 1], numpy."""
    return (x.detach().double().cpu().clamp(-1, 1).permute(1, 2, 0).numpy() + 1) / 2


def save_image(path, x):
    """Write (3, H, W), or (1, H, W) for a grey one, in [-1, 1] as an 8-bit PNG, whole."""
    pixels = (to_pixels(x) * 255).round().astype(np.uint8)
    with atomic(path) as tmp:
        Image.fromarray(pixels[..., 0] if len(x) == 1 else pixels).save(tmp)


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

"""A photograph and what its file brings along: transparency, 16 bits, a colour profile, pages, resolution, date."""

import io
import os
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

from util.files import PictureError, UserError
from util.images import (
    UNREADABLE,
    declared_white,
    full_scale,
    is_grey_mode,
    refuse_dark_colours,
    unreadable,
)

RAW = (
    ".nef",
    ".nrw",
    ".cr2",
    ".cr3",
    ".crw",
    ".arw",
    ".srf",
    ".sr2",
    ".dng",
    ".raf",
    ".orf",
    ".rw2",
    ".pef",
    ".srw",
    ".x3f",
    ".3fr",
    ".iiq",
    ".rwl",
)
KEPT_TAGS = (
    271,
    272,
    306,
    36867,
)  # of EXIF: maker, model, date, date of the exposure; the others would say what is no longer so
TRANSPARENT = 0.1  # opacity, below which a pixel's colour says nothing
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
ORIENTATION = 274
LINEAR_KNEE = 0.04045, 12.92, 0.055, 1.055, 2.4  # of sRGB's curve (IEC 61966-2-1)


@dataclass
class Photograph:
    """x: (1, 3, H, W) float32 in [-1, 1]; grey: has its file one channel? alpha: (H, W) float32, 0 transparent to 1, or None; bits: 8 or 16;
    tags: what Pillow is to write along (dpi, exif, icc_profile); remarks: what the reader should be told."""

    x: torch.Tensor
    grey: bool
    alpha: np.ndarray | None
    bits: int
    tags: dict
    remarks: list = field(default_factory=list)

    @property
    def visible(self):
        """(1, 1, H, W) float32: 0 where the picture is transparent, else 1."""
        shown = (
            np.ones(self.x.shape[-2:], bool) if self.alpha is None else self.alpha >= TRANSPARENT
        )
        return torch.from_numpy(shown).float()[None, None]


def to_linear(x):
    """sRGB in [-1, 1] -> linear light in [-1, 1]."""
    knee, slope, offset, scale, power = LINEAR_KNEE
    u = ((x + 1) / 2).clamp(0, 1)
    return 2 * torch.where(u <= knee, u / slope, ((u + offset) / scale) ** power) - 1


def from_linear(x):
    """Linear light in [-1, 1] -> sRGB in [-1, 1]."""
    knee, slope, offset, scale, power = LINEAR_KNEE
    u = ((x + 1) / 2).clamp(0, 1)
    return (
        2
        * torch.where(
            u <= knee / slope, u * slope, scale * u.clamp(min=1e-9) ** (1 / power) - offset
        )
        - 1
    )


def _has_16_bits(file):
    """Has an opened image more than 8 bits a channel, and are they 16?"""
    if file.mode in ("F", "RGB", "RGBA", "CMYK"):
        return "16" in str([tile[3] for tile in file.tile]) or (
            file.format == "TIFF" and max(file.tag_v2.get(258, (8,))) == 16
        )
    return file.mode.startswith("I")


def _wide_colours(path, file):
    """The (H, W, C) uint16 of a colour picture of 16 bits a channel, of which Pillow keeps the upper 8; None where nothing here can read them."""
    try:
        if file.format == "PNG":
            from torchvision.io import ImageReadMode, decode_png, read_file

            return (
                decode_png(read_file(os.fspath(path)), ImageReadMode.UNCHANGED)
                .permute(1, 2, 0)
                .numpy()
            )
        if file.format == "TIFF":
            import tifffile

            pixels = tifffile.imread(path, key=0)
            return (
                np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 and len(pixels) in (3, 4) else pixels
            )
    except Exception:  # whatever a codec that is not there says; the upper 8 bits remain
        return None
    return None


def _to_srgb(image, profile, photo_is_wide):
    """(the picture in sRGB, what is said of it, the profile where it is left as it is)."""
    if not profile:
        return (
            image,
            ["CMYK without a profile, colours by rule of thumb"] if image.mode == "CMYK" else [],
            None,
        )
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(opened).strip()
        if "srgb" in name.lower().replace(" ", ""):
            return image, [], None
        if photo_is_wide:
            return image, [f"profile {name} carried along"], profile
        alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
        flat = image.convert(
            {"LA": "L", "RGBA": "RGB", "P": "RGB", "1": "L"}.get(image.mode, image.mode)
        )
        out = ImageCms.profileToProfile(
            flat, opened, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        if alpha is not None:
            out.putalpha(alpha)
        return out, [f"profile {name} converted to sRGB"], None
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        return (
            image,
            [
                f"its colour profile cannot be used ({str(error).strip() or 'damaged'}), taken for sRGB"
            ],
            None,
        )


def _kept_tags(file, profile):
    """Resolution, date, camera and profile, as Pillow's save takes them."""
    tags, exif = {}, file.getexif()
    kept = Image.Exif()
    found = {**exif, **exif.get_ifd(34665)}
    for tag in KEPT_TAGS:
        if tag in found:
            kept[tag] = found[tag]
    dpi = file.info.get("dpi")
    if dpi and all(0 < one < 1e5 for one in dpi):
        tags["dpi"] = tuple(float(one) for one in dpi)
    if len(kept):
        tags["exif"] = kept.tobytes()
    if profile:
        tags["icc_profile"] = profile
    return tags


def _values(path, opened, remarks):
    """((H, W, 3) float64 in [0, 1], grey?, (H, W) opacity or None, 16 or 8 bits, profile that is carried along) of an opened image."""
    wide = _has_16_bits(opened)  # before EXIF is read, for which Pillow may load all
    profile = opened.info.get("icc_profile")
    turn = TURNS.get(opened.getexif().get(ORIENTATION))
    if wide and not is_grey_mode(opened.mode):
        refuse_dark_colours(opened, path)
        pixels = _wide_colours(path, opened)
        expected = [(*opened.size[::-1], channels) for channels in (2, 3, 4)]  # 2: grey, opacity
        if pixels is not None and pixels.dtype == np.uint16 and pixels.shape in expected:
            if turn:
                planes = [
                    Image.fromarray(pixels[..., c].copy()).transpose(Image.Transpose[turn])
                    for c in range(pixels.shape[2])
                ]
                pixels = np.stack([np.asarray(plane) for plane in planes], -1)
            carried = _to_srgb(opened, profile, True)
            remarks += carried[1]
            grey, transparent = pixels.shape[2] == 2, pixels.shape[2] != 3
            colours = np.repeat(pixels[..., :1], 3, -1) if grey else pixels[..., :3]
            return (
                colours / 65535.0,
                grey,
                pixels[..., -1] / 65535.0 if transparent else None,
                16,
                carried[2],
            )
        remarks.append("8 of its 16 bits read")
    image = ImageOps.exif_transpose(opened)
    if is_grey_mode(opened.mode) and wide or opened.mode == "F":
        values = full_scale(image, declared_white(opened), path)
        image, said, carried = _to_srgb(image, profile, True)
        remarks += said
        return np.repeat(values[..., None], 3, -1), is_grey_mode(opened.mode), None, 16, carried
    if image.has_transparency_data:
        image = image.convert("RGBA")
    image, said, _ = _to_srgb(image, profile, False)
    remarks += said
    alpha = np.asarray(image.getchannel("A"), float) / 255 if image.mode == "RGBA" else None
    return np.asarray(image.convert("RGB")) / 255.0, is_grey_mode(opened.mode), alpha, 8, None


def read_photograph(path, linear=False):
    """A file -> its Photograph, upright, its colours in sRGB or, `linear`, in linear light. Raises UserError, with what to do, for what cannot
    be read."""
    if path.lower().endswith(RAW):
        raise PictureError(
            f"{path}: is a camera's raw file; develop it first (darktable, RawTherapee, …) and save 16-bit TIFF or PNG"
        )
    remarks = []
    try:
        with Image.open(path) as opened:
            pages = getattr(opened, "n_frames", 1)
            if pages > 1:
                remarks.append(f"1 of {pages} pages")
            values, grey, alpha, bits, profile = _values(path, opened, remarks)
            tags = _kept_tags(opened, profile)
    except UNREADABLE as error:
        raise unreadable(
            path, error, f"an image ({error}); save it as PNG, TIFF or JPEG first"
        ) from error
    alpha = None if alpha is None or alpha.min() == 1 else alpha.astype(np.float32)
    x = torch.from_numpy((values * 2 - 1).transpose(2, 0, 1)).float()[None].contiguous()
    return Photograph(to_linear(x) if linear else x, grey, alpha, bits, tags, remarks)


def is_transparent(path):
    """Are parts of an image file transparent? False for what cannot be read, which is said elsewhere."""
    try:
        with Image.open(path) as image:
            if not image.has_transparency_data:
                return False
            return image.convert("RGBA").getchannel("A").getextrema()[0] < 255 * TRANSPARENT
    except (*UNREADABLE, UserError):
        return False

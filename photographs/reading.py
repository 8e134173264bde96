"""Reading a photograph with everything in its file: transparency, 16 bits, colour profile, pages,
resolution, date."""

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

RAW = tuple(
    ".nef .nrw .cr2 .cr3 .crw .arw .srf .sr2 .dng .raf .orf .rw2 .pef .srw .x3f .3fr .iiq "
    ".rwl".split()
)
# Of EXIF: maker, model, date, date of exposure; the others would no longer be true.
KEPT_TAGS = (271, 272, 306, 36867)
TRANSPARENT = 0.1  # opacity below which a px's colour is meaningless
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
    """x: (1, 3, H, W) float32 in [-1, 1]; grey: whether its file has one channel; alpha: opacity,
    (H, W) float32 from 0, transparent, to 1, or None; bits: 8 or 16; tags: arguments of Pillow's
    save (dpi, exif, icc_profile); remarks: for the user."""

    x: torch.Tensor
    grey: bool
    alpha: np.ndarray | None
    bits: int
    tags: dict
    remarks: list = field(default_factory=list)

    @property
    def visible(self):
        """(1, 1, H, W) float32: 0 where it is transparent, else 1."""
        size = self.x.shape[-2:]
        visible = np.ones(size, bool) if self.alpha is None else self.alpha >= TRANSPARENT
        return torch.from_numpy(visible).float()[None, None]


def to_linear(x):
    """sRGB in [-1, 1] -> linear light in [-1, 1]."""
    knee, slope, offset, scale, power = LINEAR_KNEE
    u = ((x + 1) / 2).clamp(0, 1)
    return 2 * torch.where(u <= knee, u / slope, ((u + offset) / scale) ** power) - 1


def from_linear(x):
    """Linear light in [-1, 1] -> sRGB in [-1, 1]."""
    knee, slope, offset, scale, power = LINEAR_KNEE
    u = ((x + 1) / 2).clamp(0, 1)
    curve = scale * u.clamp(min=1e-9) ** (1 / power) - offset
    return 2 * torch.where(u <= knee / slope, u * slope, curve) - 1


def _has_16_bits(file):
    """Whether an opened image has 16 bits per channel."""
    if file.mode in ("F", "RGB", "RGBA", "CMYK"):
        is_wide_tiff = file.format == "TIFF" and max(file.tag_v2.get(258, (8,))) == 16
        return "16" in str([tile[3] for tile in file.tile]) or is_wide_tiff
    return file.mode.startswith("I")


def _wide_colours(path, file):
    """A colour image of 16 bits per channel -> (H, W, C) uint16, of which Pillow keeps the upper 8;
    None if no available library can read it."""
    try:
        if file.format == "PNG":
            from torchvision.io import ImageReadMode, decode_png, read_file

            wide = decode_png(read_file(os.fspath(path)), ImageReadMode.UNCHANGED)
            return wide.permute(1, 2, 0).numpy()
        if file.format == "TIFF":
            import tifffile

            wide = tifffile.imread(path, key=0)
            planar = wide.ndim == 3 and len(wide) in (3, 4)
            return np.moveaxis(wide, 0, -1) if planar else wide
    except Exception:  # anything a missing codec raises; the upper 8 bits remain
        return None
    return None


def _to_srgb(image, profile, is_wide):
    """(the image in sRGB, remarks, the profile if it could not be applied). is_wide: 16 bits, which
    Pillow cannot convert."""
    if not profile:
        rule = "CMYK without a profile, colours are approximate"
        return image, [rule] if image.mode == "CMYK" else [], None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(opened).strip()
        if "srgb" in name.lower().replace(" ", ""):
            return image, [], None
        if is_wide:
            return image, [f"profile {name} copied to the result"], profile
        alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
        modes = {"LA": "L", "RGBA": "RGB", "P": "RGB", "1": "L"}
        flat, srgb = (
            image.convert(modes.get(image.mode, image.mode)),
            ImageCms.createProfile("sRGB"),
        )
        out = ImageCms.profileToProfile(flat, opened, srgb, outputMode="RGB")
        if alpha is not None:
            out.putalpha(alpha)
        return out, [f"profile {name} converted to sRGB"], None
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        why = str(error).strip() or "damaged"
        return image, [f"its colour profile cannot be used ({why}), assumed to be sRGB"], None


def _kept_tags(file, profile):
    """Resolution, date, camera and profile, as arguments of Pillow's save."""
    tags, exif, kept = {}, file.getexif(), Image.Exif()
    every = {**exif, **exif.get_ifd(34665)}
    for tag in KEPT_TAGS:
        if tag in every:
            kept[tag] = every[tag]
    dpi = file.info.get("dpi")
    if dpi and all(0 < one < 1e5 for one in dpi):
        tags["dpi"] = tuple(float(one) for one in dpi)
    if len(kept):
        tags["exif"] = kept.tobytes()
    if profile:
        tags["icc_profile"] = profile
    return tags


def _wide_values(path, opened, profile, remarks):
    """As `_values`, of a colour image of 16 bits; None if only its upper 8 bits can be read."""
    refuse_dark_colours(opened, path)
    wide = _wide_colours(path, opened)
    expected = [(*opened.size[::-1], channels) for channels in (2, 3, 4)]  # 2: grey, opacity
    if wide is None or wide.dtype != np.uint16 or wide.shape not in expected:
        remarks.append("8 of its 16 bits read")
        return None
    turn = TURNS.get(opened.getexif().get(ORIENTATION))
    if turn:
        planes = [Image.fromarray(wide[..., c].copy()) for c in range(wide.shape[2])]
        planes = [np.asarray(plane.transpose(Image.Transpose[turn])) for plane in planes]
        wide = np.stack(planes, -1)
    _, more, profile = _to_srgb(opened, profile, True)
    remarks += more
    grey = wide.shape[2] == 2
    colours = np.repeat(wide[..., :1], 3, -1) if grey else wide[..., :3]
    alpha = wide[..., -1] / 65535.0 if wide.shape[2] != 3 else None
    return colours / 65535.0, grey, alpha, 16, profile


def _values(path, opened, remarks):
    """((H, W, 3) float64 in [0, 1], grey?, (H, W) opacity or None, 16 or 8 bits, the profile that
    the result needs) of an opened image."""
    wide = _has_16_bits(opened)  # before EXIF is read, for which Pillow may load everything
    profile, grey = opened.info.get("icc_profile"), is_grey_mode(opened.mode)
    if wide and not grey:
        values = _wide_values(path, opened, profile, remarks)
        if values:
            return values
    image = ImageOps.exif_transpose(opened)
    if grey and wide or opened.mode == "F":
        values = full_scale(image, declared_white(opened), path)
        image, more, profile = _to_srgb(image, profile, True)
        remarks += more
        return np.repeat(values[..., None], 3, -1), grey, None, 16, profile
    if image.has_transparency_data:
        image = image.convert("RGBA")
    image, more, _ = _to_srgb(image, profile, False)
    remarks += more
    alpha = np.asarray(image.getchannel("A"), float) / 255 if image.mode == "RGBA" else None
    return np.asarray(image.convert("RGB")) / 255.0, grey, alpha, 8, None


def read_photograph(path, linear=False):
    """A file -> its Photograph, upright, in sRGB or, if `linear`, in linear light. Raises UserError
    with advice for unreadable files."""
    if path.lower().endswith(RAW):
        raise PictureError(
            f"{path}: is a camera's raw file; develop it first (darktable, RawTherapee, …) and "
            "save 16-bit TIFF or PNG"
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
    """Whether an image file has transparent areas; False for unreadable ones."""
    try:
        with Image.open(path) as image:
            if not image.has_transparency_data:
                return False
            return image.convert("RGBA").getchannel("A").getextrema()[0] < 255 * TRANSPARENT
    except (*UNREADABLE, UserError):
        return False

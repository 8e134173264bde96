"""Reading a photograph with everything in its file: transparency, 16 bits, colour profile, pages,
resolution, date."""

import io
import os
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

from util.devices import first_line
from util.files import PictureError, UserError
from util.images import (
    UNREADABLE,
    full_scale,
    is_grey_mode,
    refuse_dark_colours,
    refuse_fits,
    unreadable,
)

RAW = tuple(
    ".nef .nrw .cr2 .cr3 .crw .arw .srf .sr2 .dng .raf .orf .rw2 .pef .srw .x3f .3fr .iiq "
    ".rwl".split()
)
# Of EXIF, by its directory: caption, maker, model, date, author, copyright, Windows' title,
# comment, author, keywords and subject; of an exposure its dates, their time zones and fractions
# and the comment; all of the place (None). The others would no longer be true.
EXPOSURE, PLACE = 34665, 34853
KEPT_TAGS = {
    None: (270, 271, 272, 306, 315, 33432, *range(40091, 40096)),
    EXPOSURE: (36867, 36868, *range(36880, 36883), 37510, *range(37520, 37523)),
    PLACE: None,
}
EXTRA_SAMPLES, OPACITIES = 338, (1, 2)  # the TIFF tag, and its values for opacity
UNUSED = "its 4th channel is not used; if it is infrared, --infrared finds dust by it"
TRANSPARENT = 0.1  # opacity below which a px's colour is meaningless
# Largest difference of the channels of a grey photograph that was saved in colour: in units of
# white, for a JPEG rounds its chroma, and of the photograph's own contrast.
GREY_APART, GREY_SHARE = 8 / 255, 0.1
LUMA = 0.299, 0.587, 0.114  # of R, G, B (ITU-R BT.601, as in JPEG)
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
    """x: (1, 3, H, W) float32 in [-1, 1]; grey: whether its three channels are one; alpha: opacity,
    (H, W) float32 from 0, transparent, to 1, or None; bits: 8 or 16; tags: arguments of Pillow's
    save (dpi, exif, icc_profile); remarks, warnings: for the user."""

    x: torch.Tensor
    grey: bool
    alpha: np.ndarray | None
    bits: int
    tags: dict
    remarks: list = field(default_factory=list)
    warnings: list = field(default_factory=list)

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


def _is_opaque(file):
    """Whether an opened image is a TIFF whose fourth channel is no opacity: infrared, mostly."""
    if file.format != "TIFF" or file.tag_v2.get(277, 1) < 4 or file.mode == "CMYK":
        return False
    return file.tag_v2.get(EXTRA_SAMPLES, (0,))[0] not in OPACITIES


def _wide_colours(path, file, warnings):
    """A colour image of 16 bits per channel -> (H, W, C) uint16, of which Pillow keeps the upper 8;
    None, with a warning, if no available library can read it."""
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
        reason = f"{file.format} is read with 8"
    except Exception as error:  # anything a missing codec raises
        reason = first_line(error)
    advice = "pip install imagecodecs, or save it uncompressed"
    warnings.append(f"only the upper 8 of its 16 bits are read ({reason}); {advice}")
    return None


def _to_srgb(image, profile, keep):
    """(the image in sRGB, remarks, the profile if it was not applied). keep: leave the colours as
    they are, as those of 16 bits, which Pillow cannot convert."""
    if not profile:
        rule = "CMYK without a profile, colours are approximate"
        return image, [rule] if image.mode == "CMYK" else [], None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(opened).strip()
        if "srgb" in name.lower().replace(" ", ""):
            return image, [], None
        if keep:
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


def _kept_exif(file):
    """The KEPT_TAGS of an opened image's EXIF, in their directories, as bytes; empty without any
    and if they are damaged."""
    exif, kept = file.getexif(), Image.Exif()
    for directory, tags in KEPT_TAGS.items():
        values = dict(exif if directory is None else exif.get_ifd(directory))
        values = {tag: values[tag] for tag in values if tags is None or tag in tags}
        if directory is None:
            kept.update(values)
        elif values:
            kept[directory] = values
    try:
        return kept.tobytes() if len(kept) else b""
    except Exception:  # anything that values of the wrong type raise
        return b""


def _kept_tags(file, profile):
    """Resolution, EXIF and profile, as arguments of Pillow's save."""
    tags, exif = {}, _kept_exif(file)
    dpi = file.info.get("dpi")
    if dpi and all(0 < one < 1e5 for one in dpi):
        tags["dpi"] = tuple(float(one) for one in dpi)
    if exif:
        tags["exif"] = exif
    if profile:
        tags["icc_profile"] = profile
    return tags


def _wide_values(path, opened, profile, remarks, warnings):
    """As `_values`, of a colour image of 16 bits; None if only its upper 8 bits can be read."""
    if opened.mode == "CMYK":
        raise PictureError(f"{path}: is CMYK of 16 bits; convert it to RGB, or to 8 bits")
    wide = _wide_colours(path, opened, warnings)
    expected = [(*opened.size[::-1], channels) for channels in (2, 3, 4)]  # 2: grey, opacity
    if wide is None or wide.dtype != np.uint16 or wide.shape not in expected:
        refuse_dark_colours(opened, path)
        return None
    refuse_dark_colours(opened, path, wide[..., :3])
    wide = wide[..., :3] if _is_opaque(opened) else wide
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


def _values(path, opened, as_stored, remarks, warnings):
    """((H, W, 3) float64 in [0, 1], grey?, (H, W) opacity or None, 16 or 8 bits, the profile that
    the result needs) of an opened image."""
    wide = _has_16_bits(opened)  # before EXIF is read, for which Pillow may load everything
    profile, grey = opened.info.get("icc_profile"), is_grey_mode(opened.mode)
    if _is_opaque(opened):
        remarks.append(UNUSED)
    if wide and not grey:
        values = _wide_values(path, opened, profile, remarks, warnings)
        if values:
            return values
    image = ImageOps.exif_transpose(opened)
    if grey and wide or opened.mode == "F":
        values = full_scale(image, opened, path)
        image, more, profile = _to_srgb(image, profile, True)
        remarks += more
        return np.repeat(values[..., None], 3, -1), grey, None, 16, profile
    if _is_opaque(opened):
        image = image.convert("RGB")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    image, more, profile = _to_srgb(image, profile, as_stored)
    remarks += more
    alpha = np.asarray(image.getchannel("A"), float) / 255 if image.mode == "RGBA" else None
    return np.asarray(image.convert("RGB")) / 255.0, grey, alpha, 8, profile if as_stored else None


def without_colours(values, alpha):
    """The brightness, repeated three times, of (H, W, 3) values in [0, 1] whose channels differ
    by rounding only where they are visible; None of a picture with colours."""
    luma = values @ LUMA
    visible = slice(None) if alpha is None or alpha.max() < TRANSPARENT else alpha >= TRANSPARENT
    apart, contrast = np.ptp(values, axis=2)[visible].max(), np.ptp(luma[visible])
    if apart > min(GREY_APART, GREY_SHARE * contrast):
        return None
    return np.repeat((values[..., 0] if apart == 0 else luma)[..., None], 3, -1)


def read_photograph(path, linear=False, as_stored=False):
    """A file -> its Photograph, upright, in sRGB or, if `linear`, in linear light; `as_stored`: of
    8 bits, in its own colour space, whose profile is among the tags. Raises UserError with advice
    for unreadable files."""
    if path.lower().endswith(RAW):
        raise PictureError(
            f"{path}: is a camera's raw file; develop it first (darktable, RawTherapee, …) and "
            "save 16-bit TIFF or PNG"
        )
    remarks, warnings = [], []
    try:
        refuse_fits(path)
        with Image.open(path) as opened:
            pages = getattr(opened, "n_frames", 1)
            if pages > 1:
                remarks.append(f"1 of {pages} pages")
            values, grey, alpha, bits, profile = _values(path, opened, as_stored, remarks, warnings)
            tags = _kept_tags(opened, profile)
    except UNREADABLE as error:
        raise unreadable(
            path, error, f"an image ({error}); save it as PNG, TIFF or JPEG first"
        ) from error
    alpha = None if alpha is None or alpha.min() == 1 else alpha.astype(np.float32)
    brightness = None if grey else without_colours(values, alpha)
    if brightness is not None:
        values, grey = brightness, True
        remarks.append("saved in colour")
    values *= 2
    values -= 1
    x = torch.from_numpy(values.transpose(2, 0, 1)).float()[None].contiguous()
    return Photograph(to_linear(x) if linear else x, grey, alpha, bits, tags, remarks, warnings)


def is_transparent(path):
    """Whether an image file has transparent areas; None for an unreadable one."""
    try:
        with Image.open(path) as image:
            if not image.has_transparency_data or _is_opaque(image):
                return False
            return image.convert("RGBA").getchannel("A").getextrema()[0] < 255 * TRANSPARENT
    except (*UNREADABLE, UserError):
        return None

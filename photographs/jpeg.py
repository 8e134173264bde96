"""Reading a JPEG as it was stored: quantised DCT coefficients, tables and sampling."""

import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from guided_diffusion.jpeg import BLOCK, JPEG, SIGMA, Component, tables
from photographs.reading import ORIENTATION
from util.files import PictureError, UserError
from util.images import UNREADABLE, unreadable

LUMA_SUM = 3688  # of libjpeg's luma table at quality 50
MISSING = "--jpeg: needs the coefficients of JPEG files; pip install jpeglib"
FORMATS = ("JPEG", "MPO")  # MPO: several JPEGs in a file, of which the first is read
BASELINE_TO_PROGRESSIVE = (0xC0, 0xC1, 0xC2)  # frames with Huffman coding
ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
NO_FRAMES = (0xC4, 0xC8, 0xCC)  # markers among those of frames
ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a segment
PLANES = "Y", "Cb", "Cr"
COLOUR_SPACES = {1: "JCS_GRAYSCALE", 3: "JCS_YCbCr"}  # by the number of components
# By the px, (vertical, horizontal), that share chroma.
SAMPLINGS = {(1, 1): "4:4:4", (1, 2): "4:2:2", (2, 2): "4:2:0", (2, 1): "4:4:0", (1, 4): "4:1:1"}
# x = 0 is the value 127.5, but JPEG subtracts 128: of a block's mean, as its coefficient.
MIDDLE = 0.5 * BLOCK
# From the stored picture to the upright one, by the value of EXIF's orientation.
UPRIGHT = {
    2: lambda x: x.flip(-1),
    3: lambda x: x.flip(-2, -1),
    4: lambda x: x.flip(-2),
    5: lambda x: x.transpose(-2, -1),
    6: lambda x: x.rot90(-1, (-2, -1)),
    7: lambda x: x.transpose(-2, -1).flip(-2, -1),
    8: lambda x: x.rot90(1, (-2, -1)),
}


@dataclass(frozen=True)
class StoredJPEG:
    """A JPEG file's content.

    y: (1, K, R, C), its coefficients, and components: see `guided_diffusion.jpeg.JPEG`; size:
    (H, W) of the picture; sampling: as 4:2:0; grey: whether it has no colours.
    """

    y: torch.Tensor
    components: tuple
    size: tuple
    sampling: str
    grey: bool

    sigma = SIGMA  # of y, for `restore`

    @property
    def operator(self):
        """A with A(x) = y to within half a step, for x of its `size`, that of whole MCUs."""
        return JPEG(self.components, JPEG.padded(self.components, self.y))

    @property
    def quality(self):
        """libjpeg's quality whose luma table is nearest to the file's."""
        table = self.components[0].table
        return min(range(1, 101), key=lambda q: (tables(q)[0] - table).abs().sum().item())


def stored_turn(path):
    """EXIF's orientation of a file, see UPRIGHT."""
    with Image.open(path) as opened:
        return int(opened.getexif().get(ORIENTATION) or 1)


def frame_of(path):
    """(marker, [(horizontal, vertical) sampling factors of each component]) of a file's frame."""
    with open(path, "rb") as f:
        data = f.read()
    at = 2
    while at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at] != 0xFF or marker == 0xFF or marker in ALONE:
            at += 1 if data[at] != 0xFF or marker == 0xFF else 2
        elif 0xC0 <= marker <= 0xCF and marker not in NO_FRAMES:
            count = data[at + 9]
            factors = [data[at + 11 + 3 * i] for i in range(count)]
            return marker, [(factor >> 4, factor & 15) for factor in factors]
        else:
            at += 2 + length
    raise PictureError(f"{path}: is a damaged JPEG; open it in another program and save it as PNG")


def sampling_name(blocks):
    """The sampling as it is usually written, or "grey"."""
    if len(blocks) == 1:
        return "grey"
    shared = tuple(luma // chroma for luma, chroma in zip(blocks[0], blocks[1]))
    return SAMPLINGS.get(shared, "unusual sampling")


def sampling_of(path):
    """The blocks (vertical, horizontal) of each component in an MCU. Raises PictureError for a JPEG
    that is no grey or colour one with Huffman coding."""
    marker, factors = frame_of(path)
    advice = "leave --jpeg out"
    if marker in ARITHMETIC:
        raise PictureError(
            f"{path}: is a JPEG with arithmetic coding, which --jpeg cannot read; {advice}"
        )
    if marker not in BASELINE_TO_PROGRESSIVE:
        raise PictureError(f"{path}: is a lossless or hierarchical JPEG; {advice}")
    if len(factors) == 4:
        raise PictureError(f"{path}: is a CMYK JPEG, which --jpeg cannot restore; {advice}")
    if len(factors) not in COLOUR_SPACES:
        raise PictureError(f"{path}: is a JPEG of {len(factors)} components; {advice}")
    if len(factors) == 1:
        return [(1, 1)]
    most = [max(one[axis] for one in factors) for axis in (0, 1)]
    if any(m % n for one in factors for m, n in zip(most, one)):
        raise PictureError(f"{path}: has chroma of a size that does not divide luma's; {advice}")
    return [(down, right) for right, down in factors]


def by_mcu(plane, blocks, mcus):
    """A component's blocks, (rows, columns, 8, 8), by MCU: (64 blocks of an MCU, R, C) float32.

    mcus: (R, C). Blocks that complete an MCU beyond the picture, and are in no file of this
    reader, get the mean of their neighbour and no other frequency, as encoders write them.
    """
    rows, columns = (n * count for n, count in zip(mcus, blocks))
    plane = plane[:rows, :columns]
    missing = [(0, rows - plane.shape[0]), (0, columns - plane.shape[1])]
    means = np.zeros_like(plane)
    means[..., 0, 0] = plane[..., 0, 0]
    whole = np.pad(means, (*missing, (0, 0), (0, 0)), mode="edge")
    whole[: plane.shape[0], : plane.shape[1]] = plane
    split = whole.reshape(mcus[0], blocks[0], mcus[1], blocks[1], BLOCK, BLOCK)
    by_place = np.ascontiguousarray(split.transpose(1, 3, 4, 5, 0, 2), np.float32)
    return torch.from_numpy(by_place).reshape(-1, *mcus)


def coefficients_of(path):
    """What jpeglib reads of a file. Raises UserError without jpeglib."""
    try:
        import jpeglib  # needed here only
    except ImportError as error:
        raise UserError(MISSING) from error
    try:
        stored = jpeglib.read_dct(os.fspath(path))
        stored.load()
    except Exception as error:  # anything its C library reports
        raise PictureError(f"{path}: its coefficients cannot be read ({error})") from error
    return stored


def quality_of(path):
    """The quality, 1 to 100, at which libjpeg's luma table is about a file's; None without one."""
    try:
        with Image.open(path) as opened:
            tables = getattr(opened, "quantization", None)
    except UNREADABLE:  # by Pillow; other libraries can
        return None
    if not tables:
        return None
    scale = 100 * sum(tables[min(tables)]) / LUMA_SUM
    return max(1, round(5000 / scale if scale > 100 else 100 - scale / 2))


def read_jpeg(path):
    """A file -> its StoredJPEG. Raises PictureError for a file that is no grey or colour JPEG, and
    UserError without jpeglib."""
    try:
        with Image.open(path) as opened:
            kind, size = opened.format, opened.size[::-1]
    except UNREADABLE as error:
        raise unreadable(path, error, f"an image ({error})") from error
    if kind not in FORMATS:
        raise PictureError(f"{path}: is {kind}, no JPEG; leave --jpeg out")
    blocks, stored = sampling_of(path), coefficients_of(path)
    space = getattr(stored.jpeg_color_space, "name", str(stored.jpeg_color_space))
    if space != COLOUR_SPACES[len(blocks)]:
        raise PictureError(f"{path}: stores other colours than Y, Cb and Cr; leave --jpeg out")
    planes = [np.asarray(getattr(stored, name)) for name in PLANES[: len(blocks)]]
    numbers = [int(n) for n in stored.quant_tbl_no[: len(blocks)]]
    steps = [torch.from_numpy(np.asarray(stored.qt[n], np.float32)) for n in numbers]
    sampling, grey = sampling_name(blocks), not any(plane.any() for plane in planes[1:])
    if grey:  # its chroma is zero everywhere, or it has none
        planes, steps, blocks = planes[:1], steps[:1], [(1, 1)]
    most = [BLOCK * max(one[axis] for one in blocks) for axis in (0, 1)]
    mcus = [-(-side // mcu) for side, mcu in zip(size, most)]
    ys = [by_mcu(plane, one, mcus) for plane, one in zip(planes, blocks)]
    ys[0][:: BLOCK**2] += MIDDLE / steps[0][0, 0]
    components = tuple(Component(*one) for one in zip(steps, blocks))
    return StoredJPEG(torch.cat(ys)[None], components, size, sampling, grey)

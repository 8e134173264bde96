"""Pictures of a run and of a table: grids and strips."""

import math
import os

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageDraw

from report.records import picture
from util.files import atomic

ROWS, CELL, LARGEST, PAD, CAPTION = 16, 192, 640, 4, 16


def measurement_picture(y):
    """A measurement as a picture, (1 | 3, H, W) in [-1, 1].

    A y of another shape becomes a square of its values, row by row, scaled to their range.
    """
    if y.dim() == 3 and len(y) in (1, 3):
        return y
    y = y.flatten().float()
    side = math.isqrt(len(y) - 1) + 1
    y = 2 * (y - y.min()) / (y.max() - y.min()).clamp(min=1e-20) - 1
    return F.pad(y, (0, side**2 - len(y)), value=1.0).reshape(1, side, side)


def kernel_picture(kernel):
    """(k, l) nonnegative -> (1, k, l) in [-1, 1], the largest value white."""
    return 2 * kernel[None] / kernel.max() - 1


def spread_picture(deviation):
    """A standard deviation at each px, (H, W) -> (1, H, W) in [-1, 1], zero black and the largest
    white."""
    return 2 * deviation[None] / deviation.max().clamp(min=1e-20) - 1


def fitted(image, side):
    """A picture resized to a longer side of `side` px: nearest when enlarged, else Lanczos."""
    size = [max(1, round(side * one / max(image.size))) for one in image.size]
    return image.resize(size, Image.NEAREST if max(image.size) <= side else Image.LANCZOS)


def in_8_bits(image):
    """A picture as 8-bit RGB without alpha; of 16 bits, Pillow alone would keep the lower 8."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def write_grid(directory, records):
    """grid.png: one row for each of the first ROWS images that have not failed.

    Columns: ground truth, measurement, final iterate with its PSNR; without a ground truth the
    measurement and the result. Pictures are enlarged to CELL px and reduced to LARGEST.
    """
    records = [(name, record) for name, record in records.items() if "failed" not in record][:ROWS]
    if not records:
        return
    known = any("psnr" in record for _, record in records)
    columns = ["origin", "measurement", "final"] if known else ["measurement", "result"]
    rows = [
        [in_8_bits(Image.open(picture(directory, name, column))) for column in columns]
        for name, _ in records
    ]
    cell = min(max(CELL, *(max(row[-1].size) for row in rows)), LARGEST)
    rows = [[fitted(one, cell) for one in row] for row in rows]
    heights = [max(one.height for one in row) for row in rows]
    width = len(columns) * (cell + PAD) + PAD
    canvas = Image.new("RGB", (width, CAPTION + sum(heights) + len(rows) * PAD), "white")
    draw = ImageDraw.Draw(canvas)
    for c, column in enumerate(columns):
        draw.text((PAD + c * (cell + PAD), 2), column, fill="black")
    top = CAPTION
    for row, height, (_, record) in zip(rows, heights, records):
        for c, one in enumerate(row):
            canvas.paste(one, (PAD + c * (cell + PAD), top))
        if known:
            corner = (PAD + (len(columns) - 1) * (cell + PAD) + 4, top + row[-1].height - 14)
            outline = {"fill": "white", "stroke_width": 2, "stroke_fill": "black"}
            draw.text(corner, f"{record['psnr'][-1]:.1f} dB", **outline)
        top += height + PAD
    with atomic(os.path.join(directory, "grid.png")) as tmp:
        canvas.save(tmp)


def write_strips(path, blocks):
    """Pictures in blocks, [(titles, rows of paths)], all resized to the same longer side."""
    side = max(128, min(LARGEST, Image.open(blocks[0][1][0][0]).width))
    width = max(len(titles) for titles, _ in blocks) * (side + PAD) + PAD
    height = sum(CAPTION + len(rows) * (side + PAD) + PAD for _, rows in blocks)
    canvas = Image.new("RGB", (width, height), "white")
    draw, top = ImageDraw.Draw(canvas), 0
    for titles, rows in blocks:
        for c, title in enumerate(titles):
            draw.text((PAD + c * (side + PAD), top + 2), title, fill="black")
        top += CAPTION
        for row in rows:
            for c, one in enumerate(row):
                canvas.paste(fitted(Image.open(one), side), (PAD + c * (side + PAD), top))
            top += side + PAD
        top += PAD
    with atomic(path) as tmp:
        canvas.save(tmp)

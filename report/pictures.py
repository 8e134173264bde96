"""The pictures of a run and of a table: grids and strips."""

import math
import os

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageDraw

from report.records import picture
from util.files import atomic

ROWS, CELL, LARGEST, PAD, CAPTION = 16, 192, 640, 4, 16


def measurement_picture(y):
    """A measurement as a picture, (1 | 3, H, W) in [-1, 1]: itself, or of another shape its values, scaled to their range, row after row in a
    square."""
    if y.dim() == 3 and len(y) in (1, 3):
        return y
    y = y.flatten().float()
    side = math.isqrt(len(y) - 1) + 1
    y = 2 * (y - y.min()) / (y.max() - y.min()).clamp(min=1e-20) - 1
    return F.pad(y, (0, side**2 - len(y)), value=1.0).reshape(1, side, side)


def kernel_picture(kernel):
    """(k, l), not negative, -> (1, k, l) in [-1, 1], its largest value white."""
    return 2 * kernel[None] / kernel.max() - 1


def fitted(image, side):
    """A picture whose longer side is `side` pixels: enlarged with hard pixels, or reduced smoothly."""
    size = [max(1, round(side * one / max(image.size))) for one in image.size]
    return image.resize(size, Image.NEAREST if max(image.size) <= side else Image.LANCZOS)


def in_8_bits(image):
    """A result's picture as the others are: of 16 bits Pillow would paste the lower 8, and opacity has no place in a grid."""
    image = (
        Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode.startswith("I")
        else image
    )
    return image.convert("RGB")


def write_grid(directory, records):
    """grid.png: a row an image (the first ROWS that have not failed), read back from images/<name>/: the truth where there is one,
    the measurement, and the last iterate with its PSNR or, without a truth, the chosen one. Pictures are enlarged to CELL pixels,
    and reduced only to LARGEST."""
    records = {name: record for name, record in records.items() if "failed" not in record}
    shown = {name: records[name] for name in list(records)[:ROWS]}
    if not shown:
        return
    known = any("psnr" in record for record in shown.values())
    columns = ["origin", "measurement", "final"] if known else ["measurement", "result"]
    rows = [
        [in_8_bits(Image.open(picture(directory, name, column))) for column in columns]
        for name in shown
    ]
    cell = min(max(CELL, *(max(row[-1].size) for row in rows)), LARGEST)
    rows = [[fitted(one, cell) for one in row] for row in rows]
    heights = [max(one.height for one in row) for row in rows]
    canvas = Image.new(
        "RGB",
        (len(columns) * (cell + PAD) + PAD, CAPTION + sum(heights) + len(rows) * PAD),
        "white",
    )
    draw = ImageDraw.Draw(canvas)
    for c, column in enumerate(columns):
        draw.text((PAD + c * (cell + PAD), 2), column, fill="black")
    top = CAPTION
    for row, height, record in zip(rows, heights, shown.values()):
        for c, one in enumerate(row):
            canvas.paste(one, (PAD + c * (cell + PAD), top))
        below = (PAD + (len(columns) - 1) * (cell + PAD) + 4, top + row[-1].height - 14)
        if known:
            draw.text(
                below,
                f"{record['psnr'][-1]:.1f} dB",
                fill="white",
                stroke_width=2,
                stroke_fill="black",
            )
        top += height + PAD
    with atomic(os.path.join(directory, "grid.png")) as tmp:
        canvas.save(tmp)


def write_strips(path, blocks):
    """A picture of blocks, [(titles, rows of paths of pictures)], each pasted at one size."""
    side = max(128, min(LARGEST, Image.open(blocks[0][1][0][0]).width))
    width = max(len(titles) for titles, _ in blocks) * (side + PAD) + PAD
    canvas = Image.new(
        "RGB", (width, sum(CAPTION + len(rows) * (side + PAD) + PAD for _, rows in blocks)), "white"
    )
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

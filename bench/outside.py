"""Pictures outside of a face prior's range, for the ablation of the sparse deviations.

    python -m bench.outside FACES FOLDER     # FACES: aligned faces, at least FIRST + 2 * EACH

Writes FOLDER/{writing,sticker,photograph,drawing}0 … 5.png, 64 x 64 px: faces with writing or a
sticker, photographs of scikit-image and scikit-learn, and line drawings (their edges).
"""

import numpy as np
from PIL import Image, ImageDraw
from skimage.color import rgb2gray
from skimage.feature import canny

from bench.photo_sets import PHOTOGRAPHS, SETS, cut
from util.cli import Parser, run_script, typed_path
from util.files import UserError, atomic
from util.images import list_images

SIDE, EACH, FIRST = 64, 6, 16  # px; pictures of a kind; the first face
CROP = 256  # px of a photograph, reduced to SIDE
WORDS = "hello", "2026", "STOP", "ok?", "yes!", "SALE"
COLOURS = "yellow", "red", "white", "black", "cyan", "lime"


def with_writing(face, n):
    """A face with a word across, 18 px high."""
    canvas = ImageDraw.Draw(face)
    canvas.text((SIDE / 2, 20 + 6 * n), WORDS[n], fill=COLOURS[n], anchor="mm", font_size=18)
    return face


def with_sticker(face, n):
    """A face with a disk of 16 px that carries a cross."""
    canvas, (x, y) = ImageDraw.Draw(face), (12 + 8 * n, 14 + 7 * (n % 4))
    canvas.ellipse((x - 8, y - 8, x + 8, y + 8), fill=COLOURS[n])
    for dx, dy in ((5, 5), (5, -5)):
        canvas.line((x - dx, y - dy, x + dx, y + dy), fill="blue", width=2)
    return face


def photograph(name):
    """A photograph's crop, SIDE x SIDE, RGB."""
    picture = PHOTOGRAPHS[name].load()
    crop = cut(picture, PHOTOGRAPHS[name].centre, CROP)
    return Image.fromarray(crop).convert("RGB").resize((SIDE, SIDE), Image.LANCZOS)


def drawing(photo):
    """The edges of a photograph, black on white."""
    edges = canny(rgb2gray(np.asarray(photo)), sigma=1)
    return Image.fromarray(np.where(edges, 0, 255).astype(np.uint8)).convert("RGB")


def main():
    parser = Parser(__doc__)
    parser.add_argument("faces", type=typed_path, help="folder of faces, 64 x 64 px")
    parser.add_argument("folder", type=typed_path, help="where the pictures are written")
    args = parser.parse_args()
    files = list_images(args.faces)[FIRST:][: 2 * EACH]
    if len(files) < 2 * EACH:
        raise UserError(f"{args.faces}: needs {FIRST + 2 * EACH} faces")
    faces = [Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.LANCZOS) for file in files]
    photographs = [photograph(name) for name in SETS["final"]]
    pictures = {
        "writing": [with_writing(face, n) for n, face in enumerate(faces[:EACH])],
        "sticker": [with_sticker(face, n) for n, face in enumerate(faces[EACH:])],
        "photograph": photographs,
        "drawing": [drawing(photo) for photo in photographs],
    }
    for kind, images in pictures.items():
        for n, image in enumerate(images):
            with atomic(f"{args.folder}/{kind}{n}.png") as tmp:
                image.save(tmp, "PNG")


if __name__ == "__main__":
    run_script(main)

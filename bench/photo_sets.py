"""Photographs for benchmarks: of scikit-image, scikit-learn and data/bench, in named sets."""

from collections import namedtuple

import numpy as np
import skimage.data
from PIL import Image

from util.files import UserError, project


def from_sklearn(file):
    try:
        from sklearn.datasets import load_sample_image  # needed here only
    except ImportError as error:
        raise UserError(
            f"{file}: is part of scikit-learn; pip install scikit-learn, or choose --photographs"
        ) from error
    return load_sample_image(file)


# load() -> (H, W) or (H, W, 3) uint8; centre: row and column of the crop's centre.
Photograph = namedtuple("Photograph", "load centre")


def from_bench(file):
    """A photograph of data/bench, 512 x 512 px."""
    path = f"data/bench/{file}"
    return Photograph(lambda: np.asarray(Image.open(project(path)).convert("RGB")), (256, 256))


PHOTOGRAPHS = {
    "camera": Photograph(skimage.data.camera, (184, 248)),
    "cat": Photograph(skimage.data.cat, (148, 228)),
    "china": Photograph(lambda: from_sklearn("china.jpg"), (208, 348)),
    "flower": Photograph(lambda: from_sklearn("flower.jpg"), (208, 338)),
    "motorcycle": Photograph(lambda: skimage.data.stereo_motorcycle()[0], (288, 368)),
    "rocket": Photograph(skimage.data.rocket, (208, 318)),
    "astronaut": Photograph(skimage.data.astronaut, (120, 220)),
    "hubble": Photograph(skimage.data.hubble_deep_field, (400, 400)),
    "page": Photograph(skimage.data.page, (95, 190)),
    "coffee": Photograph(skimage.data.coffee, (200, 300)),
    "retina": Photograph(skimage.data.retina, (700, 1000)),
    "coins": Photograph(skimage.data.coins, (150, 190)),
    "bridge": from_bench("files/Bridge_by_Sander_Klootwijk.png"),
    "picture": from_bench("files/Picture_1A_by_freespace.png"),
    "wine": from_bench("files/Wine_by_Jakkub_Mede.png"),
    "flowers": from_bench("files/flowers.png"),
    "lake": from_bench("files/lake-sherburne.png"),
    "cityscape": from_bench("files/singaporean-cityscape.png"),
    "desert": from_bench("denoising/extreme-desert-hike.png"),
    "fog": from_bench("denoising/fog.png"),
    "otters": from_bench("denoising/oakland-zoo-otters.png"),
    "mountains": from_bench("denoising/picosdeeuropa_by_Aitzol_Berasategi.png"),
    "colosseum": from_bench("denoising/roman-colosseum.png"),
    "seeding": from_bench("denoising/seeding_by_Clements_Engelhardt.png"),
}
SETS = {
    "final": ["camera", "cat", "china", "flower", "motorcycle", "rocket"],
    "tuning": ["astronaut", "hubble", "page"],
    "choosing": ["coffee", "retina", "coins"],
    "denoising": ["desert", "fog", "otters", "mountains", "colosseum", "seeding"],
    "files": ["bridge", "picture", "wine", "flowers", "lake", "cityscape"],
}


def cut(picture, centre, size):
    """size x size px around `centre`, shifted to lie within the picture; less if it is smaller."""
    corner = [max(0, min(c - size // 2, length - size)) for c, length in zip(centre, picture.shape)]
    return picture[tuple(slice(first, first + size) for first in corner)]

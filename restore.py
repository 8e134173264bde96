"""Restore photographs: fill holes, deblur, enlarge, denoise.

    python restore.py photo.jpg --mask holes.png      # holes where the mask is not white
    python restore.py photo.jpg --scale 2             # enlarge
    python restore.py photo.jpg --kernel kernel.png   # known blur; --blind 15: unknown blur
    python restore.py photo.jpg --jpeg                # undo a JPEG's compression
    python restore.py photos/ --preset quick          # denoise all images of a folder

The results are in restored/<time>/; report.html there compares them with the photographs. The
subfolder run/ contains masks, iterates and records. From Python: `from restore import restore`.
"""

from functools import partial

from experiment.library import restore  # noqa: F401  `from restore import restore`
from experiment.methods import load_method
from experiment.runner import run
from photographs.arguments import parse_photographs
from photographs.problems import Photographs
from util.cli import run_script


def main():
    args, options, method = parse_photographs(__doc__)
    run(args, load_method(method), partial(Photographs, options))


if __name__ == "__main__":
    run_script(main)

"""HTML pages from the templates: escaping, number formats, relative addresses."""

import base64
import functools
import hashlib
import os
from collections import namedtuple
from urllib.parse import quote

import jinja2
from PIL import Image

from report.charts import CHART, TITLES
from report.records import WHICH
from util.files import write_text

VIEW = 384  # px, approximate longer side of the picture under the slider
DECIMALS = {"psnr": 2, "ssim": 3, "lpips_alex": 4, "residual": 4}
TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")

Picture = namedtuple("Picture", "label src note", defaults=("",))  # src: a relative address


def source(file):
    with open(os.path.join(TEMPLATES, file), encoding="utf-8") as f:
        return f.read()


def figure(value, key):
    return "" if value is None else f"{value:.{DECIMALS[key]}f}"


@functools.cache
def environment():
    """The templates, which escape every text, with what all of them use.

    The Content-Security-Policy names the script by its hash, so no other script can run.
    """
    script = source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    options = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    jinja = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), **options)
    jinja.filters["figure"] = figure
    jinja.globals.update(digest=digest, script=script, style=source("page.css"))
    jinja.globals.update(titles=TITLES, which=WHICH, chart=CHART)
    return jinja


def write_page(path, template, **content):
    write_text(path, environment().get_template(template).render(**content))


def link(path, start):
    """The relative address of a file from a page in the folder `start`, for any file name."""
    relative = os.path.relpath(path, start).replace(os.sep, "/")
    return quote(os.fsencode(relative))  # also a colon, which would start a URL scheme


def size_of(path):
    """(width, height) of a picture, None if it is missing."""
    try:
        with Image.open(path) as image:
            return image.size
    except OSError:
        return None


def slider_size(size):
    """A picture's {"size", "width", "enlarged"} under the slider, enlarged by whole numbers only.

    size: (width, height), or None for a square. width: in px on the page.
    """
    size = size or (1, 1)
    factor = VIEW / max(size)
    return {
        "size": size,
        "width": round(size[0] * (round(factor) if factor >= 1 else factor)),
        "enlarged": factor >= 1,
    }

"""Which file of --mask or --kernel belongs to a photograph."""

import os
import re
from unicodedata import normalize

from util.files import UserError
from util.images import is_image_name, listed

# Names of masks, by LaMa (a_mask, a_mask001) and by others.
MASK_NAME = re.compile(r"(.+?)[-_.](?:inpaint_?)?mask[-_]?\d*", re.IGNORECASE)


def stem_of(file):
    """A file's name without suffix, its accents composed: file systems and archives differ."""
    return normalize("NFC", os.path.splitext(file)[0])


def owner(stem):
    """The image of a mask by its name without suffix: a_mask001 -> a; None for other names."""
    match = MASK_NAME.fullmatch(stem)
    return match[1] if match else None


def without_masks(names):
    """The names of images that are no mask of another one among them."""
    stems = {stem_of(name) for name in names}
    return [name for name in names if owner(stem_of(name)) not in stems]


def _candidates(folder, stem, path, option):
    """The files in a folder for the photograph `path`, called `stem`; exact names only, if there
    are any."""
    files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    files = [file for file in files if is_image_name(file) or file.lower().endswith(".npy")]
    exact = [file for file in files if stem_of(file) == stem]
    named = [file for file in files if option == "mask" and owner(stem_of(file)) == stem]
    chosen = ([os.path.join(folder, file) for file in some] for some in (exact, named))

    def is_other(file):
        return os.path.isfile(file) and not os.path.samefile(file, path)

    return next(filter(None, ([*filter(is_other, files)] for files in chosen)), [])


def file_for(option, given, path, name):
    """The file of --mask or --kernel for the photograph `path`, called `name` in the run.

    It is `given` or, in that folder, a file with the photograph's path or its name or, of a mask,
    its name and _mask. Raises UserError if there is none, if there are several, or if it is the
    photograph.
    """
    if not os.path.isdir(given):
        if os.path.exists(given) and os.path.exists(path) and os.path.samefile(given, path):
            raise UserError(f"--{option} {given}: is the photograph itself; name another file")
        return given
    folder, stem = os.path.split(normalize("NFC", name))
    for below in dict.fromkeys((os.path.dirname(name), folder, "")):
        files = _candidates(os.path.join(given, below), stem, path, option)
        if len(files) > 1:
            several = listed([os.path.basename(file) for file in files])
            raise UserError(
                f"--{option} {given}: has several {option}s for {path} ({several}); leave one there"
            )
        if files:
            return files[0]
    names = f"{stem} or {stem}_mask" if option == "mask" else stem
    raise UserError(
        f"--{option} {given}: has no file called {names}, image or .npy, for {path}; put it there "
        "or name one file for all"
    )

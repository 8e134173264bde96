"""The command line of restore.py: `Options` of photographs, in addition to a run's `Arguments`."""

import dataclasses

from experiment.arguments import (
    Arguments,
    add_method,
    add_run,
    add_slice,
    check_seed,
    model_file,
    select_fields,
)
from experiment.methods import METHODS, load_method
from experiment.presets import load_presets, load_row
from experiment.recommended import recommended
from guided_diffusion.kernels import FAMILIES, FILTERS
from photographs.problems import photograph_files
from photographs.reading import is_transparent
from solvers.defects import THRESHOLD, WIDEST
from util.cli import Parser, number, typed_path
from util.files import UserError

LARGEST_MARK = 9  # px, of --widest
PRIOR = "photo"  # the default, for photographs of any kind
# The task of a photograph by the option given with it.
MEASURED_TASKS = {
    "jpeg": "jpeg",
    "scale": "super_resolution",
    "mask": "inpainting",
    "defects": "inpainting",
    "infrared": "inpainting",
    "kernel": "motion_deblur",
    "blind": "blind_deblur",
    None: "denoising",
}
# Options that require one of others.
REQUIRES = {
    "flip_kernel": ("kernel",),
    "centre_kernel": ("kernel",),
    "invert_mask": ("mask",),
    "grow": ("mask", "defects", "infrared"),
    "widest": ("defects",),
    "threshold": ("defects",),
    "filter": ("scale",),
    "linear": ("kernel", "blind", "scale"),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is known about photographs, see `restore.py --help`; None: not given.

    transparent: all files have transparent areas and no option names the task: these are holes.
    by_method: the method estimates the kernel of --blind; else it is estimated before.
    """

    photographs: tuple
    mask: str | None = None
    kernel: str | None = None
    blind: int | str | None = None
    scale: int | None = None
    invert_mask: bool = False
    grow: int | None = None
    keep_observed: bool = False
    flip_kernel: bool = False
    centre_kernel: bool = False
    filter: str | None = None
    linear: bool = False
    jpeg: bool = False
    defects: bool = False
    widest: int | None = None
    threshold: float | None = None
    infrared: bool = False
    noise: str | None = None
    transparent: bool = False
    by_method: bool = False

    @property
    def given(self):
        """The option that determines the task: with --kernel and --scale, the latter, with --jpeg
        this; or None."""
        options = (key for key in MEASURED_TASKS if key)
        return next((key for key in options if getattr(self, key) not in (None, False)), None)

    @property
    def task(self):
        given = "mask" if self.transparent else self.given
        found_before = given == "blind" and not self.by_method
        return MEASURED_TASKS["kernel" if found_before else given]

    def refuse(self):
        """Raise UserError for an option that requires another one, or excludes it."""
        for option, required in REQUIRES.items():
            if getattr(self, option) and not any(
                getattr(self, one) not in (None, False) for one in required
            ):
                names = " or ".join(f"--{one}" for one in required)
                raise UserError(f"--{option.replace('_', '-')}: requires {names}")
        is_holed = MEASURED_TASKS[self.given] == "inpainting" or self.transparent
        if self.keep_observed and not is_holed:
            raise UserError("--keep-observed: there are no holes to fill; name them with --mask")
        for other in ("mask", "defects", "infrared", "blind"):
            if self.scale is not None and getattr(self, other) not in (None, False):
                raise UserError(
                    f"--scale: not with --{other}, only alone or with --kernel or --jpeg; restore "
                    "one after the other"
                )


def blind_kind(text):
    """The argparse type of --blind: a family of kernels, or the largest kernel's side in px."""
    return text if text in FAMILIES else number(int, 3)(text)


blind_kind.__name__ = f"{', '.join(FAMILIES)} or int"  # in argparse's message


def add_photographs(parser):
    """The photographs and what is known about their damage."""
    group = parser.add_argument_group("photographs and their damage")
    add = group.add_argument
    add(
        "photographs",
        type=typed_path,
        metavar="PHOTO",
        nargs="+",
        help="files or folders; they are denoised unless an option below names other damage",
    )
    damage = group.add_mutually_exclusive_group().add_argument
    damage(
        "--mask",
        type=typed_path,
        metavar="FILE|DIR",
        help="mask that is white where the photograph is intact (inpainting), or a folder with the "
        "mask of a.jpg as a.png or a_mask.png; without a mask, transparent areas are missing",
    )
    damage(
        "--defects",
        action="store_true",
        help="px that no noise explains (hot pixels, salt and pepper, specks) are found and "
        "restored as missing; see run/images/<name>/mask.png; scratches need a --mask",
    )
    damage(
        "--infrared",
        action="store_true",
        help="scans of film, TIFFs of R, G, B and infrared: dust, dark in infrared, is missing",
    )
    damage(
        "--kernel",
        type=typed_path,
        metavar="FILE|DIR",
        help="blur kernel (deblurring): an image or .npy file, applied as a cross-correlation, "
        "y[i] = sum_j k[j] x[i + j - centre]; or a folder with a kernel for each photograph, named "
        'like it; or "disk RADIUS", "motion LENGTH ANGLE" or "gauss SIGMA", in px and degrees',
    )
    damage(
        "--blind",
        type=blind_kind,
        metavar="PX|KIND",
        help="estimate an unknown blur kernel from the edges of the photograph: its largest side "
        f"in px (even numbers are reduced by one), or its kind, one of {', '.join(FAMILIES)}",
    )
    damage(
        "--jpeg",
        action="store_true",
        help="undo the compression of JPEGs: the result agrees with the coefficients in the file "
        "to within half a quantisation step (needs jpeglib)",
    )
    add(
        "--scale",
        type=number(int, 2),
        help="enlarge by this factor (super-resolution); with --kernel the photograph was blurred "
        "before it was reduced, with --jpeg it was compressed after it was reduced",
    )
    add(
        "--invert-mask",
        action="store_true",
        help="the mask is white where the photograph is missing, as in other programs",
    )
    add(
        "--grow", type=number(int, 1), metavar="PX", help="enlarge the holes by PX px on every side"
    )
    add(
        "--widest",
        type=number(int, 1, LARGEST_MARK),
        metavar="PX",
        help=f"of --defects: the widest mark (default {WIDEST}); 3 for specks",
    )
    add(
        "--threshold",
        type=number(float, 1),
        help="of --defects: how far a px must differ from its neighbours and from the network's "
        f"picture, in units of the detail and noise there (default {THRESHOLD:g}); larger: fewer",
    )
    add(
        "--keep-observed",
        action="store_true",
        help="leave everything outside the holes unchanged, including noise",
    )
    add(
        "--flip-kernel",
        action="store_true",
        help="rotate the kernels by 180 degrees, if they are meant for convolution",
    )
    add(
        "--centre-kernel",
        action="store_true",
        help="shift the kernel's centre of mass to its middle, so that the result is not shifted",
    )
    add(
        "--filter",
        choices=tuple(FILTERS),
        help="filter by which the photograph was reduced: bicubic (MATLAB, Pillow; default), "
        "lanczos (Pillow), area (means of squares, OpenCV's INTER_AREA), cubic (no antialiasing, "
        "OpenCV's INTER_CUBIC), nearest (every N-th px)",
    )
    add(
        "--noise",
        type=typed_path,
        metavar="FILE",
        help="photograph of an even surface with the same camera settings, from which the noise is "
        "measured; dark to bright, it also shows how noise varies with brightness",
    )
    add(
        "--linear",
        action="store_true",
        help="the photograph was blurred or reduced in linear light, as by a lens and a sensor; "
        "the result is in sRGB",
    )


def choose_method(given, task):
    """(the method's name, its preset) of parsed arguments: by --method and its --preset, or by a
    --preset of configs/restore.yaml."""
    if given.method is None:
        preset = given.preset or ("posterior" if given.samples > 1 else "fast")
        return recommended(preset, task, given.dataset)
    presets = list(map(str, load_presets(given.method)))
    return given.method, given.preset or ("fast" if "fast" in presets else presets[0])


def is_by_method(given):
    """Whether the chosen method estimates the kernel of --blind itself: it can, and it was named or
    has a prior of one kind of picture."""
    method, preset = choose_method(given, MEASURED_TASKS["blind"])
    named = given.method is not None or given.dataset != PRIOR
    row = load_row(load_method(method), MEASURED_TASKS["blind"], preset, dataset=given.dataset)
    return named and row.fits_operator and given.blind not in FAMILIES


def parse_photographs(doc):
    """The command line of restore.py -> (Arguments, Options, the method's name). Raises UserError
    for an unknown option, a value out of range and options that contradict each other."""
    parser = Parser(doc)
    add_photographs(parser)
    add = parser.add_argument_group("how to restore them").add_argument
    add(
        "--preset",
        help="quick, fast, sharp or posterior, see configs/restore.yaml (default: fast, or "
        "posterior with --samples); with --method, a preset of configs/<method>.yaml",
    )
    add("--method", choices=METHODS, metavar="NAME", help=f"one of {', '.join(METHODS)}")
    add(
        "--prior",
        "--dataset",
        dest="dataset",
        default=PRIOR,
        help=f"the prior, configs/model_config_<prior>.yaml (default {PRIOR})",
    )
    add_slice(parser, None, "all")
    add_method(parser, "the method's preset")
    add_run(
        parser,
        "./restored",
        "<logdir>/<name>",
        None,
        "GPU 0 if there is a usable one, else the CPU",
    )
    given = parser.parse_args()
    check_seed(given)
    options = select_fields(Options, vars(given), photographs=tuple(given.photographs))
    if options.given is None:
        transparent = {*map(is_transparent, photograph_files(options)[0])} - {None}
        options = dataclasses.replace(options, transparent=transparent == {True})
    options.refuse()
    if options.blind is not None:
        options = dataclasses.replace(options, by_method=is_by_method(given))
    if options.noise and (given.sigma or options.jpeg):
        raise UserError(f"--noise: not with {'--jpeg' if options.jpeg else '--sigma'}")
    for option in ("sigma", "linear") if options.jpeg else ():
        if getattr(given, option):
            raise UserError(f"--{option}: not with --jpeg, whose tables say what was lost of sRGB")
    method, preset = choose_method(given, options.task)
    model_config = model_file(given.dataset)
    return (
        select_fields(
            Arguments, vars(given), task=options.task, preset=preset, model_config=model_config
        ),
        options,
        method,
    )

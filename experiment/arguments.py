"""The command lines of the scripts, checked before anything is loaded."""

import time

from experiment.presets import load_presets
from experiment.stop import RULES
from guided_diffusion.ddim import TRAINING_STEPS
from guided_diffusion.kernels import FILTERS
from photographs.problems import measured_files
from photographs.reading import is_transparent
from util.cli import Parser, folder_name, number, typed_path
from util.config import Section, config_path, load_yaml
from util.files import UserError, project
from util.rng import LAST_SEED

# What a measured picture's task is by the option that comes with it.
MEASURED_TASKS = {
    "scale": "super_resolution",
    "mask": "inpainting",
    "kernel": "motion_deblur",
    "blind": "blind_deblur",
    None: "denoising",
}
# Options that say more of another one's files.
BELONGS_TO = {
    "flip_kernel": ("kernel",),
    "centre_kernel": ("kernel",),
    "invert_mask": ("mask",),
    "grow": ("mask",),
    "filter": ("scale",),
    "linear": ("kernel", "blind", "scale"),
}


def task_file(dataset, task):
    """The task file that --task means with --dataset; a data set may have its own variant: the demo's 64 px pictures need smaller blur kernels."""
    return config_path(
        "task", task, "configs/tasks/{}_config.yaml", f"configs/tasks/{dataset}/{{}}_config.yaml"
    )


def operator_name(path):
    """The name of a task file's operator."""
    return (
        Section(load_yaml(path), path).section("measurement").section("operator").take("name", str)
    )


def refuse_alone(args):
    """Raise UserError for an option that means nothing without another one, or not with it."""
    for option, needed in BELONGS_TO.items():
        if getattr(args, option) and not any(getattr(args, one) is not None for one in needed):
            names = " or ".join(f"--{one}" for one in needed)
            raise UserError(f"--{option.replace('_', '-')}: belongs to {names}, which is not given")
    if args.keep_observed and args.mask is None and not args.transparent:
        raise UserError("--keep-observed: there are no holes to fill; name them with --mask")
    if args.scale is not None and (args.mask is not None or args.blind is not None):
        other = "mask" if args.mask is not None else "blind"
        raise UserError(
            f"--scale: not with --{other}, only alone or with --kernel; restore one after the other"
        )


def infer_task(args):
    """Complete the arguments of a run on measured pictures, `--task` by what is given beside them. Raises UserError for options that
    contradict each other."""
    given = [option for option in MEASURED_TASKS if option and getattr(args, option) is not None]
    args.transparent = False
    if not args.measured:
        for option in given + [
            option for option in (*BELONGS_TO, "keep_observed") if getattr(args, option)
        ]:
            raise UserError(
                f"--{option.replace('_', '-')}: belongs to a picture that was measured; name it with --measured"
            )
        args.task, args.number = args.task or "super_resolution", args.number or 10
        args.data = args.data or project(f"data/{args.dataset}")
        return
    for option in ("data", "resize"):
        if getattr(args, option):
            raise UserError(
                f"--{option}: is for pictures that a run degrades itself; with --measured leave it out"
            )
    # A hole that was rubbed out needs no mask.
    args.transparent = not given and any(map(is_transparent, measured_files(args)[0]))
    refuse_alone(args)
    inferred = MEASURED_TASKS["mask" if args.transparent else given[0] if given else None]
    task = args.task or inferred
    if operator_name(task_file(args.dataset, task)) != operator_name(
        task_file(args.dataset, inferred)
    ):
        means = (
            f"--{given[0]} means"
            if given
            else "none of --mask, --kernel, --blind and --scale means"
        )
        raise UserError(
            f"--task {task}: contradicts what is given, for {means} {inferred}; leave --task out"
        )
    args.task = task


def add_pictures(parser):
    """The options that say what is restored."""
    add, count = (
        parser.add_argument_group("which pictures, which task").add_argument,
        number(int, 1),
    )
    add(
        "--dataset",
        help="configs/model_config_<dataset>.yaml says which prior (default demo, faces; with --measured photo, photographs)",
    )
    add(
        "-t",
        "--task",
        help="configs/tasks/<task>_config.yaml (default super_resolution; with --measured: what is given beside it)",
    )
    add("--data", type=typed_path, metavar="DIR", help="folder of images (default data/<dataset>)")
    add(
        "--resize",
        action="store_true",
        help="cut the middle square out of the images and scale it to the prior's size",
    )
    add(
        "-n",
        "--number",
        type=count,
        help="how many of the images, sorted by name, 2 before 10 (default 10, of measured ones all)",
    )
    add(
        "-bn",
        "--begin_number",
        type=number(int, 0),
        default=0,
        help="first of those to take (default 0)",
    )
    add(
        "-en",
        "--end_number",
        type=number(int, -1),
        default=-1,
        help="one past the last (default -1: all)",
    )
    add(
        "--batch-size",
        type=count,
        help="images at once (default: what fits on the GPU, or pays on the CPU); changes "
        "results by rounding only",
    )


def add_photographs(parser, usual):
    """The options of photographs and other measurements. usual: the preset that they take if nobody says."""
    group = parser.add_argument_group(
        "photographs and other pictures to restore, whose truth nobody knows"
    )
    add = group.add_argument
    add(
        "--measured",
        type=typed_path,
        metavar="FILE|DIR",
        nargs="+",
        help="photographs to restore, whose truth nobody knows; beside them --mask, "
        "--kernel, --blind or --scale, without which they are denoised; without --preset then: "
        + usual,
    )
    beside = group.add_mutually_exclusive_group().add_argument
    beside(
        "--mask",
        type=typed_path,
        metavar="FILE|DIR",
        help="where it is not white, pixels are missing (inpainting); a folder: by the "
        "picture's name, a.png or a_mask.png. Without it, what is transparent is missing",
    )
    beside(
        "--kernel",
        type=typed_path,
        metavar="FILE|DIR",
        help="picture or .npy of the kernel it is blurred by, as a cross-correlation: "
        "y[i] = sum_j k[j] x[i + j - centre] (deblurring); a folder: by the picture's name",
    )
    beside(
        "--blind",
        type=number(int, 3),
        metavar="PIXELS",
        help="it is blurred by a kernel that nobody knows, of at most so many pixels a side "
        "(odd; an even number counts as the one below): kernel and picture are found together",
    )
    add(
        "--scale",
        type=number(int, 2),
        help="enlarge it so many times (super-resolution); with --kernel: it was blurred, then reduced",
    )
    add(
        "--invert-mask",
        action="store_true",
        help="the mask is white where pixels are missing, as other programs have it",
    )
    add(
        "--grow",
        type=number(int, 1),
        metavar="PIXELS",
        help="let the mask's holes grow by so much on every side",
    )
    add(
        "--keep-observed",
        action="store_true",
        help="measured pixels stay as they are in the photograph, noise included; only holes are filled",
    )
    add(
        "--flip-kernel",
        action="store_true",
        help="the kernel files mean a convolution: turn them by 180 degrees",
    )
    add(
        "--centre-kernel",
        action="store_true",
        help="move a kernel's centre of mass to its middle, so that the result does not move",
    )
    add(
        "--filter",
        choices=tuple(FILTERS),
        help="how the picture was reduced: bicubic (MATLAB's and Pillow's, default), lanczos (Pillow's), area "
        "(means of squares: OpenCV's INTER_AREA), cubic (without antialiasing: OpenCV's INTER_CUBIC), nearest (each N-th pixel)",
    )
    add(
        "--linear",
        action="store_true",
        help="blur and reduction were made in linear light, as a lens and a sensor do; the result is sRGB again",
    )
    add(
        "--sigma",
        type=number(float, 0, 1),
        help="the noise's standard deviation in units of [-1, 1] (2 of them are 255 "
        "levels); default: the task file's noise, of measured pictures an estimate; the methods are told it",
    )


def add_method(parser, method, presets):
    """The options that say how it is restored."""
    add, count = parser.add_argument_group("the method").add_argument, number(int, 1)
    add(
        "--preset",
        help=f"one of {', '.join(presets)}, the tables of hyperparameters in configs/{method}.yaml (default "
        f"{''.join(presets[:1])})",
    )
    add(
        "--outer",
        type=count,
        help=f"outer iterations (default: the task's row in configs/{method}.yaml)",
    )
    add("--inner", type=count, help="steps a layer and outer iteration (default: likewise)")
    add(
        "-c",
        "--custom_steps",
        type=number(int, 1, TRAINING_STEPS),
        help="DDIM steps, the layers of the chain (default: likewise; published: 3)",
    )
    add(
        "-e",
        "--eta",
        type=number(float, 0, 1),
        default=0.0,
        help="DDIM's noise (default 0: deterministic)",
    )
    add(
        "--seed",
        type=number(int, 0, LAST_SEED),
        default=123,
        help="seed of every image's draws (default 123)",
    )
    add(
        "--samples",
        type=count,
        default=1,
        metavar="K",
        help="restore each measurement K times: each, their mean, their spread by pixel and an "
        "interval for each value, which is right for the preset posterior (default 1)",
    )
    add(
        "--stop",
        choices=tuple(RULES),
        default="discrepancy",
        help="how `chosen`, the iterate of a run that stops without knowing the truth, is "
        "chosen: the first whose residual is at most 1.05 sigma (default), or the one whose residual is whitest, which needs no sigma",
    )
    add("--fid", action="store_true", help="add FID to the summary")
    add(
        "--summarize",
        action="store_true",
        help="restore nothing, write the summary of what a --name NAME has finished",
    )


def add_run(parser, method):
    """The options that say where it is computed and where results go."""
    add, count = parser.add_argument_group("the run").add_argument, number(int, 1)
    add(
        "-l",
        "--logdir",
        type=typed_path,
        default=f"./{method}",
        help=f"where results go (default ./{method})",
    )
    add(
        "--name",
        "--run",
        type=folder_name,
        default=time.strftime("%Y-%m-%d_%H-%M-%S"),
        help="the run's folder in "
        "<logdir>/<dataset>/<task>/ (default: the time); given again, the run goes on where it was stopped",
    )
    add(
        "--precision",
        choices=("fp32", "tf32", "bf16"),
        help="of the network (default: on a GPU tf32, as the published code computes there, "
        "on the CPU fp32; bf16 for large pictures on a processor that computes in it)",
    )
    add(
        "--tile",
        type=count,
        metavar="PIXELS",
        help="side of the overlapping tiles in which larger pictures pass the network "
        "(default: the whole picture or, where memory is short, what fits)",
    )
    add(
        "--compile",
        action="store_true",
        help="compile the network: a minute or more at the start, faster steps on a GPU",
    )
    add("--cuda", type=number(int, -1), default=0, help="GPU number; -1: the CPU (default 0)")


def parse_arguments(doc, method):
    """The arguments of dmilo.py and dmilo-pgd.py. Raises UserError for one that is unknown or out of range.

    Adds `model_config` and `task_config`, the paths that --dataset and --task mean; the defaults of a run on measured pictures are
    others (`infer_task`).
    """
    parser = Parser(doc)
    presets = list(map(str, load_presets(method)))
    usual = (
        "fast" if "fast" in presets else "".join(presets[:1])
    )  # of measured pictures, which are larger
    add_pictures(parser)
    add_photographs(parser, usual)
    add_method(parser, method, presets)
    add_run(parser, method)
    args = parser.parse_args()

    if args.seed + args.samples - 1 > LAST_SEED:
        parser.error(
            f"argument --seed: with {args.samples} samples, whose seeds follow it, must be {LAST_SEED + 1 - args.samples} at most"
        )
    args.dataset = args.dataset or ("photo" if args.measured else "demo")
    args.model_config = config_path("dataset", args.dataset, "configs/model_config_{}.yaml")
    infer_task(args)
    args.task_config = task_file(args.dataset, args.task)
    args.preset = (
        (usual if args.measured else "".join(presets[:1])) if args.preset is None else args.preset
    )
    return args

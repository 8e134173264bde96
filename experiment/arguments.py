"""The command lines of the methods, parsed into `Arguments` and checked before anything loads."""

import argparse
import dataclasses

from experiment.methods import PAPER
from experiment.presets import load_presets
from experiment.stop import RULES
from guided_diffusion.ddim import TRAINING_STEPS
from util.cli import Parser, folder_name, number, typed_path
from util.config import Section, config_path, load_yaml, parse_setting
from util.files import UserError, project
from util.rng import LAST_SEED


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The options of a run, as the command line states them; None: not given. See `--help`.

    model_config, task_config: the paths that dataset and task name.
    """

    dataset: str
    task: str
    preset: str | None = None
    data: str | None = None
    resize: bool = False
    number: int | None = None
    begin_number: int = 0
    end_number: int = -1
    batch_size: int | None = None
    outer: int | None = None
    inner: int | None = None
    custom_steps: int | None = None
    set: tuple = ()
    eta: float = 0.0
    sigma: float | None = None
    seed: int = 123
    seed_each: bool = False
    samples: int = 1
    stop: str = "discrepancy"
    fid: bool = False
    summarize: bool = False
    logdir: str = "."
    name: str | None = None
    precision: str | None = None
    tile: int | None = None
    compile: bool = False
    cuda: int | None = None
    model_config: str | None = None
    task_config: str | None = None

    @property
    def changed(self):
        """{dotted key: value} of the row's keys that the command line replaces."""
        given = {"outer": self.outer, "inner": self.inner, "chain_steps": self.custom_steps}
        return {
            **{key: value for key, value in given.items() if value is not None},
            **dict(self.set),
        }


def select_fields(kind, values, **more):
    """A dataclass `kind` from those of the values that are its fields."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in {**values, **more}.items() if key in names})


def task_file(dataset, task):
    """The task file of --task; a data set may have its own variant, like demo, whose 64 px images
    need smaller blur kernels."""
    return config_path(
        "task", task, "configs/tasks/{}_config.yaml", f"configs/tasks/{dataset}/{{}}_config.yaml"
    )


def model_file(dataset):
    return config_path("dataset", dataset, "configs/model_config_{}.yaml")


def operator_name(path):
    """The name of a task file's operator."""
    measurement = Section(load_yaml(path), path).section("measurement")
    return measurement.section("operator").take("name", str)


def add_images(parser):
    """--dataset, --task and where the images of a simulated task are."""
    add = parser.add_argument_group("images and task").add_argument
    add(
        "--dataset",
        default="demo",
        help="the prior, configs/model_config_<dataset>.yaml (default demo: faces)",
    )
    add(
        "-t",
        "--task",
        default="super_resolution",
        help="configs/tasks/<task>_config.yaml (default super_resolution)",
    )
    add("--data", type=typed_path, metavar="DIR", help="folder of images (default data/<dataset>)")
    add(
        "--resize",
        action="store_true",
        help="crop the images to their central square and scale it to the prior's size",
    )
    add_slice(parser, 10, "10")


def add_slice(parser, count, default):
    """-n, -bn, -en and --batch-size."""
    add = parser.add_argument_group("selection of images").add_argument
    add(
        "-n",
        "--number",
        type=number(int, 1),
        default=count,
        help=f"number of images, sorted by name, 2 before 10 (default {default})",
    )
    add(
        "-bn",
        "--begin_number",
        type=number(int, 0),
        default=0,
        help="index of the first image (default 0)",
    )
    add(
        "-en",
        "--end_number",
        type=number(int, -1),
        default=-1,
        help="index after the last image (default -1: to the end)",
    )
    add(
        "--batch-size",
        type=number(int, 1),
        help="images restored at once (default: chosen by the memory of the GPU, or by speed on "
        "the CPU); affects results by rounding only",
    )


def add_method(parser, row):
    """The options of how images are restored. row: where the defaults are, for --help."""
    add, count = parser.add_argument_group("the method").add_argument, number(int, 1)
    add("--outer", type=count, help=f"outer iterations (default: {row})")
    add("--inner", type=count, help="steps per layer and outer iteration (default: the preset's)")
    add(
        "-c",
        "--custom_steps",
        type=number(int, 1, TRAINING_STEPS),
        help="DDIM steps, the layers of the chain (default: the preset's; published: 3)",
    )
    add(
        "--set",
        type=setting,
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="replace values of the preset's row, such as lr_nu=0, restarts.count=1, init=null",
    )
    add(
        "-e",
        "--eta",
        type=number(float, 0, 1),
        default=0.0,
        help="noise scale of DDIM (default 0: deterministic)",
    )
    add(
        "--sigma",
        type=number(float, 0, 1),
        help="standard deviation of the noise for images in [-1, 1], where 2/255 is one grey level "
        "(default: as in the task file; for photographs it is estimated)",
    )
    add("--seed", type=number(int, 0, LAST_SEED), default=123, help="random seed (default 123)")
    add(
        "--seed-each",
        action="store_true",
        help="give each image its own seed, computed from its name; by default all images share "
        "one mask and one noise realisation, as in the published code",
    )
    add(
        "--samples",
        type=count,
        default=1,
        metavar="K",
        help="restore each measurement K times and also save mean, spread and intervals of the "
        "samples; the intervals are calibrated for posterior sampling (default 1)",
    )
    add(
        "--stop",
        choices=tuple(RULES),
        default="discrepancy",
        help="rule that chooses an iterate without ground truth. discrepancy, the default: the "
        "first whose residual is at most 1.05 sigma; whiteness: the one with the whitest residual",
    )
    add(
        "--summarize",
        action="store_true",
        help="do not restore; write the summary of the images that --name NAME has finished",
    )


def add_run(parser, logdir, folder, cuda, device):
    """The options of where to compute and where to write.

    logdir: default of --logdir; folder: of a run in it, for --help; cuda, device: the default of
    --cuda, as a value and in words.
    """
    add = parser.add_argument_group("the run").add_argument
    add(
        "-l",
        "--logdir",
        type=typed_path,
        default=logdir,
        help=f"folder of results (default {logdir})",
    )
    add(
        "--name",
        "--run",
        type=folder_name,
        help=f"the run's folder, {folder} (default: the time); repeat it to resume the run",
    )
    add(
        "--precision",
        choices=("fp32", "tf32", "bf16"),
        help="precision of the network (default: tf32 on a GPU, as in the published code, and "
        "fp32 on the CPU); bf16 is for large images on processors that support it",
    )
    add(
        "--tile",
        type=number(int, 1),
        metavar="PX",
        help="side of the overlapping tiles in which the network processes larger images (default: "
        "the whole image, or the largest tile that fits into memory)",
    )
    add(
        "--compile",
        action="store_true",
        help="compile the network: takes a minute or more, speeds up steps on a GPU",
    )
    add(
        "--cuda",
        type=number(int, -1),
        default=cuda,
        help=f"GPU number; -1: the CPU (default {device})",
    )


def setting(text):
    """The argparse type of --set: KEY=VALUE -> (key, value)."""
    try:
        return parse_setting(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, not {text}") from error


class Moved(argparse.Action):
    """A removed option: raises UserError, naming its replacement."""

    def __call__(self, parser, namespace, values, option=None):
        raise UserError(
            f"{option}: photographs are restored by restore.py now: python restore.py photo.jpg "
            "--mask holes.png"
        )


def refuse_moved(method, preset):
    """Raise UserError for a preset of the past that is a method of its own now."""
    samplers = {
        "quick": "python -m samplers.pnp, for super-resolution python -m samplers.antithetic",
        "posterior": "python -m samplers.posterior",
    }
    if method in PAPER and preset in samplers:
        raise UserError(
            f"--preset {preset}: is a method of its own now, {samplers[preset]}; for photographs "
            f"python restore.py --preset {preset}"
        )


def check_seed(args):
    """Raise UserError where a sample's seed would be too large."""
    if args.seed + args.samples - 1 > LAST_SEED:
        raise UserError(
            f"--seed {args.seed}: with {args.samples} samples, which use the seeds after it, must "
            f"be {LAST_SEED + 1 - args.samples} at most"
        )


def parse_arguments(doc, method):
    """The Arguments of a method's script. Raises UserError for an unknown option or a value out of
    range."""
    parser, presets = Parser(doc), list(map(str, load_presets(method)))
    add_images(parser)
    parser.add_argument("--measured", nargs="*", action=Moved, help=argparse.SUPPRESS)
    parser.add_argument(
        "--preset",
        help=f"preset of configs/{method}.yaml: {', '.join(presets)} (default {presets[0]})",
    )
    add_method(parser, f"the task's row in configs/{method}.yaml")
    parser.add_argument("--fid", action="store_true", help="add FID to the summary")
    add_run(parser, f"./{method}", "<logdir>/<dataset>/<task>/<name>", 0, "0")
    given = parser.parse_args()
    refuse_moved(method, given.preset)
    check_seed(given)
    return select_fields(
        Arguments,
        vars(given),
        preset=presets[0] if given.preset is None else given.preset,
        data=given.data or project(f"data/{given.dataset}"),
        model_config=model_file(given.dataset),
        task_config=task_file(given.dataset, given.task),
    )

"""`benchmark.py photographs`: photographs that come with scikit-image and scikit-learn, damaged, and restored by this project's command
line and by what people use (`bench.rivals`). All of them read the same 8-bit files and are judged by the files that they write."""

import functools
import os
import statistics
import time
import zlib
from collections import namedtuple

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw

from bench.jobs import launcher, run_command
from bench.rivals import Rival, installed
from experiment.arguments import MEASURED_TASKS
from experiment.metrics import Metrics
from guided_diffusion.ddim import ABAR, TRAINING_STEPS, predict_x0
from guided_diffusion.kernels import correlating, motion_kernel
from guided_diffusion.measurements import reducing
from guided_diffusion.prior import load_model_config, load_prior
from guided_diffusion.tiles import AnySize
from report.pictures import write_strips
from report.records import finished_records
from util.config import config_path
from util.files import UserError, atomic, write_text
from util.images import load_image, save_image
from util.tables import markdown

RUN = "photographs"  # what our runs are called
KERNEL, SCRATCH, SCRATCHES, FACTOR = (
    13,
    4,
    8,
    4,
)  # pixels a side; pixels wide; how many on SIDE pixels a side; times
SIDE = 176
SHOWN = 3  # photographs in the picture of a benchmark


def from_sklearn(file):
    try:
        from sklearn.datasets import load_sample_image  # for this alone
    except ImportError as error:
        raise UserError(
            f"{file}: comes with scikit-learn, which is not here; pip install scikit-learn, or name other --photographs"
        ) from error
    return load_sample_image(file)


Photograph = namedtuple(
    "Photograph", "load centre"
)  # load() -> (H, W) or (H, W, 3) uint8; centre: row and column of what is cut out

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
}
SETS = {
    "final": ["camera", "cat", "china", "flower", "motorcycle", "rocket"],
    "tuning": ["astronaut", "hubble", "page"],
    "choosing": ["coffee", "retina", "coins"],
}


def cut(picture, centre, size):
    """size x size pixels around `centre`, moved to lie within the picture, or as much of it as there is."""
    starts = [max(0, min(c - size // 2, length - size)) for c, length in zip(centre, picture.shape)]
    return picture[tuple(slice(start, start + size) for start in starts)]


def noisy(level):
    """Noise of `level` of 255 levels."""
    return lambda x, rng: (
        x,
        x + level / 127.5 * torch.from_numpy(rng.standard_normal(x.shape)).float(),
        {},
    )


def scratched(x, rng):
    """Straight scratches from edge to edge, white in the file; as many more as the picture is larger."""
    height, width = x.shape[-2:]
    mask = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(mask)
    for n in range(round(SCRATCHES * max(height, width) / SIDE)):
        ends = rng.random(2)
        line = (
            [(ends[0] * width, -1), (ends[1] * width, height)]
            if n % 2
            else [(-1, ends[0] * height), (width, ends[1] * height)]
        )
        draw.line(line, fill=0, width=SCRATCH)
    mask = np.asarray(mask) > 0
    return x, torch.where(torch.from_numpy(mask), x, 1.0), {"mask": mask}


def blurred(level):
    """A camera's shake and noise of `level` of 255 levels. The kernel has seen what is around the picture; so the truth is smaller."""

    def damage(x, rng):
        kernel = torch.from_numpy(motion_kernel(KERNEL, 0.5, rng, None)).float()
        size, border = tuple(x.shape[-2:]), KERNEL // 2
        clean = correlating(kernel[None], size)(x[None])[0]
        return (
            x[:, border:-border, border:-border],
            noisy(level)(clean, rng)[1],
            {"kernel": kernel.numpy()},
        )

    return damage


def reduced(x, rng):
    """Bicubically reduced, as MATLAB does it."""
    height, width = (FACTOR * (length // FACTOR) for length in x.shape[-2:])
    x = x[:, :height, :width]
    return x, reducing((height, width), FACTOR, torch.device("cpu"))(x[None])[0], {"factor": FACTOR}


# level: the noise in levels of 255, None where there is none; option: how dmilo.py is told; make: x (C, H, W) in [-1, 1] and a generator ->
# truth and measurement, likewise, and what is known of the damage.
Damage = namedtuple("Damage", "title level option make")

DAMAGES = {
    f"noise{level}": Damage(f"noise {level} of 255", level, None, noisy(level))
    for level in (2, 5, 10, 25, 50)
}
DAMAGES["scratches"] = Damage(f"scratches {SCRATCH} px wide", None, "mask", scratched)
DAMAGES["blur"] = Damage(f"known blur of {KERNEL} px, noise 2.5", 2.5, "kernel", blurred(2.5))
DAMAGES["reduced"] = Damage(f"enlarging x {FACTOR}", None, "scale", reduced)


def load_photograph(name, size):
    """(3, H, W), or (1, H, W) of a grey one, in [-1, 1]."""
    photograph = PHOTOGRAPHS[name]
    picture = cut(photograph.load(), photograph.centre, size)
    picture = picture[..., None] if picture.ndim == 2 else picture
    return torch.from_numpy(picture.transpose(2, 0, 1).copy()).float() / 127.5 - 1


def write_damaged(folder, names, size, damage):
    """truth/, measured/ and, where the damage has one, mask/ or kernel/ in `folder`: a file a photograph. Returns {name: what is known}."""
    known = {}
    for name in names:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        truth, measured, known[name] = damage.make(load_photograph(name, size), rng)
        for kind, x in (("truth", truth), ("measured", measured)):
            save_image(os.path.join(folder, kind, f"{name}.png"), x.clamp(-1, 1))
        if "mask" in known[name]:
            save_image(
                os.path.join(folder, "mask", f"{name}.png"),
                torch.from_numpy(known[name]["mask"]).float()[None] * 2 - 1,
            )
        if "kernel" in known[name]:
            with atomic(os.path.join(folder, "kernel", f"{name}.npy")) as path:
                np.save(path, known[name]["kernel"])
    return known


def ours(args, run, damage, folder):
    """Restore a folder's measured pictures by a run, method/preset, of the command line -> {name: (path of the result, seconds)}."""
    method, _, preset = run.partition("/")
    measured, logdir = os.path.join(folder, "measured"), os.path.join(folder, run.replace("/", "-"))
    typed = [
        *launcher(method),
        "--measured",
        measured,
        "--dataset",
        args.dataset,
        "--preset",
        preset,
        "-l",
        logdir,
        "--name",
        RUN,
        "--batch-size",
        "1",
        "--cuda",
        str(args.cuda),
    ]
    if damage.option:
        typed += [
            f"--{damage.option}",
            str(FACTOR) if damage.option == "scale" else os.path.join(folder, damage.option),
        ]
    if damage.level:
        typed += ["--sigma", str(damage.level / 127.5)]
    if run_command(typed):
        raise UserError(f"{' '.join(typed)}: failed; its own message stands above")
    directory = os.path.join(logdir, args.dataset, MEASURED_TASKS[damage.option], RUN)
    return {
        name: (os.path.join(directory, "restored", f"{name}.png"), record["seconds"])
        for name, record in finished_records(directory).items()
    }


def theirs(rival, damage, folder, known):
    """The same by a rival."""
    restored = {}
    for name, of_damage in known.items():
        y = np.asarray(Image.open(os.path.join(folder, "measured", f"{name}.png"))) / 255
        told = {"hole": ~of_damage["mask"]} if "mask" in of_damage else dict(of_damage)
        if damage.level:
            told["sigma"] = damage.level / 255
        started = time.perf_counter()
        x = rival.restore(y, **told)
        seconds = time.perf_counter() - started
        x = x[..., None] if x.ndim == 2 else x
        path = os.path.join(folder, rival.name.replace(" ", "-"), f"{name}.png")
        save_image(path, torch.from_numpy(2 * np.clip(x, 0, 1).transpose(2, 0, 1) - 1).float())
        restored[name] = path, seconds
    return restored


@torch.no_grad()
def evaluated_once(model, y, sigma):
    """The mean of the pictures behind y, (H, W) or (H, W, 3) in [0, 1], under noise of deviation sigma, by one evaluation of a prior: of a
    colour picture the least mean squared error that a search with it can reach. A grey picture's noise is the same in all channels, which
    no prior expects."""
    y = torch.from_numpy(2 * np.atleast_3d(y) - 1).float().permute(2, 0, 1)[None]
    t = min(range(TRAINING_STEPS), key=lambda t: abs((1 - ABAR[t]) / ABAR[t] - (2 * sigma) ** 2))
    x_t = ABAR[t] ** 0.5 * y.expand(1, 3, -1, -1)
    x0 = predict_x0(x_t, model(x_t, torch.full((1,), float(t))), ABAR[t])[0]
    return (x0.mean(0) if y.shape[1] == 1 else x0.permute(1, 2, 0)).numpy() / 2 + 0.5


def prior_as_rival(dataset):
    config_file = config_path("dataset", dataset, "configs/model_config_{}.yaml")
    model = AnySize(load_prior(load_model_config(config_file), config_file, torch.device("cpu")))
    return Rival(f"one evaluation of {dataset}", None, functools.partial(evaluated_once, model))


def figures(metrics, path, truth_path, mask):
    """(PSNR, in the holes alone where there is a mask, and LPIPS) of a picture file against the true one."""
    x, truth = load_image(path)[0], load_image(truth_path)[0]
    found = metrics(x, truth)
    if mask is None:
        return found["psnr"], found["lpips_alex"]
    error = ((x - truth) / 2)[:, torch.from_numpy(~mask)].square().mean().item()
    return -10 * np.log10(max(error, 1e-10)), found["lpips_alex"]


def row(metrics, title, method, restored, folder, known):
    """A row, as texts: PSNR by photograph and in the mean, LPIPS and seconds in the mean."""
    found = [
        figures(
            metrics,
            restored[name][0],
            os.path.join(folder, "truth", f"{name}.png"),
            known[name].get("mask"),
        )
        for name in known
    ]
    psnr, lpips = zip(*found)
    seconds = statistics.mean(restored[name][1] for name in known)
    return [
        title,
        method,
        *(f"{value:.2f}" for value in psnr),
        f"{statistics.mean(psnr):.2f}",
        f"{statistics.mean(lpips):.4f}",
        f"{seconds:.2g}",
    ]


def compare_damage(args, damage, folder, rivals, metrics):
    """One damage: its rows of the table, and its block of pictures for `write_strips`."""
    known = write_damaged(folder, args.photographs, args.size, damage)
    by_method = {rival.name: theirs(rival, damage, folder, known) for rival in rivals}
    by_method.update({run.replace("/", ", "): ours(args, run, damage, folder) for run in args.runs})
    rows = [
        row(metrics, damage.title, method, restored, folder, known)
        for method, restored in by_method.items()
    ]
    beside = lambda kind, name: os.path.join(folder, kind, f"{name}.png")
    strips = [
        [
            beside("measured", name),
            *(restored[name][0] for restored in by_method.values()),
            beside("truth", name),
        ]
        for name in args.photographs[:SHOWN]
    ]
    return rows, ([damage.title, *by_method, "truth"], strips)


def photographs(args, device):
    args.photographs = args.photographs or SETS[args.set]
    rivals = installed(dict.fromkeys(DAMAGES[name].option for name in args.damages))
    if args.once and None in rivals:
        rivals[None] += [prior_as_rival(dataset) for dataset in args.once]
    metrics, rows, blocks = Metrics(device), [], []
    header = ["damage", "method", *args.photographs, "mean", "LPIPS", "seconds"]
    for name in args.damages:
        damage = DAMAGES[name]
        folder = os.path.join(args.out, f"{name}-{args.size}")
        found, block = compare_damage(args, damage, folder, rivals[damage.option], metrics)
        rows, blocks = rows + found, blocks + [block]
        write_text(
            os.path.join(args.out, "photographs.md"), "\n".join(markdown(header, rows)) + "\n"
        )  # whatever comes next
    write_strips(os.path.join(args.out, "photographs.png"), blocks)
    print("\n".join(markdown(header, rows)))
    print(f"\nwrote {args.out}/ (photographs.md, photographs.png)")

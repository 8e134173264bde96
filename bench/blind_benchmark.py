"""`benchmark.py blind`: photographs of data/bench/blind, blurred by kernels that restore.py does
not know.

PSNR is computed without MARGIN px at the border: `moved`, after the shift by which a result is
nearest to the truth, and `unmoved`. The error ratio is the squared error over that with the known
kernel, both moved. Seconds are those of a CPU: wall clock depends on what else runs.
"""

import glob
import io
import itertools
import math
import os
import resource
import statistics
import sys
import time
import zlib

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from bench.jobs import run_command
from bench.rivals import l0_gradients
from guided_diffusion.blind import moved, nearest_moved
from guided_diffusion.kernels import correlating, disk_kernel, line_kernel, motion_kernel
from guided_diffusion.kernels import round_kernel as gaussian
from photographs.kernels import off_centre
from report.pictures import write_strips
from report.records import load_run, picture
from util.files import UserError, atomic, project, write_text
from util.images import load_image, save_image
from util.tables import markdown, write_csv

SIDE, MARGIN = 256, 8  # px: of a blurred photograph; left out of all figures
SEED, SPAN = 101, 0.8  # of the first shake that is tried; share of its side that a kernel spans
UNCHANGED = 1e-6  # largest mean square difference, of [-1, 1], from the blurred photograph


def shake(side):
    """A camera shake about `side` px long, (k, k): the first that spans its side, moved by linear
    interpolation so that its centre of mass is its middle, where the truth lies then."""
    for seed in itertools.count(SEED):
        kernel = motion_kernel(side, 0.5, np.random.RandomState(seed), None)
        kernel = kernel / kernel.sum()
        spans = [np.ptp(np.flatnonzero(kernel.sum(axis) > 1e-3)) + 1 for axis in (0, 1)]
        if max(spans) >= SPAN * side:
            break
    shift = [-off for off in off_centre(kernel)]
    return ndimage.shift(np.pad(kernel, math.ceil(max(map(abs, shift)))), shift, order=1)


KERNELS = {
    "shake 9": shake(9),
    "shake 13": shake(13),
    "shake 19": shake(19),
    "shake 25": shake(25),
    "disk 2.5": disk_kernel(2.5),
    "disk 4": disk_kernel(4),
    "motion 12 30": line_kernel(12, 30),
    "gauss 1.5": gaussian(1.5),
}


def noisy(sigma):
    """Gaussian noise of standard deviation sigma of 255."""
    return lambda y, rng: y + sigma / 127.5 * torch.from_numpy(rng.standard_normal(y.shape)).float()


def as_jpeg(y, rng):
    """Noise 0.5 of 255, then a JPEG of quality 90."""
    y = noisy(0.5)(y, rng).clamp(-1, 1)
    y = ((y + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(y).save(file, "JPEG", quality=90)
    y = np.asarray(Image.open(file)).transpose(2, 0, 1).copy()
    return torch.from_numpy(y).float() / 127.5 - 1


DAMAGES = {"noise0.5": noisy(0.5), "noise2": noisy(2), "jpeg90": as_jpeg}
SIGMA = {"noise0.5": 0.5, "noise2": 2, "jpeg90": 2}  # of 255, for the rival


def write_blurred(args, damage, folder):
    """Write truth/, <kernel>/measured and kernel/ in `folder`. Returns {photograph: kernel}."""
    paths = sorted(glob.glob(project("data/bench/blind/*.png")))[: args.number]
    kernels, pairs = [*KERNELS], {}
    for n, path in enumerate(paths):
        name = os.path.splitext(os.path.basename(path))[0]
        pairs[name] = kernels[(n + args.shift) % len(kernels)]
        kernel = torch.from_numpy(KERNELS[pairs[name]]).float()
        border, x = len(kernel) // 2, load_image(path)[0]
        tops = [(length - SIDE) // 2 - border for length in x.shape[-2:]]
        rows, columns = (slice(max(0, top), top + SIDE + 2 * border) for top in tops)
        x = x[:, rows, columns]
        y = correlating(kernel[None], tuple(x.shape[-2:]))(x[None])[0]
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        truth = x[:, border:, border:][:, : y.shape[-2], : y.shape[-1]]
        save_image(os.path.join(folder, "truth", f"{name}.png"), truth)
        measured = DAMAGES[damage](y, rng).clamp(-1, 1)
        save_image(os.path.join(folder, "measured", pairs[name], f"{name}.png"), measured)
        with atomic(os.path.join(folder, "kernel", f"{name}.npy")) as file:
            np.save(file, kernel.numpy())
    return pairs


def largest(kernel):
    """What a user would type as --blind: two px more than the kernel's side, odd."""
    return (len(KERNELS[kernel]) + 2) | 1


def cpu_seconds_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def by_restore(args, folder, name, photographs, *options):
    """{photograph: (path, seconds)} of one run of restore.py."""
    typed = ["restore.py", photographs, "--preset", args.preset, "--prior", args.dataset]
    typed += ["-l", folder, "--name", name, "--cuda", str(args.cuda), "--batch-size", "1", *options]
    started = cpu_seconds_of_children()
    if run_command([sys.executable, project(typed[0]), *typed[1:]]):
        raise UserError(f"{' '.join(typed)}: failed, its message is above")
    records = load_run(os.path.join(folder, name)).records
    seconds = (cpu_seconds_of_children() - started) / len(records)
    return {one: (os.path.join(folder, name, f"{one}.png"), seconds) for one in records}


def by_rival(folder, damage, pairs):
    """{photograph: (path, seconds)} of the kernel from l0 gradients and total variation."""
    restored = {}
    for name, kernel in pairs.items():
        path = os.path.join(folder, "measured", kernel, f"{name}.png")
        y = np.asarray(Image.open(path).convert("RGB")) / 255
        started = time.process_time()
        x = l0_gradients(y, largest(kernel), SIGMA[damage] / 255)
        seconds = time.process_time() - started
        path = os.path.join(folder, "l0", f"{name}.png")
        save_image(path, torch.from_numpy(2 * x.clip(0, 1).transpose(2, 0, 1) - 1).float())
        restored[name] = path, seconds
    return restored


def errors(x, truth):
    """Mean squares of the difference: (moved, unmoved)."""
    inner, middle = slice(MARGIN, -MARGIN), slice(SIDE // 4, -SIDE // 4)
    shift = nearest_moved(x[:, middle, middle], truth[:, middle, middle])[1]
    near = moved(x, shift)
    return [(one - truth)[:, inner, inner].square().mean().item() for one in (near, x)]


def psnr(error):
    return 10 * np.log10(4 / max(error, 1e-10))


def row(name, kernel, damage, folder, restored):
    """{column: value} of one photograph. restored: {run: {photograph: (path, seconds)}}."""
    truth = load_image(os.path.join(folder, "truth", f"{name}.png"))[0]
    y = load_image(os.path.join(folder, "measured", kernel, f"{name}.png"))[0]
    x = {run: load_image(of_run[name][0])[0] for run, of_run in restored.items()}
    of_y, (known, _) = errors(y, truth), errors(x["known"], truth)
    (moved, unmoved), rival = errors(x["blind"], truth), errors(x["l0"], truth)[0]
    return {
        "photograph": name,
        "kernel": kernel,
        "damage": damage,
        "blurred": psnr(of_y[0]),
        "known kernel": psnr(known),
        "blind": psnr(moved),
        "unmoved": psnr(unmoved),
        "l0 + TV": psnr(rival),
        "error ratio": moved / known,
        "returned": int((x["blind"] - y).square().mean().item() < UNCHANGED),
        "seconds": restored["blind"][name][1],
    }


def summary(damage, rows):
    """{column: value} of all photographs with a damage: means, and shares as "3 of 8"."""
    count = len(rows)

    def mean(key):
        return statistics.mean(one[key] for one in rows)

    def share(is_so):
        return f"{sum(map(is_so, rows))} of {count}"

    return {
        "damage": damage,
        **{key: mean(key) for key in ("blurred", "l0 + TV", "blind", "unmoved", "known kernel")},
        "least gain": min(one["blind"] - one["blurred"] for one in rows),
        "returned": share(lambda one: one["returned"]),
        "error ratio <= 2": share(lambda one: one["error ratio"] <= 2),
        "error ratio <= 3": share(lambda one: one["error ratio"] <= 3),
        "seconds": mean("seconds"),
    }


def cells(of_row):
    """A row's values as texts."""
    return [f"{one:.2f}" if isinstance(one, float) else str(one) for one in of_row.values()]


def write_tables(out, rows):
    """Write blind.csv, a row for each photograph, summary.csv, one for each damage and one for all,
    and both as blind.md."""
    by_damage = {one["damage"]: [] for one in rows}
    for one in rows:
        by_damage[one["damage"]].append(one)
    summaries = [summary(*one) for one in [*by_damage.items(), ("all", rows)]]
    lines = []
    for name, table in (("summary", summaries), ("blind", rows)):
        titles, texts = [*table[0]], [cells(one) for one in table]
        write_csv(os.path.join(out, f"{name}.csv"), [titles, *texts])
        lines += [*markdown(titles, texts), ""]
    write_text(os.path.join(out, "blind.md"), "\n".join(lines))
    print("\n".join(lines))


def write_examples(out, rows, shift):
    """Write blind.png: the photographs with the largest, the median and the smallest gain."""
    ordered = sorted(rows, key=lambda one: one["blurred"] - one["blind"])
    strips = []
    for one in (ordered[0], ordered[len(ordered) // 2], ordered[-1]):
        folder = os.path.join(out, f"{one['damage']}-{shift}")
        run, name = one["kernel"].replace(" ", "-"), one["photograph"]
        runs = [os.path.join(folder, f"{known}{run}") for known in ("", "known-")]
        results = [os.path.join(run, f"{name}.png") for run in runs]
        kernels = [picture(os.path.join(run, "run"), name, "kernel") for run in runs]
        y = os.path.join(folder, "measured", one["kernel"], f"{name}.png")
        strips.append([y, *results, *kernels])
    titles = ["blurred", "unknown kernel", "known kernel", "estimated kernel", "true kernel"]
    write_strips(os.path.join(out, "blind.png"), [(titles, strips)])


def compare_blind(args, device):
    """Write blind.md, blind.csv and summary.csv to --out, after each of --damages, then
    blind.png."""
    rows = []
    for damage in args.damages:
        folder = os.path.join(args.out, f"{damage}-{args.shift}")
        pairs = write_blurred(args, damage, folder)
        measured, kernels = os.path.join(folder, "measured"), os.path.join(folder, "kernel")
        restored = {"known": {}, "blind": {}, "l0": by_rival(folder, damage, pairs)}
        for kernel in dict.fromkeys(pairs.values()):
            photographs, name = os.path.join(measured, kernel), kernel.replace(" ", "-")
            known, blind = ("--kernel", kernels), ("--blind", str(largest(kernel)))
            of_run = by_restore(args, folder, f"known-{name}", photographs, *known)
            restored["known"].update(of_run)
            restored["blind"].update(by_restore(args, folder, name, photographs, *blind))
        rows += [row(name, pairs[name], damage, folder, restored) for name in pairs]
        write_tables(args.out, rows)
    write_examples(args.out, rows, args.shift)

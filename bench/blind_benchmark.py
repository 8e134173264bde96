"""`benchmark.py blind`: photographs of data/bench/blind, blurred by kernels that restore.py does
not know.

PSNR is computed without MARGIN px at the border: `moved`, after the shift by which a result is
nearest to the truth, and `unmoved`. The error ratio is the squared error over that with the known
kernel, both moved.
"""

import glob
import io
import os
import statistics
import sys
import time
import zlib

import numpy as np
import torch
from PIL import Image

from bench.jobs import run_command
from bench.rivals import l0_gradients
from guided_diffusion.blind import nearest_moved
from guided_diffusion.kernels import correlating, disk_kernel, line_kernel, motion_kernel
from guided_diffusion.kernels import round_kernel as gaussian
from report.pictures import write_strips
from report.records import load_run
from util.files import UserError, atomic, project, write_text
from util.images import load_image, save_image
from util.tables import markdown, write_csv

SIDE, MARGIN = 256, 8  # px: of a blurred photograph; left out of all figures
STRIPS = 8  # rows of blind.png
UNCHANGED = 1e-6  # largest mean square difference, of [-1, 1], from the blurred photograph


def shake(side, seed):
    """A camera shake, (side, side)."""
    kernel = motion_kernel(side, 0.5, np.random.RandomState(seed), None)
    return kernel / kernel.sum()


KERNELS = {
    "shake 9": shake(9, 101),
    "shake 13": shake(13, 102),
    "shake 19": shake(19, 103),
    "shake 25": shake(25, 104),
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


def by_restore(args, folder, name, photographs, *options):
    """{photograph: (path, seconds)} of one run of restore.py."""
    typed = ["restore.py", photographs, "--preset", args.preset, "--prior", args.dataset]
    typed += ["-l", folder, "--name", name, "--cuda", str(args.cuda), "--batch-size", "1", *options]
    started = time.perf_counter()
    if run_command([sys.executable, project(typed[0]), *typed[1:]]):
        raise UserError(f"{' '.join(typed)}: failed, its message is above")
    records = load_run(os.path.join(folder, name)).records
    seconds = (time.perf_counter() - started) / len(records)
    return {one: (os.path.join(folder, name, f"{one}.png"), seconds) for one in records}


def by_rival(folder, damage, pairs):
    """{photograph: (path, seconds)} of the kernel from l0 gradients and total variation."""
    restored = {}
    for name, kernel in pairs.items():
        path = os.path.join(folder, "measured", kernel, f"{name}.png")
        y = np.asarray(Image.open(path).convert("RGB")) / 255
        started = time.perf_counter()
        x = l0_gradients(y, largest(kernel), SIGMA[damage] / 255)
        seconds = time.perf_counter() - started
        path = os.path.join(folder, "l0", f"{name}.png")
        save_image(path, torch.from_numpy(2 * x.clip(0, 1).transpose(2, 0, 1) - 1).float())
        restored[name] = path, seconds
    return restored


def errors(x, truth):
    """Mean squares of the difference: (moved, unmoved)."""
    inner = slice(MARGIN, -MARGIN)
    near = nearest_moved(x, truth)[0]
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


def summary(rows):
    """Lines of text: what the table amounts to."""
    ratios, count = [one["error ratio"] for one in rows], len(rows)
    gains = [one["blind"] - one["blurred"] for one in rows]
    mean = {
        key: statistics.mean(one[key] for one in rows) for key in ("blind", "unmoved", "l0 + TV")
    }
    return [
        f"gain {statistics.mean(gains):+.2f} dB in the mean, {min(gains):+.2f} dB at least",
        f"returned unchanged {sum(one['returned'] for one in rows)} of {count}",
        f"error ratio at most 2 in {sum(ratio <= 2 for ratio in ratios)} of {count}, at most 3 in "
        f"{sum(ratio <= 3 for ratio in ratios)}",
        f"unmoved {mean['unmoved'] - mean['blind']:+.2f} dB from moved",
        f"{mean['blind'] - mean['l0 + TV']:+.2f} dB from l0 + TV",
    ]


def cells(of_row):
    """A row's values as texts."""
    return [f"{one:.2f}" if isinstance(one, float) else str(one) for one in of_row.values()]


def compare_blind(args, device):
    """Write blind.md, blind.csv and blind.png to --out, after each of --damages."""
    rows, strips = [], []
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
        for name in [*pairs][: STRIPS - len(strips)]:
            paths = [os.path.join(measured, pairs[name], f"{name}.png")]
            paths += [restored[run][name][0] for run in ("l0", "blind", "known")]
            strips.append([*paths, os.path.join(folder, "truth", f"{name}.png")])
        table = [*markdown([*rows[0]], [cells(one) for one in rows]), "", *summary(rows)]
        write_text(os.path.join(args.out, "blind.md"), "\n".join(table) + "\n")
        sheet = [[*rows[0]], *([*one.values()] for one in rows)]
        write_csv(os.path.join(args.out, "blind.csv"), sheet)
    titles = ["blurred", "l0 + TV", "blind", "known kernel", "truth"]
    write_strips(os.path.join(args.out, "blind.png"), [(titles, strips)])
    print("\n".join(table))

"""Speed, memory, quality, a prior's loss and all of it on a GPU: what is compared is measured in turns, medians and ratios are printed.

    python benchmark.py inner --dataset demo --batch-size 1 2 4 8 --cuda -1      # one step of a layer's optimisation
    python benchmark.py inner --dataset celeba --precision fp32 bf16 --cuda 0
    python benchmark.py memory --dataset demo --steps 1 2 3 4 --cuda -1          # peak memory by the length of the chain
    python benchmark.py quality --data faces/ -n 40 -bn 32 --cuda -1             # PSNR, SSIM, LPIPS, seconds, evaluations
    python benchmark.py calibration --data faces/ -n 48 -bn 40 --cuda -1         # are samples as far apart as they are wrong?
    python benchmark.py loss --data faces/ -n 32 --cuda -1                       # how well a prior predicts the noise
    python benchmark.py photographs --cuda -1                                    # against what people use
    python benchmark.py gpu                                                      # all that a GPU has to show: results/gpu.md

`inner` and `memory` need no checkpoint. `inner` compares with the step of the published code, made of the same modules: it
computes the weights' gradients, computes attention again in the backward pass and fetches every loss; on a CPU also told to keep
freed memory, as ours is. Memory is there the peak of a process of its own, PyTorch included. `quality` runs the scripts, which go on
with what is in --out already, first for the figures, then one image at a time for the seconds. It adds quality.md and quality.png (PSNR and
LPIPS over seconds) there. Its last column says on which fronts a row is: no other has both a better figure and fewer seconds.
`calibration` lets each method draw --samples and says how often the truth lies in the intervals that they give (util/intervals.py): of all
pixels, of holes, of measured ones and of the tenth with the steepest gradients. It leaves calibration.md and calibration.png (ranks) in --out.
`photographs` damages photographs that come with scikit-image and scikit-learn, restores them by `--measured` and by other programs
(BM3D and OpenCV where they are installed), and leaves photographs.md and photographs.png in --out.
"""

import functools
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from tqdm import tqdm

from bench.costs import compare, inner_step, load_memory_table, memory_table
from bench.jobs import Job, command, folder, method_and_preset, run_command
from bench.photo_benchmark import DAMAGES, PHOTOGRAPHS, SETS, SIDE, photographs
from guided_diffusion.ddim import linear_alphas_cumprod
from guided_diffusion.prior import load_model_config, load_prior
from guided_diffusion.tiles import AnySize
from report import plots
from report.records import finished_records
from util.cli import Parser, number, run_script, typed_path
from util.config import config_path
from util.devices import choose_device
from util.files import UserError, project, write_text
from util.images import image_names, list_images, load_image
from util.intervals import NOMINAL, PERCENT, summarised
from util.rng import BatchRandom
from util.tables import markdown

INNER_HEADER = ["batch", "step", "precision", "ms", "ms an image", "ratio", "peak GB", "ratio"]
RUNS = [
    "least_squares/tuned",
    "diffpir/tuned",
    "dmilo/quick",
    "dmilo/fast",
    "dmilo/sharp",
    "dmilo-pgd/fast",
]
OUT = {"quality": "results/benchmark", "calibration": "results/calibration"}
DRAWING = ["dmilo/posterior", "diffpir/sharp", "dps/sharp", "daps/sharp"]
TASKS = ["inpainting", "super_resolution", "gaussian_deblur", "motion_deblur"]
LOSS_TIMESTEPS = (
    100,
    142,
    200,
    250,
    333,
    666,
    999,
)  # last layers of chains of 10, 7, 5 and 4 steps; all of 3


def inner_rows(args, config_file, batch, device):
    """Rows, as texts, of one inner step: the published code's and, in each precision, ours."""
    # The published code leaves TF32 as PyTorch has it, on, and freed memory as glibc has it.
    kinds = [("published", "tf32" if device.type == "cuda" else "fp32")]
    if device.type == "cpu":
        kinds.append(("published, memory kept", "fp32"))
    kinds += [("ours", precision) for precision in args.precision]
    kinds += [("ours, compiled", precision) for precision in args.precision if args.compile]
    makes = [
        functools.partial(
            inner_step,
            config_file,
            batch,
            precision,
            kind.startswith("published"),
            kind.endswith("compiled"),
        )
        for kind, precision in kinds
    ]
    figures = compare(makes, [kind != "published" for kind, _ in kinds], args.repeats, device)
    return [
        [
            str(batch),
            kind,
            precision,
            f"{1000 * taken:.0f}",
            f"{1000 * taken / batch:.0f}",
            f"{taken / figures[0][0]:.2f}",
            f"{peak:.2f}",
            f"{peak / figures[0][1]:.2f}",
        ]
        for (kind, precision), (taken, peak) in zip(kinds, figures)
    ]


def inner(args, device):
    config_file = config_path("dataset", args.dataset, "configs/model_config_{}.yaml")
    rows = [
        row for batch in args.batch_size for row in inner_rows(args, config_file, batch, device)
    ]
    print(
        f"{args.dataset}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {args.repeats}\n"
    )
    print("\n".join(markdown(INNER_HEADER, rows)))


def memory(args, device):
    _, _, published = load_memory_table(project("configs/tables/memory.yaml"))
    lines = markdown(*memory_table(args.dataset, args.steps, published, device))
    print(f"{args.dataset}, {device}, one image; published: 256 x 256 on an RTX 4090\n")
    print("\n".join(lines))


def quality_records(args, task, run, out, names, *extra):
    """The records of the images of these names, which the scripts make or have made below `out`. run: method/preset."""
    data = args.data or project(f"data/{args.dataset}")
    method, _, preset = run.partition("/")
    job = Job(
        args.dataset,
        data,
        args.begin_number + len(names),
        task,
        method,
        preset,
        os.path.join(out, f"{method}-{preset}"),
    )
    sigma = [] if args.sigma is None else ["--sigma", str(args.sigma)]
    typed = command(job, args.cuda, ["-bn", str(args.begin_number), *sigma, *extra])
    code = run_command(typed)  # it knows what is finished; 1: an image has failed
    found = finished_records(folder(job))
    records = [found[name] for name in names if name in found and "failed" not in found[name]]
    if code > 1 or not set(names) <= set(found) or not records:
        raise UserError(
            f"{' '.join(typed)}: failed; its own message stands above. Where that advises another --name, choose another --out"
        )
    return records


def chosen_names(args):
    """The names of the images that -n and -bn choose from --data."""
    data = args.data or project(f"data/{args.dataset}")
    return image_names(list_images(data)[: args.number], data)[args.begin_number :]


def figures(records, timed):
    """What a row of `quality` says: means over the images, and the median seconds of those that were timed."""
    mean = lambda figure: statistics.mean(map(figure, records))
    return {
        "seconds": statistics.median(record["seconds"] for record in timed),
        "evaluations": mean(lambda r: r["network_evaluations"]),
        "psnr": mean(lambda r: r["psnr"][-1]),
        "best": mean(lambda r: max(r["psnr"])),
        "ssim": mean(lambda r: r["ssim"][-1]),
        "lpips": mean(lambda r: r["lpips_alex"][-1]),
    }


def fronts(rows):
    """Of each row's figures the fronts it is on, as a text: of PSNR and of LPIPS, if no other row is better in fewer seconds."""
    better = {
        "PSNR": lambda a, b: a["psnr"] > b["psnr"],
        "LPIPS": lambda a, b: a["lpips"] < b["lpips"],
    }
    beaten = lambda row, name: any(
        better[name](other, row) and other["seconds"] < row["seconds"] for other in rows
    )
    return [", ".join(name for name in better if not beaten(row, name)) for row in rows]


def quality(args, device):
    names = chosen_names(args)
    one_by_one = names[: args.timed], "--batch-size", "1"
    found = {
        (task, run): quality_records(args, task, run, args.out, names)
        for task in args.tasks
        for run in args.runs
    }
    timed = {
        job: quality_records(args, *job, os.path.join(args.out, "seconds"), *one_by_one)
        for job in found
    }
    groups, lines = {}, []
    for task in args.tasks:
        groups[task] = {
            run.replace("/", ", "): figures(found[task, run], timed[task, run]) for run in args.runs
        }
        for run, row, front in zip(args.runs, groups[task].values(), fronts(groups[task].values())):
            cells = (
                f"{row['evaluations']:.0f}",
                f"{row['seconds']:.2f}",
                f"{row['psnr']:.2f}",
                f"{row['best']:.2f}",
                f"{row['ssim']:.3f}",
            )
            lines.append([task, *run.split("/"), *cells, f"{row['lpips']:.4f}", front])
    header = [
        "task",
        "method",
        "preset",
        "evaluations",
        "s an image",
        "PSNR final",
        "PSNR best",
        "SSIM final",
        "LPIPS final",
        "front",
    ]
    table = "\n".join(markdown(header, lines))
    write_text(os.path.join(args.out, "quality.md"), table + "\n")
    plots.quality(os.path.join(args.out, "quality.png"), groups)
    print(f"{table}\n\nwrote {args.out}/ (quality.md, quality.png)")


def calibration_row(records, count):
    """What a row of `calibration` says, as texts."""
    found = [record["samples"] for record in records]
    of = summarised(found)
    single = lambda key: statistics.mean(each[key] for one in found for each in one["each"])
    parts = ("missing", "measured", "steep")
    inside = [
        *(of[f"inside_{nominal}"] for nominal in NOMINAL),
        *(of.get(f"inside_{PERCENT}_{part}") for part in parts),
    ]
    cells = ["" if share is None else f"{100 * share:.0f}" for share in inside]
    cells += [
        f"{of['spread_over_error']:.2f}",
        f"{of['crps']:.4f}",
        f"{single('psnr'):.2f}",
        f"{statistics.mean(one['mean']['psnr'] for one in found):.2f}",
    ]
    seconds = statistics.mean(record["seconds"] for record in records) / count
    return [*cells, f"{single('lpips_alex'):.4f}", f"{seconds:.1f}"], of["ranks"]


def calibration(args, device):
    names = chosen_names(args)
    lines, groups = [], {task: {} for task in args.tasks}
    for task in args.tasks:
        for run in args.runs:
            cells, groups[task][run] = calibration_row(
                quality_records(args, task, run, args.out, names, "--samples", str(args.samples)),
                args.samples,
            )
            lines.append([task, *run.split("/"), *cells])
    header = [
        "task",
        "method",
        "preset",
        *(f"{nominal} %" for nominal in NOMINAL),
        *(f"{PERCENT} %, {part}" for part in ("holes", "measured", "steep")),
        "spread / error",
        "CRPS",
        "PSNR of one",
        "of the mean",
        "LPIPS of one",
        "s a sample",
    ]
    table = "\n".join(markdown(header, lines))
    write_text(os.path.join(args.out, "calibration.md"), table + "\n")
    plots.calibration(os.path.join(args.out, "calibration.png"), groups)
    print(f"{table}\n\nwrote {args.out}/ (calibration.md, calibration.png)")


@torch.no_grad()
def loss(args, device):
    """The mean squared error of eps on images that are not for training, one draw of noise an image and timestep."""
    config_file = config_path("dataset", args.dataset, "configs/model_config_{}.yaml")
    config = load_model_config(config_file)
    eps_of = AnySize(load_prior(config, config_file, device))
    data = args.data or project(f"data/{args.dataset}")
    files = list_images(data)[args.begin_number : args.number]
    if not files:
        raise UserError(
            f"-n {args.number} -bn {args.begin_number} choose none of the images in {data}"
        )
    alphas_cumprod = linear_alphas_cumprod()
    losses = []
    for n, file in enumerate(tqdm(files, unit="image", disable=None)):
        x0 = load_image(file)
        rng = BatchRandom([n])
        errors = []
        for t in LOSS_TIMESTEPS:
            noise = rng.randn(x0.shape[1:])
            x_t = alphas_cumprod[t].sqrt() * x0 + (1 - alphas_cumprod[t]).sqrt() * noise
            eps = eps_of(x_t.to(device), torch.full((1,), float(t), device=device))
            errors.append((eps.cpu() - noise).square().mean().item())
        losses.append(errors)
    print(f"{config['model_path']}, mean squared error of eps on {len(losses)} images\n")
    header = [f"t = {t}" for t in LOSS_TIMESTEPS]
    print("\n".join(markdown(header, [[f"{value:.5f}" for value in np.mean(losses, axis=0)]])))


# What `make gpu` runs, one after the other; {out} is where pictures go.
ON_A_GPU = [
    ("The tests that need a GPU", "-m pytest tests/test_cuda.py -q"),
    (
        "An inner step at 256 px",
        "benchmark.py inner --dataset celeba --batch-size 1 4 16 --precision fp32 tf32 bf16",
    ),
    (
        "The same, compiled",
        "benchmark.py inner --dataset celeba --batch-size 4 --precision tf32 --compile",
    ),
    (
        "An inner step of the built-in prior",
        "benchmark.py inner --dataset demo --batch-size 1 8 64 --precision fp32 tf32 bf16",
    ),
    ("Peak memory by the length of the chain", "benchmark.py memory --dataset celeba"),
    ("Fast, on the GPU", "benchmark.py quality --runs dmilo/fast dmilo-pgd/fast --out {out}/gpu"),
    (
        "Fast, on the CPU",
        "benchmark.py quality --runs dmilo/fast dmilo-pgd/fast --out {out}/cpu --cuda -1",
    ),
    (
        "Published settings, on the GPU",
        "benchmark.py quality --tasks inpainting --runs dmilo/paper dmilo-pgd/paper --out {out}/gpu",
    ),
]


def gpu(args, device):
    """Write results/gpu.md, a section a command of ON_A_GPU with what it printed. Raises UserError at the end if one failed."""
    sections, failed = (
        [f"# On a GPU\n\n{torch.cuda.get_device_name(device)}, torch {torch.__version__}\n"],
        [],
    )
    for title, typed in ON_A_GPU:
        typed = typed.format(out="results/gpu")
        started = time.monotonic()
        done = subprocess.run([sys.executable, *typed.split()], capture_output=True, text=True)
        print(f"{title}: {time.monotonic() - started:.0f} s", flush=True)
        failed += [title] if done.returncode else []
        said = done.stdout + (done.stderr if done.returncode else "")
        sections.append(
            f"## {title}\n\n`python {typed}` ({time.monotonic() - started:.0f} s)\n\n{said}"
        )
        write_text("results/gpu.md", "\n".join(sections))  # whatever comes next
    print("wrote results/gpu.md")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; results/gpu.md has what they printed")


def add_photographs_arguments(sub):
    chosen = sub.add_mutually_exclusive_group()
    chosen.add_argument(
        "--set",
        choices=SETS,
        default="final",
        help="final: on which no method was tuned (default; docs/photographs.md says what was seen of it)",
    )
    chosen.add_argument(
        "--photographs",
        nargs="+",
        choices=PHOTOGRAPHS,
        metavar="NAME",
        help=f"instead of a set, of {' '.join(PHOTOGRAPHS)}",
    )
    usual = ["noise25", "scratches", "blur", "reduced"]
    sub.add_argument(
        "--damages",
        nargs="+",
        choices=DAMAGES,
        default=usual,
        metavar="NAME",
        help=f"of {' '.join(DAMAGES)} (default {' '.join(usual)})",
    )
    sub.add_argument(
        "--size",
        type=number(int, 80),
        default=SIDE,
        help=f"side of what is cut out of them (default {SIDE})",
    )
    sub.add_argument(
        "--runs",
        nargs="*",
        type=method_and_preset,
        default=["dmilo/fast"],
        help="method/preset (default dmilo/fast)",
    )
    sub.add_argument(
        "--once",
        nargs="*",
        default=[],
        metavar="DATASET",
        help="of noise, one evaluation of these priors, too",
    )
    sub.add_argument(
        "--out",
        type=typed_path,
        default="results/photographs",
        help="(default results/photographs)",
    )


def main():
    parser = Parser(__doc__)
    commands = parser.add_subparsers(
        required=True,
        metavar="inner|memory|quality|calibration|loss|photographs|gpu",
        parser_class=lambda **kw: Parser(__doc__),
    )
    for name, function in (
        ("inner", inner),
        ("memory", memory),
        ("quality", quality),
        ("calibration", calibration),
        ("loss", loss),
        ("photographs", photographs),
        ("gpu", gpu),
    ):
        sub = commands.add_parser(name)
        sub.set_defaults(function=function, cuda=0)
        if name == "gpu":
            continue
        prior = "photo" if name == "photographs" else "demo"
        sub.add_argument("--dataset", default=prior, help=f"which prior (default {prior})")
        sub.add_argument(
            "--cuda", type=number(int, -1), default=0, help="GPU number; -1: the CPU (default 0)"
        )
        if name == "inner":
            sub.add_argument(
                "--batch-size", type=number(int, 1), nargs="+", default=[1], help="(default 1)"
            )
            sub.add_argument(
                "--precision",
                choices=("fp32", "tf32", "bf16"),
                nargs="+",
                default=["fp32"],
                help="(default fp32)",
            )
            sub.add_argument(
                "--compile", action="store_true", help="ours with the network compiled, too"
            )
            sub.add_argument(
                "--repeats", type=number(int, 1), default=9, help="steps of each (default 9)"
            )
        elif name == "memory":
            sub.add_argument(
                "--steps",
                type=number(int, 1, 1000),
                nargs="+",
                default=[1, 2, 3, 4],
                help="(default 1 2 3 4)",
            )
        elif name == "photographs":
            add_photographs_arguments(sub)
        else:
            sub.add_argument(
                "--data", type=typed_path, help="folder of images (default data/<dataset>)"
            )
            sub.add_argument(
                "-n",
                "--number",
                type=number(int, 1),
                default=10,
                help="how many of them (default 10)",
            )
            sub.add_argument(
                "-bn",
                "--begin_number",
                type=number(int, 0),
                default=0,
                help="first of those to take (default 0)",
            )
        if name in ("quality", "calibration"):
            runs = RUNS if name == "quality" else DRAWING
            sub.add_argument(
                "--tasks", nargs="+", default=TASKS, help=f"(default {' '.join(TASKS)})"
            )
            sub.add_argument(
                "--runs",
                nargs="+",
                type=method_and_preset,
                default=runs,
                help=f"method/preset (default {' '.join(runs)})",
            )
            sub.add_argument(
                "--sigma",
                type=number(float, 0),
                help="the measurements' noise (default: the task files')",
            )
            sub.add_argument(
                "--out", type=typed_path, default=OUT[name], help=f"(default {OUT[name]})"
            )
        if name == "quality":
            sub.add_argument(
                "--timed",
                type=number(int, 1),
                default=3,
                help="images whose median gives the seconds (default 3)",
            )
        if name == "calibration":
            sub.add_argument(
                "--samples",
                type=number(int, 2),
                default=8,
                metavar="K",
                help="of each measurement (default 8)",
            )
    args = parser.parse_args()
    if args.function is gpu and not torch.cuda.is_available():
        raise UserError("gpu: no GPU here; this is for the day there is one")
    args.function(args, choose_device(args.cuda))


if __name__ == "__main__":
    run_script(main)

"""Benchmarks of speed, memory, quality, calibration, a prior's loss and photographs.

    python benchmark.py quality --data faces/ -n 40 -bn 32 --cuda -1          # PSNR, LPIPS, seconds
    python benchmark.py convergence --data faces/ -n 1 --cuda -1              # PSNR during a run
    python benchmark.py calibration --data faces/ -n 48 -bn 40 --cuda -1      # spread of samples
    python benchmark.py loss --data faces/ -n 32 --cuda -1                    # error of the prior
    python benchmark.py photographs --cuda -1                                 # and other programs
    python benchmark.py blind --cuda -1                                       # unknown blur
    python benchmark.py inner --dataset demo --batch-size 1 2 4 8 --cuda -1   # an inner step
    python benchmark.py inner --dataset celeba --precision fp32 bf16 --cuda 0
    python benchmark.py memory --dataset demo --steps 1 2 3 4 --cuda -1       # by number of steps
    python benchmark.py gpu                                                   # on a GPU, see below

quality runs the methods' scripts on all images in batches, then times --timed images one at a time.
Repeat the command to resume from the results in --out. It writes quality.md, quality.csv and
quality.png. For each run they list the mean difference from the first run over the images, with its
95 % confidence interval. The column `front` names the metrics in which no faster run is better.

convergence runs methods from several seeds, which also draw the measurements anew. It writes
convergence.md, convergence.csv and convergence.png: PSNR and residual after every outer
iteration.

calibration restores each measurement --samples times. It counts how often the intervals computed
from the samples (util/intervals.py) contain the truth: on all pixels, in holes, on measured pixels,
and on the tenth of the pixels with the steepest gradients. It writes calibration.md,
calibration.csv and calibration.png, which shows rank histograms.

photographs damages photographs of scikit-image and scikit-learn and restores them with restore.py
and with those of the other programs (BM3D, OpenCV, …) that are installed. It writes photographs.md
and photographs.png.

blind blurs the photographs of data/bench/blind with eight kernels. It restores them with unknown
kernel, with the known kernel and by another method, and writes blind.md, blind.csv, summary.csv and
blind.png: the photographs with the largest, the median and the smallest gain.

inner and memory need no checkpoint. inner compares our step with the published one, rebuilt from
our modules: the published step computes gradients of the weights, recomputes attention in the
backward pass and waits for every loss. The two steps are timed alternately; peak memory is measured
in a separate process.

gpu runs the tests that need a GPU and several of these benchmarks, and writes results/gpu.md.
"""

import subprocess
import sys
import time

import torch

from bench.blind_benchmark import DAMAGES as BLIND_DAMAGES
from bench.blind_benchmark import compare_blind
from bench.convergence import convergence
from bench.costs import inner, memory
from bench.jobs import method_and_preset
from bench.photo_benchmark import compare_photographs, photo_run
from bench.photo_damages import DAMAGES, SIDE
from bench.photo_sets import PHOTOGRAPHS, SETS
from bench.quality import calibration, loss, quality
from util.cli import Parser, number, run_script, typed_path
from util.devices import choose_device
from util.files import UserError, write_text

RUNS = {
    "quality": [
        "least_squares/tuned",
        "diffpir/tuned",
        "pnp/tuned",
        "antithetic/tuned",
        "dmilo/fast",
        "dmilo/sharp",
        "dmilo-pgd/fast",
    ],
    "convergence": ["dmplug/tuned", "dmilo/paper", "dmilo-pgd/paper"],
    "calibration": ["posterior/tuned", "diffpir/sharp", "dps/sharp", "daps/sharp"],
}
OUT = {
    "quality": "results/benchmark",
    "convergence": "results/convergence",
    "calibration": "results/calibration",
}
TASKS = ["inpainting", "super_resolution", "gaussian_deblur", "motion_deblur"]
DAMAGED_BY = ["noise25", "scratches", "blur", "reduced"]

# What `make gpu` runs, in this order.
INNER, BOTH = "benchmark.py inner --dataset", "--runs dmilo/fast dmilo-pgd/fast --out results/gpu"
PAPER = "--runs dmilo/paper dmilo-pgd/paper --out results/gpu/gpu"
ON_A_GPU = {
    "Tests that need a GPU": "-m pytest tests/test_cuda.py -q",
    "Inner step at 256 px": f"{INNER} celeba --batch-size 1 4 16 --precision fp32 tf32 bf16",
    "The same, compiled": f"{INNER} celeba --batch-size 4 --precision tf32 --compile",
    "Inner step of the face prior": f"{INNER} demo --batch-size 1 8 64 --precision fp32 tf32 bf16",
    "Peak memory by the length of the chain": "benchmark.py memory --dataset celeba",
    "Preset fast on the GPU": f"benchmark.py quality {BOTH}/gpu",
    "Preset fast on the CPU": f"benchmark.py quality {BOTH}/cpu --cuda -1",
    "Published settings on the GPU": f"benchmark.py quality --tasks inpainting {PAPER}",
}


def gpu(args, device):
    """Write results/gpu.md, one section per command of ON_A_GPU. Raises UserError if one failed."""
    sections, failed = [f"# On a GPU\n\n{torch.cuda.get_device_name(device)}, torch "], []
    sections[0] += f"{torch.__version__}\n"
    for title, typed in ON_A_GPU.items():
        started = time.monotonic()
        done = subprocess.run([sys.executable, *typed.split()], capture_output=True, text=True)
        seconds = f"{time.monotonic() - started:.0f} s"
        print(f"{title}: {seconds}", flush=True)
        failed += [title] if done.returncode else []
        output = done.stdout + (done.stderr if done.returncode else "")
        sections.append(f"## {title}\n\n`python {typed}` ({seconds})\n\n{output}")
        write_text("results/gpu.md", "\n".join(sections))
    print("wrote results/gpu.md")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; their output is in results/gpu.md")


def add_device(add, prior="demo"):
    add("--dataset", default=prior, help=f"the prior (default {prior})")
    add("--cuda", type=number(int, -1), default=0, help="GPU number; -1: the CPU (default 0)")


def add_inner(add):
    count, precisions = number(int, 1), ("fp32", "tf32", "bf16")
    add_device(add)
    add("--batch-size", type=count, nargs="+", default=[1], help="(default 1)")
    add("--precision", choices=precisions, nargs="+", default=["fp32"], help="(default fp32)")
    add("--compile", action="store_true", help="also time the step with the compiled network")
    add("--repeats", type=count, default=9, help="repetitions of each step (default 9)")


def add_memory(add):
    steps = [1, 2, 3, 4]
    add_device(add)
    add("--steps", type=number(int, 1, 1000), nargs="+", default=steps, help="(default 1 2 3 4)")


def add_images(add):
    add_device(add)
    add("--data", type=typed_path, help="folder of images (default data/<dataset>)")
    add("-n", "--number", type=number(int, 1), default=10, help="number of images (default 10)")
    add("-bn", "--begin_number", type=number(int, 0), default=0, help="first index (default 0)")


def add_comparison(add, name):
    runs = RUNS[name]
    help = f"runs, as method/preset or method/preset,KEY=VALUE,… (default {' '.join(runs)})"
    add_images(add)
    add("--tasks", nargs="+", default=TASKS, help=f"tasks (default {' '.join(TASKS)})")
    add("--runs", nargs="+", type=method_and_preset, default=runs, help=help)
    add("--sigma", type=number(float, 0), help="noise level (default: as in the task files)")
    add("--out", type=typed_path, default=OUT[name], help=f"folder (default {OUT[name]})")


def add_quality(add):
    add_comparison(add, "quality")
    help = "images to time one at a time (default 3); 0: report the times of batches"
    add("--timed", type=number(int, 0), default=3, help=help)
    add(
        "--seed-each",
        action="store_true",
        help="give each image its own seed, computed from its name",
    )


def add_convergence(add):
    add_comparison(add, "convergence")
    add("--seeds", type=number(int, 1), default=4, metavar="K", help="seeds 0 … K - 1 (default 4)")


def add_calibration(add):
    add_comparison(add, "calibration")
    help = "samples of each measurement (default 8)"
    add("--samples", type=number(int, 2), default=8, metavar="K", help=help)


def add_photographs(add):
    damages, out = " ".join(DAMAGED_BY), "results/photographs"
    help = f"a set of photographs: {', '.join(SETS)}; no method was tuned on final (default final)"
    add_device(add, "photo")
    add("--set", choices=SETS, default="final", help=help)
    help = f"photographs to use instead of a set: {' '.join(PHOTOGRAPHS)}"
    add("--photographs", nargs="+", choices=PHOTOGRAPHS, metavar="NAME", help=help)
    help = f"kinds of damage: {' '.join(DAMAGES)} (default {damages})"
    add("--damages", nargs="+", choices=DAMAGES, default=DAMAGED_BY, metavar="NAME", help=help)
    add("--size", type=number(int, 80), default=SIDE, help=f"side of the crops (default {SIDE})")
    help = "presets of restore.py, method/preset or programs (default: fast and all programs)"
    add("--runs", nargs="+", type=photo_run, metavar="RUN", help=help)
    add("--out", type=typed_path, default=out, help=f"folder (default {out})")


def add_blind(add):
    damages, out = " ".join(BLIND_DAMAGES), "results/blind"
    add_device(add, "photo")
    add("-n", "--number", type=number(int, 1, 8), default=8, help="photographs (default 8)")
    help = f"damage added after the blur: {damages} (default all)"
    add("--damages", nargs="+", choices=BLIND_DAMAGES, default=[*BLIND_DAMAGES], help=help)
    add("--preset", default="quick", help="preset of restore.py (default quick)")
    help = "blur photograph n with kernel n + SHIFT; 0 … 7 cover all 64 pairs (default 0)"
    add("--shift", type=number(int, 0, 7), default=0, help=help)
    add("--out", type=typed_path, default=out, help=f"folder (default {out})")


COMMANDS = {
    "inner": (inner, add_inner),
    "memory": (memory, add_memory),
    "quality": (quality, add_quality),
    "convergence": (convergence, add_convergence),
    "calibration": (calibration, add_calibration),
    "loss": (loss, add_images),
    "photographs": (compare_photographs, add_photographs),
    "blind": (compare_blind, add_blind),
    "gpu": (gpu, lambda add: None),
}


def main():
    parser = Parser(__doc__)
    commands = parser.add_subparsers(
        required=True, metavar="|".join(COMMANDS), parser_class=lambda **kw: Parser(__doc__)
    )
    for name, (function, add_arguments) in COMMANDS.items():
        sub = commands.add_parser(name)
        sub.set_defaults(function=function, cuda=0)
        add_arguments(sub.add_argument)
    args = parser.parse_args()
    if args.function is gpu and not torch.cuda.is_available():
        raise UserError("gpu: PyTorch finds no GPU on this machine")
    args.function(args, choose_device(args.cuda))


if __name__ == "__main__":
    run_script(main)

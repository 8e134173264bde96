"""`benchmark.py photographs`: damages photographs of scikit-image and scikit-learn and restores
them by restore.py and by other programs (`bench.rivals`).

Both read the same 8-bit files and are scored by the files they write.
"""

import os
import statistics
import sys
import time
import zlib

import numpy as np
import torch
from PIL import Image

from bench.jobs import method_and_preset, run_command
from bench.photo_damages import DAMAGES, FACTOR
from bench.photo_sets import PHOTOGRAPHS, SETS, cut
from bench.rivals import RIVALS, SLUGS, installed, slug
from experiment.metrics import Metrics
from photographs.noise import estimate_noise
from report.pictures import write_strips
from report.records import load_run
from util.config import load_yaml
from util.files import UserError, atomic, project, write_text
from util.images import load_image, save_image, to_pixels
from util.tables import markdown, write_csv

STRIPS = 3  # photographs of each damage in photographs.png


def photo_run(text):
    """The argparse type of --runs. Raises UserError for an unknown one."""
    presets = load_yaml(project("configs/restore.yaml"))
    if text in presets or text in SLUGS:
        return text
    if "/" in text:
        return method_and_preset(text)
    known = ", ".join([*presets, "method/preset", *SLUGS])
    raise UserError(f"--runs {text}: must be one of {known}")


def load_photograph(name, size):
    """A crop of a photograph, (3, H, W) or (1, H, W) in [-1, 1]."""
    photograph = PHOTOGRAPHS[name]
    picture = cut(photograph.load(), photograph.centre, size)
    picture = picture[..., None] if picture.ndim == 2 else picture
    return torch.from_numpy(picture.transpose(2, 0, 1).copy()).float() / 127.5 - 1


def measured_path(folder, name, known):
    """The file of a damaged photograph; known: about its damage."""
    suffix = "jpg" if "quality" in known else "png"
    return os.path.join(folder, "measured", f"{name}.{suffix}")


def save_jpeg(path, x, quality):
    """Write (3, H, W) or (1, H, W) in [-1, 1] as a JPEG, 4:2:0."""
    values = np.round(to_pixels(x) * 255).astype(np.uint8)
    options = {"subsampling": "4:2:0"} if len(x) == 3 else {}
    with atomic(path) as temporary:
        Image.fromarray(values.squeeze()).save(temporary, quality=quality, **options)


def write_damaged(folder, names, size, damage):
    """Write truth/, measured/ and, if the damage has one, mask/ or kernel/ in `folder`, a file per
    photograph. Returns {name: what is known about its damage}."""
    known = {}
    for name in names:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        truth, measured, known[name] = damage.make(load_photograph(name, size), rng)
        pictures = {"truth": truth, "measured": measured}
        if "quality" in known[name]:
            path = measured_path(folder, name, known[name])
            save_jpeg(path, pictures.pop("measured"), known[name]["quality"])
        if "mask" in known[name]:
            pictures["mask"] = torch.from_numpy(known[name]["mask"]).float()[None] * 2 - 1
        for kind, x in pictures.items():
            save_image(os.path.join(folder, kind, f"{name}.png"), x.clamp(-1, 1))
        if "noise" in known[name]:
            save_image(os.path.join(folder, "noise.png"), known[name].pop("noise"))
        if "kernel" in known[name]:
            with atomic(os.path.join(folder, "kernel", f"{name}.npy")) as path:
                np.save(path, known[name]["kernel"])
    return known


def by_restore(args, run, damage, folder):
    """Restore a folder's measured/ by restore.py -> (label, {name: (path of the result, seconds)}).

    run: a preset of restore.py or method/preset; the label names both.
    """
    method, slash, preset = run.rpartition("/")
    name = run.replace("/", "-")
    options = {"--prior": args.dataset, "--preset": preset, "-l": folder, "--name": name}
    options.update({"--batch-size": "1", "--cuda": str(args.cuda)})
    if slash:
        options["--method"] = method
    known = []
    if damage.option:
        path = os.path.join(folder, damage.option)
        values = {"scale": [str(FACTOR)], "jpeg": [], "defects": [], "noise": [f"{path}.png"]}
        known = [f"--{damage.option}", *values.get(damage.option, [path])]
    if damage.sigma:
        options["--sigma"] = str(damage.sigma / 127.5)
    typed = [sys.executable, project("restore.py"), os.path.join(folder, "measured")]
    typed += [one for option in options.items() for one in option] + known
    if run_command(typed):
        raise UserError(f"{' '.join(typed)}: failed, its message is above")
    finished = load_run(os.path.join(folder, name))
    ran = f"{finished.summary['method']}/{finished.summary['settings']['preset']}"
    return run if slash else f"{run} ({ran})", {
        photo: (os.path.join(folder, name, f"{photo}.png"), record["seconds"])
        for photo, record in finished.records.items()
    }


def estimated_sigma(y):
    """Our estimate of white noise, y in [-1, 1], in units of [0, 1]."""
    return estimate_noise(y, torch.ones_like(y[:, :1])).sigma / 2


def by_rival(rival, damage, folder, known):
    """Restore a folder's measured/ by a rival -> {name: (path of the result, seconds)}."""
    restored = {}
    for name, of_damage in known.items():
        file = measured_path(folder, name, of_damage)
        y = np.asarray(Image.open(file)) / 255
        unknown = "half", "impulses"
        given = {key: value for key, value in of_damage.items() if key not in unknown}
        if "mask" in of_damage:
            given = {"hole": ~of_damage["mask"]}
        if "quality" in of_damage:
            given = {"file": file}
        if damage.sigma:
            given["sigma"] = damage.sigma / 255
        elif damage.rivals == "camera":
            given["sigma"] = estimated_sigma(load_image(file))
        started = time.perf_counter()
        x = rival.call(y, **given)
        seconds = time.perf_counter() - started
        x = torch.from_numpy(2 * np.clip(np.atleast_3d(x), 0, 1).transpose(2, 0, 1) - 1).float()
        path = os.path.join(folder, slug(rival), f"{name}.png")
        save_image(path, x)
        restored[name] = path, seconds
    return restored


def figures(metrics, path, truth_path, mask):
    """(PSNR, LPIPS) of an image file; with a mask, (H, W) bool, PSNR is computed only where it is
    False."""
    x, truth = load_image(path)[0], load_image(truth_path)[0]
    values = metrics(x, truth)
    if mask is None:
        return values["psnr"], values["lpips_alex"]
    error = ((x - truth) / 2)[:, torch.from_numpy(~mask)].square().mean().item()
    return -10 * np.log10(max(error, 1e-10)), values["lpips_alex"]


def detection(folder, name, known):
    """(share of the impulses of a run of restore.py that it found, share of the other px that it
    took for some), over all photographs, as texts."""
    hits = marks = both = px = 0
    for photo, of_damage in known.items():
        file, hit = (
            os.path.join(folder, name, "run", "images", photo, "mask.png"),
            of_damage["impulses"],
        )
        mark = np.asarray(Image.open(file).convert("L")) == 0
        hits, marks, px = hits + hit.sum(), marks + mark.sum(), px + hit.size
        both += (hit & mark).sum()
    return f"{100 * both / hits:.1f}", f"{100 * (marks - both) / (px - hits):.2f}"


def row(metrics, title, label, restored, folder, known):
    """A row, as texts: PSNR of each photograph and its mean, mean LPIPS, mean seconds."""
    values = []
    for name, of_damage in known.items():
        truth = os.path.join(folder, "truth", f"{name}.png")
        unscored = of_damage.get("mask", of_damage.get("half"))
        values.append(figures(metrics, restored[name][0], truth, unscored))
    psnr, lpips = zip(*values)
    seconds = statistics.mean(restored[name][1] for name in known)
    means = f"{statistics.mean(psnr):.2f}", f"{statistics.mean(lpips):.4f}", f"{seconds:.2g}"
    return [title, label, *(f"{value:.2f}" for value in psnr), *means]


def compare_damage(args, damage, folder, rivals, runs, metrics):
    """One damage: rows of the table, and a block of pictures for `write_strips`.

    rivals: those that restore this damage; runs: of restore.py.
    """
    names = args.photographs or SETS[args.set]
    known = write_damaged(folder, names, args.size, damage)
    results = {rival.name: by_rival(rival, damage, folder, known) for rival in rivals}
    results.update(by_restore(args, run, damage, folder) for run in runs)
    rows = [
        row(metrics, damage.title, label, restored, folder, known)
        for label, restored in results.items()
    ]
    for run in runs if damage.option == "defects" else ():
        found, false = detection(folder, run.replace("/", "-"), known)
        print(f"{damage.title}, {run}: {found} % of them found, {false} % of the others marked")
    strips = []
    for name in names[:STRIPS]:
        y = measured_path(folder, name, known[name])
        truth = os.path.join(folder, "truth", f"{name}.png")
        strips.append([y, *(restored[name][0] for restored in results.values()), truth])
    return rows, ([damage.title, *results, "truth"], strips)


def rivals_of(damage):
    return RIVALS[damage.rivals or damage.option]


def compare_photographs(args, device):
    """Compare --runs on --damages of the photographs; writes photographs.md, .csv and
    .png to --out."""
    every = [rival for name in args.damages for rival in rivals_of(DAMAGES[name])]
    chosen = args.runs or ["fast", *map(slug, every)]
    rivals = installed([rival for rival in dict.fromkeys(every) if slug(rival) in chosen])
    runs = [run for run in chosen if run not in SLUGS]
    metrics, rows, blocks = Metrics(device), [], []
    photographs = args.photographs or SETS[args.set]
    header = ["damage", "method", *photographs, "mean", "LPIPS", "seconds"]
    for name in args.damages:
        damage, folder = DAMAGES[name], os.path.join(args.out, f"{name}-{args.size}")
        able = [rival for rival in rivals if rival in rivals_of(damage)]
        of_damage, block = compare_damage(args, damage, folder, able, runs, metrics)
        rows, blocks = rows + of_damage, blocks + [block]
        table = "\n".join(markdown(header, rows))
        write_text(os.path.join(args.out, "photographs.md"), table + "\n")
        write_csv(os.path.join(args.out, "photographs.csv"), [header, *rows])
    write_strips(os.path.join(args.out, "photographs.png"), blocks)
    print(f"{table}\n\nwrote {args.out}/ (photographs.md, photographs.csv, photographs.png)")

"""`benchmark.py photographs`: damages photographs of scikit-image and scikit-learn and restores
them by restore.py and by other programs (`bench.rivals`).

Both read the same 8-bit files and are scored by the files they write.
"""

import os
import statistics
import sys
import time
import zlib
from collections import namedtuple

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw

from bench import cameras
from bench.jobs import method_and_preset, run_command
from bench.rivals import RIVALS, SLUGS, installed, slug
from experiment.metrics import Metrics
from guided_diffusion.kernels import correlating, motion_kernel
from guided_diffusion.measurements import reducing
from photographs.noise import estimate_noise
from report.pictures import write_strips
from report.records import load_run
from util.config import load_yaml
from util.files import UserError, atomic, project, write_text
from util.images import load_image, save_image, to_pixels
from util.tables import markdown, write_csv

KERNEL = 13  # px a side
SCRATCH, SCRATCHES = 4, 8  # px wide; how many on SIDE px
FACTOR = 4  # of the reduction
IMPULSES = 0.03  # share of the px
SIDE = 176  # px, of a photograph's crop
STRIPS = 3  # photographs of each damage in photographs.png


def from_sklearn(file):
    try:
        from sklearn.datasets import load_sample_image  # needed here only
    except ImportError as error:
        raise UserError(
            f"{file}: is part of scikit-learn; pip install scikit-learn, or choose --photographs"
        ) from error
    return load_sample_image(file)


# load() -> (H, W) or (H, W, 3) uint8; centre: row and column of the crop's centre.
Photograph = namedtuple("Photograph", "load centre")


def from_bench(file):
    """A photograph of data/bench, 512 x 512 px."""
    path = f"data/bench/{file}"
    return Photograph(lambda: np.asarray(Image.open(project(path)).convert("RGB")), (256, 256))


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
    "bridge": from_bench("files/Bridge_by_Sander_Klootwijk.png"),
    "picture": from_bench("files/Picture_1A_by_freespace.png"),
    "wine": from_bench("files/Wine_by_Jakkub_Mede.png"),
    "flowers": from_bench("files/flowers.png"),
    "lake": from_bench("files/lake-sherburne.png"),
    "cityscape": from_bench("files/singaporean-cityscape.png"),
    "desert": from_bench("denoising/extreme-desert-hike.png"),
    "fog": from_bench("denoising/fog.png"),
    "otters": from_bench("denoising/oakland-zoo-otters.png"),
    "mountains": from_bench("denoising/picosdeeuropa_by_Aitzol_Berasategi.png"),
    "colosseum": from_bench("denoising/roman-colosseum.png"),
    "seeding": from_bench("denoising/seeding_by_Clements_Engelhardt.png"),
}
SETS = {
    "final": ["camera", "cat", "china", "flower", "motorcycle", "rocket"],
    "tuning": ["astronaut", "hubble", "page"],
    "choosing": ["coffee", "retina", "coins"],
    "denoising": ["desert", "fog", "otters", "mountains", "colosseum", "seeding"],
    "files": ["bridge", "picture", "wine", "flowers", "lake", "cityscape"],
}


def cut(picture, centre, size):
    """size x size px around `centre`, shifted to lie within the picture; less if it is smaller."""
    corner = [max(0, min(c - size // 2, length - size)) for c, length in zip(centre, picture.shape)]
    return picture[tuple(slice(first, first + size) for first in corner)]


def noisy(sigma):
    """Gaussian noise of standard deviation sigma / 255 of the range."""

    def damage(x, rng):
        return x, x + sigma / 127.5 * torch.from_numpy(rng.standard_normal(x.shape)).float(), {}

    return damage


def scratched(x, rng):
    """Straight white scratches from edge to edge; their number is proportional to the side."""
    height, width = x.shape[-2:]
    mask = Image.new("L", (width, height), 255)
    canvas = ImageDraw.Draw(mask)
    for n in range(round(SCRATCHES * max(height, width) / SIDE)):
        first, last = rng.random(2)
        down = [(first * width, -1), (last * width, height)]
        across = [(-1, first * height), (width, last * height)]
        canvas.line(down if n % 2 else across, fill=0, width=SCRATCH)
    mask = np.asarray(mask) > 0
    return x, torch.where(torch.from_numpy(mask), x, 1.0), {"mask": mask}


def blurred(sigma):
    """Camera shake and noise of standard deviation sigma / 255 of the range. The truth lacks the
    border that the kernel needs around each px."""

    def damage(x, rng):
        kernel = torch.from_numpy(motion_kernel(KERNEL, 0.5, rng, None)).float()
        size, border = tuple(x.shape[-2:]), KERNEL // 2
        clean = correlating(kernel[None], size)(x[None])[0]
        truth = x[:, border:-border, border:-border]
        return truth, noisy(sigma)(clean, rng)[1], {"kernel": kernel.numpy()}

    return damage


def reduced(x, rng):
    """Bicubic reduction as in MATLAB."""
    height, width = (FACTOR * (length // FACTOR) for length in x.shape[-2:])
    x = x[:, :height, :width]
    return x, reducing((height, width), FACTOR, torch.device("cpu"))(x[None])[0], {"factor": FACTOR}


def compressed(quality):
    """Compression as a JPEG with chroma of half the size (4:2:0), which `write_damaged` does."""

    def damage(x, rng):
        return x, x, {"quality": quality}

    return damage


def with_impulses(values):
    """A share IMPULSES of the px has other values: values(rng, (C, H, W)) -> (…, H, W)."""

    def damage(x, rng):
        hit = torch.from_numpy(rng.random(x.shape[-2:]) < IMPULSES)
        y = torch.where(hit, torch.from_numpy(values(rng, x.shape)).float(), x)
        return x, y, {"impulses": hit.numpy()}

    return damage


def to_unit(x):
    """(C, H, W) in [-1, 1] -> (H, W, 3) in [0, 1]."""
    return (x.expand(3, -1, -1).permute(1, 2, 0).double().numpy() + 1) / 2


def from_unit(x):
    """The inverse of `to_unit`, for three channels."""
    return torch.from_numpy(2 * x.transpose(2, 0, 1) - 1).float()


def by_camera(photons, is_told):
    """A camera's noise (`bench.cameras`); is_told: its spectrum is known. The truth is the same
    camera's picture without noise."""

    def damage(x, rng):
        x = to_unit(x)
        noisy, clean = cameras.photograph(x, photons, rng)
        known = {}
        if is_told:
            frame = from_unit(cameras.even_surface(photons, rng))
            known = {"noise": frame, "spectrum": cameras.spectrum(x, photons, rng)}
        return from_unit(clean), from_unit(noisy), known

    return damage


def salt_and_pepper(rng, shape):
    return rng.choice([-1.0, 1.0], shape[-2:])


def uniform(rng, shape):
    return rng.uniform(-1, 1, shape)


def of_photons(photons, is_bright):
    """Poisson noise with `photons` at white, without a mosaic; scored in the brighter or the darker
    half of the px."""

    def damage(x, rng):
        light = (x.double().numpy() + 1) / 2
        y = torch.from_numpy(rng.poisson(light * photons) / photons * 2 - 1).float().clamp(-1, 1)
        brightness = light.mean(0)
        half = (brightness > np.median(brightness)) == is_bright
        sigma = (y - x)[:, torch.from_numpy(half)].square().mean().item() ** 0.5 / 2
        return x, y, {"half": ~half, "sigma": sigma}

    return damage


# sigma: noise of 255, or None; option: restore.py's for this damage; make(x, rng): truth and
# measurement, (C, H, W) in [-1, 1], and what is known about the damage; rivals: the key of RIVALS
# if it is not the option.
Damage = namedtuple("Damage", "title sigma option make rivals", defaults=[None])

DAMAGES = {
    f"noise{sigma}": Damage(f"noise {sigma} of 255", sigma, None, noisy(sigma))
    for sigma in (2, 5, 10, 25, 50)
}
DAMAGES["scratches"] = Damage(f"scratches {SCRATCH} px wide", None, "mask", scratched)
DAMAGES["blur"] = Damage(f"known blur of {KERNEL} px, noise 2.5", 2.5, "kernel", blurred(2.5))
DAMAGES["reduced"] = Damage(f"enlarging x {FACTOR}", None, "scale", reduced)
DAMAGES.update(
    (f"jpeg{quality}", Damage(f"JPEG of quality {quality}", None, "jpeg", compressed(quality)))
    for quality in (10, 20, 40)
)
DAMAGES["impulses"] = Damage(
    f"{IMPULSES:.0%} salt and pepper", None, "defects", with_impulses(salt_and_pepper)
)
DAMAGES["random"] = Damage(
    f"{IMPULSES:.0%} px of random values", None, "defects", with_impulses(uniform)
)
DAMAGES.update(
    (
        f"camera{photons}",
        Damage(f"camera, {photons} photons", None, None, by_camera(photons, False), "camera"),
    )
    for photons in (50, 100, 200)
)
DAMAGES.update(
    (
        f"camera{photons}-told",
        Damage(
            f"camera, {photons} photons, spectrum known", None, "noise", by_camera(photons, True)
        ),
    )
    for photons in (50, 100, 200)
)
DAMAGES.update(
    (
        f"poisson{photons}-{half}",
        Damage(
            f"Poisson, {photons} photons, {half} half",
            None,
            None,
            of_photons(photons, half == "bright"),
            "poisson",
        ),
    )
    for photons in (40, 200, 1000)
    for half in ("dark", "bright")
)


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

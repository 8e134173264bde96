"""The scripts as a user runs them: what a run leaves, and bad input."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import edit, no_network
from PIL import Image

from report import records
from util.images import load_image

FILES = ["log.txt", "settings.json", "summary.json", "grid.png", "report.html"]


@pytest.mark.usefixtures("tiny_prior")
@pytest.mark.parametrize(
    "method, iterates",
    [
        ("dmilo", ["0_after", "1_after"]),
        ("dmilo-pgd", ["0_before", "0_after", "1_before", "1_after"]),
    ],
)
def test_a_run_leaves_what_is_published_and_more(run_method, method, iterates):
    run = run_method(method, "inpainting", "--batch-size", 2)
    assert sorted(os.listdir(run.folder)) == sorted(FILES + ["images", "record"])
    names = ("astronaut", "grace_hopper")
    records = [json.loads((run.folder / "record" / f"{n}.json").read_text()) for n in names]
    for name, record in zip(names, records):
        files = "origin.png measurement.png measurement.npy mask.png init.png final.png result.png"
        expected = set(files.split()) | {f"{iterate}.png" for iterate in iterates}
        assert set(os.listdir(run.folder / "images" / name)) == expected
        assert record["iterates"] == iterates
        for key in ("psnr", "ssim", "lpips_alex", "residual", "elapsed"):
            assert len(record[key]) == len(iterates)
        assert record["nfe"][0] < record["nfe"][-1] == record["nfe_total"] == 21
        paths = (run.folder / "images" / name / f"{p}.png" for p in ("origin", "final"))
        origin, final = (np.asarray(Image.open(path), float) for path in paths)
        psnr = 10 * np.log10(255**2 / ((origin - final) ** 2).mean())
        assert abs(psnr - record["psnr"][-1]) < 0.1  # 8-bit rounding

    summary = run.summary
    head = {"method": method, "dataset": "demo", "task": "inpainting", "images": 2}
    assert head.items() <= summary.items()
    assert summary["nfe_per_image"] == 21 and summary["seconds_per_image"] > 0
    finals, bests = [r["psnr"][-1] for r in records], [max(r["psnr"]) for r in records]
    mean = pytest.approx(np.mean(finals))
    assert summary["final"]["psnr"] == {"mean": mean, "std": pytest.approx(np.std(finals))}
    assert summary["best"]["psnr"]["mean"] == pytest.approx(np.mean(bests))
    assert 0 < summary["final"]["lpips_alex"]["mean"] < 2
    settings = summary["settings"]
    assert settings["hyperparameters"]["inner"] == 2 and settings["seed"] == 123
    assert f"avg psnr: {np.mean(finals)}"[:14] in (run.folder / "log.txt").read_text()


def test_least_squares_restores_without_a_network(run_method):
    summary = run_method("least_squares", "inpainting").summary
    assert summary["final"]["psnr"]["mean"] > 23 and summary["nfe_per_image"] == 0


def test_least_squares_refuses_what_is_not_linear(script, tmp_path):
    result = script("baselines.least_squares -t phase_retrieval --cuda -1 -l", tmp_path)
    assert result.code == 2 and "operator is not linear" in result.err


def baseline(method, nfe, floor, options="", slow=False):
    return pytest.param(method, nfe, floor, options, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize(
    "method, nfe, floor, options",
    [
        baseline("total_variation", 0, 22),
        baseline("dmplug", 33, 9, "-n 1 --outer 2 --inner 4"),
        baseline("dps", 20, 14, "-n 1 -c 20"),
        baseline("reddiff", 50, 20, "-n 1 -c 50"),
        baseline("daps", 40, 18, "-n 1 -c 10"),
        baseline("diffpir", 10, 18, "-n 1 -c 10"),
        baseline("fast_dips", 10, 20, "-n 1 --set steps=10"),
        baseline("admm", 10, 20, "-n 1 --set steps=10"),
        baseline("dmplug", 69, 9, "--outer 2 --inner 10", slow=True),
        baseline("dps", 50, 14, "-c 50", slow=True),
        baseline("reddiff", 100, 20, "-c 100", slow=True),
        baseline("daps", 487, 18, "-c 100", slow=True),
    ],
)
def test_the_baselines_restore_and_are_counted(run_method, method, nfe, floor, options):
    summary = run_method(method, "inpainting", *options.split()).summary
    assert summary["final"]["psnr"]["mean"] > floor
    assert summary["nfe_per_image"] == nfe


def test_a_setting_that_a_baseline_lacks_is_one_line(script, tmp_path):
    result = script("baselines.dps -t inpainting --inner 3 --cuda -1 -l", tmp_path)
    assert result.code == 2 and "inner: configs/dps.yaml " in result.err


@pytest.mark.usefixtures("tiny_prior")
def test_batches_that_do_not_divide_and_slices(run_method, tmp_path):
    for name in "abcde":
        os.makedirs(tmp_path / "faces", exist_ok=True)
        Image.open("data/demo/astronaut.png").save(tmp_path / "faces" / f"{name}.png")
    options = "-n 4 -bn 1 -en 4 --batch-size 2 --outer 1 --inner 1 --data".split()
    run = run_method("dmilo", "super_resolution", *options, tmp_path / "faces")
    assert sorted(os.listdir(run.folder / "images")) == ["b", "c", "d"]
    assert run.summary["images"] == 3


MISSING_OR_BROKEN = [None, b"x", {"weight": torch.zeros(1)}]


def put_weights(tmp_path, name, content):
    """Put bytes or a state dict where torch.hub looks for the file `name` -> its path."""
    path = tmp_path / "torch" / "hub" / "checkpoints" / name
    os.makedirs(path.parent)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    return str(path)


def test_lpips_is_the_one_of_its_authors(script):
    """Distances that lpips gives with torchvision's own AlexNet."""
    from experiment.metrics import Metrics

    metrics = Metrics(torch.device("cpu"))
    astronaut, grace_hopper = (
        load_image(f"data/demo/{name}.png", 64)[0] for name in ("astronaut", "grace_hopper")
    )
    assert metrics(astronaut, grace_hopper)["lpips_alex"] == pytest.approx(0.217231, abs=2e-6)
    assert metrics(astronaut.flip(-1), astronaut)["lpips_alex"] == pytest.approx(0.088495, abs=2e-6)
    assert metrics(astronaut, astronaut)["lpips_alex"] == 0


@pytest.mark.slow
def test_fid_is_computed_where_inception_is(run_method, tmp_path):
    from pytorch_fid import inception

    torch.manual_seed(0)
    network = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    for name, kind, *widths in [
        ("5b", "A", 192, 32),
        ("5c", "A", 256, 64),
        ("5d", "A", 288, 64),
        ("6b", "C", 768, 128),
        ("6c", "C", 768, 160),
        ("6d", "C", 768, 160),
        ("6e", "C", 768, 192),
        ("7b", "E_1", 1280),
        ("7c", "E_2", 2048),
    ]:
        setattr(network, f"Mixed_{name}", getattr(inception, f"FIDInception{kind}")(*widths))
    put_weights(tmp_path, "pt_inception-2015-12-05-6726825d.pth", network.state_dict())
    run = run_method("dmilo", "inpainting", "--fid", iterations=("--outer", 2, "--inner", 1))
    assert 0 < run.summary["fid"]["final"] < float("inf") and run.summary["fid"]["best"] > 0


@pytest.mark.usefixtures("tiny_prior")
@pytest.mark.parametrize("content", MISSING_OR_BROKEN, ids=["missing", "broken", "foreign"])
def test_without_inception_one_warning_names_the_file(run_method, tmp_path, monkeypatch, content):
    monkeypatch.setattr("pytorch_fid.inception.load_state_dict_from_url", no_network)
    path = put_weights(tmp_path, "pt_inception-2015-12-05-6726825d.pth", content)
    run = run_method("dmilo", "inpainting", "--fid", "-n", 1, "--outer", 1, "--inner", 1)
    warnings = [line for line in run.err.splitlines() if line.startswith("warning: no FID")]
    assert run.summary["fid"] is None and len(warnings) == 1 and path in warnings[0]
    assert ("fetching FID's network" in run.err) == (content is None)


@pytest.mark.usefixtures("tiny_prior")
def test_no_gpu_is_one_warning(run_method, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    run = run_method("dmilo", "inpainting", "-n", 1, "--cuda", 99, "--outer", 1, "--inner", 1)
    assert "warning: no GPU 99" in run.err and len(run.err.splitlines()) == 1


def test_a_gpu_that_is_not_among_those_here(script, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    result = script("dmilo.py -t inpainting --cuda 7 -l", tmp_path)
    assert result.code == 2 and "--cuda 7: " in result.err and len(result.err.splitlines()) == 1
    assert not os.listdir(tmp_path)


class Code:
    """A pickle of this would run code."""

    def __reduce__(self):
        return os.mkdir, ("pickled_code_ran",)


def replace_checkpoint(content):
    def change(root):
        os.remove(root / "models" / "demo.pt")
        if isinstance(content, bytes):
            (root / "models" / "demo.pt").write_bytes(content)
        elif content is not None:
            torch.save(content, root / "models" / "demo.pt")

    return change


def add_image(name, mode, size, *more, folder="mine"):
    def change(root):
        os.makedirs(root / folder)
        for one in (name, *more):
            if mode is None:
                (root / folder / one).write_bytes(b"not an image")
            else:
                Image.new(mode, size).save(root / folder / one)

    return change


def in_file(path, old, new):
    return lambda root: edit(root / path, old, new)


def in_model(old, new):
    return in_file("configs/model_config_demo.yaml", old, new)


def in_task(task, old, new):
    return in_file(f"configs/tasks/{task}_config.yaml", old, new)


def in_method(old, new):
    return in_file("configs/dmilo.yaml", old, new)


def written(path, content):
    def change(root):
        os.makedirs((root / path).parent, exist_ok=True)
        (root / path).write_bytes(content)

    return change


def make_60_px(root):
    in_model("image_size: 64", "image_size: 60")(root)
    add_image("a.png", "RGB", (60, 60))(root)


def cut_image(root):
    written("mine/a.png", (root / "data/demo/astronaut.png").read_bytes()[:2000])(root)


def folder_for_checkpoint(root):
    os.remove(root / "models/demo.pt")
    os.makedirs(root / "models/demo.pt")


def other_checkpoint(root):
    edit(root / "configs/model_config_celeba.yaml", "celebahq_p2.pt", "demo.pt")


ALEXNET, MINE = "models/alexnet_features.pt", "--data mine"
SR, NOISE = "super_resolution", "poisson_denoising"
GAUSSIAN, MOTION = "demo/gaussian_deblur", "demo/motion_deblur"
BAD = [  # what is changed, the options, what the line must name
    (None, "-t colourise", "--task colourise"),
    (None, "--dataset cats", "--dataset cats"),
    (None, "--data nowhere", "nowhere: "),
    (lambda root: os.makedirs(root / "empty"), "--data empty", "empty: no images in it"),
    (None, "-bn 5", "choose none of the images"),
    (None, "-n 0", "-n/--number: must be 1 or more"),
    (None, "--batch-size -1", "--batch-size: must be 1 or more"),
    (None, "--outer none", "--outer: invalid int value"),
    (None, "-c 0", "-c/--custom_steps: must be 1 or more"),
    (None, "-c 1001", "-c/--custom_steps: must be 1 or more, 1000 at most"),
    (None, "--eta nan", "-e/--eta: must be 0 or more"),
    (None, "--eta 1.5", "-e/--eta: must be 0 or more, 1 at most"),
    (None, "--seed 5000000000", "--seed: must be 0 or more"),
    (None, "--name ../x", "--run: must be a folder's name"),
    (None, "--colour", "unrecognized arguments: --colour"),
    (None, "-l configs/dmilo.yaml", "configs/dmilo.yaml"),
    (add_image("a.png", None, None), MINE, "a.png: cannot be read"),
    (add_image("a.png", "RGB", (64, 30)), MINE, "a.png: 64 x 30 px "),
    (add_image("a.png", "RGB", (64, 64), "A.jpg"), MINE, "would share its folder of results"),
    (replace_checkpoint(None), "", "models/demo.pt: "),
    (lambda root: os.remove(root / ALEXNET), "", ALEXNET),
    (lambda root: torch.save({}, root / ALEXNET), "", ALEXNET),
    (replace_checkpoint(b""), "", "models/demo.pt: "),
    (replace_checkpoint(b"x" * 1000), "", "models/demo.pt: "),
    (replace_checkpoint(Code()), "", "models/demo.pt: holds an object of the class posix.mkdir"),
    (replace_checkpoint([1, 2]), "", "models/demo.pt: holds no state dict"),
    (replace_checkpoint({"weight": torch.zeros(1)}), "", "fits none of the shipped configs"),
    (other_checkpoint, "--dataset celeba --data black", "it fits configs/model_config_demo.yaml"),
    (in_model("num_channels: 32", "num_channels: 36"), "", "num_channels (36)"),
    (in_model("image_size: 64", "image_sise: 64"), "", "image_size is missing"),
    (in_model("image_size: 64", "image_size: '64'"), "", "image_size is '64'"),
    (make_60_px, MINE, "image_size 60 "),
    (in_model("class_cond: False", "class_cond: True"), "", "class_cond is True"),
    (in_model("dropout: 0.0", "dropuot: 0.0"), "", "dropuot"),
    (in_task("inpainting", "sigma: 0.01", "sigma: -0.01"), "", "measurement.noise.sigma is -0.01"),
    (in_task("inpainting", "operator:", "operator"), "", "is not valid YAML"),
    (in_method("lr_z: 0.02", "lr_zz: 0.02"), "", "lr_z is missing"),
    (in_method("inpainting:", "inpaintng:"), "", "the row inpaintng "),
    (in_method("inpainting:", "foto/inpainting:"), "", "the row foto/inpainting "),
    (None, "--preset slow", "--preset slow: configs/dmilo.yaml "),
    (None, "--preset fast -t inpainting --inner 0", "--inner: must be 1 or more"),
    (None, f"-t {NOISE} --sigma 0.1", "--sigma 0.1: "),
    (None, "--seed 4294967295 --samples 2", "--seed 4294967295: "),
    (None, "--precision fp8", "argument --precision: "),
    (None, "--cuda -2", "--cuda: must be -1 or more"),
    (None, "--cuda gpu", "--cuda: invalid int value"),
    (None, "-en -2", "-en/--end_number: must be -1 or more"),
    (None, "-bn -1", "-bn/--begin_number: must be 0 or more"),
    (None, "-bn 1 -en 1", "choose none of the images"),
    (None, "--eta -0.1", "-e/--eta: must be 0 or more"),
    (None, "--name ..", "--run: must be a folder's name"),
    (None, "--data dmilo.py", "dmilo.py: "),
    (add_image("a.heic", None, None), MINE, "mine: no images in it but a.heic"),
    (written("mine/a.png", b""), MINE, "a.png: cannot be read"),
    (cut_image, MINE, "a.png: cannot be read"),
    (replace_checkpoint({"a": 1}), "", "models/demo.pt: holds no state dict"),
    (replace_checkpoint({"state_dict": {"weight": torch.zeros(1)}}), "", "does not fit"),
    (folder_for_checkpoint, "", "models/demo.pt: "),
    (written("configs/model_config_demo.yaml", b"- a\n"), "", "must hold 'key: value' lines"),
    (written("configs/model_config_demo.yaml", b"\xff\xfe\x00"), "", "is not valid YAML"),
    (in_model("attention_resolutions: 8", "attention_resolutions: eight"), "", "model_config_demo"),
    (in_model("model_path: models/demo.pt", "model_path:"), "", "model_path is None"),
    (in_task("inpainting", "name: inpainting", "name: outpainting"), "", "operator.name is 'out"),
    (in_task("inpainting", "name: gaussian", "name: cauchy"), "", "noise.name is 'cauchy'"),
    (in_task("inpainting", "sigma: 0.01", "sigma: .nan"), "", "measurement.noise.sigma is nan"),
    (in_task("inpainting", "sigma: 0.01", "sigma: a little"), "", "noise.sigma is 'a little'"),
    (in_task("inpainting", "mask_type: random", "mask_type: round"), "", "mask_type is 'round'"),
    (in_task("inpainting", "[0.7, 0.7", "[0.7, 1.7"), "", "mask_prob_range is (0.7, 1.7)"),
    (in_task("inpainting", "[0.7, 0.7", "[0.7, 0.5"), "", "mask_prob_range is (0.7, 0.5)"),
    (in_task("inpainting", "!!python/tuple", "!!python/object:os.system"), "", "not valid YAML"),
    (in_task(SR, "scale_factor: 4", "scale_factor: 7"), f"-t {SR}", "scale_factor is 7"),
    (in_task(SR, "scale_factor: 4", "scale_factor: 0"), f"-t {SR}", "scale_factor is 0"),
    (in_task(GAUSSIAN, "size: 21", "size: 200"), "-t gaussian_deblur", "kernel_size is 200"),
    (in_task(GAUSSIAN, "ity: 3.0", "ity: -3.0"), "-t gaussian_deblur", "intensity is -3.0"),
    (in_task(MOTION, "ity: 0.5", "ity: 1.5"), "-t motion_deblur", "kernel_size, intensity: "),
    (in_task(MOTION, "l: motion", "l: emotion"), "-t motion_deblur", "kernel is 'emotion'"),
    (
        in_task("demo/box_inpainting", "[24, 25]", "[24, 60]"),
        "-t box_inpainting",
        "mask_len_range is (24, 60)",
    ),
    (
        in_task("phase_retrieval", "sample: 2.0", "sample: -2.0"),
        "-t phase_retrieval",
        "oversample is -2.0",
    ),
    (in_task(NOISE, "rate: 0.2", "rate: 0.0"), f"-t {NOISE}", "noise.rate is 0.0"),
    (in_method("lr_z: 0.02", "lr_z: fast"), "", "lr_z is 'fast'"),
    (written("configs/dmilo.yaml", b"paper: 3\n"), "", "paper is 3"),
    (lambda root: (root / "configs/dmilo.yaml").unlink(), "", "configs/dmilo.yaml: "),
    (None, "-t nonlinear_deblur", "128"),
    (None, f"-t {SR} --data photos", "a.png: 45 x 37: "),
]


@pytest.mark.parametrize("change, options, message", BAD, ids=[f"{o} {m}" for _, o, m in BAD])
def test_bad_input_is_one_line_and_exit_code_2(script, workspace, change, options, message):
    add_image("a.png", "RGB", (45, 37), folder="photos")(workspace)
    if change:
        change(workspace)
    before = sorted(os.walk(workspace))
    task = "" if "-t " in options else "-t inpainting"
    result = script(f"dmilo.py --cuda -1 {task} {options}")
    assert result.code == 2, result.err
    assert len(result.err.splitlines()) == 1 and message in result.err
    assert result.err.startswith("dmilo.py: error: ")
    assert sorted(os.walk(workspace)) == before  # nothing was written, no code in a pickle ran


@pytest.mark.parametrize(
    "mode, value, expected",
    [
        ("L", 100, (100, 100, 100)),
        ("I;16", 30000, (117, 117, 117)),
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("P", 0, (0, 0, 0)),
    ],
)
def test_images_of_other_kinds_are_converted(tmp_path, mode, value, expected):
    Image.new(mode, (64, 64), value).save(tmp_path / "a.png")
    colour = (load_image(str(tmp_path / "a.png"), 64)[0, :, 0, 0] + 1) * 127.5
    assert tuple(colour.round().int().tolist()) == expected


def test_records_are_read_a_few_times_whatever_their_number(run_method, tmp_path, monkeypatch):
    count, data = 8, tmp_path / "faces"
    data.mkdir()
    for n in range(count):
        shutil.copy("data/demo/astronaut.png", data / f"{n}.png")
    read, paths = records.json.load, []

    def load(file):
        paths.append(file.name)
        return read(file)

    monkeypatch.setattr(records.json, "load", load)
    given = "--data", data, "--batch-size", 1, "--inner", 1
    assert run_method("least_squares", "inpainting", *given).summary["images"] == count
    assert sum(os.path.join("", "record", "") in path for path in paths) <= 4 * count
    paths.clear()
    assert run_method("least_squares", "inpainting", *given).summary["images"] == count
    assert sum(os.path.join("", "record", "") in path for path in paths) <= 5 * count

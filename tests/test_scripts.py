"""Both scripts, the baseline and train.py as a user runs them."""

import json
import os

import numpy as np
import pytest
import torch
from conftest import edit, no_network
from PIL import Image

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
    for name in ("astronaut", "grace_hopper"):
        pictures = {
            "origin.png",
            "measurement.png",
            "measurement.npy",
            "mask.png",
            "init.png",
            "final.png",
            "result.png",
        }
        assert set(os.listdir(run.folder / "images" / name)) == pictures | {
            f"{iterate}.png" for iterate in iterates
        }
        record = json.loads((run.folder / "record" / f"{name}.json").read_text())
        assert record["iterates"] == iterates
        assert all(
            len(record[key]) == len(iterates)
            for key in ("psnr", "ssim", "lpips_alex", "residual", "elapsed")
        )
        assert (
            record["evaluations"][-1] == record["network_evaluations"] == 21
            and record["evaluations"][0] < 21
        )
        origin, final = (
            np.asarray(Image.open(run.folder / "images" / name / f"{p}.png"), float)
            for p in ("origin", "final")
        )
        psnr = 10 * np.log10(255**2 / ((origin - final) ** 2).mean())
        assert abs(psnr - record["psnr"][-1]) < 0.1  # 8-bit rounding

    summary = run.summary
    assert (
        summary["method"] == method
        and summary["dataset"] == "demo"
        and summary["task"] == "inpainting"
    )
    assert (
        summary["images"] == 2
        and summary["network_evaluations_per_image"] == 21
        and summary["seconds_per_image"] > 0
    )
    records = [
        json.loads((run.folder / "record" / f"{n}.json").read_text())
        for n in ("astronaut", "grace_hopper")
    ]
    finals, bests = [r["psnr"][-1] for r in records], [max(r["psnr"]) for r in records]
    assert summary["final"]["psnr"] == {
        "mean": pytest.approx(np.mean(finals)),
        "std": pytest.approx(np.std(finals)),
    }
    assert summary["best"]["psnr"]["mean"] == pytest.approx(np.mean(bests))
    assert 0 < summary["final"]["lpips_alex"]["mean"] < 2
    assert (
        summary["settings"]["hyperparameters"]["inner"] == 2 and summary["settings"]["seed"] == 123
    )
    assert "against the ground truth, an oracle's choice" in (run.folder / "log.txt").read_text()
    assert f"avg psnr: {np.mean(finals)}"[:14] in (run.folder / "log.txt").read_text()


@pytest.mark.usefixtures("tiny_prior")
def test_a_batch_of_two_gives_what_two_single_runs_give(run_method):
    two = run_method("dmilo", "motion_deblur", "--batch-size", 2, name="two")
    one = run_method("dmilo", "motion_deblur", "--batch-size", 1, name="one")
    for name in ("astronaut", "grace_hopper"):
        a, b = (
            np.asarray(Image.open(r.folder / "images" / name / "final.png"), float)
            for r in (two, one)
        )
        assert np.abs(a - b).mean() < 0.5


def test_least_squares_baseline_restores_without_a_network(script, tmp_path, one_alexnet):
    result = script(
        "baselines.least_squares", "-t", "inpainting", "-l", tmp_path, "--name", "run", "--cuda", -1
    )
    assert result.code == 0, result.err
    summary = json.loads((tmp_path / "demo" / "inpainting" / "run" / "summary.json").read_text())
    assert summary["final"]["psnr"]["mean"] > 23 and summary["network_evaluations_per_image"] == 0


def test_least_squares_refuses_what_is_not_linear(script, tmp_path):
    result = script(
        "baselines.least_squares", "-t", "phase_retrieval", "-l", tmp_path, "--cuda", -1
    )
    assert result.code == 2 and "operator is not linear" in result.err


def baseline(method, evaluations, floor, *options, slow=False):
    return pytest.param(method, options, floor, evaluations, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize(
    "method, options, floor, evaluations",
    [
        baseline("total_variation", 0, 22),
        baseline("dmplug", 33, 9, "-n", 1, "--outer", 2, "--inner", 4),
        baseline("dps", 20, 14, "-n", 1, "-c", 20),
        baseline("reddiff", 50, 20, "-n", 1, "-c", 50),
        baseline("daps", 40, 18, "-n", 1, "-c", 10),
        baseline("diffpir", 10, 18, "-n", 1, "-c", 10),
        baseline("dmplug", 69, 9, "--outer", 2, "--inner", 10, slow=True),
        baseline("dps", 50, 14, "-c", 50, slow=True),
        baseline("reddiff", 100, 20, "-c", 100, slow=True),
        baseline("daps", 487, 18, "-c", 100, slow=True),
    ],
)
def test_the_baselines_restore_and_are_counted(
    script, tmp_path, one_alexnet, method, options, floor, evaluations
):
    result = script(
        f"baselines.{method}",
        "-t",
        "inpainting",
        "-l",
        tmp_path / "runs",
        "--name",
        "r",
        "--cuda",
        -1,
        *options,
    )
    assert result.code == 0, result.err
    summary = json.loads(
        (tmp_path / "runs" / "demo" / "inpainting" / "r" / "summary.json").read_text()
    )
    assert summary["final"]["psnr"]["mean"] > floor
    assert summary["network_evaluations_per_image"] == evaluations


def test_a_setting_that_a_baseline_lacks_is_one_line(script, tmp_path):
    result = script("baselines.dps", "-t", "inpainting", "-l", tmp_path, "--inner", 3, "--cuda", -1)
    assert result.code == 2 and "--inner: configs/dps.yaml knows no such setting" in result.err


@pytest.mark.usefixtures("tiny_prior")
def test_batches_that_do_not_divide_and_slices(run_method, tmp_path):
    for name in "abcde":
        os.makedirs(tmp_path / "faces", exist_ok=True)
        Image.open("data/demo/astronaut.png").save(tmp_path / "faces" / f"{name}.png")
    run = run_method(
        "dmilo",
        "super_resolution",
        "--data",
        tmp_path / "faces",
        "-n",
        4,
        "-bn",
        1,
        "-en",
        4,
        "--batch-size",
        2,
        iterations=("--outer", 1, "--inner", 1),
    )
    assert (
        sorted(os.listdir(run.folder / "images")) == ["b", "c", "d"] and run.summary["images"] == 3
    )


MISSING_OR_BROKEN = [None, b"x", {"weight": torch.zeros(1)}]


def put_weights(tmp_path, name, content):
    """Bytes, a state dict or, if None, nothing where torch.hub looks for the file of that name -> its path."""
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
def test_fid_is_measured_where_inception_is(run_method, tmp_path):
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
    run = run_method(
        "dmilo", "inpainting", "--fid", "-n", 1, iterations=("--outer", 1, "--inner", 1)
    )
    warnings = [line for line in run.err.splitlines() if line.startswith("warning: no FID")]
    assert run.summary["fid"] is None and len(warnings) == 1 and path in warnings[0]
    assert ("fetching FID's network" in run.err) == (content is None)


@pytest.mark.usefixtures("tiny_prior")
def test_no_gpu_is_one_warning(run_method, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    run = run_method(
        "dmilo", "inpainting", "-n", 1, "--cuda", 99, iterations=("--outer", 1, "--inner", 1)
    )
    assert "warning: no GPU 99 here, running on the CPU" in run.err


def test_a_gpu_that_is_not_among_those_here(script, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    result = script("dmilo.py", "-t", "inpainting", "-l", tmp_path, "--cuda", 7)
    assert (
        result.code == 2
        and result.err
        == "dmilo.py: error: --cuda 7: the GPUs here are 0 to 0; choose one of them, or -1 for the CPU\n"
    )
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


def add_image(name, mode, size, *more):
    def change(root):
        os.makedirs(root / "mine")
        for one in (name, *more):
            if mode is None:
                (root / "mine" / one).write_bytes(b"not an image")
            else:
                Image.new(mode, size).save(root / "mine" / one)

    return change


def make_60_px(root):
    edit(root / "configs/model_config_demo.yaml", "image_size: 64", "image_size: 60")
    add_image("a.png", "RGB", (60, 60))(root)


NOTHING = lambda root: None
BAD = [
    (NOTHING, ["-t", "colourise"], "--task colourise"),
    (NOTHING, ["--dataset", "cats"], "--dataset cats"),
    (NOTHING, ["--data", "nowhere"], "nowhere: no such folder"),
    (lambda root: os.makedirs(root / "empty"), ["--data", "empty"], "empty: no images in it"),
    (NOTHING, ["-bn", "5"], "choose none of the images"),
    (NOTHING, ["-n", "0"], "-n/--number: must be 1 or more"),
    (NOTHING, ["--batch-size", "-1"], "--batch-size: must be 1 or more"),
    (NOTHING, ["--outer", "none"], "--outer: invalid int value"),
    (NOTHING, ["-c", "0"], "-c/--custom_steps: must be 1 or more, 1000 at most"),
    (NOTHING, ["-c", "1001"], "-c/--custom_steps: must be 1 or more, 1000 at most"),
    (NOTHING, ["--eta", "nan"], "-e/--eta: must be 0 or more"),
    (NOTHING, ["--eta", "1.5"], "-e/--eta: must be 0 or more, 1 at most"),
    (NOTHING, ["--seed", "5000000000"], "--seed: must be 0 or more"),
    (NOTHING, ["--name", "../x"], "--run: must be a folder's name"),
    (NOTHING, ["--colour"], "unrecognized arguments: --colour"),
    (
        NOTHING,
        ["-l", "configs/dmilo.yaml"],
        "cannot be written (Not a directory); choose another --logdir",
    ),
    (add_image("a.png", None, None), ["--data", "mine"], "a.png: cannot be read as an image"),
    (
        add_image("a.png", "RGB", (64, 30)),
        ["--data", "mine"],
        "a.png: 64 x 30 pixels are too few to restore, 32 x 32 are the least",
    ),
    (
        add_image("a.png", "RGB", (64, 64), "A.jpg"),
        ["--data", "mine"],
        "would share its folder of results",
    ),
    (replace_checkpoint(None), [], "models/demo.pt: no such checkpoint"),
    (
        lambda root: os.remove(root / "models/alexnet_features.pt"),
        [],
        "models/alexnet_features.pt: cannot be read as a checkpoint",
    ),
    (
        lambda root: torch.save({}, root / "models/alexnet_features.pt"),
        [],
        "models/alexnet_features.pt: holds other weights than AlexNet's",
    ),
    (replace_checkpoint(b""), [], "models/demo.pt: cannot be read as a checkpoint (EOFError)"),
    (
        replace_checkpoint(b"x" * 1000),
        [],
        "models/demo.pt: cannot be read as a checkpoint (UnpicklingError)",
    ),
    (replace_checkpoint(Code()), [], "models/demo.pt: holds an object of the class posix.mkdir"),
    (replace_checkpoint([1, 2]), [], "models/demo.pt: holds no state dict"),
    (replace_checkpoint({"weight": torch.zeros(1)}), [], "it fits none of the shipped configs"),
    (
        lambda root: edit(root / "configs/model_config_celeba.yaml", "celebahq_p2.pt", "demo.pt"),
        ["--dataset", "celeba", "--data", "black"],
        "models/demo.pt: does not fit configs/model_config_celeba.yaml; it fits configs/model_config_demo.yaml",
    ),
    (
        lambda root: edit(
            root / "configs/model_config_demo.yaml", "num_channels: 32", "num_channels: 36"
        ),
        [],
        "configs/model_config_demo.yaml: num_channels (36) must be divisible by num_groups",
    ),
    (
        lambda root: edit(
            root / "configs/model_config_demo.yaml", "image_size: 64", "image_sise: 64"
        ),
        [],
        "image_size is missing",
    ),
    (
        lambda root: edit(
            root / "configs/model_config_demo.yaml", "image_size: 64", "image_size: '64'"
        ),
        [],
        "image_size is '64', must be int",
    ),
    (make_60_px, ["--data", "mine"], "image_size 60 cannot be halved 3 times"),
    (
        lambda root: edit(
            root / "configs/model_config_demo.yaml", "class_cond: False", "class_cond: True"
        ),
        [],
        "class_cond is True",
    ),
    (
        lambda root: edit(root / "configs/model_config_demo.yaml", "dropout: 0.0", "dropuot: 0.0"),
        [],
        "dropuot",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/inpainting_config.yaml", "sigma: 0.01", "sigma: -0.01"
        ),
        [],
        "measurement.noise.sigma is -0.01",
    ),
    (
        lambda root: edit(root / "configs/tasks/inpainting_config.yaml", "operator:", "operator"),
        [],
        "is not valid YAML",
    ),
    (
        lambda root: edit(root / "configs/dmilo.yaml", "lr_z: 0.02", "lr_zz: 0.02"),
        [],
        "inpainting.lr_z is missing",
    ),
    (
        lambda root: edit(root / "configs/dmilo.yaml", "inpainting:", "inpaintng:"),
        [],
        "the row inpaintng is for no task",
    ),
    (
        lambda root: edit(
            root / "configs/dmilo.yaml", "photo/super_resolution:", "foto/super_resolution:"
        ),
        ["--preset", "quick"],
        "the row foto/super_resolution is for no task in configs/tasks/, or no prior in configs/",
    ),
    (
        lambda root: edit(root / "configs/dmilo.yaml", "inner:  200", "inner:  -1"),
        [],
        "inpainting.inner is -1, must be int, 1 or more",
    ),
    (NOTHING, ["--preset", "slow"], "--preset slow: configs/dmilo.yaml has paper, fast"),
    (
        NOTHING,
        ["--preset", "fast", "-t", "inpainting", "--inner", "0"],
        "--inner: must be 1 or more",
    ),
    (
        NOTHING,
        ["-t", "poisson_denoising", "--sigma", "0.1"],
        "--sigma 0.1: is of Gaussian noise, configs/tasks/poisson_denoising_config.yaml has poisson",
    ),
    (
        NOTHING,
        ["--seed", "4294967295", "--samples", "2"],
        "argument --seed: with 2 samples, whose seeds follow it, must be 4294967294 at most",
    ),
    (NOTHING, ["--precision", "fp8"], "argument --precision: invalid choice: 'fp8'"),
    (NOTHING, ["--cuda", "-2"], "--cuda: must be -1 or more"),
    (NOTHING, ["--cuda", "gpu"], "--cuda: invalid int value"),
    (NOTHING, ["-en", "-2"], "-en/--end_number: must be -1 or more"),
    (NOTHING, ["-bn", "-1"], "-bn/--begin_number: must be 0 or more"),
    (NOTHING, ["-bn", "1", "-en", "1"], "choose none of the images"),
    (NOTHING, ["--eta", "-0.1"], "-e/--eta: must be 0 or more"),
    (NOTHING, ["--name", ".."], "--run: must be a folder's name"),
    (NOTHING, ["--name", ""], "--run: must be a folder's name"),
    (NOTHING, ["--data", "dmilo.py"], "dmilo.py: no such folder"),
    (
        add_image("a.heic", None, None),
        ["--data", "mine"],
        "mine: no images in it but a.heic; read are",
    ),
    (
        lambda root: (root / "mine").mkdir() or (root / "mine" / "a.png").write_bytes(b""),
        ["--data", "mine"],
        "a.png: cannot be read as an image",
    ),
    (
        lambda root: (
            (root / "mine").mkdir()
            or (root / "mine" / "a.png").write_bytes(
                open(root / "data/demo/astronaut.png", "rb").read()[:2000]
            )
        ),
        ["--data", "mine"],
        "a.png: cannot be read as an image",
    ),
    (replace_checkpoint({"a": 1}), [], "models/demo.pt: holds no state dict"),
    (
        replace_checkpoint({"state_dict": {"weight": torch.zeros(1)}}),
        [],
        "models/demo.pt: does not fit",
    ),
    (
        lambda root: (os.remove(root / "models/demo.pt"), os.makedirs(root / "models/demo.pt")),
        [],
        "models/demo.pt: no such checkpoint",
    ),
    (
        lambda root: (root / "configs/model_config_demo.yaml").write_text("- a\n"),
        [],
        "configs/model_config_demo.yaml: must hold 'key: value' lines",
    ),
    (
        lambda root: (root / "configs/model_config_demo.yaml").write_bytes(b"\xff\xfe\x00"),
        [],
        "configs/model_config_demo.yaml: is not valid YAML",
    ),
    (
        lambda root: edit(
            root / "configs/model_config_demo.yaml",
            "attention_resolutions: 8",
            "attention_resolutions: eight",
        ),
        [],
        "configs/model_config_demo.yaml: ",
    ),
    (
        lambda root: edit(
            root / "configs/model_config_demo.yaml", "model_path: models/demo.pt", "model_path:"
        ),
        [],
        "model_path is None, must be str",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/inpainting_config.yaml", "name: inpainting", "name: outpainting"
        ),
        [],
        "measurement.operator.name is 'outpainting', must be one of",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/inpainting_config.yaml", "name: gaussian", "name: cauchy"
        ),
        [],
        "measurement.noise.name is 'cauchy', must be one of",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/inpainting_config.yaml", "sigma: 0.01", "sigma: .nan"
        ),
        [],
        "measurement.noise.sigma is nan",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/inpainting_config.yaml", "sigma: 0.01", "sigma: a little"
        ),
        [],
        "measurement.noise.sigma is 'a little'",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/inpainting_config.yaml", "mask_type: random", "mask_type: round"
        ),
        [],
        "measurement.mask_opt.mask_type is 'round'",
    ),
    (
        lambda root: edit(root / "configs/tasks/inpainting_config.yaml", "[0.7, 0.7", "[0.7, 1.7"),
        [],
        "measurement.mask_opt.mask_prob_range is (0.7, 1.7)",
    ),
    (
        lambda root: edit(root / "configs/tasks/inpainting_config.yaml", "[0.7, 0.7", "[0.7, 0.5"),
        [],
        "measurement.mask_opt.mask_prob_range is (0.7, 0.5)",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/inpainting_config.yaml",
            "!!python/tuple",
            "!!python/object:os.system",
        ),
        [],
        "is not valid YAML",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/super_resolution_config.yaml",
            "scale_factor: 4",
            "scale_factor: 7",
        ),
        ["-t", "super_resolution"],
        "measurement.operator.scale_factor is 7",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/super_resolution_config.yaml",
            "scale_factor: 4",
            "scale_factor: 0",
        ),
        ["-t", "super_resolution"],
        "measurement.operator.scale_factor is 0",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/demo/gaussian_deblur_config.yaml",
            "kernel_size: 21",
            "kernel_size: 200",
        ),
        ["-t", "gaussian_deblur"],
        "kernel_size is 200",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/demo/gaussian_deblur_config.yaml",
            "intensity: 3.0",
            "intensity: -3.0",
        ),
        ["-t", "gaussian_deblur"],
        "intensity is -3.0",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/demo/motion_deblur_config.yaml",
            "intensity: 0.5",
            "intensity: 1.5",
        ),
        ["-t", "motion_deblur"],
        "kernel_size, intensity: ",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/demo/motion_deblur_config.yaml",
            "kernel: motion",
            "kernel: emotion",
        ),
        ["-t", "motion_deblur"],
        "kernel is 'emotion', must be gaussian or motion",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/demo/box_inpainting_config.yaml", "[24, 25]", "[24, 60]"
        ),
        ["-t", "box_inpainting"],
        "measurement.mask_opt.mask_len_range is (24, 60)",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/phase_retrieval_config.yaml",
            "oversample: 2.0",
            "oversample: -2.0",
        ),
        ["-t", "phase_retrieval"],
        "measurement.operator.oversample is -2.0",
    ),
    (
        lambda root: edit(
            root / "configs/tasks/poisson_denoising_config.yaml", "rate: 0.2", "rate: 0.0"
        ),
        ["-t", "poisson_denoising"],
        "measurement.noise.rate is 0.0",
    ),
    (
        lambda root: edit(root / "configs/dmilo.yaml", "lr_z: 0.02", "lr_z: fast"),
        [],
        "paper.inpainting.lr_z is 'fast', must be float, 0 or more",
    ),
    (
        lambda root: edit(root / "configs/dmilo.yaml", "decay: true", "decay: maybe"),
        ["--preset", "fast"],
        "fast.inpainting.decay is 'maybe', must be true or false",
    ),
    (
        lambda root: edit(root / "configs/dmilo.yaml", "layers: 1", "layers: 0"),
        ["--preset", "fast"],
        "fast.inpainting.layers is 0",
    ),
    (
        lambda root: (root / "configs/dmilo.yaml").write_text("paper: 3\n"),
        [],
        "configs/dmilo.yaml: paper is 3, must be a mapping",
    ),
    (
        lambda root: (root / "configs/dmilo.yaml").unlink(),
        [],
        "configs/dmilo.yaml: cannot be read (No such file or directory)",
    ),
    (
        NOTHING,
        ["-t", "nonlinear_deblur"],
        "measurement.operator.name nonlinear_blur needs images whose side is a multiple of 128",
    ),
]


@pytest.mark.parametrize("change, arguments, said", BAD, ids=[said for _, _, said in BAD])
def test_bad_input_is_one_line_and_exit_code_2(script, workspace, change, arguments, said):
    change(workspace)
    before = sorted(os.walk(workspace))
    arguments = arguments if {"-t", "--task"} & set(arguments) else ["-t", "inpainting", *arguments]
    result = script("dmilo.py", "--cuda", -1, *arguments)
    assert result.code == 2, result.err
    assert (
        len(result.err.splitlines()) == 1
        and result.err.startswith("dmilo.py: error: ")
        and said in result.err
    )
    assert sorted(os.walk(workspace)) == before  # nothing was written, no code in a pickle ran


@pytest.mark.parametrize(
    "mode, value, seen",
    [
        ("L", 100, (100, 100, 100)),
        ("I;16", 30000, (117, 117, 117)),
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("P", 0, (0, 0, 0)),
    ],
)
def test_images_of_other_kinds_are_converted(tmp_path, mode, value, seen):
    Image.new(mode, (64, 64), value).save(tmp_path / "a.png")
    pixels = (load_image(str(tmp_path / "a.png"), 64)[0, :, 0, 0] + 1) * 127.5
    assert tuple(pixels.round().int().tolist()) == seen

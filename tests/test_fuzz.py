"""No command line and no file ends in a traceback: a hundred of both, with a fixed seed."""

import io
import os
import random
import struct

import pytest
from conftest import ROOT
from PIL import Image
from test_train import CONFIG

SEED, FILES = 49, 60
MAGIC = {
    ".png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    ".jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    ".tif": b"II*\0\x08\0\0\0",
    ".webp": b"RIFF\x40\0\0\0WEBPVP8 ",
    ".gif": b"GIF89a",
    ".bmp": b"BM",
}
# (offset, format) of width and height in the files that Pillow writes.
SIZES = {".png": (16, ">II"), ".gif": (6, "<HH"), ".bmp": (18, "<ii")}
OPTIONS = {
    "restore.py": "--mask --kernel --blind --scale --preset --samples --sigma --seed --stop --tile "
    "--outer --inner --name --precision --batch-size --cuda --number --eta --custom_steps --set",
    "dmilo.py": "--dataset --task --data --preset -n -bn -en --batch-size --outer --inner "
    "--custom_steps --eta --sigma --seed --samples --stop --name --precision --tile --cuda --set",
    "train.py": "--config --data --out --held-out --patches --patch --grey --init --steps "
    "--batch-size --lr --seed --cuda",
}
VALUES = ["", "abc", "nan", "inf", "-inf", "-1", "0", "1e400", "1_0", "0x10", "٣", "2.5", "true"]
VALUES += [str(10**30), "-" + str(10**30), "/dev/null", "/dev/full", ".", "..", "a/b", "\n", "{}"]
SETTINGS = "outer=x a=1 init=5 init.kind=x chain_steps=1e9 restarts.count=x lr_z=-1 a.b.c=1 =1 a="
SETTINGS = [
    *SETTINGS.split(),
    "outer=[",
    "lr_z=!!python/object:x {}",
    "lr_nu=.nan",
    "init={kind: pnp}",
]
KERNELS = ["disk", "disk x", "disk -1", "disk 1e9", "motion 3", "gauss nan", "gauss 1 2", "ring 3"]
BLINDS = ["motion", "lens", "1", "99999", "13.5", "gauss 3"]
HERE = os.path.abspath(ROOT)
ASTRONAUT = f"{HERE}/data/demo/astronaut.png"
REQUIRED = {
    "restore.py": f"{ASTRONAUT} --preset quick -l out",
    "dmilo.py": "-t inpainting -n 1 --outer 1 --inner 1 -l out",
    "train.py": f"--config config.yaml --data {HERE}/data/demo --steps 1 --batch-size 1 --out a.pt",
}


def damaged(rng, suffix):
    """The content of an image file that is damaged in one of six ways."""
    image, buffer = Image.effect_noise((48, 40), 60).convert("RGB"), io.BytesIO()
    Image.registered_extensions()
    image.save(buffer, Image.EXTENSION[suffix])
    content = bytearray(buffer.getvalue())
    kind = rng.choice(["magic", "cut", "empty", "size", "bytes", "tail"])
    if kind == "magic":
        return MAGIC[suffix] + rng.randbytes(rng.choice([0, 4, 60, 3000]))
    if kind == "cut":
        return content[: rng.randrange(len(content))]
    if kind == "empty":
        return b""
    if kind == "size" and suffix in SIZES:
        offset, layout = SIZES[suffix]
        struct.pack_into(layout, content, offset, *rng.choice([(0, 0), (65535, 65535), (1, 32767)]))
    if kind == "tail":
        return content + rng.randbytes(100)
    for _ in range(rng.choice([1, 20, 300])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return content


def check(result, command):
    """Exit code 0, 1 or 2 and one line an error."""
    assert result.code in (0, 1, 2, None), (command, result.code)
    lines = result.err.splitlines()
    assert "Traceback" not in result.err + result.out, (command, result.err)
    if result.code == 2:
        errors = [line for line in lines if ": error: " in line]
        assert len(errors) == 1 and lines[-1] == errors[0], (command, result.err)


def run(script, command, *arguments):
    line = [command, *map(str, arguments)]
    try:
        check(script(*line), line)
    except AssertionError as error:
        return str(error).splitlines()[0]
    except Exception as error:  # what would be a traceback
        return f"{line}: {type(error).__name__}: {error}"


@pytest.mark.slow
def test_damaged_files_are_no_tracebacks(script, tiny_prior, tmp_path):
    rng, wrong = random.Random(SEED), []
    for n in range(FILES):
        suffix = list(MAGIC)[n % len(MAGIC)]
        file = tmp_path / f"{n}{suffix}"
        file.write_bytes(damaged(rng, suffix))
        role = n // len(MAGIC) % 4
        pictures = [[file], [ASTRONAUT, "--mask", file], [ASTRONAUT, "--kernel", file]]
        command = f"restore.py --preset quick --cuda -1 --name {n} -l {tmp_path}/out"
        if role < 3:
            wrong.append(run(script, command, *pictures[role]))
        else:
            (tmp_path / f"folder{n}").mkdir()
            file = file.rename(tmp_path / f"folder{n}" / file.name)
            command = f"dmilo.py -t denoising --outer 1 --inner 1 --cuda -1 -l {tmp_path}/out"
            wrong.append(run(script, command, "--name", n, "--data", file.parent, "--resize"))
    assert not list(filter(None, wrong))


@pytest.mark.slow
def test_damaged_jpegs_are_no_tracebacks(script, tiny_prior, tmp_path):
    pytest.importorskip("jpeglib")
    rng, wrong = random.Random(SEED), []
    for n in range(FILES // 2):
        file = tmp_path / f"{n}.jpg"
        file.write_bytes(damaged(rng, ".jpg"))
        command = f"restore.py --preset quick --cuda -1 --name {n} -l {tmp_path}/out --jpeg"
        wrong.append(run(script, command, file))
    assert not list(filter(None, wrong))


@pytest.mark.slow
def test_wrong_settings_and_kernels_are_no_tracebacks(script, tiny_prior, tmp_path):
    wrong = []
    for n, value in enumerate(SETTINGS):
        command = f"{HERE}/dmilo.py {REQUIRED['dmilo.py']} --cuda -1 -l {tmp_path} --name {n}"
        wrong.append(run(script, command, "--set", value))
    for option, values in {"--kernel": KERNELS, "--blind": BLINDS}.items():
        for n, value in enumerate(values):
            command = f"{HERE}/restore.py {ASTRONAUT} --preset quick --cuda -1 -l {tmp_path}"
            wrong.append(run(script, command, "--name", f"{option[2:]}{n}", option, value))
    assert not list(filter(None, wrong))


@pytest.mark.slow
def test_wrong_command_lines_are_no_tracebacks(script, tiny_prior, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an option may name the file to write
    (tmp_path / "config.yaml").write_text(CONFIG)
    rng, wrong = random.Random(SEED), []
    lines = [(name, option) for name in OPTIONS for option in OPTIONS[name].split()]
    for name, option in lines:
        value = rng.choice(VALUES)
        typed = [f"{option}={value}"] if option.startswith("--") else [option, value]
        wrong.append(run(script, f"{HERE}/{name} {REQUIRED[name]} --cuda -1", *typed))
    assert not list(filter(None, wrong))

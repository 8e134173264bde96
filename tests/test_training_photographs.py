"""training/photographs.py: the free prior's training set, from Debian's packages."""

import csv
import io
import shutil
import struct
import subprocess
import zlib

import pytest
from PIL import Image

import training.photographs
from training.photographs import resources

DPKG = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is part of Debian")


def picture(colour):
    file = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, "PNG")
    return file.getvalue()


def resource_file(folder, files):
    """One of Qt's resource files, version 1: one folder of files, the first one compressed."""
    names, offsets = b"", []
    for name in [folder, *files]:
        offsets.append(len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    nodes = struct.pack(">IHII", 0, 2, 1, 1)  # the root: one child, node 1
    nodes += struct.pack(">IHII", offsets[0], 2, len(files), 2)
    contents = b""
    for n, content in enumerate(files.values()):
        nodes += struct.pack(">IHHHI", offsets[1 + n], 0 if n else 1, 0, 0, len(contents))
        stored = content if n else struct.pack(">I", len(content)) + zlib.compress(content)
        contents += struct.pack(">I", len(stored)) + stored
    head = struct.pack(">4s4i", b"qres", 1, 20, 20 + len(nodes), 20 + len(nodes) + len(contents))
    return head + nodes + contents + names


def test_files_within_a_resource_file_are_found_compressed_or_not(tmp_path):
    (tmp_path / "a.rcc").write_bytes(resource_file("animals", {"a.png": b"AAAA", "b.png": b"BB"}))
    assert resources(tmp_path / "a.rcc") == {"animals/a.png": b"AAAA", "animals/b.png": b"BB"}


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """A list of photographs: one in a resource file, one in a folder, one of another split."""
    path = tmp_path / "rows.csv"
    monkeypatch.setattr(training.photographs, "ROWS", path)
    fields = ["package", "version", "file", "saved_as", "split", "size"]
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(fields)
        table.writerow(["wall", "1:2-3", "rcc/animals/a.png", "photographs/a.png", "train", "4x3"])
        table.writerow(["wall", "1:2-3", "usr/b.png", "held_out/b.png", "held_out", "8x6"])
        table.writerow(["other", "1", "c.png", "c.png", "files", "8x6"])


@DPKG
def test_photographs_of_a_package_are_reduced_and_saved(rows, tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: wall\nVersion: 1:2-3\nArchitecture: all\nMaintainer: n <n@n>\nDescription: d\n"
    )
    (root / "usr").mkdir()
    (root / "usr" / "a.rcc").write_bytes(resource_file("animals", {"a.png": picture("red")}))
    (root / "usr" / "b.png").write_bytes(picture("blue"))
    deb = tmp_path / "wall_1%3a2-3_all.deb"
    subprocess.run(["dpkg-deb", "--build", root, deb], check=True, capture_output=True)
    monkeypatch.setattr("sys.argv", ["photographs", str(tmp_path), str(tmp_path / "out")])
    training.photographs.main()
    saved = Image.open(tmp_path / "out" / "photographs" / "a.png")
    assert saved.size == (4, 3) and saved.getpixel((1, 1)) == (255, 0, 0)
    assert Image.open(tmp_path / "out" / "held_out" / "b.png").getpixel((1, 1)) == (0, 0, 255)
    assert not (tmp_path / "out" / "c.png").exists()


@DPKG
def test_missing_packages_are_named_with_the_command_that_gets_them(script, tmp_path):
    result = script("training.photographs", tmp_path, tmp_path / "out")
    assert result.code == 2 and "apt-get download budgie-backgrounds=3.0-1" in result.err
    assert len(result.err.splitlines()) == 1

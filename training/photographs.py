"""The photographs that photo_free.pt is trained on, from Debian's packages.

    apt-get download lxqt-themes=1.2.0-1 …       # each package of models/photographs.csv
    python -m training.photographs DEBS FOLDER

DEBS: the folder with the packages (*.deb). Writes FOLDER/photographs and FOLDER/held_out, the rows
`train` and `held_out` of models/photographs.csv. Needs `dpkg-deb`.
"""

import csv
import io
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from PIL import Image

ROWS = Path(__file__).parents[1] / "models" / "photographs.csv"
DIRECTORY, COMPRESSED = 2, 1  # flags of a node of Qt's resource files


def resources(path):
    """{name: bytes} of one of Qt's binary resource files (*.rcc, versions 1 to 3)."""
    data = Path(path).read_bytes()
    version, tree, contents, names = struct.unpack(">4i", data[4:20])
    node_size, found = 14 if version == 1 else 22, {}

    def walk(node, folder):
        at = tree + node * node_size
        name_at, flags = struct.unpack(">IH", data[at : at + 6])
        (length,) = struct.unpack(">H", data[names + name_at : names + name_at + 2])
        start = names + name_at + 6  # behind the length and a hash
        name = folder + data[start : start + 2 * length].decode("utf-16-be")
        if flags & DIRECTORY:
            children, first = struct.unpack(">II", data[at + 6 : at + 14])
            for child in range(first, first + children):
                walk(child, f"{name}/" if node else "")
            return
        (start,) = struct.unpack(">I", data[at + 10 : at + 14])
        start += contents
        (size,) = struct.unpack(">I", data[start : start + 4])
        content = data[start + 4 : start + 4 + size]
        found[name] = zlib.decompress(content[4:]) if flags & COMPRESSED else content

    walk(0, "")
    return found


def unpacked(debs, package, version, folder):
    """Unpack a package of `debs` into `folder`; returns its path."""
    name = package.split("@")[0]
    (path,) = Path(debs).glob(f"{name}_{version.replace(':', '%3a')}_*.deb")
    subprocess.run(["dpkg-deb", "-x", path, folder], check=True)
    return Path(folder)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    debs, target = sys.argv[1], Path(sys.argv[2])
    with open(ROWS, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] in ("train", "held_out")]
    for package, version in sorted({(row["package"], row["version"]) for row in rows}):
        with tempfile.TemporaryDirectory() as folder:
            root = unpacked(debs, package, version, folder)
            inside = {}
            for rcc in root.rglob("*.rcc"):
                inside.update(resources(rcc))
            for row in (row for row in rows if row["package"] == package):
                name = row["file"].removeprefix("rcc/")
                content = inside[name] if name in inside else (root / row["file"]).read_bytes()
                size = tuple(map(int, row["size"].split("x")))
                image = Image.open(io.BytesIO(content)).convert("RGB")
                (target / row["saved_as"]).parent.mkdir(parents=True, exist_ok=True)
                image.resize(size, Image.LANCZOS).save(target / row["saved_as"])


if __name__ == "__main__":
    main()

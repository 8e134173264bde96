"""The photographs that photo_free.pt is trained on, from Debian's packages.

    apt-get download lxqt-themes=1.2.0-1 …       # each package of models/photographs.csv
    python -m training.photographs DEBS FOLDER

DEBS: the folder with the packages (*.deb). Writes FOLDER/photographs and FOLDER/held_out, the rows
`train` and `held_out` of models/photographs.csv. Needs `dpkg-deb`. The error that lists missing
packages gives the command that downloads them.
"""

import csv
import io
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

from PIL import Image

from util.cli import Parser, run_script
from util.files import UserError

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


def package_files(debs, packages):
    """{(package, version): path of its *.deb in the folder `debs`}. Raises UserError that names the
    packages that are not there."""
    if not shutil.which("dpkg-deb"):
        raise UserError("dpkg-deb: is not installed; it is part of Debian and Ubuntu")
    found, missing = {}, []
    for package, version in packages:
        name = package.split("@")[0]
        paths = [*debs.glob(f"{name}_{version.replace(':', '%3a')}_*.deb")]
        if paths:
            found[package, version] = paths[0]
        else:
            missing.append(f"{name}={version}")
    if missing:
        raise UserError(f"{debs}: lacks packages; run there: apt-get download {' '.join(missing)}")
    return found


def main():
    parser = Parser(__doc__)
    parser.add_argument("debs", type=Path, help="folder of the packages")
    parser.add_argument("folder", type=Path, help="where the photographs are written")
    args = parser.parse_args()
    with open(ROWS, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] in ("train", "held_out")]
    packages = sorted({(row["package"], row["version"]) for row in rows})
    for (package, _), path in package_files(args.debs, packages).items():
        with tempfile.TemporaryDirectory() as folder:
            root, inside = Path(folder), {}
            subprocess.run(["dpkg-deb", "-x", path, root], check=True)
            for rcc in root.rglob("*.rcc"):
                inside.update(resources(rcc))
            for row in (row for row in rows if row["package"] == package):
                name = row["file"].removeprefix("rcc/")
                content = inside[name] if name in inside else (root / row["file"]).read_bytes()
                size = tuple(map(int, row["size"].split("x")))
                image = Image.open(io.BytesIO(content)).convert("RGB")
                saved = args.folder / row["saved_as"]
                saved.parent.mkdir(parents=True, exist_ok=True)
                image.resize(size, Image.LANCZOS).save(saved)


if __name__ == "__main__":
    run_script(main)

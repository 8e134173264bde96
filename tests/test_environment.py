"""Environments: streams, folders that cannot be written, variables, git, and what is imported."""

import io
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, tiny_network

from guided_diffusion.prior import frozen
from guided_diffusion.tiles import choose_tile, kept_per_pixel
from report import plots
from util import devices
from util.files import UserError

HEAVY = "matplotlib torchvision lpips pytorch_fid skimage scipy.stats scipy.signal torch._dynamo"
DRAW = """
import os
from report.plots import calibration
calibration("plot.png", {"a": {"b": [1, 2, 3]}})
print(os.path.getsize("plot.png"), os.environ["MPLBACKEND"])
"""


def python(program, folder, **variables):
    """Run a program in `folder` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.path.abspath(ROOT), **variables}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_plots_are_drawn_whatever_backend_is_named(tmp_path, backend):
    done = python(DRAW, tmp_path, MPLBACKEND=backend)
    assert done.returncode == 0, done.stderr
    size, left = done.stdout.split()
    assert int(size) > 1000 and left == backend


def test_matplotlib_without_a_folder_is_one_line_that_names_the_variable(monkeypatch):
    class NoFolder:
        def find_spec(self, name, path=None, target=None):
            if name == "matplotlib.figure":
                raise FileNotFoundError("No usable temporary directory")

    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoFolder(), *sys.meta_path])
    with pytest.raises(UserError, match="MPLCONFIGDIR"):
        plots.new_figure(1, 1)


def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path):
    program = (
        "import sys, dmilo, restore\n"
        f"print([name for name in {HEAVY.split()} if name in sys.modules])"
    )
    done = python(program, tmp_path)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_search_creates_no_folder_for_compiled_code(tmp_path):
    (tmp_path / "tmp").mkdir()
    program = (
        "import sys, torch, util.cli\n"
        "sys.argv = ['x']\n"
        "weights = [torch.zeros(1, requires_grad=True)]\n"
        "util.cli.run_script(lambda: torch.optim.Adam(weights))\n"
        "assert 'torch._dynamo' in sys.modules"
    )
    variables = {"TMPDIR": str(tmp_path / "tmp")}
    done = python(program, tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert not os.listdir(tmp_path / "tmp") and os.listdir(tmp_path) == ["tmp"]


class Log:
    """A stream as loggers and editors provide: it can be written and flushed, no more."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize("stream", [Log, io.StringIO, lambda: None, "closed"])
def test_a_script_runs_whatever_its_streams_are(script, monkeypatch, tmp_path, stream):
    made = []
    for name in ("stdout", "stderr"):
        one = open(os.devnull, "w") if stream == "closed" else stream()
        if stream == "closed":
            one.close()
        monkeypatch.setattr(sys, name, one)
        made.append(one)
    assert script("dmilo.py --task nowhere --cuda -1").code == 2
    texts = [getattr(one, "text", None) or getattr(one, "getvalue", str)() for one in made[1:]]
    if stream in (Log, io.StringIO):
        assert "--task nowhere" in texts[0]


def git(folder, *arguments):
    options = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", *options, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Somebody's repository with one commit and a folder, which is the project's."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(devices, "PROJECT", str(tmp_path / "inner"))
    return tmp_path


def test_the_revision_is_the_projects_own(repository, monkeypatch):
    assert devices.git_revision() is None  # not the commit of the repository around it
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))  # as in a hook
    assert devices.git_revision() is None
    monkeypatch.setattr(devices, "PROJECT", str(repository))
    commit = git(repository, "rev-parse", "HEAD")[:12]
    assert devices.git_revision() == commit
    (repository / "inner" / "file").write_text("b")
    assert devices.git_revision() == commit + "+"
    (repository / ".git" / "index.lock").touch()  # of a commit that is being made
    assert devices.git_revision() == commit + "+"


def test_the_revision_takes_no_lock(repository, monkeypatch):
    monkeypatch.setattr(devices, "PROJECT", str(repository))
    os.utime(repository / "inner" / "file", (1, 1))  # an index that could be refreshed
    before = (repository / ".git" / "index").read_bytes()
    assert devices.git_revision() and (repository / ".git" / "index").read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root's chown")
def test_a_repository_of_another_owner_has_a_revision(repository, monkeypatch):
    monkeypatch.setattr(devices, "PROJECT", str(repository))
    commit = git(repository, "rev-parse", "HEAD")[:12]
    for folder, folders, files in os.walk(repository):
        for name in [*folders, *files, "."]:
            os.chown(os.path.join(folder, name), 65534, 65534)
    assert devices.git_revision() == commit


def test_without_git_there_is_no_revision(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.git_revision() is None


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_tile_is_chosen_in_every_mode_of_gradients(monkeypatch, mode):
    monkeypatch.setattr("guided_diffusion.tiles.available_memory", lambda device: 2e6)
    model, cpu = frozen(tiny_network(), "cpu"), torch.device("cpu")
    with mode():
        assert kept_per_pixel(model, 64, cpu) > 100
        assert choose_tile(model, (300, 300), 64, 1, cpu) == 64

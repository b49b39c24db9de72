"""Run the book and the library's tests in environments other than the pinned one.

    python tests/environments/run.py                    all of them (`make test-environments`)
    python tests/environments/run.py oldest --at DIR    one, in a virtual environment that is there

colab    Colab's packages: the set-up cell installs the library from a git repository at the tag it
         names (this one's last commit) and adds exactly one package; every notebook runs;
         the widgets' saved state holds no binary buffers, which Colab's manager loses
oldest   the library's tests with the oldest torch that the lower bound allows
newest   the library's tests with the newest of everything

Environments are made in _build/environments and kept. Exits with the number of failures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
INDEX = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
# Not the library's: they need the pinned tools of the book, or Chromium.
ELSEWHERE = ("apparatus", "book", "claims_faults", "environments", "explorer", "markup")
ELSEWHERE += ("notebooks", "playground", "project", "publish", "site")
IN_A_BROWSER = "tests/test_fuzz_files.py::test_no_address_breaks_or_enters_a_page"
MIME = "application/vnd.jupyter.widget-"
EXECUTE = """
import json, sys, nbformat
from nbclient import NotebookClient
book = nbformat.read(sys.argv[1], as_version=4)
here = {"metadata": {"path": "."}}
NotebookClient(book, kernel_name="python3", timeout=900, resources=here).execute()
shown = [o.get("data", {}) for c in book.cells for o in c.get("outputs", [])]
views = [data[sys.argv[2]]["model_id"] for data in shown if sys.argv[2] in data]
print(json.dumps([views, book.metadata.get("widgets", {})]))
"""


def run(*command: object, **options: object) -> str:
    """A command's output; its errors are shown and raised."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))[:200]}\n{done.stdout[-3000:]}")
    return done.stdout


def environment(name: str) -> Path:
    """The virtual environment `name`, made where it is missing."""
    at = ROOT / "_build" / "environments" / name
    if (at / ".made").exists():
        return at
    run(sys.executable, "-m", "venv", "--clear", at)
    pip, asked = [at / "bin/pip", "install", "-q"], HERE / f"{name}.txt"
    if torch := re.search(r"^torch.*$", asked.read_text(), re.MULTILINE):
        try:
            urllib.request.urlopen(f"{INDEX}/torch/", timeout=5)
            run(*pip, "--index-url", INDEX, torch[0])
        except OSError:
            print(f"{INDEX} does not answer: torch comes from pip's default index, perhaps CUDA's")
    run(*pip, "-r", asked)
    (at / ".made").touch()
    return at


def packages(at: Path) -> set[str]:
    return set(run(at / "bin/pip", "list", "--format=freeze").split())


def copy_at_tag(folder: Path, tag: str) -> Path:
    """A clone of this repository whose last commit has the tag."""
    clone = folder / "repository"
    run("git", "clone", "-q", "--no-local", ROOT.as_uri(), clone)
    run("git", "-C", clone, "tag", "-f", tag)
    # pip asks for a clone without old files; a server that cannot give one makes git ask for ever.
    for option in ("allowFilter", "allowAnySHA1InWant"):
        run("git", "-C", clone, "config", f"uploadpack.{option}", "true")
    return clone


def setup_cell(notebook: Path) -> tuple[str, str]:
    """Repository and tag that the set-up cell installs from."""
    source = notebook.read_text()
    found = re.search(r"%pip install -q git\+(https://[^@\"\\\s]+)@([\w.]+)", source)
    if not found:
        raise RuntimeError(f"{notebook.name}: no set-up cell with a tagged version")
    return found[1], found[2]


def lost_in_colab(views: list[str], state: dict) -> list[str]:
    """What is wrong with the saved state of a notebook that shows these widgets."""
    widgets = state.get(f"{MIME}state+json", {}).get("state", {})
    binary = sum(bool(widget.get("buffers")) for widget in widgets.values())
    faults = [f"{binary} widgets hold binary buffers"] if binary else []
    return faults + [f"no state was saved of {view}" for view in views if view not in widgets]


def colab(at: Path) -> list[str]:
    """Faults found in the Colab-like environment."""
    faults: list[str] = []
    notebooks = sorted((ROOT / "book").glob("*.ipynb"))
    url, tag = setup_cell(notebooks[0])
    with tempfile.TemporaryDirectory() as temporary:
        clone = copy_at_tag(Path(temporary), tag)
        # git takes the address in the cell for the clone: the cell itself is run as it stands.
        instead = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_VALUE_0": url}
        instead["GIT_CONFIG_KEY_0"] = f"url.{clone.as_uri()}.insteadOf"
        env = {**os.environ, **instead, "PATH": f"{at}/bin:{os.environ['PATH']}"}
        env.pop("PYTHONPATH", None)
        notebooks = sorted((clone / "book").glob("*.ipynb"))  # the committed ones
        run(at / "bin/pip", "uninstall", "-q", "-y", "augflow-mini")
        before = packages(at)
        for i, notebook in enumerate(notebooks):
            if setup_cell(notebook) != (url, tag):
                faults.append(f"{notebook.name} installs from elsewhere")
            try:  # in a copy of the book's folder: the library is not beside it
                said = run(
                    at / "bin/python", "-c", EXECUTE, notebook.name, f"{MIME}view+json",
                    cwd=clone / "book", env=env,
                )  # fmt: skip
                views, state = json.loads(said.splitlines()[-1])
            except (RuntimeError, IndexError) as error:
                faults.append(f"{notebook.name}: {str(error)[-1500:]}")
                continue
            found = lost_in_colab(views, state)
            faults += [f"{notebook.name}: {fault}" for fault in found]
            print(f"  {notebook.name}: ran; {len(views)} widgets, {len(found)} faults", flush=True)
            if i == 0:
                added = sorted(packages(at) - before)
                lost = sorted(before - packages(at))
                print(f"  the set-up cell added {added} and changed or removed {lost}")
                if len(added) != 1 or lost or "augflow" not in added[0]:
                    faults.append(f"the install added {added} and removed {lost}")
        run(at / "bin/pip", "uninstall", "-q", "-y", "augflow-mini")
    return faults


def library(at: Path) -> list[str]:
    """Faults found by the library's tests."""
    version = run(at / "bin/python", "-c", "import torch; print(torch.__version__)").strip()
    tests = sorted((ROOT / "tests").glob("test_*.py"))
    tests = [t for t in tests if not t.stem.removeprefix("test_").startswith(ELSEWHERE)]
    command = [at / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    command += ["--deselect", IN_A_BROWSER]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(c) for c in command], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    )
    print(f"  torch {version}: {done.stdout.rstrip().splitlines()[-1]}")
    return re.findall(r"^(?:FAILED|ERROR) .*$", done.stdout, re.MULTILINE) or (
        [done.stdout[-2000:]] if done.returncode else []
    )


CHECKS = {"colab": colab, "oldest": library, "newest": library}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CHECKS)}; all")
    parser.add_argument("--at", type=Path, help="a virtual environment that is there already")
    args = parser.parse_args()
    failures = 0
    for name in args.names or CHECKS:
        if name not in CHECKS:
            parser.error(f"no environment {name!r}; there are: {', '.join(CHECKS)}")
        print(f"{name}:", flush=True)
        faults = CHECKS[name](args.at or environment(name))
        failures += len(faults)
        print("\n".join(f"  FAULT {fault}" for fault in faults) or "  no faults", flush=True)
    sys.exit(failures)


if __name__ == "__main__":
    main()

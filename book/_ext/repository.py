"""Write the book's address and version wherever they are repeated: `make repository URL=...`.

`_config.yml` states the address, `augflow_mini/__init__.py` the version. Every other place that
names one of them (set-up cells, Colab links, README, citation, project data) is derived here, by
one function: the command writes what it returns, the check asks whether writing would change
anything.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[2]
# Files of the frame: they name no repository on GitHub but the book's own.
FRAME = ("_config.yml", "README.md", "CONTRIBUTING.md", "CITATION.cff", "pyproject.toml")
FRAME += ("book/intro.md", "book/how_to_use.md", "book/ko/*.md")
GITHUB = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")
SETUP = """from importlib.util import find_spec

if not find_spec("augflow_mini"):  # in Colab{gpu}
    %pip install -q git+{url}@{tag}"""
GPU = "; choose Runtime > Change runtime type > T4 GPU first"


@dataclass(frozen=True)
class Place:
    """Where the book lives, and which version of it this is."""

    url: str
    version: str

    @property
    def tag(self) -> str:
        return f"v{self.version}"

    @property
    def name(self) -> str:
        """OWNER/NAME."""
        return self.url.removeprefix("https://github.com/")

    @property
    def pages(self) -> str:
        """Where GitHub Pages serves the built book."""
        owner, name = self.name.split("/")
        return f"https://{owner.lower()}.github.io/{name}/"

    def colab(self, path: str) -> str:
        """The link that opens a notebook, as it was at this version, in Colab."""
        return f"https://colab.research.google.com/github/{self.name}/blob/{self.tag}/{path}"


def stated(root: Path = ROOT) -> Place:
    """Read the two places that state address and version."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    code = (root / "augflow_mini" / "__init__.py").read_text(encoding="utf-8")
    return Place(config["repository"]["url"], re.search(r'__version__ = "(.+?)"', code)[1])


def in_text(text: str, place: Place) -> str:
    """Any text: what pip installs, what Colab opens, where the pages are."""
    text = re.sub(
        r"git\+https://[\w./-]+?(@[\w.]+)?(?=[\s\"'`)]|$)", f"git+{place.url}@{place.tag}", text
    )
    colab = (
        re.escape("https://colab.research.google.com/github/") + r"[\w.-]+/[\w.-]+/blob/[\w.-]+/"
    )
    text = re.sub(colab, place.colab(""), text)
    return re.sub(r"https://[\w-]+\.github\.io/[\w.-]+/", place.pages, text)


def in_frame(text: str, place: Place) -> str:
    """A file of the frame: every repository it names, and the version it states."""
    text = re.sub(r"https://github\.com/(?!OWNER/)[\w.-]+/[\w-]+(\.[\w-]+)*", place.url, text)
    text = re.sub(r"^  branch: .*$", f"  branch: {place.tag}", text, flags=re.M)
    return re.sub(r"^version: .*$", f"version: {place.version}", text, flags=re.M)


def in_notebook(text: str, place: Place, path: str) -> str:
    """A notebook: its set-up cell, and the link to Colab that closes its first cell."""
    notebook = nbformat.reads(text, as_version=4)
    before = nbformat.writes(notebook)
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    if not cells or "pip install" not in cells[0].source or notebook.cells[0] is cells[0]:
        raise ValueError(
            f"{path}: expected a title cell, then a set-up cell with `%pip install`; "
            "begin the notebook with both, `make repository` fills them in"
        )
    gpu = GPU if notebook.metadata.get("accelerator") == "GPU" else ""
    cells[0].source = SETUP.format(gpu=gpu, url=place.url, tag=place.tag)
    link = f"[Open in Colab]({place.colab(path)})"
    title = notebook.cells[0]
    if "[Open in Colab](" not in title.source:
        title.source += f"\n\n{link}"
    title.source = re.sub(r"\[Open in Colab\]\(.*?\)", lambda _: link, title.source)
    for cell in notebook.cells:
        cell.source = in_text(cell.source, place)
    after = nbformat.writes(notebook)
    return text if after == before else after + "\n"  # never a change of layout alone


def corrections(root: Path, place: Place) -> dict[Path, str]:
    """Every file that disagrees with the given place, and what it should say."""
    frame = {path for pattern in FRAME for path in root.glob(pattern)}
    found = {}
    for path in sorted({*frame, *root.glob("book/**/*.md"), *root.glob("book/**/*.ipynb")}):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            right = in_notebook(text, place, path.relative_to(root).as_posix())
        else:
            right = in_text(text, place)
            right = in_frame(right, place) if path in frame else right
        if right != text:
            found[path] = right
    return found


def rewrite(root: Path, place: Place) -> list[Path]:
    """Write every correction; the files that were changed."""
    found = corrections(root, place)
    for path, text in found.items():
        path.write_text(text, encoding="utf-8")
    return list(found)


def main(url: str) -> None:
    """Move the book to the address, or to the one that is stated already."""
    place = stated()
    if url:
        match = GITHUB.fullmatch(url)
        if not match:
            sys.exit(f"URL={url}: expected https://github.com/OWNER/NAME, where Colab can read it")
        place = Place(f"https://github.com/{match[1]}/{match[2]}", place.version)
    for path in rewrite(ROOT, place):
        print(path.relative_to(ROOT))
    print(f"The book lives at {place.url}, tag {place.tag}; its pages at {place.pages}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")

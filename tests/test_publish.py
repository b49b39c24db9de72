"""What publishing promises: one address, sound workflows, a wheel and a zip that work, honest pages.

Pages are read from `_build/html`; `make test` builds it first.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import site_checks as check
import yaml
from fontTools.ttLib import TTFont

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
sys.path += [str(ROOT / "book" / "_ext"), str(ROOT / "book"), str(ROOT)]

import release  # noqa: E402
import repository  # noqa: E402

from benchmarks import pages as measured  # noqa: E402

HERE = repository.stated()
ELSEWHERE = repository.Place("https://github.com/someone/a-copy.of-it", HERE.version)
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))

# ---------------------------------------------------------------- one address


@pytest.fixture
def copy(tmp_path):
    """A copy, in order, of everything that a reader might look up an address in."""
    skipped = shutil.ignore_patterns(
        ".*cache",
        ".git",
        ".venv",
        "_build",
        "build",
        "dist",
        "runs",
        "data",
        "records",
        "*.egg-info",
        "*.pyc",
    )
    copy = Path(shutil.copytree(ROOT, tmp_path / "copy", ignore=skipped))
    repository.rewrite(copy, HERE)
    return copy


def test_every_place_names_the_address_and_version_that_are_stated():
    wrong = repository.corrections(ROOT, HERE)
    assert [str(path.relative_to(ROOT)) for path in wrong] == [], "run `make repository`"


def test_a_move_changes_every_link(copy):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    changed = repository.rewrite(copy, ELSEWHERE)
    assert {path.name for path in CHAPTERS} <= {path.name for path in changed}
    assert repository.stated(copy) == ELSEWHERE
    assert repository.corrections(copy, ELSEWHERE) == {}
    old = re.compile("|".join(map(re.escape, (HERE.name, HERE.pages.removeprefix("https://")))))
    left = [
        path
        for path in copy.rglob("*")
        if path.is_file() and old.search(path.read_text("utf-8", errors="replace"))
    ]
    assert left == []
    repository.rewrite(copy, HERE)
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "find", "put"),
    [
        ("book/03_amle.ipynb", f"git+{HERE.url}", "git+https://github.com/augflow/old-name"),
        ("book/04_augmentation_gap.ipynb", f"@{HERE.tag}", "@main"),
        ("book/08_vae.ipynb", f"/blob/{HERE.tag}/", "/blob/main/"),
        ("book/09_hierarchical_anf.ipynb", "book/09_hierarchical_anf.ipynb)", "book/09.ipynb)"),
        ("_config.yml", f"branch: {HERE.tag}", "branch: main"),
        ("README.md", f"git clone {HERE.url}", "git clone https://github.com/someone/else"),
        ("CITATION.cff", f"version: {HERE.version}", "version: 9.9.9"),
        ("CITATION.cff", HERE.pages, "https://someone.github.io/else/"),
        ("pyproject.toml", f"{HERE.url}/issues", "https://github.com/someone/else/issues"),
    ],
)
def test_a_planted_disagreement_is_found(name, find, put, copy):
    path = copy / name
    text = path.read_text(encoding="utf-8")
    assert find in text
    path.write_text(text.replace(find, put), encoding="utf-8")
    wrong = repository.corrections(copy, HERE)
    assert list(wrong) == [path] and wrong[path] == text


def test_a_notebook_without_set_up_is_refused(copy):
    path = copy / "book" / "03_amle.ipynb"
    path.write_text(path.read_text("utf-8").replace("%pip install", "%pip list"), encoding="utf-8")
    with pytest.raises(
        ValueError, match="03_amle.ipynb: expected a title cell, then a set-up cell"
    ):
        repository.corrections(copy, HERE)


@pytest.mark.parametrize(
    "url", ["https://gitlab.com/a/b", "github.com/a/b", "https://github.com/a"]
)
def test_an_address_that_colab_cannot_read_is_refused(url):
    with pytest.raises(SystemExit, match="expected https://github.com/OWNER/NAME"):
        repository.main(url)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_text_link_and_launch_button_open_the_same_notebook(path):
    page = (SITE / "book" / f"{path.stem}.html").read_text(encoding="utf-8")
    links = re.findall(r'href="(https://colab\.research\.google\.com/[^"]*)"', page)
    assert len(links) >= 2 and set(links) == {HERE.colab(f"book/{path.name}")}


# ---------------------------------------------------------------- workflows and citation


def workflow_faults(text: str, targets: set[str]) -> list[str]:
    """What GitHub would refuse or run in vain. PyYAML reads the key `on` as True."""
    flow = yaml.safe_load(text)
    faults = [f"no {key!r}" for key in ("name", "jobs", "permissions") if key not in flow]
    faults += ["no trigger"] if not flow.get(True) else []
    for name, job in flow.get("jobs", {}).items():
        if "runs-on" not in job:
            faults.append(f"{name}: runs on nothing")
        if job.get("needs", name) not in flow["jobs"]:
            faults.append(f"{name}: needs {job['needs']}, which is no job")
        for step in job.get("steps", ()):
            if ("uses" in step) == ("run" in step):
                faults.append(f"{name}: a step must either use or run")
            if not re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1")):
                faults.append(f"{name}: {step['uses']} names no version")
            for words in re.findall(r"^\s*make ([\w ._=-]+)$", step.get("run", ""), re.M):
                unknown = {word for word in words.split() if "=" not in word} - targets
                faults += [f"{name}: no target {target!r}" for target in sorted(unknown)]
        faults += [f"{name}: no step"] if not job.get("steps") else []
    return faults


TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
FLOWS = {path.name: path.read_text("utf-8") for path in (ROOT / ".github/workflows").iterdir()}


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_workflow(name):
    assert workflow_faults(FLOWS[name], TARGETS) == []


def test_the_workflows_call_what_a_reader_calls():
    assert "run: make test" in FLOWS["test.yml"]
    assert "run: make release pdf" in FLOWS["publish.yml"]


@pytest.mark.parametrize(
    ("find", "put", "fault"),
    [
        ("make release pdf", "make relase pdf", "no target 'relase'"),
        ("needs: make", "needs: build", "needs build, which is no job"),
        ("runs-on", "run-on", "runs on nothing"),
        ("actions/checkout@v4", "actions/checkout", "names no version"),
        ("- run: make", "- uses: a/b@v1\n        run: make", "must either use or run"),
        ("on:\n", "when:\n", "no trigger"),
    ],
)
def test_a_broken_workflow_is_found(find, put, fault):
    assert find in FLOWS["publish.yml"]
    assert fault in "\n".join(workflow_faults(FLOWS["publish.yml"].replace(find, put), TARGETS))


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert citation["license"] == ["MIT", "CC-BY-4.0"]
    bibliography = (ROOT / "book" / "references.bib").read_text("utf-8")
    for paper in citation["references"]:
        assert f"eprint = {{{paper['url'].rsplit('/', 1)[1]}}}" in bibliography


# ---------------------------------------------------------------- release


def test_the_wheel_works_alone(tmp_path):
    """Installed elsewhere and run elsewhere, it has its records and its explorers."""
    wheel = release.wheel(tmp_path)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
    subprocess.run([*command, str(tmp_path / "site"), str(wheel)], check=True)
    code = (
        "import augflow_mini, torch; from augflow_mini.experiments import load_model;"
        "from augflow_mini.explorers import GapExplorer;"
        "assert load_model('e2-anf-1').elbo(torch.zeros(2, 1)).isfinite().all();"
        "assert 'render' in GapExplorer()._esm; print(augflow_mini.__file__)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True, check=True,
        capture_output=True,
    )  # fmt: skip
    assert done.stdout.startswith(str(tmp_path / "site"))


def test_the_zip_works_with_the_network_off(chromium, tmp_path):
    with zipfile.ZipFile(release.offline(SITE, tmp_path)) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path)
    folder = tmp_path / f"augmented-flows-{HERE.version}"
    inside = {str(Path(folder.name, p.relative_to(SITE))) for p in SITE.rglob("*") if p.is_file()}
    assert inside <= names and f"{folder.name}/LICENSE-TEXT.md" in names
    assert check.redirects(folder / "index.html")
    assert 'url=book/intro.html"' in (folder / "index.html").read_text("utf-8")
    page = folder / "book" / "04_augmentation_gap.html"
    with check.Visit(chromium, page.as_uri(), offline=True) as visit:
        assert check.explorers(visit.page) + visit.faults == []


# ---------------------------------------------------------------- what pages say


def _pages() -> list[Path]:
    """Pages written from a source of ours."""
    return [p for p in check.pages(SITE) if p.parent != SITE.resolve()]


def test_every_page_says_its_version_and_where_to_write():
    assert len(_pages()) > len(CHAPTERS)
    for path in _pages():
        facts = re.search(r'<p class="page-facts">(.*?)</p>', path.read_text("utf-8"))[1]
        name = path.relative_to(SITE.resolve()).with_suffix("").as_posix()
        assert f"Augmented Flows {HERE.version}" in facts
        assert f"{HERE.url}/commits/main/{name}." in facts
        assert f"{HERE.url}/issues/new?title=" in facts
        if (ROOT / f"{name}.ipynb").exists():
            assert re.search(r"cells last run \d{4}-\d\d-\d\d, in \d+ s", facts), name


def test_korean_pages_say_so_and_name_their_originals():
    for path in _pages():
        text = path.read_text("utf-8")
        korean = path.parent.name == "ko"
        assert f'<html lang="{"ko" if korean else "en"}"' in text
        if korean:
            original = f"{HERE.pages}book/{path.name}"
            assert f'<link rel="alternate" hreflang="en" href="{original}">' in text
            assert f'href="../{path.name}" hreflang="en"' in text


def test_sitemap_names_every_page():
    tree = ElementTree.parse(SITE / "sitemap.xml")
    named = {e.text for e in tree.iter() if e.tag.endswith("loc")}
    root = SITE.resolve()
    assert named == {HERE.pages + path.relative_to(root).as_posix() for path in _pages()}


def test_the_page_for_wrong_addresses_stands_alone():
    found = check._Links((SITE / "404.html").read_text("utf-8"))
    assert found.links == [HERE.pages] and found.loads == ["data:,"]


def test_shared_links_have_a_card():
    data = (SITE / "_static" / "card.png").read_bytes()
    assert struct.unpack(">II", data[16:24]) == (1200, 630) and len(data) < 150_000
    for path in _pages():
        text = path.read_text("utf-8")
        assert f'<meta property="og:image" content="{HERE.pages}_static/card.png">' in text
        assert re.search(r'<meta name="description" content="[^"]{20,}">', text), path.name


def test_nothing_is_fetched_ahead():
    for path in _pages():
        text = path.read_text("utf-8")
        assert not re.search(r'rel="(prefetch|prerender|dns-prefetch|preconnect)"', text)
        assert 'http-equiv="x-dns-prefetch-control" content="off"' in text


def test_the_icon_fonts_hold_what_is_shown_and_little_else():
    fonts = list((SITE / "_static" / "vendor" / "fontawesome" / "webfonts").iterdir())
    assert len(fonts) == 3 and sum(path.stat().st_size for path in fonts) < 20_000
    held = {code for path in fonts for code in TTFont(path).getBestCmap() or {}}
    style = (SITE / "_static" / "styles" / "pydata-sphinx-theme.css").read_text("utf-8")
    for icon in ("bars", "rocket", "github", "magnifying-glass", "circle-half-stroke", "moon"):
        code = re.search(rf'\.fa-{icon}:before[^{{]*\{{content:"\\([0-9a-f]+)"', style)[1]
        assert int(code, 16) in held, icon


def test_on_paper_the_frame_goes_and_what_is_folded_opens(chromium):
    with check.Visit(chromium, (SITE / "book" / "04_augmentation_gap.html").as_uri()) as visit:
        folded = visit.page.locator("article details:not([open]) > :not(summary)").first
        frame = visit.page.locator(".bd-sidebar-primary").first
        assert frame.is_visible() and not folded.is_visible()
        visit.page.emulate_media(media="print")
        assert folded.is_visible() and not frame.is_visible()
        assert not visit.page.locator(".afx input").first.is_visible()
        assert visit.page.locator("article h1:visible, .onlyprint h1:visible").count() == 1


# ---------------------------------------------------------------- status page


def too_long(seconds: dict[str, int]) -> list[str]:
    """Notebooks above a minute, all above six: with threefold slack, since machines differ."""
    found = [name for name, s in seconds.items() if s > 3 * 60]
    return found + ["together"] * (sum(seconds.values()) > 3 * 360)


def test_the_notebooks_run_in_minutes():
    seconds = measured.built_in()
    assert {path.stem for path in CHAPTERS} <= set(seconds)
    assert too_long(seconds) == []
    assert too_long({"a": 181, "b": 1}) == ["a"]  # planted
    assert too_long(dict.fromkeys("abcdefghijk", 99)) == ["together"]


def test_the_status_page_shows_the_last_measurement():
    record = json.loads(measured.RECORD.read_text("utf-8"))
    assert measured.STATUS.read_text("utf-8") == measured.report(record)


# ---------------------------------------------------------------- how to use


def test_the_page_shows_the_examples_that_the_readme_runs():
    """test_project.py runs those of the README."""
    blocks = re.compile(r"```python\n(.*?)```", re.DOTALL)
    readme = blocks.findall((ROOT / "README.md").read_text("utf-8"))
    shown = blocks.findall((ROOT / "book" / "how_to_use.md").read_text("utf-8"))
    measuring = [code for code in shown if "sandwich" in code]
    assert len(measuring) == 1 and measuring[0] in readme
    assert len([line for line in measuring[0].splitlines() if line.strip()]) <= 10

"""Generated cases for files and addresses: corrupt records, weights, checkpoints, notebooks; links.

Whatever stands in a file: it is read as it was written, or refused with a clear error; it is never
changed, no code in it runs. Whatever stands in a link: a page shows sensible values and runs none.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
import torch
from by_hand import begin
from explorer_page import page_of
from fuzzing import CASES, FUZZ, cases, works_or_explains
from hypothesis import strategies as st

import augflow_mini as am
from augflow_mini import claims
from augflow_mini.checkpoint import load_tensors, to_bytes, write_atomic
from augflow_mini.experiments.record import load_record, load_weights, write_record
from augflow_mini.trainer import KIND

ROOT = Path(__file__).resolve().parent.parent
DATA = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
OPTIONS = dict(steps=3, batch=8, lr=1e-3, seed=0, device="cpu", progress=False)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    begin()


@st.composite
def damage(draw, most=4):
    """A function that damages bytes: cut, flipped, inserted, replaced, or another file's."""
    kind = draw(st.sampled_from(["cut", "flip", "insert", "swap", "foreign"]))
    places = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=most))
    junk = draw(st.binary(min_size=1, max_size=8))
    foreign = draw(
        st.sampled_from(
            [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 9999, b"NaN", b"PK\x03\x04"]
        )
    )

    def apply(content: bytes) -> bytes:
        out = bytearray(content)
        for place in places:
            at = int(place * len(out))
            if kind == "cut":
                del out[at:]
            elif kind == "flip":
                out[at] ^= junk[0] or 1
            elif kind == "insert":
                out[at:at] = junk
            elif kind == "swap":
                out[at : at + len(junk)] = junk
            if not out:
                break
        return foreign if kind == "foreign" else bytes(out)

    return apply


# ---- records and their weights --------------------------------------------------------------


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    content = {"figures": [1.5, -0.25], "why": "é", "rows": {"a": None, "b": [True, 3]}}
    write_record("one", content, weights={"w": torch.arange(12.0)}, folder=folder)
    return folder, load_record("one", folder=folder), load_weights("one", folder=folder)


@cases(damage(), st.booleans())
def test_a_damaged_record_is_refused_or_read_as_it_was(record, hurt, weights):
    folder, content, state = record
    path = folder / ("one.pt" if weights else "one.json")
    whole = path.read_bytes()
    try:
        path.write_bytes(hurt(whole))
        damaged = path.read_bytes()
        read = load_weights if weights else load_record
        got = works_or_explains(lambda: read("one", folder=folder))
        assert path.read_bytes() == damaged, "reading changed the file"
        if weights and got is not None:
            assert all(torch.equal(got[k], state[k]) for k in state)
        elif got is not None:
            assert got == content
    finally:
        path.write_bytes(whole)


# ---- checkpoints ----------------------------------------------------------------------------


def flow():
    torch.manual_seed(0)
    return am.Flow(am.anf(2, 1, steps=1, hidden=(4,)), am.StandardNormal(3))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "run.ckpt"
    am.fit(flow(), DATA, checkpoint=path, **OPTIONS)
    return path, path.read_bytes()


def resumed(path):
    model = flow()
    am.fit(model, DATA, checkpoint=path, **OPTIONS)
    return model.state_dict()


@cases(damage(), ci=10)
def test_a_damaged_checkpoint_is_refused_or_changes_nothing(checkpoint, hurt):
    path, whole = checkpoint
    path.write_bytes(whole)
    expected = resumed(path)
    path.write_bytes(hurt(whole))
    damaged = path.read_bytes()
    got = works_or_explains(lambda: resumed(path))
    if got is None:
        assert path.read_bytes() == damaged, "a refused file was touched"
    else:
        assert all(torch.equal(got[k], expected[k]) for k in expected), (
            "resumed from other weights"
        )


ODD = st.sampled_from(
    [None, 0, -1, 1e308, float("nan"), "x", [], {}, [1, [2]], torch.zeros(0), True]
)


@cases(st.data(), share=0.5, ci=10)
def test_a_checkpoint_with_odd_contents_is_refused(checkpoint, data):
    path, whole = checkpoint
    path.write_bytes(whole)
    content = load_tensors(path, kind=KIND)
    part = data.draw(st.sampled_from(sorted(set(content) - {"scaler"})))
    inner = content[part]
    if isinstance(inner, dict) and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(inner, key=str)))
        if part == "fit" and key in ("device", "seconds", "clipped", "skipped", "best_step"):
            return  # what a run notes down, not what it goes on from
        inner[key] = data.draw(ODD)
        if data.draw(st.booleans()):
            del inner[key]
    else:
        content[part] = data.draw(ODD)
    path.write_bytes(to_bytes(content))
    works_or_explains(lambda: resumed(path))


# ---- notebooks ------------------------------------------------------------------------------


@cases(damage())
def test_a_damaged_notebook_is_refused_by_the_ledger(tmp_path_factory, hurt):
    output = {
        "output_type": "display_data",
        "data": {claims.MIME: {"id": "a-1", "text": "t", "measured": "1"}},
    }
    cell = {"cell_type": "code", "id": "c", "source": "", "outputs": [output]}
    path = tmp_path_factory.getbasetemp() / "hurt.ipynb"
    path.write_bytes(hurt(json.dumps({"cells": [cell], "metadata": {}}).encode()))
    got = works_or_explains(lambda: claims.page([path]))
    assert got is None or got.startswith("# Claims ledger")


# ---- at the same time, and where nothing can be written -------------------------------------

WRITER = """
import sys; sys.path.insert(0, {tests!r})
from test_fuzz_files import DATA, OPTIONS, am, flow
am.fit(flow(), DATA, checkpoint={path!r}, every=1, **dict(OPTIONS, steps=40))
"""


def test_two_runs_on_one_checkpoint_leave_a_whole_file(tmp_path):
    path = tmp_path / "run.ckpt"
    code = WRITER.format(tests=str(ROOT / "tests"), path=str(path))
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]
    assert load_tensors(path, kind=KIND)["fit"]["step"] == 40
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("full", ["/dev/full/x", "/proc/x", "/dev/null/x"])
def test_a_place_that_cannot_be_written_is_named(full):
    with pytest.raises(OSError, match="could not write .*nothing was written.*another place"):
        write_atomic(full, b"x")
    with pytest.raises(OSError, match="could not write"):
        am.fit(flow(), DATA, checkpoint=full, **OPTIONS)


def test_a_folder_in_the_checkpoints_place_is_refused(tmp_path):
    with pytest.raises((ValueError, OSError), match="cannot be read|could not write"):
        am.fit(flow(), DATA, checkpoint=tmp_path, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


# ---- addresses ------------------------------------------------------------------------------

EVIL = [
    "<script>window.hacked=1</script>", "<img src=x onerror=window.hacked=1>", "javascript:hacked=1",
    "\"><svg onload=window.hacked=1>", "'-hacked-'", "${hacked}", "__proto__", "constructor", "1e999",
    "-1", "NaN", "Infinity", "9" * 400, "0x10", "1;2", "%", "%00", "%ff",
    "\u202e", "#", "?", "&&", "=",
]  # fmt: skip
WORDS = st.one_of(
    st.sampled_from(EVIL), st.text(max_size=12), st.floats().map(str), st.integers().map(str)
)


@st.composite
def hashes(draw, key, names):
    """Addresses after '#': the explorer's own key or another, known and unknown names, any values."""
    head = draw(st.one_of(st.just(key), st.just(key), WORDS))
    pairs = draw(st.lists(st.tuples(st.one_of(st.sampled_from(names), WORDS), WORDS), max_size=5))
    sign, between = draw(st.sampled_from(["=", "", "=="])), draw(st.sampled_from(["&", ";", "&&"]))
    quote = urllib.parse.quote if draw(st.booleans()) else str
    return "#" + head + "?" + between.join(f"{quote(k)}{sign}{quote(v)}" for k, v in pairs)


STATES = """([module, key, inputs, hashes]) => {
  const url = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
  return import(url).then((M) => hashes.map((hash) => {
    try { return Object.entries(M.parseState(hash, key, inputs)); } catch (e) { return String(e); }
  }));
}"""
VISIT = """async (hashes) => {
  const before = document.querySelectorAll("script, img, iframe, object, embed").length;
  for (const hash of hashes) {
    location.hash = hash;
    await new Promise((done) => setTimeout(done, 0));
  }
  await new Promise((done) => setTimeout(done, 100));
  const after = document.querySelectorAll("script, img, iframe, object, embed").length;
  return { hacked: "hacked" in window || "polluted" in Object.prototype, more: after - before,
           status: document.querySelector("[role=status]").textContent };
}"""
BATCH = 50  # addresses a case: one call into the browser


@pytest.fixture(scope="module")
def explorer_page(chromium):
    """One explorer in a page of its own, no kernel; faults of the page are gathered."""
    from augflow_mini.explorers import GapExplorer

    widget, faults = GapExplorer(), []
    with contextlib.closing(chromium.new_context(reduced_motion="reduce")) as context:
        html = page_of(widget)
        context.route("**/*", lambda r: r.fulfill(body=html, content_type="text/html"))
        page = context.new_page()
        page.on("pageerror", lambda e: faults.append(str(e)))
        page.on("dialog", lambda d: (faults.append(f"dialog {d.message}"), d.dismiss()))
        page.goto("http://explorers.test/")
        page.wait_for_selector(".afx [role=status]")
        yield page, widget, faults


@cases(st.data(), share=0.05, ci=3)
def test_no_address_breaks_or_enters_a_page(explorer_page, data):
    from augflow_mini.explorers.base import source

    page, widget, faults = explorer_page
    inputs = widget.inputs
    by_name = {control["name"]: control for control in inputs}
    asked = data.draw(st.lists(hashes("gap", sorted(by_name)), min_size=BATCH, max_size=BATCH))
    states = page.evaluate(STATES, [source("base.js"), "gap", inputs, asked])
    for hash, state in zip(asked, states, strict=True):
        assert isinstance(state, list), f"{hash!r}: {state}"
        for name, value in state:
            control = by_name[name]
            if "options" in control:
                assert value in control["options"]
            else:
                assert control["min"] <= value <= control["max"], hash
    found = page.evaluate(VISIT, asked)
    assert not found["hacked"] and found["more"] == 0, asked
    assert "not a number" not in found["status"] and "undefined" not in found["status"]
    assert faults == []


def test_the_run_was_as_long_as_it_says():
    """`make fuzz` runs both files: at least ten cases for each one of FUZZ."""
    addresses = CASES["test_no_address_breaks_or_enters_a_page"]
    total = sum(CASES.values()) + (BATCH - 1) * addresses
    print(f"\n{total} generated cases: {dict(CASES)}, {BATCH} addresses each")
    assert total >= 10 * FUZZ

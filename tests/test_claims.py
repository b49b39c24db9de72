"""A claim shows what it measured, fails with both values, is refused where it cannot fail."""

import json
from pathlib import Path

import pytest
import torch

from augflow_mini import claims, tables
from augflow_mini.gap import ScalarANF

BOOK = Path(__file__).resolve().parent.parent / "book"
ONE = torch.tensor([1.0, 2.0], dtype=torch.float64)


def test_a_claim_that_holds_shows_text_and_both_sides(capsys):
    claims.equal("t-1", "Twice one is two.", {"by hand": ONE * 2, "by sum": ONE + ONE}, atol=1e-12)
    out = capsys.readouterr().out
    assert "Claim t-1 holds: Twice one is two." in out
    assert "by hand   2.0000   4.0000" in out
    assert "by sum    2.0000   4.0000" in out
    assert "equal within 1e-12" in out


def test_no_residual_digits_are_shown(capsys):
    claims.equal("t-1", "Zero.", {"sum": 0.1 + 0.2 - 0.3, "nothing": 0.0}, atol=1e-12)
    claims.equal("t-1", "Zero.", {"sum": -1e-17, "nothing": 0.0}, atol=1e-12)
    out = capsys.readouterr().out
    assert "e-17" not in out
    assert "-0.0" not in out
    assert "0.0000" in out


def test_digits_none_prints_no_measured_number(capsys):
    claims.less("t-1", "Falls.", {"after": 0.1234, "before": 0.5678}, by=0.3, digits=None)
    out = capsys.readouterr().out
    assert "1234" not in out
    assert "5678" not in out
    assert "each by more than 0.3" in out


@pytest.mark.parametrize(
    ("sides", "atol"),
    [
        ({"a": 1.0, "b": 1.1}, 0.05),
        ({"a": ONE, "b": ONE + torch.tensor([0.0, 0.2])}, 0.1),
        ({"a": 1.0, "b": 1.01, "c": 1.3}, 0.1),
    ],
)
def test_equal_fails_and_names_both_values(sides, atol):
    with pytest.raises(
        AssertionError, match=r"claim t-1 does not hold: No\.\n  a: 1.*\n  [bc]: 1"
    ):
        claims.equal("t-1", "No.", sides, atol=atol)


@pytest.mark.parametrize(
    ("sides", "by"),
    [
        ({"a": 1.0, "b": 1.0 + 1e-3}, 0.01),  # margin missed
        ({"a": 2.0, "b": 1.0}, 0.0),  # wrong order
        ({"a": 1.0, "b": 3.0, "c": 2.0}, 0.0),  # the third breaks the order
        ({"a": ONE, "b": ONE.flip(0)}, 0.0),  # one element breaks it
        ({"a": 1.0, "b": torch.tensor(1.0)}, 0.0),  # equal is not less
    ],
)
def test_less_fails(sides, by):
    with pytest.raises(AssertionError, match="claim t-1 does not hold"):
        claims.less("t-1", "No.", sides, by=by)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_fails(bad):
    for check, option in ((claims.equal, {"atol": 1.0}), (claims.less, {})):
        with pytest.raises(AssertionError, match="b is not finite"):
            check("t-1", "No.", {"a": 1.0, "b": bad}, **option)


@pytest.mark.parametrize(
    "sides",
    [
        {"a": ONE, "b": ONE},  # one object
        {"a": ONE, "b": ONE.view(2)},  # another view of the same numbers
        {"a": ONE, "b": ONE.detach()},
        {"a": ONE, "b": ONE + 0.0, "c": ONE},
        {"a": ONE},  # nothing to compare with
        {"a": ONE, "b": torch.ones(3)},  # would broadcast or raise something unhelpful
        {"a": torch.empty(0), "b": torch.empty(0)},  # all of nothing holds
    ],
)
def test_a_claim_that_cannot_fail_is_refused(sides):
    for check, option in ((claims.equal, {"atol": 1e-9}), (claims.less, {})):
        with pytest.raises(ValueError, match="claim t-1"):
            check("t-1", "Empty.", sides, **option)


def test_the_same_float_object_is_refused_but_equal_counts_are_not(capsys):
    value = ONE.sum().item() / 7
    with pytest.raises(ValueError, match="itself"):
        claims.equal("t-1", "Same.", {"a": value, "b": value}, atol=1e-9)
    claims.equal("t-1", "Counts.", {"a": 3, "b": len("abc")}, atol=0)


@pytest.mark.parametrize("tolerance", [float("nan"), float("inf"), -1e-3])
def test_a_tolerance_that_lets_everything_pass_is_refused(tolerance):
    with pytest.raises(ValueError, match="atol is"):
        claims.equal("t-1", "Empty.", {"a": 1.0, "b": 2.0}, atol=tolerance)
    with pytest.raises(ValueError, match="by is"):
        claims.less("t-1", "Empty.", {"a": 1.0, "b": 2.0}, by=tolerance)


def _notebook(path, *ids):
    outputs = [
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {
                claims.MIME: {"id": i, "text": f"{i} | is so.", "measured": "a: 1.0000; equal"}
            },
        }
        for i in ids
    ]
    cell = {
        "cell_type": "code",
        "id": "c1",
        "source": "",
        "outputs": outputs,
        "execution_count": 1,
    }
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": ""}, cell]}))
    return path


def test_gather_reads_committed_outputs_and_page_lists_them(tmp_path):
    books = [
        _notebook(tmp_path / "04_gap.ipynb", "gap-1", "gap-2"),
        _notebook(tmp_path / "05_v.ipynb", "v-1"),
    ]
    found = claims.gather(books)
    assert [c["id"] for c in found] == ["gap-1", "gap-2", "v-1"]
    assert found[2]["notebook"] == "05_v.ipynb"
    assert found[0]["cell"] == "c1"
    page = claims.page(books)
    assert "The 3 executed claims" in page
    assert (
        '<a href="04_gap.html#claim-gap-2">gap-2</a> | gap-2 \\| is so. | a: 1.0000; equal |'
        in page
    )


def test_an_id_may_stand_once(tmp_path):
    books = [_notebook(tmp_path / "a.ipynb", "gap-1"), _notebook(tmp_path / "b.ipynb", "gap-1")]
    with pytest.raises(ValueError, match=r"gap-1 stands in a\.ipynb and in b\.ipynb"):
        claims.gather(books)


def test_the_committed_ledger_is_what_the_notebooks_hold():
    books = sorted(BOOK.glob("[0-9]*.ipynb"))
    written = (BOOK / "claims.md").read_text(encoding="utf-8")
    command = "python -m augflow_mini.claims book/[0-9]*.ipynb > book/claims.md"
    assert written == claims.page(books), f"book/claims.md is out of date: {command}"


# ---- tables and the ledger ------------------------------------------------------------------


def test_tables_align_and_refuse_ragged_rows(capsys):
    tables.show(
        {"flow": {"NLL": 1.5, "gap": None}, "anf": {"NLL": -0.00001, "gap": 2.0}}, caption="T."
    )
    out = capsys.readouterr().out
    assert "flow   1.5000        -" in out
    assert "anf    0.0000   2.0000" in out
    with pytest.raises(ValueError, match="columns"):
        tables.show({"a": {"NLL": 1.0}, "b": {"gap": 1.0}}, caption="T.")
    with pytest.raises(ValueError, match="1 cells, expected 2"):
        tables.show({"a": [1.0]}, columns=["x", "y"], caption="T.")


def test_html_tables_escape_and_mark_headers():
    text = tables.html_table(["", "a<b"], [["row & co", "1"]], caption="p < q")
    assert "a&lt;b" in text
    assert "row &amp; co" in text
    assert "p &lt; q" in text
    assert "1&nbsp;±&nbsp;2" in tables.html_table([], [["a", "1 ± 2"]])
    assert text.count('scope="row"') == 1
    assert text.count('scope="col"') == 1


def test_ledger_moves_log_a_between_its_rows_and_keeps_the_total():
    model, x, e = ScalarANF(0.7, 0.3, 1.1, 0.6), ONE.new_ones(1, 1), ONE.new_full((1, 1), 0.4)
    anf = tables.ledger(model.flow(), x, e)
    vflow = tables.ledger(model.flow(), x, e, posterior=1)
    z = 0.7 * e + 0.3 * x
    normal = torch.distributions.Normal
    by_hand = (  # the VAE's log p(z) + log p(x | z) - log q(z | x)
        normal(0 * z, 1.0).log_prob(z)
        + normal(1.1 * z, 0.6).log_prob(x)
        - normal(0.3 * x, 0.7).log_prob(z)
    )
    assert anf["total"] == pytest.approx(by_hand.item(), abs=1e-12)
    assert vflow["total"] == pytest.approx(anf["total"], abs=1e-12)
    shift = torch.tensor(0.7, dtype=torch.float64).log().item()
    assert anf["contributions"] - vflow["contributions"] == pytest.approx(shift, abs=1e-12)


def test_ledger_refuses_what_it_cannot_split():
    model, x = ScalarANF(0.7, 0.3, 1.1, 0.6).flow(), torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="one of each"):
        tables.ledger(model, x.repeat(2, 1), x)
    with pytest.raises(ValueError, match="posterior is 3"):
        tables.ledger(model, x, x, posterior=3)
    with pytest.raises(ValueError, match="expected Augment"):
        tables.ledger(type(model)(list(model.chain)[1:], model.base), x, x)

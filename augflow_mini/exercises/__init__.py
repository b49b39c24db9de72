"""Exercises that check themselves: `check("gap/best-encoder", answer)`.

An exercise knows how to compute its answer and which answers typical mistakes give, so that a
wrong answer is met with the reason. The text, hint and solution stand in the chapter; here is one
module for each chapter, loaded when first asked for.
"""

from __future__ import annotations

import html
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import tables


@dataclass(frozen=True)
class Exercise:
    """What an answer is compared with.

    Args:
        expected: computes the right answer. Without `on`, it takes nothing and gives numbers; with
            `on`, the answer is a function and this is a right one.
        mistakes: what to tell the reader -> the answer (number or function) that mistake gives.
        on: for coded answers, the arguments to try, one tuple for each call.
        atol: absolute tolerance; rounded answers pass.
    """

    expected: Callable[..., Any]
    mistakes: Mapping[str, Callable[..., Any]]
    on: tuple[tuple, ...] = ()
    atol: float = 1e-3

    def values(self, answer: Callable[..., Any]) -> list[torch.Tensor]:
        """What a right, wrong or reader's answer comes to, one tensor for each call."""
        calls = self.on or ((),)
        return [torch.as_tensor(answer(*args), dtype=torch.float64).detach() for args in calls]


@dataclass(frozen=True)
class Grade:
    """`passed` is None where nothing was answered."""

    passed: bool | None
    message: str = field(default="")


def exercise(id: str) -> Exercise:
    """The exercise "chapter/name".

    Raises:
        ValueError: there is none of that name.
    """
    known = all_exercises(id.split("/")[0])
    if id not in known:
        raise ValueError(f"no exercise {id!r}; this chapter has {', '.join(known)}")
    return known[id]


def all_exercises(chapter: str) -> dict[str, Exercise]:
    """The exercises of a chapter, by id.

    Raises:
        ValueError: no such chapter.
    """
    try:
        module = importlib.import_module(f".{chapter}", __package__)
    except ModuleNotFoundError as err:
        raise ValueError(f"no exercises for a chapter {chapter!r}") from err
    return {f"{chapter}/{name}": ex for name, ex in module.EXERCISES.items()}


def grade(id: str, answer: Any) -> Grade:
    """Compare an answer with the expected one; never raises for what a reader wrote."""
    ex = exercise(id)
    if answer is ... or answer is None:
        return Grade(None, "not answered yet: replace the dots by your answer.")
    if bool(ex.on) != callable(answer):
        wanted = "a function" if ex.on else "a number, or a tuple of numbers"
        return Grade(False, f"the answer should be {wanted}, this is a {type(answer).__name__}.")
    try:
        got = ex.values(answer if ex.on else lambda: answer)
    except Exception as err:  # the reader's own code: whatever it raises is told, not hidden
        return Grade(False, f"your answer raised {type(err).__name__}: {err}")
    right = ex.values(ex.expected)
    if _agree(got, right, ex.atol):
        return Grade(True, "right.")
    for message, mistake in ex.mistakes.items():
        if _agree(got, ex.values(mistake), ex.atol):
            return Grade(False, message)
    return Grade(False, _difference(ex, got, right))


def check(id: str, answer: Any) -> None:
    """Tell the reader whether the answer is right, and if not, why, where the reason is known."""
    result = grade(id, answer)
    verdict = {True: "Right", False: "Not yet", None: "Open"}[result.passed]
    plain = f"Exercise {id} - {verdict}: {result.message}"
    rich = (
        f'<p class="exercise"><strong>Exercise {html.escape(id)} - {verdict}:</strong> '
        f"{html.escape(result.message)}</p>"
    )
    tables.display(plain, rich)


def _agree(got: list[torch.Tensor], right: list[torch.Tensor], atol: float) -> bool:
    """Same shapes and values; infinite values agree with themselves, NaN with nothing."""
    return all(
        g.shape == r.shape and bool(torch.isclose(g, r, rtol=0, atol=atol).all())
        for g, r in zip(got, right, strict=True)
    )


def _difference(ex: Exercise, got: list[torch.Tensor], right: list[torch.Tensor]) -> str:
    """What can be said without giving the answer away."""
    for i, (g, r) in enumerate(zip(got, right, strict=True)):
        where = f" for test {i + 1} of {len(got)}" if ex.on else ""
        if g.shape != r.shape:
            return (
                f"the answer{where} has shape {tuple(g.shape)}, expected {tuple(r.shape)} "
                "(a number has shape ())."
            )
        if not _agree([g], [r], ex.atol):
            size = "not a number" if g.isnan().any() else f"off by {(g - r).abs().max():.2g}"
            return f"the answer{where} is {size}, allowed is {ex.atol:g}. The hint may help."
    raise AssertionError("unreachable: the answers agree")

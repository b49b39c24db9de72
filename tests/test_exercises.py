"""Every exercise: the solution passes, a blank is no answer, each listed mistake is met."""

import json
import re
from pathlib import Path

import pytest
import torch

from augflow_mini import exercises

BOOK = Path(__file__).parent.parent / "book"
CHAPTERS = sorted(
    p.stem for p in Path(exercises.__file__).parent.glob("*.py") if p.stem != "__init__"
)
ALL = {id: ex for chapter in CHAPTERS for id, ex in exercises.all_exercises(chapter).items()}


def _in_notebooks() -> dict[str, tuple[str, str]]:
    """id -> (task in Markdown with hint and solution, starter code), from the chapters."""
    found = {}
    for path in sorted(BOOK.glob("*.ipynb")):
        text = ""
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                text = source
            elif match := re.search(r'exercises\.check\("([^"]+)"', source):
                assert match[1] not in found, f"{match[1]} stands twice"
                found[match[1]] = (text, source)
    return found


TEXTS = _in_notebooks()


def _details(text: str, title: str) -> str:
    match = re.search(rf"<details>\s*<summary>{title}</summary>(.*?)</details>", text, re.DOTALL)
    assert match, f"no <details> with the summary {title}"
    return match[1]


def test_every_exercise_stands_in_a_chapter_and_every_check_has_one():
    assert set(ALL) == set(TEXTS)


@pytest.mark.parametrize("id", ALL)
def test_shipped_solution_passes(id):
    assert len(_details(TEXTS[id][0], "Hint").split()) >= 5
    code = re.search(r"```python\n(.*?)```", _details(TEXTS[id][0], "Solution"), re.DOTALL)
    assert code, "the solution holds no ```python block"
    names: dict = {}
    exec(code[1], names)  # complete: it imports what it needs
    grade = exercises.grade(id, names["answer"])
    assert grade.passed is True, grade.message


@pytest.mark.parametrize("id", ALL)
def test_starter_is_blank_and_blank_is_no_answer(id, capsys):
    assert TEXTS[id][1].splitlines()[0] == "answer = ..."
    exec(TEXTS[id][1], {"exercises": exercises})
    assert "not answered yet" in capsys.readouterr().out
    assert exercises.grade(id, ...).passed is None
    assert exercises.grade(id, None).passed is None


@pytest.mark.parametrize("id", ALL)
def test_each_listed_mistake_fails_with_its_reason(id):
    assert ALL[id].mistakes, "list at least one plausible wrong answer"
    for reason, wrong in ALL[id].mistakes.items():
        grade = exercises.grade(id, wrong if ALL[id].on else wrong())
        assert grade.passed is False
        assert grade.message == reason


def _shifted(ex: exercises.Exercise):
    def wrong(*args):
        return torch.as_tensor(ex.expected(*args), dtype=torch.float64) + 17.0

    return wrong if ex.on else wrong()


@pytest.mark.parametrize("id", ALL)
def test_other_wrong_answers_fail_without_raising(id):
    assert exercises.grade(id, _shifted(ALL[id])).passed is False
    assert exercises.grade(id, "about a half").passed is False
    assert exercises.grade(id, float("nan")).passed is False
    assert exercises.grade(id, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).passed is False
    for broken in (lambda *args: 1 / 0, lambda *args: None):
        assert exercises.grade(id, broken).passed is False


def test_messages_say_what_is_wrong_and_do_not_give_the_answer_away(capsys):
    assert "a number" in exercises.grade("gap/at-two", lambda x: x).message
    assert "a function" in exercises.grade("gap/bars", 0.5).message
    assert "ZeroDivisionError" in exercises.grade("gap/bars", lambda *a: 1 / 0).message
    assert "shape" in exercises.grade("gap/best-encoder", 0.5).message
    message = exercises.grade("gap/at-two", 1.0).message
    assert "off by 0.59" in message
    assert "1.58" not in message
    exercises.check("gap/at-two", 1.589)
    assert "Right" in capsys.readouterr().out


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="this chapter has gap/"):
        exercises.grade("gap/none", 1.0)
    with pytest.raises(ValueError, match="no exercises for a chapter"):
        exercises.check("none/at-two", 1.0)

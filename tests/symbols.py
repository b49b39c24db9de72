"""Read the identifiers out of a page's mathematics, and the symbols out of its table.

An identifier is a letter with its font and accent, as in `x`, `\\mathcal L`, `\\hat p`, or a word set
upright, as in `\\mathrm{KL}`. A capital letter or a word below it belongs to it: `D_X`,
`g_{\\mathrm{enc}}`. Any other subscript is an expression with identifiers of its own: `x_{1:d}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\$)((?:\\.|[^$\\])+?)\$(?!\$)", re.DOTALL)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+|\s+|.", re.DOTALL)

GREEK = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau "
    "phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split()
)
FONTS = set("mathcal mathbb mathfrak mathbf boldsymbol mathsf".split())
ACCENTS = set("hat tilde bar dot vec widehat".split())
UPRIGHT = {"mathrm", "operatorname"}
FUNCTIONS = {"asinh", "acosh", "atanh", "erf"}  # those that LaTeX has no command for
WITH_WORDS = {"text", "tag", "begin", "end", "color"}  # their argument is no mathematics
# Signs, names of functions, spaces and brackets.
PLAIN = set(
    "log exp det max min sup inf lim arg sin cos tan tanh sinh cosh partial nabla sum prod int infty "
    "frac tfrac dfrac sqrt cdot cdots dots ldots circ odot oplus otimes times pm mid Vert lVert rVert "
    "lvert rvert vert le ge lt gt leq geq ne neq approx sim equiv propto in notin subset cup cap to "
    "mapsto leftarrow rightarrow Rightarrow Leftrightarrow Longleftrightarrow iff implies "
    "xrightarrow left right big Big bigg Bigg bigl bigr Bigl Bigr quad qquad underbrace overbrace "
    "limits top prime square phantom cr forall exists langle rangle lfloor rfloor colon".split()
)


def formulas(text: str) -> list[str]:
    """Every formula of a Markdown text; code is left out."""
    return [block or inline for block, inline in MATH.findall(CODE.sub("", text))]


def _argument(tokens: list[str], at: int) -> tuple[list[str], int]:
    """The group or single token at `at`, without braces, and where the rest begins."""
    while at < len(tokens) and tokens[at].isspace():
        at += 1
    if at >= len(tokens) or tokens[at] != "{":
        return tokens[at : at + 1], at + 1
    depth, start = 1, at + 1
    while depth:
        at += 1
        if at == len(tokens):
            raise ValueError(f"a brace stays open in {''.join(tokens)}")
        depth += {"{": 1, "}": -1}.get(tokens[at], 0)
    return tokens[start:at], at + 1


def _word(tokens: list[str]) -> str:
    return "".join(t for t in tokens if t.isalnum())


def _label(tokens: list[str]) -> str | None:
    """A subscript that names rather than counts: one capital letter, or an upright word."""
    tokens = [t for t in tokens if not t.isspace()]
    if tokens and tokens[0][1:] in UPRIGHT | {"text"}:
        return _word(_argument(tokens, 1)[0])
    if len(tokens) == 1 and (tokens[0].isalpha() and tokens[0].isupper()):
        return tokens[0]
    return None


def identifiers(formula: str) -> Iterator[str]:
    """The identifiers of a formula, from left to right.

    Raises:
        ValueError: a command that this reader does not know.
    """
    yield from _read(TOKEN.findall(formula))


def _read(tokens: list[str]) -> Iterator[str]:
    at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        command = token[1:] if token[0] == "\\" and token[1:].isalpha() else None
        if command in WITH_WORDS:
            _, at = _argument(tokens, at)
        elif command in UPRIGHT:
            group, at = _argument(tokens, at)
            if _word(group) not in FUNCTIONS:
                at = yield from _subscript(_word(group), tokens, at)
        elif command in FONTS | ACCENTS:
            group, at = _argument(tokens, at)
            if group[:1] and group[0][1:] in FONTS:  # \hat{\mathcal L}
                base, _ = _argument(group, 1)
                group = [group[0] + "{" + "".join(base).strip() + "}"]
            name = f"{token}{{{''.join(group).strip()}}}"
            at = yield from _subscript(name, tokens, at)
        elif command in GREEK or (token.isalpha() and token.isascii() and len(token) == 1):
            at = yield from _subscript(token, tokens, at)
        elif command is not None and command not in PLAIN:
            raise ValueError(f"{token} in {''.join(tokens)}: a new command? name it in symbols.py")


def _subscript(base: str, tokens: list[str], at: int):
    """Yield the identifier with its label, then those of other subscripts; return the place."""
    while at < len(tokens) and (tokens[at] == "'" or tokens[at].isspace()):
        at += 1
    if at >= len(tokens) or tokens[at] != "_":
        yield base
        return at
    group, at = _argument(tokens, at + 1)
    label = _label(group)
    yield base if label is None else f"{base}_{label}"
    if label is None:
        yield from _read(group)
    return at


# ---- the tables -----------------------------------------------------------------------------


def rows(text: str, heading: str = "Symbols") -> list[tuple[str, str]]:
    """(symbol, meaning) of the rows below the heading; a cell may hold several symbols."""
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if section is None:
        return []
    found = []
    for cell, meaning in re.findall(r"^\| ([^|]*\$[^|]*) \| ([^|]*) \|", section[1], re.M):
        for formula in formulas(cell):
            found += [(part, meaning) for part in _parts(formula)]
    return found


def _parts(formula: str) -> list[str]:
    """`a, b` are two symbols, `p(x, e)` is one; `k = D_E` defines both sides."""
    parts, depth = [""], 0
    for sign in formula:
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(sign, 0)
        if sign in ",=" and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts if part.strip()]


def defined(text: str, heading: str = "Symbols") -> set[str]:
    """The identifiers that the table explains: the first of each symbol."""
    return {next(identifiers(part)) for part, _ in rows(text, heading) if any(identifiers(part))}


def unknown(text: str, known: set[str]) -> set[str]:
    """Identifiers of the page's mathematics that are not known, labelled or not."""
    used = {name for formula in formulas(text) for name in identifiers(formula)}
    return {name for name in used if name not in known and name.rsplit("_", 1)[0] not in known}

"""The library reference in Markdown, from signatures and docstrings; generate.py writes it.

The docstrings are plain text: a summary, the layer's three lines (forward, inverse, contrib) or other
set-off formulas, Args, Raises, source. Each part keeps its kind here: formulas stay in fixed width,
arguments and errors become lists, and papers become links to the bibliography.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import augflow_mini

# Modules whose names `augflow_mini` exports, in the order in which the book needs them.
GROUPS = {
    "The chain of layers": ("transform", "flow", "bounds"),
    "Augmentation": ("augment",),
    "Couplings": ("coupling", "mixlogistic"),
    "Other bijections": ("linear", "pointwise", "shape", "residual"),
    "Laws": ("distributions",),
    "Networks": ("nets", "imagenets"),
    "Models as lists": ("recipes", "image_recipes"),
    "The augmentation gap, measured": ("gap", "integrate"),
    "Discrete data": ("dequantize",),
    "Training": ("train", "trainer"),
    "Checks of your own layers": ("checks",),
}
# Modules that are imported by name: `from augflow_mini import data`.
TOOLS = {
    "What no model of a family can do": ("floors",),
    "Data sets": ("data", "images"),
    "Recorded experiments": ("experiments",),
    "Tools of this book": ("claims", "exercises", "tables", "plots", "explorers"),
}
WIDTH = 76  # characters of a signature's line
HEADS = {"Args": "Arguments"}
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):(.*)$")


@dataclass(frozen=True)
class Public:
    """A public name: how it is written, and what it is."""

    name: str
    thing: object

    @property
    def heading(self) -> str:
        return f"class {self.name}" if inspect.isclass(self.thing) else self.name


def exported(module: ModuleType) -> list[Public]:
    """The names of the module that `augflow_mini` exports, in the module's own order."""
    own = module.__name__
    return [
        Public(name, thing)
        for name, thing in vars(module).items()
        if name in augflow_mini.__all__ and getattr(thing, "__module__", own) == own
    ]


def tools(module: ModuleType) -> list[Public]:
    """The module's own public functions and classes: its `__all__`, or all that it defines."""
    short = module.__name__.removeprefix("augflow_mini.")
    names = getattr(module, "__all__", None) or [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__
    ]
    things = [(name, getattr(module, name)) for name in names]
    return [
        Public(f"{short}.{n}", t) for n, t in things if inspect.isroutine(t) or inspect.isclass(t)
    ]


def entries() -> dict[str, dict[ModuleType, list[Public]]]:
    """group -> module -> its public names."""
    load = lambda name: importlib.import_module(f"augflow_mini.{name}")  # noqa: E731
    found = {group: {load(m): exported(load(m)) for m in names} for group, names in GROUPS.items()}
    return found | {
        group: {load(m): tools(load(m)) for m in names} for group, names in TOOLS.items()
    }


# ---- docstrings -----------------------------------------------------------------------------


def escape(text: str) -> str:
    """Plain text as Markdown: what is in backticks stays, the rest says what it says."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"([\\*_\[\]<>$~{}|^#])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def _list(lines: list[str]) -> str:
    """`name: meaning` entries, continued on indented lines."""
    items: list[str] = []
    for line in inspect.cleandoc("\n".join(["", *lines])).splitlines():
        if line.startswith(" ") and items:
            items[-1] += " " + line.strip()
        elif line:
            items.append(line)
    named = [re.match(r"([\w., ]+): (.*)", item) for item in items]
    return "\n".join(
        f"- `{m[1]}`: {escape(m[2])}" if m else f"- {escape(item)}"
        for m, item in zip(named, items, strict=True)
    )


def docstring(doc: str, cite: Callable[[str], str]) -> list[str]:
    """The parts of a docstring as Markdown blocks."""
    out = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
        lines = block.splitlines()
        if head := SECTION.match(lines[0]):
            out.append(f"**{HEADS.get(head[1], head[1])}.**{escape(head[2])}")
            if len(lines) > 1:
                out.append(_list(lines[1:]))
        elif lines[0].startswith("    "):
            if out and out[-1].startswith("- "):  # a second paragraph of an argument list
                out.append(_list(lines))
            else:
                out.append("```text\n" + inspect.cleandoc("\n" + block) + "\n```")
        elif lines[0].startswith("forward  "):
            out.append("```text\n" + block + "\n```")
        else:
            out.append(cite(escape(" ".join(lines))))
    return out


def _value(default: object) -> str:
    """A default as it would be typed; dots for a long one."""
    if isinstance(default, Path):  # a folder of this machine: its name is what a reader needs
        return f'"{default.name}"'
    text = getattr(default, "__name__", None) or str(default)
    text = json.dumps(default) if isinstance(default, str) else text
    return "..." if len(text) > 40 or text.startswith("<") else text


def signature(name: str, thing: object) -> str:
    """`name(arguments) -> result`, broken where it is long."""
    found = inspect.signature(thing)
    arguments, star = [], False
    for p in found.parameters.values():
        if p.name == "self":
            continue
        if p.kind is p.KEYWORD_ONLY and not star:
            arguments.append("*")
        star = star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        known = "" if p.annotation is p.empty else f": {p.annotation}"
        default = "" if p.default is p.empty else f" = {_value(p.default)}"
        arguments.append(f"{stars}{p.name}{known}{default}")
    result = (
        "" if found.return_annotation in (found.empty, None, "None") else found.return_annotation
    )
    after = f" -> {result}" if result else ""
    line = f"{name}({', '.join(arguments)}){after}"
    if len(line) > WIDTH:
        line = f"{name}(\n" + "".join(f"    {a},\n" for a in arguments) + f"){after}"
    return f"```python\n{line}\n```"


def members(public: Public, cite: Callable[[str], str]) -> list[str]:
    """Methods and properties that the class itself documents."""
    out = []
    for name, member in vars(public.thing).items():
        function = getattr(member, "__func__", getattr(member, "fget", member))
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        out.append(f"#### {public.name}.{name}")
        if not isinstance(member, property):
            out.append(signature(name, member.__get__(None, public.thing)))
        out += docstring(function.__doc__, cite)
    return out


# ---- the page -------------------------------------------------------------------------------


def entry(public: Public, used: str, cite: Callable[[str], str]) -> list[str]:
    out = [f"### {public.heading}"]
    if callable(public.thing):
        if not inspect.isabstract(public.thing):  # others are not made, but subclassed
            out.append(signature(public.name, public.thing))
        out += docstring(public.thing.__doc__ or "", cite)
    else:
        keys = ", ".join(f"`{key}`" for key in public.thing)
        out.append(f"A {type(public.thing).__name__} with the keys {keys}.")
    out += [used] if used else []
    return out + (members(public, cite) if inspect.isclass(public.thing) else [])


def blocks(used: Callable[[str], str], cite: Callable[[str], str]) -> list[str]:
    """The page's blocks.

    Args:
        used: name -> a sentence on the chapters that use it, or "".
        cite: puts links on the papers named in a text.
    """
    out = [
        "# Library reference",
        "The public names of `augflow_mini`, in the order in which the book needs them, from the "
        "docstrings of the library. Every layer says the same three things: *forward* maps data "
        "towards noise, *inverse* goes back, *contrib* is what it adds to the log-likelihood, one "
        "number for each row, in nats. B is the batch; features lie along dimension 1.",
    ]
    for group, modules in entries().items():
        out.append(f"## {group}")
        for module, names in modules.items():
            summary = inspect.cleandoc(module.__doc__).split("\n\n")[0]
            out.append(f"`{module.__name__}`: {escape(' '.join(summary.splitlines()))}")
            for public in names:
                out += entry(public, used(public.name), cite)
    return out

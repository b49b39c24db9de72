"""Run notebooks in place and keep their outputs: `make notebooks`.

Widget state is not kept: it repeats each explorer's whole module, and the build makes it anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def execute(path: Path) -> None:
    """Run the notebook from its own folder, as the build does, and write it back."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        record_timing=False,  # time stamps would change the file on every run
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of this machine
    nbformat.write(notebook, path)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("usage: python book/execute.py NOTEBOOK ...")
    for name in sys.argv[1:]:
        print(name, flush=True)
        execute(Path(name))

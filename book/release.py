"""What a release carries beside the pages: the wheel, and the site as a zip: `make release`.

The zip needs no network and no server: unpack it and open `index.html`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(Path(__file__).resolve().parent / "_ext"))

from repository import stated  # noqa: E402


def wheel(out: Path) -> Path:
    """Build the library's wheel into the folder."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # files removed since would come along
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(ROOT)], check=True)
    return next(out.glob(f"augflow_mini-{stated().version}-*.whl"))


def offline(site: Path, out: Path) -> Path:
    """Pack the built site into one folder in a zip, with its licences."""
    if not (site / "index.html").exists():
        raise FileNotFoundError(f"{site}: the book is not built: run `make html` first")
    name = f"augmented-flows-{stated().version}"
    files = {path: path.relative_to(site) for path in sorted(site.rglob("*")) if path.is_file()}
    files |= {ROOT / name: Path(name) for name in ("LICENSE", "LICENSE-TEXT.md")}
    target = out / f"{name}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, inside in files.items():
            entry = zipfile.ZipInfo(
                f"{name}/{inside.as_posix()}"
            )  # a fixed date: same site, same zip
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return target


if __name__ == "__main__":
    dist = ROOT / "dist"
    dist.mkdir(exist_ok=True)
    for made in (wheel(dist), offline(ROOT / "_build" / "html", dist)):
        print(f"{made.relative_to(ROOT)}  {made.stat().st_size / 1e6:.1f} MB")

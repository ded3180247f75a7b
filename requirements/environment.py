"""Makes the environment that `make` runs in; needs Python >= 3.11 and its standard library, nothing installed.

The idea: what is heavy and the same for every checkout, the pinned packages, lives once in the user's cache folder
under a name made from the pins and the interpreter. What belongs to one checkout, its source path and its commands, is
a `.venv` of a few small files that looks into the cache. So a second checkout starts at once, two checkouts never run
each other's code, and nothing is installed again while the pins stay as they are.

Usage: environment.py [--with dev] CHECKOUT. OTE_CACHE names the cache folder (default: ~/.cache/ote).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

NO_PIP = """\
this Python cannot make an environment with pip: {python}
  it has no `ensurepip`, and no pip of version 22.3 or later to install with from outside
  on Debian and Ubuntu: apt-get install python3-venv; elsewhere: install a complete Python >= 3.11
  or name another interpreter: make PYTHON=/path/to/python3"""
OFFLINE = """\
the packages in {pins} could not be installed (pip's own words are above)
  no network, or a registry that is not the default one? pip takes PIP_INDEX_URL, PIP_FIND_LINKS and PIP_PROXY
  behind that: a system or Python version for which a package has no wheel; see CONTRIBUTING.md"""


def main() -> int:
    """Brings the cached environment and the checkout's `.venv` up to date; silent when they are."""
    parser = argparse.ArgumentParser(description="make or refresh the environment of a checkout")
    parser.add_argument("--with", dest="profile", choices=["base", "dev"], default="base", help="which pins (base)")
    parser.add_argument("checkout", type=Path)
    options = parser.parse_args()
    checkout: Path = options.checkout.resolve()
    requirements = checkout / "requirements"
    cache = Path(os.environ.get("OTE_CACHE") or Path.home() / ".cache" / "ote")
    cache.mkdir(parents=True, exist_ok=True)

    shared = cache / f"venv-{fingerprint(requirements)}"
    with locked(cache / f"{shared.name}.lock"):
        install(shared, requirements, options.profile)
    with locked(cache / f"checkout-{digest(str(checkout).encode())}.lock"):
        link(checkout, shared)
    return 0


def fingerprint(requirements: Path) -> str:
    """Name of the environment that these pins and this interpreter make."""
    pins = [path.read_bytes() for path in sorted(requirements.glob("*.txt"))]
    return digest(sys.version.encode(), os.path.realpath(sys.executable).encode(), *pins)


def digest(*parts: bytes) -> str:
    """Twelve hexadecimal digits over the parts."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:12]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the file's lock, so that two runs of make do not write one environment at once."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def install(shared: Path, requirements: Path, profile: str) -> None:
    """Makes the cached environment if it is new and installs the profile's pins if they are not in it yet."""
    done = shared / f"installed-{profile}"
    if done.exists() or (shared / "installed-dev").exists():
        return
    started = time.monotonic()
    pins = requirements / f"{profile}.txt"
    print(f"installing {pins.name} into {shared} (once; about a minute)", flush=True)
    pip = make_environment(shared)
    command = [*pip, "install", "--quiet", "--disable-pip-version-check", "--requirement", str(pins)]
    if not in_the_end(command):
        fail(OFFLINE.format(pins=pins))
    done.touch()
    print(f"installed in {time.monotonic() - started:.0f} s", flush=True)


def in_the_end(command: list[str], pauses: tuple[float, ...] = (5.0, 20.0)) -> bool:
    """Whether the command ends with 0, if need be when it is tried again: a registry may fail for a moment."""
    for pause in pauses:
        if subprocess.run(command, check=False).returncode == 0:
            return True
        print(f"failed; trying again in {pause:g} s", flush=True)
        time.sleep(pause)
    return subprocess.run(command, check=False).returncode == 0


def make_environment(shared: Path) -> list[str]:
    """Makes an empty environment and answers the pip command that installs into it."""
    python = shared / "bin" / "python"
    if python.exists() and works(str(python), "-m", "pip", "--version"):
        return [str(python), "-m", "pip"]
    shutil.rmtree(shared, ignore_errors=True)
    if works(sys.executable, "-c", "import ensurepip") and works(sys.executable, "-m", "venv", str(shared)):
        return [str(python), "-m", "pip"]
    shutil.rmtree(shared, ignore_errors=True)
    try:
        venv.create(shared, with_pip=False, symlinks=True)
    except (OSError, subprocess.CalledProcessError) as error:
        fail(f"{NO_PIP.format(python=sys.executable)}\n  ({error})")
    outside = [sys.executable, "-m", "pip", "--python", str(python)]
    if not works(*outside, "--version"):
        shutil.rmtree(shared, ignore_errors=True)
        fail(NO_PIP.format(python=sys.executable))
    return outside


def works(*command: str) -> bool:
    """Whether the command ends with 0; what it prints is not shown."""
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def link(checkout: Path, shared: Path) -> None:
    """Makes the checkout's `.venv`: its source and the cached packages on the path, and every command in bin."""
    local = checkout / ".venv"
    project = checkout / "pyproject.toml"
    entry_points: dict[str, str] = tomllib.loads(project.read_text())["project"]["scripts"]
    tools = sorted((shared / "bin").iterdir())
    content = digest(str([checkout, shared, sorted(entry_points.items()), tools]).encode())
    stamp = local / "made-from"
    if stamp.exists() and stamp.read_text() == content:
        return
    if local.is_symlink():
        local.unlink()
    shutil.rmtree(local, ignore_errors=True)
    venv.create(local, with_pip=False, symlinks=True)
    python = local / "bin" / "python"
    packages = next((shared / "lib").glob("python3.*/site-packages"))
    site = next((local / "lib").glob("python3.*/site-packages"))
    (site / "ote.pth").write_text(f"{checkout}\nimport site; site.addsitedir({str(packages)!r})\n")
    for tool in tools:
        if not (local / "bin" / tool.name).exists() and not tool.name.startswith(("activate", "Activate", "pip")):
            borrow(tool, local / "bin" / tool.name, python)
    for name, target in entry_points.items():
        module, function = target.split(":")
        text = f"#!{python}\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
        write_command(local / "bin" / name, text)
    stamp.write_text(content)


def borrow(tool: Path, path: Path, python: Path) -> None:
    """Makes a cached command the checkout's: a Python script with the checkout's interpreter, else a link."""
    with tool.open("rb") as handle:
        script = handle.read(2) == b"#!" and b"python" in handle.readline()
    if script:
        _, _, body = tool.read_text().partition("\n")
        write_command(path, f"#!{python}\n{body}")
    else:
        path.symlink_to(tool)


def write_command(path: Path, text: str) -> None:
    """Writes an executable file."""
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def fail(message: str) -> None:
    """Ends with the message on stderr."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    raise SystemExit(main())

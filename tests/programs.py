"""Programs that tests drive: from PATH, or, as root, from Debian's packages."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def can_install() -> bool:
    """Whether a missing program can be had."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(package: str) -> None:
    """Install a Debian package. Raises RuntimeError if that takes another user's rights."""
    if not can_install():
        raise RuntimeError(f"No {package} to test with: make setup, or sudo apt-get install {package}")
    # Run level 1 keeps Debian's scripts from starting a server they install.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for arguments in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", package]):
        subprocess.run(["apt-get", *arguments], env=quiet, stdin=subprocess.DEVNULL, check=True)


def program(name: str, *, package: str | None = None) -> Path:
    """A program, of the package of its name unless told. Skips only where it is missing and we may not install it."""
    package = package or name
    if shutil.which(name) is None:
        if not can_install():
            pytest.skip(f"There is no {name} here. To run this test: sudo apt-get install {package}")
        install(package)
    return Path(shutil.which(name) or f"/usr/bin/{name}")

"""Profiles to copy (a CPU, a GPU and a pre-emptible partition), and where to find a site's own."""

from __future__ import annotations

import os
from pathlib import Path

CONFIGURED = "~/.config/obdbench/profiles"


def profile_folders() -> list[Path]:
    """Folders of a site's own profiles, the first of them preferred."""
    return [Path("profiles"), Path(os.environ.get("OBDBENCH_PROFILES", CONFIGURED)).expanduser()]


def profile_files() -> dict[str, Path]:
    """Every profile by name; a site's own go before the shipped ones."""
    folders = [Path(__file__).parent, *reversed(profile_folders())]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}

"""Trust on first use: a file that no one published a digest of must stay what it first was."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmark.datasets.download import Fingerprint
from benchmark.files import write_atomic


class TrustedFiles:
    """Fingerprints of files by name, in a JSON file beside them.

    Args:
        path: The JSON file. Whoever trusts a changed file takes its entry out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def fingerprint(self, name: str) -> Fingerprint | None:
        """What the file was when it was first used; None before that."""
        entry = self._entries().get(name)
        return Fingerprint(entry["bytes"], entry["sha256"]) if entry else None

    def trust(self, name: str, fingerprint: Fingerprint, url: str) -> None:
        """Keeps a file's fingerprint; one that is kept already stays."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            entries = self._entries()
            if name in entries:
                return
            first_used = datetime.now(UTC).isoformat(timespec="seconds")
            entries[name] = {**asdict(fingerprint), "url": url, "first_used": first_used}
            write_atomic(self.path, json.dumps(entries, indent=1) + "\n")

    def _entries(self) -> dict[str, Any]:
        entries: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}
        return entries

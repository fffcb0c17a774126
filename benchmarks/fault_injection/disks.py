"""Small disks that can be filled: a tmpfs each where the benchmark may mount one, else a folder without that fault.

A quota of its own would need a prepared file system, and RLIMIT_FSIZE gives EFBIG, which is another error than a full disk's.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


class Disk:
    """A file system of a few MiB at `folder`. `can_fill`: False where this user may not mount one."""

    def __init__(self, folder: Path, size_mib: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0755", "autotune-faults", str(folder)]
        self.can_fill = os.geteuid() == 0 and subprocess.run(words, check=False, capture_output=True).returncode == 0
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """No byte more can be written."""
        with self._ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while file.write(b"\0" * size) == size:
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """There is space again."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """The disk and all that was on it is gone."""
        if self.can_fill:
            subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)

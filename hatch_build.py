"""What a wheel has beside the package: the manual page and the shells' completions, made from the commands.

They go below share/, where pipx finds them and links them to where man and the shells look.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACES = {
    "man": "share/man/man1/ktriage.1",
    "bash": "share/bash-completion/completions/ktriage",
    "zsh": "share/zsh/site-functions/_ktriage",
}


class ShareHook(BuildHookInterface[Any]):
    """Writes the files before a wheel is made; they are gone with the hook."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 (hatchling's interface)
        """Have the files added to the wheel."""
        # The commands' arguments need the standard library only.
        sys.path.insert(0, str(Path(self.root) / "src"))
        from ktriage.cli.completion import completion, manual

        self.folder = tempfile.TemporaryDirectory(prefix="ktriage-share-")
        for kind, place in PLACES.items():
            file = Path(self.folder.name) / kind
            file.write_text(manual() if kind == "man" else completion(kind))
            build_data["shared_data"][str(file)] = place

"""A pickle that would run code: it makes a folder."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any


class Payload:
    """Becomes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)

    def has_run(self) -> bool:
        return self.folder.exists()

    def works(self) -> bool:
        """Whether it does so when it is unpickled. Last: it is used up then."""
        pickle.loads(pickle.dumps(self))
        return self.has_run()

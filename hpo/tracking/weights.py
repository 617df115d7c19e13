"""Files of weights in MLflow."""

from __future__ import annotations

from pathlib import Path

import mlflow.artifacts
from mlflow.exceptions import MlflowException

SUFFIXES = (".pt", ".pth", ".safetensors")


class NoWeights(Exception):
    """What is at an address cannot be had, or is not one file of weights.

    Attributes:
        hint: What to try, or None.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def fetch(address: str, tracking_uri: str, to: Path) -> Path:
    """The file of weights at ``runs:/ID/PATH`` or ``models:/NAME/VERSION``.

    Args:
        to: A folder that is there, into which everything at the address is put.

    Raises:
        NoWeights: As said.
    """
    try:
        downloaded = mlflow.artifacts.download_artifacts(
            artifact_uri=address,
            dst_path=str(to),
            tracking_uri=tracking_uri,
            registry_uri=tracking_uri,
        )
    except (MlflowException, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise NoWeights(f"{address} cannot be fetched from MLflow: {first[:200]}") from None
    found = Path(downloaded)
    below = found.rglob("*") if found.is_dir() else [found]
    files = sorted(file for file in below if file.suffix in SUFFIXES)
    if len(files) != 1:
        named = ", ".join(str(file.relative_to(to)) for file in files) or "none"
        raise NoWeights(
            f"{address} is to hold one file of weights ({', '.join(SUFFIXES)}); it has {named}",
            "runs:/ID/PATH of one of them" if files else None,
        )
    return files[0]

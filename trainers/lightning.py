"""Lightning's Trainer in a trainer of one's own: the callback `Report`.

::

    report = Report(trial)
    trainer = Trainer(max_epochs=10, callbacks=[report], logger=False)
    trainer.fit(module, loader, validation, ckpt_path=report.checkpoint)
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np
import torch

from trainers.contract import Trial

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Checkpoint
except ModuleNotFoundError as error:
    message = "trainers.lightning needs the package lightning: pip install 'hpo[lightning]'"
    raise ModuleNotFoundError(message, name=error.name) from None


class Report(Checkpoint):
    """Reports what a module logs, an epoch at a time; ends the training when the trial is to end.

    As a callback that keeps checkpoints it comes after all others, and Lightning then keeps none
    of its own. Each epoch it writes one, of which hpo takes over those that are due.

    Args:
        trial: Its objective is among what the module logs, ``self.log("val/loss", …)``.

    Attributes:
        checkpoint: For ``Trainer.fit(ckpt_path=…)``: as far as an earlier attempt at this trial
            came, or None at the first. It is there as long as this object.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._file = Path(folder, "last.ckpt")
        self.checkpoint: str | None = None
        if state := trial.resume():
            self._file.write_bytes(state["lightning"].numpy().tobytes())
            self.checkpoint = str(self._file)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the epoch's validation."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        trainer.save_checkpoint(self._file)
        written = np.fromfile(self._file, np.uint8)
        self._trial.save({"lightning": torch.from_numpy(written)})
        self._trial.report(trainer.current_epoch + 1, metrics)

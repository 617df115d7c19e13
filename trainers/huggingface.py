"""Hugging Face's Trainer in a trainer of one's own: the callback `Report`.

::

    report = Report(trial)
    arguments = TrainingArguments(
        report.folder, eval_strategy="epoch", save_strategy="epoch", save_total_limit=1, …
    )
    trainer = Trainer(model, arguments, …, callbacks=[report])
    trainer.train(resume_from_checkpoint=report.checkpoint)
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainers.contract import Trial

try:
    from transformers import (
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy
except ModuleNotFoundError as error:
    message = "trainers.huggingface needs transformers: pip install 'hpo[transformers]'"
    raise ModuleNotFoundError(message, name=error.name) from None

OF_EVALUATION = "eval_"  # begins the names of what the Trainer found out by evaluating


class Report(TrainerCallback):
    """Reports each evaluation as an epoch; ends the training when the trial is to end.

    ``eval_accuracy`` is reported as ``val/accuracy``, the training loss as ``train/loss``.

    Args:
        trial: Its objective is among what is evaluated.

    Attributes:
        folder: For ``TrainingArguments(output_dir=…)``; it is there as long as this object.
        checkpoint: For ``Trainer.train(resume_from_checkpoint=…)``: as far as an earlier attempt
            at this trial came, or None at the first. Where ``save_strategy`` is the
            ``eval_strategy``; with another one a trial begins anew after a crash.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._epoch = 0
        self._metrics: dict[str, float] = {}
        self.folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.checkpoint: str | None = None
        if state := trial.resume():
            self._epoch = state["epoch"]
            self.checkpoint = str(self._place(state["step"]))
            for name, content in state["files"].items():
                file = Path(self.checkpoint, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content.numpy().tobytes())

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **of_trainer: Any,
    ) -> None:
        self._metrics = {
            f"val/{name.removeprefix(OF_EVALUATION)}": value
            for name, value in (metrics or {}).items()
            if name.startswith(OF_EVALUATION)
        }
        losses = [said["loss"] for said in state.log_history if "loss" in said]
        if losses:
            self._metrics["train/loss"] = losses[-1]
        if args.save_strategy == SaveStrategy.NO or not control.should_save:
            self._report()

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **of_trainer: Any,
    ) -> None:
        """After an evaluation: the checkpoint is of the epoch that is reported."""
        if not self._metrics:
            return
        checkpoint = self._place(state.global_step)
        files = {
            file.relative_to(checkpoint).as_posix(): torch.from_numpy(np.fromfile(file, np.uint8))
            for file in checkpoint.rglob("*")
            if file.is_file()
        }
        content = {"epoch": self._epoch + 1, "step": state.global_step, "files": files}
        self._trial.save(content)
        self._report()

    def _report(self) -> None:
        metrics, self._metrics = self._metrics, {}
        self._epoch += 1
        self._trial.report(self._epoch, metrics)

    def _place(self, step: int) -> Path:
        return Path(self.folder, f"{PREFIX_CHECKPOINT_DIR}-{step}")

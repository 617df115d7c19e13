"""An ordinary LightningModule; the lines marked "hpo" make it a trainer. See lightning.yaml.

Not lightning.py: a module beside a study file is found before the package of that name.
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trainers.lightning import Report  # hpo


class Digits(LightningModule):
    def __init__(self, hidden, lr):
        super().__init__()
        self.lr = lr
        self.model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)
        )

    def training_step(self, batch, number):
        images, digits = batch
        loss = nn.functional.cross_entropy(self.model(images), digits)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, number):
        images, digits = batch
        accuracy = (self.model(images).argmax(1) == digits).float().mean()
        self.log("val/accuracy", accuracy)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def train(trial):  # hpo
    options = trial.params["train"]  # hpo
    seed_everything(trial.seed, verbose=False)  # hpo
    rows, data = trial.data, trial.data.splits[0]  # hpo: or a datamodule of your own
    report = Report(trial)  # hpo
    trainer = Trainer(
        max_epochs=options["epochs"],
        accelerator=trial.device,  # hpo
        callbacks=[report],  # hpo
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(TensorDataset(*data.batch(rows.train)), batch_size=32, shuffle=True)
    validation = DataLoader(TensorDataset(*data.batch(rows.validation)), batch_size=512)
    module = Digits(options["hidden"], options["lr"])
    trainer.fit(module, loader, validation, ckpt_path=report.checkpoint)  # hpo: ckpt_path

"""An ordinary use of Hugging Face's Trainer; the lines marked "hpo" make it a trainer.

See huggingface.yaml.
"""

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from trainers.huggingface import Report  # hpo


class Digits(Dataset):
    def __init__(self, pixels, digits):
        self.pixels, self.digits = pixels, digits

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, row):
        return {"input_ids": self.pixels[row], "labels": self.digits[row]}


def accuracy(evaluated):
    return {"accuracy": (evaluated.predictions.argmax(1) == evaluated.label_ids).mean().item()}


def train(trial):  # hpo
    model, options = trial.params["model"], trial.params["train"]  # hpo
    report = Report(trial)  # hpo
    pixels = trial.data.inputs.flatten(1).long()  # hpo: or a dataset of your own
    digits = trial.data.target
    arguments = TrainingArguments(
        report.folder,  # hpo
        num_train_epochs=options["epochs"],
        learning_rate=options["lr"],
        seed=trial.seed,  # hpo
        use_cpu=trial.device == "cpu",
        per_device_train_batch_size=32,
        per_device_eval_batch_size=512,
        eval_strategy="epoch",  # hpo: an evaluation is an epoch of the trial
        save_strategy="epoch",  # hpo: so that it goes on after a crash
        save_total_limit=1,
        logging_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    torch.manual_seed(trial.seed)  # hpo
    config = BertConfig(
        vocab_size=17,  # grey values
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        hidden_size=model["width"],
        num_hidden_layers=model["layers"],
        num_attention_heads=2,
        intermediate_size=2 * model["width"],
        max_position_embeddings=64,
        num_labels=10,
    )
    trainer = Trainer(
        BertForSequenceClassification(config),
        arguments,
        train_dataset=Digits(pixels[trial.data.train], digits[trial.data.train]),
        eval_dataset=Digits(pixels[trial.data.validation], digits[trial.data.validation]),
        compute_metrics=accuracy,
        callbacks=[report],  # hpo
    )
    trainer.train(resume_from_checkpoint=report.checkpoint)  # hpo: from the checkpoint

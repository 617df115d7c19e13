"""An ordinary PyTorch loop; the lines marked "hpo" make it a trainer. See own_function.yaml."""

import torch
from torch import nn


def train(trial):  # hpo: the trial has the parameters, the data, the device and a seed
    options = trial.params["train"]  # hpo
    torch.manual_seed(trial.seed)  # hpo
    data = trial.data.splits[0]  # hpo: or load your own
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, options["hidden"]), nn.ReLU())
    model.append(nn.Linear(options["hidden"], 10)).to(trial.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=options["lr"], momentum=0.9)
    first = 1
    if state := trial.resume():  # hpo: go on after a crash
        model.load_state_dict(state["model"])  # hpo
        optimizer.load_state_dict(state["optimizer"])  # hpo
        first = state["epoch"] + 1  # hpo
    for epoch in range(first, options["epochs"] + 1):
        model.train()
        for rows in data.train[torch.randperm(len(data.train))].split(32):
            images, digits = data.batch(rows)
            loss = nn.functional.cross_entropy(model(images), digits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            images, digits = data.batch(data.validation)
            accuracy = (model(images).argmax(1) == digits).float().mean().item()
        content = {"epoch": epoch, "model": model.state_dict()}
        trial.save({**content, "optimizer": optimizer.state_dict()})  # hpo
        trial.report(epoch, {"train/loss": loss.item(), "val/accuracy": accuracy})  # hpo

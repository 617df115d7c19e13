"""A program that knows nothing of hpo: arguments in, JSON lines out. See own_command.yaml."""

import argparse
import json

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

parser = argparse.ArgumentParser()
parser.add_argument("--alpha", type=float, default=1e-4)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

pixels, digits = load_digits(return_X_y=True)
train, validation, digits, wanted = train_test_split(pixels / 16, digits, random_state=0)
model = SGDClassifier(loss="log_loss", alpha=options.alpha, random_state=options.seed)
for epoch in range(1, options.epochs + 1):
    model.partial_fit(train, digits, classes=np.arange(10))
    print(json.dumps({"epoch": epoch, "val/accuracy": model.score(validation, wanted)}))

"""Your own trainer: a function of a trial that reports once an epoch. See own_trainer.yaml."""

from sklearn.linear_model import SGDClassifier


def train(trial):
    images, digits = trial.data.arrays(trial.data.train)
    new_images, new_digits = trial.data.arrays(trial.data.validation)
    model = SGDClassifier(loss="log_loss", random_state=trial.seed, **trial.params["model"])
    for epoch in range(1, trial.params["train"]["epochs"] + 1):
        model.partial_fit(images.reshape(len(images), -1), digits, classes=range(10))
        accuracy = model.score(new_images.reshape(len(new_images), -1), new_digits)
        trial.report(epoch, {"val/accuracy": accuracy})

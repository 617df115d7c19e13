"""The trainers: functions that train one trial, and the data, models and tables they share.

Nothing here knows of Optuna or MLflow; `contract` is all that a trainer sees of the platform.
"""

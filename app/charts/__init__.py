"""The charts: pure functions of tables that return a `app.charts.style.Chart`.

What each module draws: `progress` values over trials and time; `learning` the curves of all
trials; `parallel` parameters side by side, and what boxes select; `parameters` slices, contour,
importances; `endings` pruning and failures; `fronts` several objectives; `workers` the timeline;
`curves` metrics of many runs, or of one; `thresholds` ROC and precision-recall; `probabilities`
calibration and scores; `confusion` classes; `comparisons` intervals and seeds; `errors`
regressions; `ensembles` an ensemble's members, gain and cost. `style`, `lines`, `axes`, `panels`,
`matrices` and `runs` are what they share.
"""

"""Every page in every state: it says what is so, and what to do, and never fails."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from made_up import classifier, labels, spoilt
from recorded import (
    LOSS,
    Recorded,
    a_regression,
    finished,
    keep_images,
    metrics,
    of_labels,
    own_trainer,
    rising,
    several_objectives,
)
from streamlit.testing.v1 import AppTest

from app.compared import compared
from app.parts import made_of_run
from app.views import compare, study
from app.words import WORDS, words
from hpo import results
from hpo.ensemble import build, record
from hpo.paths import Home
from hpo.results import UserError, differences
from hpo.results.catalog import Catalog

# pyarrow does so to columns of times.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Series.values returning an ndarray:pandas.errors.Pandas4Warning"
)

OpenPage = Callable[..., AppTest]
Rerun = Callable[[AppTest], AppTest]
TextOf = Callable[[AppTest], str]
W = words("en")
DEAD = "http://ann:s3cret@127.0.0.1:9"  # the discard port: nobody answers


def just_started(home: Path, name: str = "started") -> None:
    Recorded(home, name)


def nothing_reported(home: Path, name: str = "quiet") -> None:
    Recorded(home, name).begin()


def one_trial(home: Path, name: str = "one") -> None:
    recorded = Recorded(home, name)
    recorded.trial(rising(0.8), predicted=classifier())
    recorded.over()


def no_search(home: Path, name: str = "fixed") -> None:
    recorded = Recorded(home, name, search={})
    recorded.trial(rising(0.8), predicted=classifier(seed=1))
    recorded.trial(rising(0.8), predicted=classifier(seed=2))
    recorded.over()


def all_failed(home: Path, name: str = "broken") -> None:
    recorded = Recorded(home, name)
    for number in range(3):
        recorded.trial([], "failed", reason=f"ValueError: no luck {number}", traceback="Trace")
    recorded.over("failed")


def same_short_names(home: Path, name: str = "names") -> None:
    space = {"type": "float", "low": 0.0, "high": 1.0}
    paths = ("train.lr", "lr", "value", "number", "state", "rank", "model.train.lr")
    recorded = Recorded(home, name, search=dict.fromkeys(paths, space))
    for value in (0.5, 0.6, 0.7, 0.8, 0.9):
        recorded.trial(rising(value))
    recorded.over()


def not_finite(home: Path, name: str = "wild") -> None:
    recorded = Recorded(home, name)
    for value in (float("nan"), float("inf"), float("-inf"), 1e308, 0.5):
        number = recorded.begin()
        recorded.epoch(number, 1, metrics(0.5) | {"val/accuracy": value, "zero": 0.0})
        recorded.end(number, values=[value], best_epoch=1, last_epoch=1, epochs_trained=1)
    recorded.over()


STATES = {
    "digits": finished,
    "diabetes": a_regression,
    "labels": of_labels,
    "both": several_objectives,
    "mine": own_trainer,
    "one": one_trial,
    "fixed": no_search,
    "broken": all_failed,
    "started": just_started,
    "quiet": nothing_reported,
    "names": same_short_names,
    "wild": not_finite,
}
PAGES = [
    ("", {}),
    *(("study", {"view": view}) for view in study.VIEWS),
    *(("compare", {"view": view}) for view in compare.VIEWS),
    ("ensemble", {}),
    ("run", {}),
]


def param(test: AppTest, name: str) -> str:
    """What the address says; the harness gives a list or its only item."""
    found = test.query_params[name]
    return found[0] if isinstance(found, list) else found


# -- every page in every state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "language"), [*((key, "en") for key in STATES), ("digits", "zh"), ("both", "zh")]
)
def test_no_page_fails_in_any_state(
    key: str, language: str, home: Path, open_page: OpenPage, text_of: TextOf
) -> None:
    STATES[key](home)
    runs = ",".join(f"{key}/{number}" for number in (0, 1, 2, 3))
    for page, params in PAGES:
        where = {"study": key} if page == "study" else {"runs": runs} if page else {}
        test = open_page(page, lang=language, **where, **params)
        text = text_of(test)
        assert text.strip(), (page, params)
        assert not set(re.findall(r"[a-z_]+(?:\.[a-z_]+)+", text)) & set(WORDS), (page, params)
        assert not re.search(r"\{[a-z]\w*\}", text), (page, params)


def test_a_home_without_studies_says_how_to_begin(open_page: OpenPage) -> None:
    test = open_page()
    assert W("studies.empty") in [info.value for info in test.info]
    assert "hpo run studies/quickstart.yaml" in [code.value for code in test.code]
    assert [info.value for info in open_page("study").info] == [W("study.choose")]
    assert [info.value for info in open_page("compare").info] == [W("compare.empty")]
    assert [info.value for info in open_page("run").info] == [W("run.choose")]


def test_studies_are_found_by_any_word(
    home: Path, open_page: OpenPage, text_of: TextOf, rerun: Rerun
) -> None:
    finished(home)
    a_regression(home)
    test = open_page()
    assert {"digits", "diabetes"} <= set(re.findall(r"\w+", text_of(test)))
    test.text_input[0].set_value("LOSS compl")
    rerun(test)
    assert list(test.dataframe[0].value["study"]) == ["diabetes"]
    test.text_input[0].set_value("nothing like it")
    assert [info.value for info in rerun(test).info] == [W("studies.none_match", count=2)]
    linked = open_page(q="digits")
    assert list(linked.dataframe[0].value["study"]) == ["digits"]


# -- one study


def test_a_running_study_says_so_and_can_be_stopped(home: Path, open_page: OpenPage) -> None:
    recorded = Recorded(home)
    recorded.trial(rising(0.8))
    recorded.epoch(recorded.begin(), 1, metrics(0.6))
    with recorded.live():
        test = open_page("study", study="digits")
        assert test.metric[0].value == "running"
        assert "1 complete" in test.metric[0].delta
        assert "1 running" in test.metric[0].delta
        assert W("control.stop") in [button.label for button in test.button]
    test = open_page("study", study="digits")
    assert test.metric[0].value == "interrupted"
    assert "1 waiting" in test.metric[0].delta
    assert W("control.stop") not in [button.label for button in test.button]


def test_the_page_of_a_finished_study_names_its_best(home: Path, open_page: OpenPage) -> None:
    finished(home)
    test = open_page("study", study="digits")
    assert test.title[0].value == "digits"
    assert test.metric[0].value == "complete"
    assert test.metric[0].delta == "8 complete, 1 pruned, 2 failed, 1 stopped"
    assert (test.metric[1].value, test.metric[1].delta) == (
        "0.8625",
        W("study.best.maximize", trial=7),
    )


def test_the_leaderboard_filters_and_ranks(home: Path, open_page: OpenPage, rerun: Rerun) -> None:
    finished(home)
    test = open_page("study", study="digits")
    table = leaderboard(test)
    assert list(table["number"][:3]) == [7, 6, 5]
    assert list(table["rank"][:3]) == [1, 2, 3]
    assert len(table) == 12
    test.text_input("where").set_value("value > 0.8 and `params.train.lr` > 0")
    assert list(leaderboard(rerun(test))["number"]) == [7, 6]
    test.text_input("where").set_value("value >")
    test = rerun(test)
    assert len(leaderboard(test)) == 12
    assert any("invalid syntax" in warning.value for warning in test.warning)
    linked = open_page("study", study="digits", where="state == 'failed'")
    assert list(leaderboard(linked)["number"]) == [10, 11]


def leaderboard(test: AppTest) -> Any:
    (table,) = [frame.value for frame in test.dataframe if "rank" in frame.value]
    return table


def test_a_filter_in_a_link_is_neither_run_nor_markup(home: Path, open_page: OpenPage) -> None:
    finished(home)
    evil = f"@pd.io.common.os.system('touch {home}/made') == 0 or ![x](http://evil.example/x)"
    test = open_page("study", study="digits", where=evil)
    assert not (home / "made").exists()
    (said,) = [warning.value for warning in test.warning if "filter" in warning.value]
    assert "](http" not in said


def test_failures_are_shown_with_their_traceback(
    home: Path, open_page: OpenPage, text_of: TextOf
) -> None:
    finished(home)
    assert "ValueError: no luck" in text_of(open_page("study", study="digits"))
    test = open_page("run", runs="digits/11")
    assert test.metric[0].value == "failed"
    assert any("no luck 2" in warning.value for warning in test.warning)
    assert any('File "train.py", line 1' in code.value for code in test.code)
    assert W("run.no_epochs") in [info.value for info in test.info]


def test_a_run_says_how_it_was_trained(home: Path, open_page: OpenPage, text_of: TextOf) -> None:
    study = finished(home)
    trial = study.begin()
    study.epoch(trial, 1, metrics(0.5), notes={"micro_batch": "memory was short: 16 of 64"})
    study.epoch(trial, 2, metrics(0.6))
    test = open_page("run", runs=f"digits/{trial}")
    (facts,) = [table.value for table in test.dataframe if W("run.seed") in str(table.value)]
    said = dict(facts.to_numpy().tolist())
    assert said[W("run.note.micro_batch")] == "memory was short: 16 of 64"
    assert said[W("run.note.trained")].startswith(("as a lane", "in turn: "))


def test_a_study_without_a_trial_says_so(home: Path, open_page: OpenPage) -> None:
    just_started(home)
    for view in study.VIEWS:
        test = open_page("study", study="started", view=view)
        assert W("study.no_trials") in [info.value for info in test.info]


def test_several_objectives_have_a_front_and_no_best(home: Path, open_page: OpenPage) -> None:
    several_objectives(home)
    own_trainer(home)
    test = open_page("study", study="both")
    assert W("study.best.maximize", trial=5) not in [metric.delta for metric in test.metric]
    charts = [len(page.get("bidi_component")) for page in (open_page("study", study="mine"), test)]
    assert charts == [1, 2]
    assert {"value.val/accuracy", "value.cost"} <= set(leaderboard(test))


# -- links


@pytest.mark.parametrize(
    "study_key", ["nix", "../digits", "<b>x</b>", "digits~12345678", "x" * 999]
)
def test_an_unknown_study_is_said(study_key: str, home: Path, open_page: OpenPage) -> None:
    finished(home)
    test = open_page("study", study=study_key)
    assert "There is no study" in test.error[0].value
    assert [link.proto.page for link in test.get("page_link")]
    assert "There is no study" in open_page("run", runs=f"{study_key}/0").error[0].value
    test = open_page("compare", runs=f"{study_key}/0,digits/1")
    assert "Not here" in test.warning[0].value


@pytest.mark.slow
def test_an_unknown_run_is_said(home: Path, open_page: OpenPage) -> None:
    finished(home)
    test = open_page("run", runs="digits/99")
    assert test.error[0].value == W("run.unknown", trial=99, study="digits")
    for runs in ("digits/99", "digits/99,nix/3"):
        test = open_page("compare", runs=runs)
        assert W("compare.none_there") in [info.value for info in test.info]
    test = open_page("compare", runs="digits/1,digits/99")
    assert test.warning[0].value == W("compare.missing", runs="digits/99")
    for nonsense in ("digits", "digits/", "/3", "digits/x", ",,,", "digits/-1", "digits/１"):
        open_page("compare", runs=nonsense)
        open_page("run", runs=nonsense)


def test_a_link_opens_what_its_sender_saw(home: Path, open_page: OpenPage) -> None:
    finished(home)
    test = open_page("study", study="digits", view="curves", metric="val/loss", best="3", log="1")
    assert test.selectbox[0].value == "val/loss"
    assert test.number_input("best").value == 3
    test = open_page(
        "compare", runs="digits/7,digits/0", over="time", smooth="0.5", logx="true", logy="true"
    )
    assert test.slider[0].value == 0.5
    assert [toggle.value for toggle in test.toggle] == [True, True]
    assert param(test, "over") == "time"


@pytest.mark.slow
@pytest.mark.parametrize("value", ["", "nix", "-1", "1e999", "nan", "<b>𝟛" + "x" * 5000])
def test_nonsense_in_a_link_is_ignored(value: str, home: Path, open_page: OpenPage) -> None:
    finished(home)
    common = dict.fromkeys(("lang", "view", "metric", "log", "q"), value)
    open_page("", **common)
    for view in study.VIEWS:
        more = dict.fromkeys(("by", "best", "where", "objective", "x", "y"), value)
        open_page("study", study="digits", **common | more | {"view": view})
    for view in compare.VIEWS:
        names = ("over", "smooth", "logx", "logy", "t", "of", "a", "b", "reference")
        more = dict.fromkeys((*names, "real-metric", "metrics"), value)
        open_page("compare", runs="digits/0,digits/1", **common | more | {"view": view})
    open_page("run", runs="digits/0", **common)


# -- comparing


def test_runs_are_put_aside_and_compared(home: Path, open_page: OpenPage, rerun: Rerun) -> None:
    finished(home)
    test = open_page("compare")
    test.number_input("pick-best").set_value(3)
    test.button("pick-add").click()
    test = rerun(test)
    assert param(test, "runs") == "digits/7,digits/6,digits/5"
    test.text_input("pick-typed").set_value("digits/0, nonsense, digits/7")
    test.button("pick-typed-add").click()
    test = rerun(test)
    test.multiselect("pick-out").set_value(["digits/6"])
    test = rerun(test)
    test.button("pick-out-go").click()
    test = rerun(test)
    assert param(test, "runs") == "digits/7,digits/5,digits/0"


def test_a_comparison_says_whether_it_is_real(
    home: Path, open_page: OpenPage, rerun: Rerun
) -> None:
    finished(home)
    test = open_page("compare", runs="digits/7,digits/0", view="metrics")
    assert "digits/7 is better" in test.success[0].value.replace("\\", "")
    test.selectbox("interval-metric").set_value("mcc")
    test = rerun(test)
    assert W("metric.mcc") in [caption.value for caption in test.caption]
    assert any("mcc" in table.value for table in test.dataframe)
    test = open_page("compare", runs="mine/0,digits/0", view="metrics")
    own_trainer(home)
    test = open_page("compare", runs="mine/0,mine/1", view="metrics")
    assert W("real.no_predictions") in [info.value for info in test.info]


@pytest.mark.slow
def test_runs_of_different_tasks_are_compared_as_far_as_they_go(
    home: Path, open_page: OpenPage
) -> None:
    finished(home)
    a_regression(home)
    own_trainer(home)
    for runs in ("digits/1,diabetes/1,mine/1", "mine/1,diabetes/1,digits/1"):
        for view in compare.VIEWS:
            open_page("compare", runs=runs, view=view)


def two_data_sets(home: Path) -> None:
    """Of other classes and other rows, with the same row numbers."""
    finished(home)
    dataset = {"task": "classification", "classes": ["ant", "bee"], "fingerprint": "b" * 64}
    insects = Recorded(home, "insects", dataset=dataset)
    for seed in range(2):
        insects.trial(rising(0.8), predicted=classifier(classes=2, seed=seed, data=1))
    insects.over()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs", "apart"),
    [
        ("digits/7,insects/0,insects/1,digits/6", "insects/0, insects/1"),
        ("insects/0,digits/7,insects/1", "digits/7"),
    ],
)
def test_runs_of_other_classes_are_named_and_left_out(
    runs: str, apart: str, home: Path, open_page: OpenPage
) -> None:
    two_data_sets(home)
    for view in compare.VIEWS:
        test = open_page("compare", runs=runs, view=view)
        warning = test.warning[0].value.replace("\\", "")
        assert warning == W("compare.unlike", runs=apart, count=apart.count("/"))


def test_rows_of_other_data_are_not_said_to_agree(home: Path, open_page: OpenPage) -> None:
    finished(home)
    other = Recorded(home, "other")
    other.trial(rising(0.8), predicted=classifier(data=1))
    other.over()
    test = open_page("compare", runs="digits/7,other/0", view="examples")
    assert W("examples.nothing_common") in [info.value for info in test.info]


def test_repeats_have_all_settings_and_the_data_alike(home: Path) -> None:
    study = Recorded(home)
    params = {"train.lr": 0.1}
    same = {"train.epochs": 5, "train.lr": 0.1}
    for config in (
        same | {"data.split_seed": 1},
        same | {"data.split_seed": 2},
        same | {"model.width": 8},  # not searched
    ):
        study.trial(rising(0.8), begun={"params": params, "config": config})
    twin = "same configuration as trial 0"
    study.trial([0.8], "pruned", reason=twin, begun={"params": params, "config": same})
    study.trial([0.8], reason=twin, begun={"params": params, "config": same})
    study.trial([0.8], "stopped", begun={"params": params, "config": same})
    study.over()
    for name, changed in {
        "again": {},
        "moved": {"dataset": {"fingerprint": "e" * 64}},
        "loss": {"objective": [LOSS]},
    }.items():
        other = Recorded(home, name, **changed)
        other.trial(rising(0.7), begun={"params": params, "config": same})
        other.over()
    runs = [*(("digits", n) for n in range(6)), ("again", 0), ("moved", 0), ("loss", 0)]
    found = compared(runs)
    assert found is not None
    table = differences.spread(found.repeats(), "value")
    assert table["rows"].to_list() == [["digits/0", "digits/1", "again/0"]]
    alone = compared([("digits", 5)])
    assert alone is not None
    assert differences.spread(alone.repeats(), "value").empty


def test_only_runs_that_can_be_compared_are_counted(home: Path, open_page: OpenPage) -> None:
    study = finished(home)
    study.trial(rising(0.5), predicted=spoilt(classifier()))
    study.trial(rising(0.5), predicted=classifier(data=1))
    test = open_page("compare", runs="digits/7,digits/0,digits/12,digits/13", view="metrics")
    said = test.success[0].value.replace("\\", "")
    assert "than every other run compared (1)" in said
    assert W("real.apart.rows", count=1) in said
    assert W("real.apart.numbers", count=1) in said
    assert W("real.best_of", count=10) in said  # of all in the study


def test_predictions_that_could_not_be_had_are_used_once_they_can(
    home: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(home)

    def no_answer(self: Catalog, key: str, trial: int) -> None:
        raise UserError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "predicted", no_answer)
        test = open_page("compare", runs="digits/7,digits/0", view="metrics")
        assert W("real.no_predictions") in [info.value for info in test.info]
    with monkeypatch.context() as patch:
        whole = Catalog.predicted
        patch.setattr(
            Catalog, "predicted", lambda s, k, t: no_answer(s, k, t) if t == 6 else whole(s, k, t)
        )
        test = open_page("compare", runs="digits/7,digits/6,digits/0", view="metrics")
        assert "digits/6" not in test.dataframe[0].value.to_csv()
    test = open_page("compare", runs="digits/7,digits/6,digits/0", view="metrics")
    assert "digits/6" in test.dataframe[0].value.to_csv()


def test_as_many_runs_as_a_page_shows_are_kept(home: Path) -> None:
    asked: list[tuple[str, int]] = []
    for _ in range(2):
        for what in ("predictions", "metrics"):
            for run in range(200):
                made_of_run(partial(asked.append, (what, run)), what, run)
    assert len(asked) == 400


def test_the_calibration_error_of_each_run_is_said(home: Path, open_page: OpenPage) -> None:
    finished(home)
    test = open_page("compare", runs="digits/7,digits/0", view="probabilities")
    (table,) = [f.value for f in test.dataframe if W("calibration.error") in f.value]
    assert list(table[W("column.run")]) == ["digits/7", "digits/0"]
    assert table[W("calibration.error")].between(0, 1).all()


def test_of_several_labels_each_has_its_charts(
    home: Path, open_page: OpenPage, rerun: Rerun
) -> None:
    of_labels(home)
    test = open_page("compare", runs="labels/0,labels/1", view="probabilities")
    assert any(caption.value == W("probabilities.label") for caption in test.caption)
    (of,) = [box for box in test.selectbox if box.label == W("probabilities.of")]
    assert of.options[:3] == [W("average.labels.macro"), W("average.labels.micro"), "cat"]
    of.set_value(1)
    test = rerun(test)
    assert param(test, "of") == "1"
    (points,) = [f.value for f in test.dataframe if "tpr" in f.value]
    said = labels(seed=0)
    recall = said.output[said.target[:, 1], 1] >= 0.5
    assert points["recall"][0] == recall.mean()
    assert any(W("calibration.error") in frame.value for frame in test.dataframe)

    test = open_page("compare", runs="labels/0,labels/1", view="errors", label="2")
    (label,) = [box for box in test.selectbox if box.label == W("errors.label")]
    assert label.value == 2
    links = open_page("run", runs="labels/0").get("page_link")
    assert any(link.proto.label == W("run.predictions") for link in links)
    assert len(test.get("bidi_component")) >= 3  # two confusions' chart, their difference, labels


def test_at_most_200_runs_are_compared(home: Path, open_page: OpenPage) -> None:
    recorded = Recorded(home)
    for number in range(210):
        recorded.trial([number / 210])
    test = open_page("compare", runs=",".join(f"digits/{n}" for n in range(210)))
    assert len(test.multiselect("pick-out").options) == 200


@pytest.mark.slow
def test_a_run_in_training_is_compared(home: Path, open_page: OpenPage) -> None:
    recorded = Recorded(home)
    recorded.trial(rising(0.8), predicted=classifier())
    number = recorded.begin()
    recorded.epoch(number, 1, metrics(0.6))
    recorded.begin()  # that has not reported
    with recorded.live():
        for view in compare.VIEWS:
            open_page("compare", runs="digits/0,digits/1,digits/2", view=view)
        for run in ("digits/1", "digits/2"):
            assert open_page("run", runs=run).metric[0].value == "running"


def test_damaged_predictions_are_as_none(home: Path, open_page: OpenPage) -> None:
    recorded = finished(home)
    (recorded.paths.trial(7) / "predictions.npz").write_bytes(b"PK\x03\x04")
    open_page("study", study="digits")
    for view in compare.VIEWS:
        open_page("compare", runs="digits/7,digits/6", view=view)


def test_rows_stand_for_examples_that_were_not_kept(home: Path, open_page: OpenPage) -> None:
    finished(home)
    test = open_page("compare", runs="digits/7,digits/0", view="examples")
    assert W("examples.not_kept") in [info.value for info in test.info]


def test_examples_are_shown(home: Path, open_page: OpenPage) -> None:
    keep_images(finished(home), range(0, 600, 3))
    test = open_page("compare", runs="digits/7,digits/0", view="examples")
    assert len(test.get("image")) == 24


# -- what was confirmed


def test_what_was_confirmed_is_on_the_study_s_page(home: Path, open_page: OpenPage) -> None:
    recorded = finished(home)
    assert W("confirmed") not in [header.value for header in open_page("study").header]
    recorded.confirmed(searched=0.95, looks=2)
    test = open_page("study", study="digits")
    assert W("confirmed") in [header.value for header in test.header]
    trials, rows = (
        next(frame.value for frame in test.dataframe if column in frame.value)
        for column in (W("confirmed.fresh"), "trial 3")
    )
    assert trials[W("confirmed.fresh")].tolist() == [
        "0.9 [0.88,\u00a00.92]",
        "0.89 [0.87,\u00a00.91]",
    ]
    assert rows[W("column.metric")].tolist() == ["accuracy", "log_loss"]
    said = [caption.value for caption in test.caption]
    assert W("confirmed.luck", trial=3) in said
    assert W("confirmed.luck", trial=1) not in said
    assert W("confirmed.looks", looks=2) in said


# -- ensembles


@pytest.mark.slow
def test_an_ensemble_of_chosen_runs_is_made_on_the_spot(
    home: Path, open_page: OpenPage, text_of: TextOf, rerun: Rerun
) -> None:
    finished(home)
    runs = ",".join(f"digits/{n}" for n in range(8))
    before = sorted(home.rglob("*"))
    test = open_page("ensemble", runs=runs)
    assert len(test.get("bidi_component")) >= 4
    assert any("not recorded" in caption.value for caption in test.caption)
    members = test.dataframe[0].value
    assert members[W("ensemble.weight")].sum() == pytest.approx(1)
    assert set(members[W("column.run")]) <= set(runs.split(","))
    test.selectbox[1].set_value("log_loss")
    test = rerun(test)
    assert "log\\_loss" in text_of(test)
    assert param(test, "metric") == "log_loss"
    assert sorted(home.rglob("*")) == before


@pytest.mark.slow
def test_ensembles_that_were_recorded_are_chosen_among(home: Path, open_page: OpenPage) -> None:
    finished(home)
    test = open_page("ensemble", study="digits")
    assert [info.value for info in test.info] == [W("ensemble.none")]
    assert test.code[0].value == "hpo ensemble digits"
    for method in ("greedy", "top"):
        record(build(results.tables("digits", home), Home(home), [method]), Home(home))
    newest = open_page("ensemble", study="digits")
    assert newest.selectbox[0].value == "1"
    first = open_page("ensemble", study="digits", ensemble="0")
    assert first.selectbox[0].value == "0"
    facts = results.ensemble("digits", 0, home)
    runs = [f"digits/{member['trial']}" for member in facts["members"]]
    assert sorted(first.dataframe[0].value[W("column.run")]) == sorted(runs)
    links = [link.proto.label for link in open_page("study", study="digits").get("page_link")]
    assert W("ensemble.open", count=2) in links


def test_an_ensemble_needs_two_runs_with_predictions(home: Path, open_page: OpenPage) -> None:
    finished(home)
    test = open_page("ensemble")
    assert [info.value for info in test.info] == [W("ensemble.choose")]
    test = open_page("ensemble", runs="digits/7")
    assert [info.value for info in test.info] == [W("ensemble.need_two")]
    test = open_page("ensemble", runs="digits/77")
    assert [info.value for info in test.info] == [W("compare.none_there")]


def test_folds_and_members_are_on_the_page_of_their_run(home: Path, open_page: OpenPage) -> None:
    recorded = Recorded(home)
    number = recorded.begin()
    said = metrics(0.6) | {"fold/1/val/accuracy": 0.5, "fold/2/val/accuracy": 0.7}
    recorded.epoch(number, 1, said | {"fold_std/accuracy": 0.14, "member/accuracy": 0.55})
    recorded.end(number, values=[0.6], best_epoch=1, last_epoch=1, epochs_trained=1)
    test = open_page("run", runs="digits/0")
    assert len(test.get("bidi_component")) == 2
    details = test.dataframe[0].value.set_index(W("column.metric"))[W("column.value")]
    assert details["fold_std/accuracy"] == 0.14
    test = open_page("study", study="digits", view="curves")
    assert not [name for name in test.selectbox[0].options if "fold" in name or "member" in name]
    test = open_page("compare", runs="digits/0")
    assert test.multiselect("metrics").options == ["loss", "accuracy", "f1_macro"]


# -- MLflow


def test_mlflow_down_is_said_and_what_is_here_is_shown(
    home: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch, rerun: Rerun
) -> None:
    import warnings

    with warnings.catch_warnings():  # of MLflow's own imports
        warnings.simplefilter("ignore")
        import mlflow  # noqa: F401 - here, so that the app's thread imports nothing new
    monkeypatch.setenv("HPO_UI_TRACKING_URI", DEAD)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    finished(home)
    from app.parts import catalog

    test = open_page()
    catalog().connect()
    test = rerun(test)
    assert "127" in test.warning[0].value
    assert "s3cret" not in test.warning[0].value
    assert list(test.dataframe[0].value["study"]) == ["digits"]
    assert open_page("study", study="digits").title[0].value == "digits"
    test = open_page("study", study="elsewhere")
    assert "There is no study" in test.error[0].value
    assert "127" in test.warning[0].value


# -- languages


def test_the_language_is_chosen_and_stays(home: Path, open_page: OpenPage, rerun: Rerun) -> None:
    finished(home)
    test = open_page("study", study="digits", view="curves")
    test.segmented_control(key="lang-English").set_value("zh")
    test = rerun(test)
    zh = words("zh")
    assert zh("settings") in [popover.proto.popover.label for popover in test.get("popover")]
    assert param(test, "lang") == "zh"
    assert param(test, "view") == "curves"
    assert test.metric[0].value == zh("state.complete")

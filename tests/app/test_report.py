"""The report says what is so in any state of a study, needs nothing else, and runs no name."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from made_up import classifier
from recorded import (
    Recorded,
    a_regression,
    finished,
    metrics,
    of_labels,
    own_trainer,
    rising,
    several_objectives,
)

from app.report import MARK, page, write_report
from app.report.subject import Subject, subject
from app.words import WORDS, words
from hpo import tracking
from hpo.cli import cli
from hpo.errors import HpoError, UnknownStudy, UserError
from hpo.results.catalog import Catalog

W = words("en")
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
DEAD = "http://ann:s3cret@127.0.0.1:9"  # the discard port: nobody answers
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    '"><iframe src=javascript:alert(1)>',
    "' onmouseover='alert(1)",
    '<a href="javascript:alert(1)">click</a>',
    "</title><base href=//evil.example>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "**bold** `code` *it* [link](javascript:alert(1))",
    "{{ 7 * 7 }} {% raw %} {x} {0} %s %(x)s",
    "$\\href{javascript:alert(1)}{x}$",
    "%{customdata.constructor} %{x}",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe\N{POP DIRECTIONAL FORMATTING}\0\x1b[31m",
    "\N{PILE OF POO}\N{ZERO WIDTH JOINER}\N{FAMILY} é ß 中文 ﷽",
    "line\nbreak\r\n\ttab",
    "'; DROP TABLE runs; --\\",
    "__proto__",
    "n" * 5_000,
)

OURS = re.compile(r"</?b>|<br>|<extra></extra>")  # the markup that the charts write themselves


# -- studies


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
        recorded.trial([], "failed", reason=f"ValueError: no luck {number}")
    recorded.over("failed")


def not_finite(home: Path, name: str = "wild") -> None:
    recorded = Recorded(home, name)
    for value in (float("nan"), float("inf"), float("-inf"), 1e308, 0.5):
        number = recorded.begin()
        recorded.epoch(number, 1, metrics(0.5) | {"val/accuracy": value, "zero": 0.0})
        recorded.end(number, values=[value], best_epoch=1, last_epoch=1, epochs_trained=1)
    recorded.over()


def only_training(home: Path, name: str = "trained") -> None:
    """A trainer that has no validation, and reports nothing but one metric."""
    recorded = Recorded(home, name, objective=[{"metric": "train/loss", "goal": "minimize"}])
    for number in range(2):
        recorded.epoch(recorded.begin(), 1, {"train/loss": 0.5 + number})
        recorded.end(number, values=[0.5 + number], best_epoch=1, last_epoch=1)


def aimless(home: Path, name: str = "aimless") -> None:
    """As MLflow may have it: without what its tags would say."""
    Recorded(home, name, objective=[], budget={}, file="", sampler="", device_name="").begin()


STATES: dict[str, Callable[[Path], Any]] = {
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
    "wild": not_finite,
    "trained": only_training,
    "aimless": aimless,
}


# -- a page, read


@dataclass
class Page(HTMLParser):
    """What a browser would find in a report.

    Attributes:
        tags: Every element, with its attributes.
        texts: What stands outside of scripts and styles, in order.
        sections: Key → its heading.
        scripts: The text of each script that runs.
        specs: The charts' JSON.
    """

    source: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)
    specs: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._within = ""
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag
        if tag == "section":
            self.sections[str(dict(attrs)["id"])] = ""

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            is_data = self.tags[-1][1].get("type") == "application/json"
            (self.specs.append(json.loads(data)) if is_data else self.scripts.append(data))
        elif self._within != "style":
            self.texts.append(data)
            if self._within == "h2":
                self.sections[list(self.sections)[-1]] = data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def rows(self) -> list[str]:
        """The rows of all tables, as their source has them."""
        return re.findall(r"<tr>(<td.*?)</tr>", self.source, re.DOTALL)


def about(home: Path, key: str, best: int = 5) -> Subject:
    catalog = Catalog(home)
    return subject(catalog.study(key), best, lambda trial: catalog.predicted(key, trial))


def report(home: Path, key: str, language: Any = "en", best: int = 5) -> Page:
    return Page(page(about(home, key, best), words(language), NOW))


# -- in any state


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("key", STATES)
def test_every_state_has_a_report(key: str, language: str, tmp_path: Path) -> None:
    STATES[key](tmp_path)
    found = report(tmp_path, key, language)
    assert found.tags[0] == ("html", {"lang": {"en": "en", "zh": "zh-CN"}[language]})
    assert key in found.text
    assert "origin" in found.sections
    assert not set(re.findall(r"[a-z_]+(?:\.[a-z_]+)+", found.text)) & set(WORDS)
    assert not re.search(r"\{[a-z]\w*\}|\bnan\b|<NA>|None", found.text)
    for spec in found.specs:
        assert spec["data"], spec["name"]  # nothing empty is shown
    for tag, attributes in found.tags:  # nothing is loaded from anywhere
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form", "image")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith(("#", "data:text/csv;"))
        assert not [name for name in attributes if name.startswith("on")]


def test_a_policy_lets_nothing_run_but_the_two_scripts_and_nothing_be_asked_for(
    tmp_path: Path,
) -> None:
    finished(tmp_path)
    found = report(tmp_path, "digits")
    (content,) = (a["content"] for _, a in found.tags if a.get("http-equiv"))
    policy = dict(part.strip().split(" ", 1) for part in str(content).split(";"))
    assert policy["default-src"] == policy["connect-src"] == "'none'"
    digests = [hashlib.sha256(script.encode()).digest() for script in found.scripts]
    assert policy["script-src"].split() == [
        f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests
    ]
    assert len(digests) == 2
    # No element comes before it that it would not hold for.
    before = [tag for tag, _ in found.tags[: [t for t, _ in found.tags].index("style")]]
    assert set(before) == {"html", "head", "meta", "title"}


# -- what it says


def test_the_answer_comes_first(tmp_path: Path) -> None:
    finished(tmp_path)
    found = report(tmp_path, "digits")
    assert list(found.sections)[:2] == ["answer", "next"]
    assert "digits/7" in found.text
    assert W("real.best_of", count=8) in found.text  # of all, not of those compared
    assert W("study.best.maximize", trial=7) in found.text
    assert "8 complete, 1 pruned, 2 failed, 1 stopped" in found.text


def test_the_best_are_held_against_the_best(tmp_path: Path) -> None:
    finished(tmp_path)
    found = report(tmp_path, "digits", best=3)
    assert W("report.compared", count=3) in found.text
    (reference,) = [row for row in found.rows if W("verdict.reference") in row]
    assert "digits/7" in reference
    assert "digits/4" not in found.text
    (bands,) = [s for s in found.specs if s["name"] == "digits-bands"]
    names = [trace["name"] for trace in bands["data"] if trace["name"].startswith("trial ")]
    assert names == ["trial 7", "trial 6", "trial 5"]


def test_the_parameters_are_shown_with_what_was_searched(tmp_path: Path) -> None:
    finished(tmp_path)
    tables = Catalog(tmp_path).study("digits")
    rows = report(tmp_path, "digits").rows
    best = tables.trials.set_index("number").loc[7]
    (lr,) = [row for row in rows if "<bdi>train.lr</bdi>" in row and "log scale" in row]
    assert f"{best['params.train.lr']:.4g}" in lr
    assert "0.0001 … 1" in lr
    assert any("only with train.optimizer = sgd" in row for row in rows)


def test_an_interval_stands_only_beside_the_value_that_it_is_of(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    good = classifier(skill=1.0)
    accuracy = float((good.output.argmax(1) == good.target).mean())
    recorded.trial([accuracy], predicted=good)
    recorded.over()
    assert re.search(r"val/accuracy</bdi></td>.*?\[0\.", report(tmp_path, "digits").source)
    other = Recorded(tmp_path, "other")  # whose trainer means another accuracy
    other.trial([accuracy - 0.2], predicted=good)
    other.over()
    (row,) = [r for r in report(tmp_path, "other").rows if "<bdi>val/accuracy</bdi>" in r]
    assert "[" not in row
    assert any("<bdi>accuracy</bdi>" in r and "[" in r for r in report(tmp_path, "other").rows)


@pytest.mark.parametrize(
    ("key", "sections"),
    [
        ("digits", "answer next history parameters curves predictions workers trials origin"),
        ("both", "answer history parameters curves workers trials origin"),
        ("mine", "answer next history parameters curves workers trials origin"),
        ("fixed", "answer next history curves predictions workers trials origin"),
        ("broken", "answer history workers trials origin"),
        ("started", "answer origin"),
    ],
)
def test_parts_without_data_are_left_out(key: str, sections: str, tmp_path: Path) -> None:
    STATES[key](tmp_path)
    assert list(report(tmp_path, key).sections) == sections.split()


def test_the_charts_fit_the_task(tmp_path: Path) -> None:
    def charts(key: str) -> set[str]:
        STATES[key](tmp_path)
        return {spec["name"].removeprefix(f"{key}-") for spec in report(tmp_path, key).specs}

    classes, numbers = charts("digits"), charts("diabetes")
    assert {"roc", "precision-recall", "confusion", "classes", "rungs", "workers"} <= classes
    assert {"history", "importances", "parallel", "slices", "bands", "curves-loss"} <= classes
    assert {"predicted-actual", "residuals"} <= numbers - classes
    assert {"front", "history", "history-1"} <= charts("both")
    labels = charts("labels")
    assert {"roc", "precision-recall", "classes"} <= labels
    assert "confusion" not in labels  # a label at a time: that is in the app


def test_several_objectives_have_a_front_and_no_best(tmp_path: Path) -> None:
    several_objectives(tmp_path)
    found = report(tmp_path, "both")
    assert W("report.front") in found.text
    assert W("study.best.maximize", trial=5) not in found.text
    assert W("report.no_complete") not in found.text


def test_without_predictions_it_says_that_nothing_can_be_tested(tmp_path: Path) -> None:
    own_trainer(tmp_path)
    assert W("report.no_test", trial=3) in report(tmp_path, "mine").text
    one_trial(tmp_path)
    assert W("report.only_one", trial=0) in report(tmp_path, "one").text


def test_a_running_study_says_so(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    recorded.epoch(recorded.begin(), 1, metrics(0.6))
    with recorded.live():
        found = report(tmp_path, "digits")
    assert W("report.running") in found.text
    assert W("report.no_complete") in found.text
    assert "1 running" in found.text
    assert "digits-bands" in [spec["name"] for spec in found.specs]
    assert W("report.running") not in report(tmp_path, "digits").text


def test_failures_are_listed_by_cause(tmp_path: Path) -> None:
    finished(tmp_path)
    (row,) = [row for row in report(tmp_path, "digits").rows if "no luck" in row]
    assert "10, 11" in row


def test_where_it_came_from_is_said(tmp_path: Path) -> None:
    finished(tmp_path)
    found = report(tmp_path, "digits")
    for said in ("c" * 40, "f" * 64, W("run.dirty"), "tpe", "hyperband", "torch==2.14.1"):
        assert said in found.text
    assert "trainer: image_classifier" in found.text
    assert "+a = 1" not in found.source  # changes may hold anything
    assert W("report.written", when="2026-01-02 03:04 UTC", version="0.1.0") in found.text


def test_the_leaderboard_is_cut_and_the_file_of_all_trials_is_not(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    for number in range(203):
        recorded.trial([number / 300])
    recorded.trial([0.1], "pruned")
    recorded.over()
    found = report(tmp_path, "digits")
    assert W("report.shown", shown=200, of=203) in found.text
    (link,) = [a for tag, a in found.tags if tag == "a" and "download" in a]
    csv = base64.b64decode(str(link["href"]).partition(",")[2])
    assert len(pd.read_csv(io.BytesIO(csv))) == 204


# -- names that want to be more


def hostile_study(home: Path, text: str) -> Subject:
    """A study in which everything that is text is this text."""
    choices = {"type": "choice", "choices": [text, f"{text} 0", f"{text} 1"]}
    search = {text: choices, f"{text} 2": choices | {"when": {text: text}}}
    recorded = Recorded(
        home,
        objective=[{"metric": text, "goal": "maximize"}],
        sampler=text,
        pruner=text,
        device_name=text,
        dataset={"source": text, "rows": 9, "fingerprint": text, "classes": [text, "b", "c"]},
        provenance={
            "git": {"commit": text, "branch": text, "dirty": True},
            "packages": {text: text},
            "cpu": text,
            "python": text,
        },
    )
    for number in range(4):
        choice = f"{text} {number % 2}"
        trial = recorded.begin(params={text: choice, f"{text} 2": choice})
        recorded.epoch(trial, 1, {text: 0.5 + number / 10})
        recorded.end(trial, values=[0.5 + number / 10], best_epoch=1, last_epoch=1)
    recorded.end(recorded.begin(params={text: text}), "failed", reason=text)
    recorded.over()
    tables = replace(Catalog(home).study("digits"), key=text, name=text, file=text, search=search)
    predicted = [replace(classifier(seed=seed), classes=(text, "b", "c")) for seed in range(4)]
    return subject(tables, 5, lambda trial: predicted[trial])


@pytest.fixture(scope="module")
def elements_of_a_plain_one(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[str, set[str]]]:
    plain = Page(page(hostile_study(tmp_path_factory.mktemp("plain"), "name"), W, NOW))
    return [(tag, set(attributes)) for tag, attributes in plain.tags]


def strings(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, inner in node.items():
            if name != "bdata":
                yield from strings(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from strings(inner)
    elif isinstance(node, str):
        yield node


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_hostile_text_is_text(
    text: str, tmp_path: Path, elements_of_a_plain_one: list[tuple[str, set[str]]]
) -> None:
    found = Page(page(hostile_study(tmp_path, text), W, NOW))
    # The same elements with the same attributes, whatever the name is; bold only what we embolden.
    assert [(tag, set(a)) for tag, a in found.tags] == elements_of_a_plain_one
    assert len(found.specs) == 11
    shown = [*found.texts, *(str(v) for _, a in found.tags for v in a.values())]
    shown += [text for spec in found.specs for text in strings(spec)]
    for one in shown:
        kinds = {unicodedata.category(letter) for letter in one if letter not in "\n\t"}
        assert not kinds & {"Cc", "Cf", "Cs"}, one
    for spec in found.specs:
        for one in strings({"data": spec["data"], "layout": spec["layout"]}):
            assert not set("<>$") & set(OURS.sub("", one)), one


# -- the file


def catalog_of(home: Path) -> Catalog:
    finished(home)
    return Catalog(home)


def test_the_file_is_named_after_the_study_and_known_as_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_report(catalog_of(tmp_path), "digits", None, W)
    assert path == Path("digits.html")
    assert MARK in path.read_text(encoding="utf-8")[:500]
    assert [p.name for p in tmp_path.glob(".*html*")] == []


def test_a_report_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    catalog, path = catalog_of(tmp_path), tmp_path / "made" / "report.html"
    write_report(catalog, "digits", path, W)
    write_report(catalog, "digits", path, words("zh"))
    assert "研究报告" in path.read_text(encoding="utf-8")
    thesis = tmp_path / "thesis.html"
    thesis.write_text("my life's work")
    with pytest.raises(UserError, match="is no report of hpo's"):
        write_report(catalog, "digits", thesis, W)
    assert thesis.read_text() == "my life's work"
    with pytest.raises(UserError, match="is a folder"):
        write_report(catalog, "digits", tmp_path, W)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Not a directory|File exists"):
        write_report(catalog, "digits", tmp_path / "file" / "report.html", W)


def test_damaged_predictions_are_as_none(tmp_path: Path) -> None:
    recorded = finished(tmp_path)
    (recorded.paths.trial(7) / "predictions.npz").write_bytes(b"PK\x03\x04")
    path = write_report(Catalog(tmp_path), "digits", tmp_path / "report.html", W)
    assert W("report.no_test", trial=7) in Page(path.read_text(encoding="utf-8")).text


def test_an_unknown_study_is_said_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UnknownStudy, match="no study 'nix' here or in MLflow; there are: digits"):
        write_report(catalog_of(tmp_path), "nix", None, W)


# -- the command


def hpo(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


def test_the_command_says_where_the_report_is(tmp_path: Path) -> None:
    finished(tmp_path)
    file = tmp_path / "out.html"
    done = hpo("report", "digits", "--home", tmp_path, "-o", file, "--best", "2", "--json")
    assert json.loads(done.stdout) == {
        "study": "digits",
        "file": str(file),
        "bytes": file.stat().st_size,
    }
    done = hpo("report", "digits", "--home", tmp_path, "-o", file, "--language", "zh")
    assert done.stdout == f"{file} ({file.stat().st_size / 1e6:.1f} MB)\n"
    assert "研究报告" in file.read_text(encoding="utf-8")


@pytest.mark.slow
def test_when_mlflow_is_down_that_is_why_a_study_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(HpoError) as raised:
        write_report(Catalog(tmp_path, DEAD), "digits", tmp_path / "report.html", W)
    assert "MLflow at" in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_study_that_is_only_in_mlflow_has_the_same_report(tmp_path: Path) -> None:
    recorded = finished(tmp_path / "here")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking.sync(recorded.paths, recorded.home, uri).pending == 0
    file = tmp_path / "report.html"
    command = [sys.executable, "-m", "hpo.cli", "report", "digits", "-o", str(file)]
    done = subprocess.run(
        [*command, "--home", str(tmp_path / "elsewhere"), "--tracking-uri", uri],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")  # no progress bars of MLflow's
    here, there = report(tmp_path / "here", "digits"), Page(file.read_text(encoding="utf-8"))
    assert there.sections == here.sections
    assert [s["name"] for s in there.specs] == [s["name"] for s in here.specs]
    assert there.rows == here.rows
    assert "torch==2.14.1" in there.text

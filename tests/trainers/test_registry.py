"""Names become functions, or an explanation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainers.contract import DataError
from trainers.registry import TRAINERS, resolve


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


@pytest.mark.parametrize("name", TRAINERS)
def test_built_ins_are_functions_named_train(name: str, tmp_path: Path) -> None:
    function = resolve(name, tmp_path)
    assert function.__name__ == "train"  # type: ignore[attr-defined]


def test_an_own_function_is_found_beside_the_study_file(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "mine.py").write_text("def fit(trial, extra=1): return 'mine'\n")
    assert resolve("deep.mine:fit", folder)(None) == "mine"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "words", "hint"),
    [
        ("tabuler", "image_classifier, tabular, text_classifier, or your own", "'tabular'"),
        ("my_trainer.train", "as module:function", None),
        ("../x:train", "as module:function", None),
        ("a:b:c", "as module:function", None),
        ("", "as module:function", None),
        ("my_trianer:train", "there is no module 'my_trianer'", "'my_trainer'"),
        ("no.such:train", "there is no module 'no.such'", None),
        ("my_trainer:trian", "my_trainer has no 'trian'", "'train'"),
        ("my_trainer:number", "is not a function but an int", None),
        ("my_trainer:nothing", r"called with \(trial\); it takes \(\)", r"def nothing(trial):"),
        ("my_trainer:two", r"it takes \(trial, other\)", r"def two(trial):"),
        ("my_trainer:keyword", r"it takes \(\*, trial\)", None),
    ],
)
def test_what_is_no_trainer_is_explained(
    folder: Path, name: str, words: str, hint: str | None
) -> None:
    (folder / "my_trainer.py").write_text(
        "number = 1\n"
        "def train(trial): ...\n"
        "def nothing(): ...\n"
        "def two(trial, other): ...\n"
        "def keyword(*, trial): ...\n"
    )
    with pytest.raises(DataError, match=words) as caught:
        resolve(name, folder)
    assert caught.value.key == "trainer"
    assert hint is None or hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import no_such_package", ModuleNotFoundError),
        ("def train(trial:", SyntaxError),
        ("1 / 0", ZeroDivisionError),
    ],
)
def test_errors_of_the_user_s_module_are_passed_on(
    folder: Path, code: str, error: type[Exception]
) -> None:
    (folder / "broken.py").write_text(code)
    with pytest.raises(error):
        resolve("broken:train", folder)


def test_names_and_options_cost_no_heavy_import() -> None:
    code = (
        "import sys, trainers.registry; "
        "print([m for m in ('torch', 'numpy', 'pandas', 'sklearn', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

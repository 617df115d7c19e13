"""``hpo report``: a study as one HTML file, to mail or to keep.

- It needs no network and no hpo: plotly.js is in it, once (most of its 5 MB), and a policy in the
  page forbids every request and every script but those two that are in it.
- Names, values, reasons and files from runs are text in it, never markup.
- It is written beside and renamed: no reader sees half of one. No file but a report is replaced.
- Light and dark follow the reader's system; paper is light.

Not covered: models, checkpoints, logs, uncommitted changes and the predictions themselves, which
are not in it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from app.charts.style import cut
from app.report import answer, figures
from app.report.blocks import Said, file_name
from app.report.subject import Subject, subject
from app.words import Words
from hpo import __version__
from hpo.errors import UserError
from hpo.paths import replacing
from hpo.results.catalog import Catalog
from hpo.results.whole import whole

MARK = '<meta name="generator" content="hpo report">'  # by which a report is known
PARTS: tuple[Callable[[Subject, Words], Any], ...] = (
    answer.answer,
    answer.suggestions,
    figures.history,
    figures.search,
    figures.learned,
    figures.predictions,
    figures.ran,
    answer.trials,
    answer.provenance,
)


def write_report(
    catalog: Catalog,
    study: str,
    path: Path | None,
    w: Words,
    best: int = 5,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write the report of a study; returns where it is.

    Args:
        study: Its key in the catalogue.
        path: Where to; ``STUDY.html`` in the current folder if None.
        best: How many of the best trials are looked at closely.
        say: Told what takes long.

    Raises:
        UnknownStudy: There is no such study.
        UserError: There is something else at `path`, or it cannot be written.
        HpoError: MLflow, where the study may be, cannot be read.
    """
    path = path or Path(f"{file_name(study)}.html")
    check_target(path)
    tables = whole(catalog, study, say)
    packages = catalog.text(tables.key, None, "versions.txt")
    about = subject(tables, best, lambda trial: _predicted(catalog, tables.key, trial), packages)
    text = page(about, w, datetime.now(UTC))
    try:
        with replacing(path) as file:
            file.write(text.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    return path


def check_target(path: Path) -> None:
    """Refuse to replace what is no report.

    Raises:
        UserError: There is a folder, or another file.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it, e.g. -o {path / 'report.html'}")
    if not path.exists():
        return
    if path.is_file():
        with open(path, "rb") as file:
            if MARK.encode() in file.read(1000):
                return
    raise UserError(
        f"{path} is there already and is no report of hpo's; name another file with -o, or "
        "delete that one"
    )


def page(about: Subject, w: Words, now: datetime) -> str:
    """The report as HTML.

    Args:
        now: When it is written; UTC.
    """
    parts = [part(about, w) for part in PARTS]
    scripts = [Markup(get_plotlyjs()), Markup(_part("page.js"))]
    is_open = about.tables.state == "running"
    notes = [Said([w("report.running")], "warning")] if is_open else []
    return _template().render(
        language={"en": "en", "zh": "zh-CN"}[w.language],
        title=w("report.title", study=cut(about.tables.key)),
        study=cut(about.tables.key, 200),
        written=w("report.written", when=now.strftime(answer.TIME), version=__version__),
        context=answer.context(about, w),
        notes=notes,
        tiles=list(answer.tiles(about, w)),
        contents=w("report.contents"),
        no_script=w("report.no_script"),
        picture=w("report.picture"),
        sections=[part for part in parts if part is not None],
        mark=Markup(MARK),
        policy=policy(scripts),
        style=Markup(_part("page.css")),
        scripts=scripts,
    )


def policy(scripts: list[Markup]) -> str:
    """What the page may do: nothing but run these scripts, and draw.

    Plotly writes its rules into a ``style`` element, and saves a picture by way of a ``blob:``.
    """
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


# -- reading


def _predicted(catalog: Catalog, key: str, trial: int) -> Any:
    try:
        return catalog.predicted(key, trial)
    except UserError:  # a damaged file
        return None


# -- the template


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FunctionLoader(_part)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


@cache
def _part(name: str) -> str:
    return resources.files("app.report").joinpath(name).read_text(encoding="utf-8")

"""The reference of the commands, in Markdown, from the commands themselves.

``python -m hpo.cli_reference > docs/reference/commands.md`` writes it anew.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from hpo.cli import cli

_INTRO = """\
# Commands

<!-- Made by `python -m hpo.cli_reference`; a test compares. Edit `hpo/cli.py`, not this page. -->

`hpo COMMAND --help` says the same. STUDY is a study's name or its file. Studies are found from
the current folder (`studies/`, `mlruns/`) or from `--home DIRECTORY`.

With `--json` a command prints one JSON object to stdout and nothing else there; what happens
meanwhile, warnings and errors go to stderr. After an error the object is `{"error": …}`.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: the study, MLflow, or something on this machine |
| 2 | the input must change: the study file, an option, the name of a study |
| 130 | stopped by Ctrl-C; `hpo run` goes on (`hpo server` and `hpo ui` end with 0) |
| 143 | stopped by SIGTERM; `hpo run` goes on (`hpo server` and `hpo ui` end with 0) |
"""

# In the order in which a person meets them.
ORDER = (
    "run",
    "stop",
    "validate",
    "status",
    "best",
    "trials",
    "reproduce",
    "compare",
    "ensemble",
    "confirm",
    "predict",
    "ui",
    "report",
    "server",
    "sync",
    "storage migrate",
    "cluster slurm",
    "cluster kubernetes",
    "schema",
    "doctor",
)


def reference() -> str:
    """The page."""
    return "\n".join(_page())


def _page() -> Iterator[str]:
    yield _INTRO
    found = commands()
    for name in ORDER:
        yield from _command(name, found[name])


def commands() -> dict[str, click.Command]:
    """Every command by its name, with that of its group."""
    found: dict[str, click.Command] = {}
    for name, command in cli.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {below}": each for below, each in command.commands.items()}
        else:
            found[name] = command
    return found


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"hpo {name}")
    yield f"## hpo {name}\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```sh\nhpo {name} {usage}\n```\n"
    *text, example = inspect.cleandoc(command.help or "").split("\n\n")
    yield "\n\n".join(text) + "\n"
    yield f"```sh\n{example.removeprefix('Example: ')}\n```\n"
    yield "| option | what it does |\n|---|---|"
    for option in command.params:
        if isinstance(option, click.Option):
            yield _row(option, context)
    yield ""


def _row(option: click.Option, context: click.Context) -> str:
    flags, text = option.get_help_record(context) or ("", "")
    text = re.sub(r"\s+\[[^]]*\]$", "", text)  # the range of a number is plain from its text
    return f"| `{flags}` | {text} |".replace("INTEGER RANGE", "NUMBER")


if __name__ == "__main__":
    print(reference())

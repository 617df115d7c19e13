"""Look whether any package that hpo is tested with is known to be vulnerable: ``make audit``.

pip-audit asks PyPI's vulnerability service about every pinned version. Any known vulnerability
fails, whatever its severity, which that service does not tell. ``audit.toml`` beside this file
has the exceptions, each with a reason and the day on which it ends. Without an answer nothing is
known: it says so and does not fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EXCEPTIONS = Path(__file__).with_name("audit.toml")
ANSWERED = 0.9  # of the packages; a few are in no index


def judge(
    said: Mapping[str, Any], exceptions: Sequence[Mapping[str, Any]], today: date
) -> tuple[int, list[str]]:
    """The exit status, and what to say.

    Args:
        said: pip-audit's report, as its JSON has it.
        exceptions: Each with the vulnerability's ``id``, a ``reason`` and the day ``until``.
    """
    packages = said["dependencies"]
    known = [package for package in packages if "skip_reason" not in package]
    if len(known) < ANSWERED * len(packages):
        return 0, [
            f"audit skipped: no answer about {len(packages) - len(known)} of {len(packages)}"
        ]
    ends = {each["id"]: each["until"] for each in exceptions}
    lines = []
    for package in known:
        for vulnerability in package["vulns"]:
            names = [vulnerability["id"], *vulnerability["aliases"]]
            until = max((ends[name] for name in names if name in ends), default=None)
            if until is not None and today <= until:
                continue
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            ended = f"; its exception ended on {until}" if until else ""
            lines.append(
                f"{package['name']} {package['version']}: {' = '.join(names)}, "
                f"fixed in {fixed}{ended}"
            )
    done = f"{len(known)} packages, {len(lines)} known to be vulnerable"
    return (1 if lines else 0), [*lines, done]


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--aliases", "on"]
    command += ["--desc", "off", "--progress-spinner", "off"]
    command += ["--no-deps", "--disable-pip", "--requirement", str(ROOT / "constraints.txt")]
    ran = subprocess.run(command, capture_output=True, text=True)
    try:
        said = json.loads(ran.stdout)
    except ValueError:  # it has no report where it could not ask
        last = (ran.stderr.strip().splitlines() or [f"status {ran.returncode}"])[-1]
        print(f"audit skipped: pip-audit could not ask: {last[:300]}")
        return 0
    exceptions = tomllib.loads(EXCEPTIONS.read_text()).get("exception", [])
    status, lines = judge(said, exceptions, datetime.now(UTC).date())
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())

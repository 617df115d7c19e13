"""Names and texts that want to be more than text, and how to tell that one was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from made_up import classifier
from recorded import Recorded, keep

NAMES = (
    '<img src=x onerror="window.ranAway=1">',
    "<script>window.ranAway=2</script><hostile-tag>x</hostile-tag>",
    '<svg onload="window.ranAway=3"><a xlink:href="http://evil.example/s">hostile-svg</a></svg>',
    '"><iframe src="javascript:parent.ranAway=4"></iframe>',
    '<a href="http://evil.example/a" style="color:red">hostile-anchor</a>',
    "[hostile-js](javascript:window.ranAway=5)",
    "[hostile-link](http://evil.example/l)",
    "![hostile-image](http://evil.example/i.png)",
    "http://evil.example/auto www.evil.example me@evil.example <http://evil.example/b>",
    "# hostile-title\n\n- hostile-item\n\n| hostile-cell | b |\n|---|---|\n| c | d |\n",
    "**hostile-bold** _hostile-em_ `hostile-code` ~~hostile-del~~",
    r"$\href{javascript:window.ranAway=6}{hostile-math}$ $$\frac{1}{2}$$ \(x^2\)",
    ":red[hostile-red] :blue-background[hostile-blue] :small[hostile-small]",
    ":material/skull: :skull: :streamlit:",
    "long-" + "x" * 5000,
    "👩\u200d👩\u200d👧\u200d👦🏳️\u200d🌈 Z̷̛͠",
    "\u202egnp.exe\u202c \u2066hostile\u2069",
    "{{7*7}} ${7*7} {count} %(x)s {0.__class__}",
    "%{x} <b>hostile-b</b><br>%{fullData.name}<extra>hostile-extra</extra>",
    "a\x00b\x07c\x1b[31m\r\n\u2028d\ufeff \"';--/../../etc/passwd\\",
)

# What only exists if one of them was taken for more than text.
TRACES = r"""() => {
    const all = [...document.querySelectorAll('*')];
    const of = (name, test) =>
        all.filter(test).map(one => name + ': ' + one.outerHTML.slice(0, 200));
    const own = one =>
        [...one.childNodes].filter(node => node.nodeType === 3).map(node => node.data).join('');
    const evil = (one, name) =>
        /^\s*(\w+:)?\/\/[^/]*evil|^\s*(javascript|mailto):/.test(one.getAttribute(name) || '');
    const said = document.body.innerText;
    return [
        ...(window.ranAway ? ['a script ran: ' + window.ranAway] : []),
        ...of('link', one => evil(one, 'href') || evil(one, 'xlink:href')),
        ...of('source', one => evil(one, 'src') || one.getAttribute('src') === 'x'),
        ...of('handler', one => one.hasAttribute('onerror') || one.hasAttribute('onload')),
        ...of('element', one => ['hostile-tag', 'iframe'].includes(one.localName)),
        ...of('math', one => one.matches('.katex, .MathJax, mjx-container, math')),
        ...of('markup', one => /^\s*hostile-\w+\s*$/.test(own(one))),
        ...of('icon', one => own(one).trim() === 'skull'),
        ...of('a text that is not cut',
            one => /x{1000}/.test(own(one)) && !one.closest('pre, td')),
        ...(/[\u202a-\u202e\u2066-\u2069]/.test(said) ? ['turned text'] : []),
        ...(said.includes('💀') ? ['an emoji'] : []),
    ];
}"""
FAILED = 3  # trials, the first ones


def study(home: Path, name: str = "hostile") -> Recorded:
    """A study that is called so by everything but its name, which is restricted."""
    paths = [f"train.{text}" for text in NAMES[:8]]
    search = {path: {"choices": list(NAMES)} for path in paths}
    search["train.lr"] = {"type": "float", "low": 0.0, "high": 1.0}
    metrics = [f"val/{text}" for text in NAMES] + [f"train/{text}" for text in NAMES]
    dataset: dict[str, Any] = {
        "source": NAMES[0] + NAMES[6],
        "task": "classification",
        "rows": 500,
        "train": 300,
        "classes": list(NAMES),
        "metrics": metrics,
        "fingerprint": NAMES[7],
    }
    git = {"commit": NAMES[6], "branch": NAMES[0], "dirty": True, "diff": "\n".join(NAMES)}
    recorded = Recorded(
        home,
        name,
        search=search,
        objective=[{"metric": metrics[0], "goal": "maximize"}],
        dataset=dataset,
        provenance={"git": git, "packages": {NAMES[6]: NAMES[0]}},
        device_name=NAMES[12],
        sampler=NAMES[13],
        path=NAMES[6],
    )
    for some in (NAMES[:7], NAMES[7:14], NAMES[15:]):  # so many a page has room for
        number = recorded.begin()
        traceback = "\n".join(NAMES)
        recorded.end(number, "failed", reason="\n".join(some), traceback=traceback)
    for place in range(len(NAMES)):
        params = {path: NAMES[(place + n) % len(NAMES)] for n, path in enumerate(paths)}
        params["train.lr"] = (place + 1) / 40
        number = recorded.begin(params=params)
        for epoch in (1, 2, 3):
            value = 0.5 + place / 50 + epoch / 100
            recorded.epoch(number, epoch, {metric: value for metric in metrics})
        predicted = classifier(classes=len(NAMES), skill=0.5 + place / 10, seed=place)
        keep(recorded.paths.trial(number) / "predictions.npz", predicted)
        recorded.end(number, values=[value], best_epoch=3, last_epoch=3, epochs_trained=3)
    recorded.over()
    _keep_rows(recorded, predicted.ids)
    return recorded


def _keep_rows(recorded: Recorded, ids: Any) -> None:
    """Examples that are rows of a table."""
    columns = {text.replace("\0", ""): [text] * len(ids) for text in NAMES[:6]}
    rows = pd.DataFrame({"id": np.asarray(ids), **columns})
    rows.to_parquet(recorded.paths.root / "examples.parquet")

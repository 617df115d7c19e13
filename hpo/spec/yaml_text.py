"""Values as YAML text that `yaml12` reads back as the same, and a reader of YAML 1.1 nearly so."""

from __future__ import annotations

from typing import Any

import yaml

from hpo.spec.yaml12 import YamlError, scalar


def dump(value: Any) -> str:
    """`value` as YAML that this module reads back as the same."""
    return yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=99,
    )


class _Dumper(yaml.SafeDumper):
    """Quotes text that the core schema would take for something else; has no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _quoted_if_need_be(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None
    try:
        if not isinstance(scalar(text), str) or text == "<<":
            style = "'"
    except YamlError:
        style = "'"
    if any(c in text for c in "\x85\u2028\u2029"):  # line ends to PyYAML: as escapes
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _shortest_float(dumper: _Dumper, value: float) -> yaml.ScalarNode:
    text = repr(value)
    text = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(text, text)
    return dumper.represent_scalar("tag:yaml.org,2002:float", _with_point(text))


def _with_point(text: str) -> str:
    """``1e-05`` → ``1.0e-05``: a float for readers of YAML 1.1 too."""
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}.0e{exponent}" if e and "." not in mantissa else text


def _short_list(dumper: _Dumper, items: list[Any]) -> yaml.SequenceNode:
    in_a_line = not any(isinstance(item, dict | list) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=in_a_line)


_Dumper.add_representer(list, _short_list)
_Dumper.add_representer(str, _quoted_if_need_be)
_Dumper.add_representer(float, _shortest_float)

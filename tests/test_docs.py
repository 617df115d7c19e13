"""What the documentation shows is there and works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpo import spec

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page lead, without those to other sites."""
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    return [link for link in found if "://" not in link]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert [link for link in links(page) if not (page.parent / link).exists()] == []


def test_the_main_page_in_chinese_has_what_the_english_one_has() -> None:
    english, chinese = ROOT / "README.md", ROOT / "README.zh-CN.md"
    there = {link.replace(".zh-CN.png", ".png") for link in links(chinese)}  # pictures are its own
    assert set(links(english)) ^ there == {"README.md", "README.zh-CN.md"}
    for language in ("sh", "yaml"):
        for one, other in zip(blocks(english, language), blocks(chinese, language), strict=True):
            assert [line.split("#")[0].rstrip() for line in one.splitlines()] == [
                line.split("#")[0].rstrip() for line in other.splitlines()
            ]
    titles = [re.findall(r"^#+ ", page.read_text(), re.MULTILINE) for page in (english, chinese)]
    assert titles[0] == titles[1]


def test_the_main_page_s_study_file_is_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = blocks(ROOT / "README.md", "yaml")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "flowers").mkdir()
    file = tmp_path / "flowers.yaml"
    file.write_text(example)
    study = spec.load(file)
    assert study.warnings == ()
    assert len(study.search) == 3

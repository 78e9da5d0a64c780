"""What the documents say about the code is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from models import ROOT

import fastgrad
import fastgrad.functional as F

pytestmark = pytest.mark.cpu
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").glob("*.md"))),
    "examples/README.md",
]


def _table() -> dict[str, tuple[set[str], set[str]]]:
    section = (ROOT / "README.md").read_text().split("## Ops")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if "`" in line and line.startswith("|")]
    return {row[0].strip(): (set(re.findall(r"`(\w+)`", row[1])), set(re.findall(r"\w+", row[2]))) for row in rows}


def test_op_table_is_complete() -> None:
    listed = set.union(*(ops for ops, _ in _table().values()))
    assert listed == {name for name in vars(F) if not name.startswith("_") and callable(getattr(F, name))}
    assert set.union(*(layers for _, layers in _table().values())) == set(fastgrad.nn.__all__)


def test_swap_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"## Swap\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert code is not None
    exec(code[1], {})
    assert "largest difference of outputs" in capsys.readouterr().out


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_files_exist(document: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("http") or ((ROOT / document).parent / target).exists(), target
    for path in re.findall(r"`((?:csrc|fastgrad|tests|tools|cmake|docs)/[\w/.]*\.\w+)`", text):
        assert (ROOT / path).exists() or path.endswith(".cu"), path


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_to_sections_exist(document: str) -> None:
    page = ROOT / document
    for target, section in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        assert section in _anchors(page.parent / target if target else page), f"{target}#{section}"


def test_figures_are_those_of_the_results_and_their_headings_differ() -> None:
    command = [sys.executable, str(ROOT / "tools" / "performance_tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    headings = re.findall(r"^#+ .+$", (ROOT / "docs" / "figures.md").read_text(), re.M)
    assert len(headings) == len(set(headings)) > 1


def test_every_example_is_listed() -> None:
    listed = set(re.findall(r"`(\w+\.py)`", (ROOT / "examples" / "README.md").read_text()))
    assert listed == {p.name for p in (ROOT / "examples").glob("*.py")}

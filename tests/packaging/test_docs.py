"""Generated parts of the documents are up to date; the files around them fit the project."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import docs
from curl import schema
from curl.version import VERSION
from support.paths import ROOT

STALE = "run `python -m benchmarks.docs` and commit what it wrote"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", docs.documents(), ids=name_of)
def test_the_generated_parts_are_up_to_date(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert docs.rendered(text) == text, STALE


def test_every_part_stands_in_a_document() -> None:
    texts = [document.read_text(encoding="utf-8") for document in docs.documents()]
    used = {match["name"] for text in texts for match in docs.PART.finditer(text)}
    assert used == set(docs.PARTS)


def test_a_part_that_is_out_of_date_is_made_anew() -> None:
    text = "before\n<!-- begin tasks -->\nan old list\n<!-- end tasks -->\nafter\n"
    made = docs.rendered(text)
    assert "old" not in made
    assert "| `cartpole_swingup` | `dm_control/cartpole-swingup-v0` | 8 |" in made
    assert made.startswith("before\n<!-- begin tasks -->\n")
    assert made.endswith("<!-- end tasks -->\nafter\n")
    assert docs.rendered(made) == made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- begin nothing -->\n<!-- end nothing -->\n", "nothing generates 'nothing'"),
        ("<!-- begin tasks -->\n", "without their counterpart"),
        ("<!-- end tasks -->\n", "without their counterpart"),
        ("<!-- begin tasks -->\n<!-- end agents -->\n", "without their counterpart"),
    ],
)
def test_a_wrong_mark_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        docs.rendered(text)


@pytest.mark.parametrize(
    ("group", "part"),
    [
        ("agent", docs.agents),
        ("augmentation", docs.augmentations),
        ("experiment", docs.experiments),
        ("objective", docs.objectives),
        ("shift", docs.shifts),
        ("task", docs.tasks),
    ],
)
def test_a_list_names_every_choice_and_says_what_it_is(group: str, part: Any) -> None:
    _, _, *rows = part().splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    assert [row[0].strip("`") for row in cells] == sorted(
        path.stem for path in (ROOT / "configs" / group).glob("*.yaml")
    )
    assert all(row[1] for row in cells), "a configuration file opens with a comment on what it is"


def test_the_reference_names_every_setting_with_its_default() -> None:
    rows = {row.split("`")[1]: row for row in docs.run_settings().splitlines()[2:]}
    keys = {key for key, _ in schema.fields()}
    groups = {key.rpartition(".")[0] for key in keys} - {""}
    assert rows.keys() | groups == keys
    assert "| an integer >= 1 |" in rows["batch_size"]
    assert "| `512` |" in rows["batch_size"]
    assert rows["batch_size"].endswith("| no |")
    assert rows["env_steps"].endswith("| yes |")


def test_settings_are_read_from_a_nested_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("# what it is\na: 1  # one\nb:\n  c: [2, 3]  # two # three\n  d: 4\ne: 5\n")
    found = [("a", "1", "one"), ("b.c", "[2, 3]", "two # three"), ("b.d", "4", ""), ("e", "5", "")]
    assert list(docs.settings(path)) == found
    assert docs.description(path) == "what it is"


def test_checking_writes_nothing_and_says_what_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document, old = tmp_path / "README.md", "<!-- begin tasks -->\n<!-- end tasks -->\n"
    document.write_text(old)
    monkeypatch.setattr(docs, "documents", lambda: [document])
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert docs.main(["--check"]) == 1
    assert document.read_text() == old
    assert "out of date: README.md" in capsys.readouterr().out
    assert docs.main([]) == 0
    assert document.read_text() != old
    assert docs.main(["--check"]) == 0


def test_the_readme_takes_two_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


# -- the website -----------------------------------------------------------------------------------


def pages(entries: Any) -> list[str]:
    """The files that a navigation of mkdocs.yml names."""
    if isinstance(entries, str):
        return [entries]
    if isinstance(entries, dict):
        entries = list(entries.values())
    return [page for entry in entries for page in pages(entry)]


def test_the_navigation_names_every_page() -> None:
    named = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(named) == len(set(named))
    for name in named:
        assert (ROOT / "docs" / name).exists() or (ROOT / name).exists(), name
    ours = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert ours <= set(named)


def test_the_website_is_built_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("material") is None:
        pytest.skip("needs the extra docs; make docs builds it too")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("index.html", "benchmarks/index.html", "CONTRIBUTING.html", "results/views.png"):
        assert (tmp_path / "site" / name).exists(), name


# -- files around the documents --------------------------------------------------------------------


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == VERSION
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]
    readme = (ROOT / "README.md").read_text()
    assert f"version = {{{VERSION}}}" in readme
    assert citation["preferred-citation"]["title"].replace("CURL", "{CURL}") in readme
    assert VERSION in (ROOT / "CHANGELOG.md").read_text()


def test_hooks_need_no_network_and_call_the_pinned_ruff() -> None:
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook for repo in repos for hook in repo["hooks"]]
    assert {repo["repo"] for repo in repos} == {"local"}
    assert {hook["language"] for hook in hooks} == {"system"}
    assert [hook["entry"].split()[:2] for hook in hooks] == [
        [".venv/bin/ruff", "check"],
        [".venv/bin/ruff", "format"],
    ]


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_what_an_extra_installs_is_pinned(extra: str) -> None:
    text = (ROOT / "constraints.txt").read_text()
    pinned = {line.split("==")[0] for line in text.splitlines() if "==" in line}
    for requirement in PROJECT["optional-dependencies"][extra]:
        name = re.match(r"[\w-]+", requirement)
        assert name and name[0] in pinned, requirement


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=name_of
)
def test_a_template_asks_for_what_an_issue_needs(path: Path) -> None:
    template = yaml.safe_load(path.read_text())
    assert template["name"] and template["description"]
    kinds = {"textarea", "input", "dropdown", "checkboxes", "markdown"}
    assert {field["type"] for field in template["body"]} <= kinds
    labels = [field["attributes"]["label"] for field in template["body"]]
    assert len(labels) == len(set(labels)) >= 3
    assert any(field["validations"]["required"] for field in template["body"])

"""The generated parts of README.md and docs/: `python -m benchmarks.docs` writes them.

Lists of names and tables of results are made from the configuration files, the schema of settings
and the files below results/, and are never typed. A document marks the place of a part with

    <!-- begin NAME [FILE] -->
    <!-- end NAME -->

and what stands between the two lines is replaced by what the function NAME in `PARTS` returns. A
FILE is a path from the root of the repository, which that function reads. `--check` writes nothing
and exits with code 1 if a part is out of date; a test does the same.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.cells import ROOT
from benchmarks.curve_groups import NONE, spread
from benchmarks.results_page import AT, PRESETS, read_groups
from curl import schema
from curl.command.views import resolved
from curl.errors import program
from curl.run.folder import RESUMABLE
from curl.study.published import AT_100K

CONFIGS = ROOT / "configs"
PART = re.compile(
    r"(?P<begin><!-- begin (?P<name>[\w-]+)(?: (?P<file>\S+))? -->\n)"
    r".*?(?P<end><!-- end (?P=name) -->)",
    re.DOTALL,
)
SETTING = re.compile(r"^(?P<indent> *)(?P<key>\w+): *(?P<value>.*?) *(?:# *(?P<comment>.*))?$")


def documents(root: Path = ROOT) -> list[Path]:
    """The documents that may hold generated parts."""
    return [root / "README.md", *sorted((root / "docs").glob("**/*.md"))]


def rendered(text: str) -> str:
    """The text of a document with all its parts made anew.

    Raises:
        ValueError: a part without its end, or one that nothing generates.
    """

    def part(match: re.Match[str]) -> str:
        name, file = match["name"], match["file"]
        if name not in PARTS:
            raise ValueError(f"nothing generates {name!r}; there are {', '.join(PARTS)}")
        made = PARTS[name](ROOT / file) if file else PARTS[name]()
        return f"{match['begin']}\n{made}\n\n{match['end']}"

    if lost := PART.sub("", text).count("<!-- begin ") + PART.sub("", text).count("<!-- end "):
        raise ValueError(f"{lost} comments begin or end a part without their counterpart")
    return PART.sub(part, text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# -- what the configuration files say --------------------------------------------------------------


def description(path: Path) -> str:
    """The comment at the top of a YAML file."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def settings(path: Path) -> Iterator[tuple[str, str, str]]:
    """Dotted key, value and comment of each setting that a YAML file gives a value on its line."""
    above: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        match = SETTING.match(line)
        if match is None:
            continue
        indent = len(match["indent"])
        above = [(depth, key) for depth, key in above if depth < indent]
        above.append((indent, match["key"]))
        if match["value"]:
            yield ".".join(key for _, key in above), match["value"], match["comment"] or ""


def group(name: str) -> list[Path]:
    """The files of a configuration group."""
    return sorted((CONFIGS / name).glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def agents() -> str:
    return table(
        ["`agent=`", "what it is"],
        [[f"`{path.stem}`", cell(description(path))] for path in group("agent")],
    )


def augmentations() -> str:
    rows = []
    for path in group("augmentation"):
        config = resolved(path)
        views = [view(config[side]) for side in ("query", "key")]
        rows.append([f"`{path.stem}`", cell(description(path)), *views])
    return table(["`augmentation=`", "what it is", "query", "key"], rows)


def view(config: Mapping[str, Any]) -> str:
    """The settings of one view in a cell of a table."""
    if config["name"] == "compose":
        return ", then ".join(view(step) for step in config["steps"])
    rest = ", ".join(f"{key} {value}" for key, value in config.items() if key != "name")
    return f"`{config['name']}`" + f" ({rest})" * bool(rest)


def objectives() -> str:
    rows = []
    for path in group("objective"):
        own = [f"`{key}={value}`" for key, value, _ in settings(path) if key != "name"]
        rows.append([f"`{path.stem}`", cell(description(path)), ", ".join(own) or NONE])
    return table(["`objective=`", "what it is", "settings"], rows)


def shifts() -> str:
    rows = []
    for path in group("shift"):
        own = [f"`shift.{key}={value}`" for key, value, _ in settings(path) if "label" not in key]
        rows.append([f"`{path.stem}`", cell(description(path)), ", ".join(own) or NONE])
    return table(["`shift=`", "what it is", "settings"], rows)


def tasks() -> str:
    rows = []
    for path in group("task"):
        config = read(path)
        repeat = str(config["action_repeat"])
        rows.append([f"`{path.stem}`", f"`{config['env_id']}`", repeat])
    return table(["`task=`", "environment", "action repeat"], rows)


def experiments() -> str:
    return table(
        ["`experiment=`", "what it is"],
        [[f"`{path.stem}`", cell(description(path))] for path in group("experiment")],
    )


def agent_settings(path: Path) -> str:
    """The settings in the file of an agent, and those of the run that it sets as well."""
    whole_run = "# @package _global_" in path.read_text(encoding="utf-8")
    rows = []
    for key, value, comment in settings(path):
        dotted = key if whole_run else f"agent.{key}"
        if dotted not in ("agent.name", "agent.label"):
            rows.append([f"`{dotted}`", f"`{value}`", cell(comment)])
    return table(["setting", "default", "meaning"], rows)


def run_settings() -> str:
    """Every setting that the schema names, with the default of `python train.py`."""
    defaults = schema.flat(composed())
    rows = []
    for key, info in schema.fields():
        inner = [name for name in defaults if name.startswith(f"{key}.")]
        if inner and key not in defaults:
            continue  # a group: its settings have rows of their own
        mark = "yes" if schema.within(key, RESUMABLE) else "no"
        shown = json.dumps(defaults[key]) if key in defaults else NONE
        what = cell(schema.allowed(info))
        rows.append([f"`{key}`", what, f"`{shown}`", cell(str(info.description)), mark])
    return table(["setting", "allowed values", "default", "meaning", "may change on resume"], rows)


def composed() -> dict[str, Any]:
    """The settings of `python train.py` without overrides; references stay as they are written."""
    config = read(CONFIGS / "train.yaml")
    for entry in config.pop("defaults"):
        if isinstance(entry, dict):
            for name, choice in entry.items():
                if choice and (CONFIGS / name / f"{choice}.yaml").exists():
                    config[name] = read(CONFIGS / name / f"{choice}.yaml")
    config.pop("hydra")
    return config


def cell(text: str) -> str:
    """A text in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


# -- what the files below results/ say -------------------------------------------------------------


def probe(path: Path) -> str:
    """The probe's table: objectives x augmentations."""
    rows = json.loads(path.read_text())["rows"]
    found = {(row["objective"], row["augmentation"]): row for row in rows}
    columns = list(dict.fromkeys(row["augmentation"] for row in rows))
    lines = []
    for name in dict.fromkeys(row["objective"] for row in rows):
        own = [found[name, column] for column in columns if (name, column) in found]
        cells = [
            probed(found[name, column]) if (name, column) in found else NONE for column in columns
        ]
        untrained = f"{np.mean([row['r2_untrained'] for row in own]):.2f}"
        cost = f"{np.mean([row['ms_per_update'] for row in own]):.0f}"
        lines.append([f"`{name}`", untrained, *cells, cost])
    head = ["objective", "R² untrained", *(f"`{column}`" for column in columns), "ms per update"]
    return table(head, lines)


def probed(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return NONE
    text = f"**{row['r2']:.2f}**"
    if "accuracy" in row:
        text += f" · {row['accuracy']:.0%} · {row['effective_rank']:.1f}"
    return text


def probe_gain(path: Path) -> str:
    """How far R² rises in training, for each objective of a probe with one augmentation."""
    rows = json.loads(path.read_text())["rows"]
    gains = sorted((row["r2"] - row["r2_untrained"], row["objective"]) for row in rows)
    cells = [[f"`{name}`", f"{gain:+.2f}"] for gain, name in reversed(gains)]
    return table(["objective", "change of R²"], cells)


# A row each of the table of speed: label, key and batch size of the measurement, contender (None:
# what train.py chooses), and the goal that was set.
SPEED: tuple[tuple[str, str, int | None, str | None, str], ...] = (
    ("update with sampling, batch size 128", "update", 128, None, "3.5"),
    ("update with sampling, batch size 512", "update", 512, None, ""),
    ("the same, `agent.joint=true`, 128", "update", 128, "bfloat16 joint", ""),
    ("the same, `agent.joint=true`, 512", "update", 512, "bfloat16 joint", ""),
    ("the same in float32, 128", "update", 128, "float32", ""),
    ("sampling with crops, batch size 128", "sample", 128, None, "4"),
    ("acting", "act", None, None, "1.2"),
    ("drawing a frame", "render", None, "ours", ""),
)


def speed(path: Path) -> str:
    """The table of speed, from a file of `benchmarks.speed --json`."""
    data = json.loads(path.read_text())
    measured = {(r["what"], r["batch"], r["contender"]): r for r in data["measurements"]}
    ratios = {
        (r["what"], r["batch"], r["contender"]): r["median"]
        for r in data["speedups"]
        if r["against"] == "plain"
    }
    rows = []
    for label, what, batch, contender, goal in SPEED:
        key = (what, batch, contender or data["variant"])
        if key in ratios:
            plain, ours = measured[what, batch, "plain"], measured[key]
            times = [
                f"{row['median_ms']:.{1 if row['median_ms'] < 100 else 0}f} ms"
                for row in (plain, ours)
            ]
            rows.append([label, *times, f"{ratios[key]:.1f}", goal])
    key = ("run", data["batch"], data["variant"])
    if key in ratios:
        pair = measured[*key[:2], "plain"], measured[key]
        rates = [f"{row['env_steps_per_second']:.1f} env steps/s" for row in pair]
        label = f"a whole run of cartpole, batch size {data['batch']}, same environment"
        rows.append([label, *rates, f"{ratios[key]:.1f}", ""])
    sizes = data["replay_bytes_100k_plain"], data["replay_bytes_100k"]
    stored = [f"{size / 1e9:.2f} GB" for size in sizes]
    rows.append(["replay buffer of 100,000 transitions", *stored, f"{sizes[0] / sizes[1]:.1f}", ""])
    return table(["what", "plain", "ours", "times as fast (or as small)", "goal"], rows)


def milliseconds(value: float) -> str:
    return f"{value:.{1 if value < 100 else 0}f} ms"


def evaluations(path: Path) -> list[dict[str, Any]]:
    """The evaluation rows of a file of metrics."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if row.get("kind") == "evaluation"]


def quickstart(path: Path) -> str:
    """The evaluations of a run, as a table."""
    rows = [
        [f"{row['env_steps']:,}", f"{row['return_mean']:.0f}", f"{row['wall_time'] / 60:.0f} min"]
        for row in evaluations(path)
    ]
    return table(["env steps", "return, mean of 10 episodes", "time"], rows)


def results() -> str:
    """The small table of README.md: the quickstart, and the curves beside the published scores."""
    finals = [
        evaluations(file)[-1]
        for file in sorted((ROOT / "results/laptop").glob("quickstart_seed_*.jsonl"))
    ]
    steps = {final["env_steps"] for final in finals}
    assert len(steps) == 1, steps
    scores = np.array([final["return_mean"] for final in finals])
    name = f"quickstart (small agent), {len(scores)} seeds"
    rows = [["`cartpole_swingup`", name, f"{steps.pop():,}", spread(scores)]]
    presets = read_groups(ROOT / "results/dmc")
    tasks = {task for groups in presets.values() for task, _ in groups}
    for preset in PRESETS:
        for (task, variant), found in sorted(presets.get(preset, {}).items()):
            scores = found.scores
            name = f"`{variant}`, preset `{preset}`, {len(scores)} seed{'s' * (len(scores) != 1)}"
            rows.append([f"`{task}`", name, f"{AT:,}", spread(scores)])
        if preset == "paper":
            for task, (mean, std) in AT_100K["CURL"].items():
                if task in tasks:
                    published = ("CURL, published, 10 seeds", f"{AT:,}", f"{mean} ± {std}")
                    rows.append([f"`{task}`", *published])
    rows.sort(key=lambda row: row[0])
    return table(["task", "agent", "env steps", "return"], rows)


PARTS: Mapping[str, Callable[..., str]] = {
    "agents": agents,
    "agent-settings": agent_settings,
    "augmentations": augmentations,
    "experiments": experiments,
    "objectives": objectives,
    "probe": probe,
    "probe-gain": probe_gain,
    "quickstart": quickstart,
    "results": results,
    "run-settings": run_settings,
    "shifts": shifts,
    "speed": speed,
    "tasks": tasks,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: write what is out of date, or name it with --check."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.docs", description="Write the generated parts of the documents."
    )
    parser.add_argument("--check", action="store_true", help="only say which are out of date")
    options = parser.parse_args(argv)
    stale = []
    for document in documents():
        before = document.read_text(encoding="utf-8")
        after = rendered(before)
        if after == before:
            continue
        stale.append(document)
        if not options.check:
            document.write_text(after, encoding="utf-8")
        print(f"{'out of date' if options.check else 'written'}: {document.relative_to(ROOT)}")
    if not stale:
        print("all parts are up to date")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    program(main)

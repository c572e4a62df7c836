"""Measurements as tables for people; the JSON file holds the same numbers."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

RATIOS = ("update", "sample", "act", "step", "render", "run")


def show(values: dict[str, Any], console: Console) -> None:
    """Print what `benchmarks.speed.measure` returned."""
    console.print(timings(values))
    console.print(floors(values))
    for line in lines(values):
        console.print(line, highlight=False)


def timings(values: dict[str, Any]) -> Table:
    table = Table(
        box=box.SIMPLE,
        title=f"{values['device']}, {values['threads']} threads, torch {values['torch_version']}",
        caption="medians and quartiles; 'plain /' is plain's time over this one's, round by round",
    )
    for column in ("what", "batch", "contender"):
        table.add_column(column, overflow="fold")
    for column in ("ms", "quartiles", "plain /", "quartiles"):
        table.add_column(column, justify="right", overflow="fold")
    against = {
        (row["what"], row["batch"], row["contender"]): row
        for row in values["speedups"]
        if row["against"] == "plain"
    }
    before = None
    for row in values["measurements"]:
        group = (row["what"], row["batch"])
        if before not in (None, group):
            table.add_section()
        label = row["what"] if before != group else ""
        cells = [label, str(row["batch"] or ""), row["contender"]]
        cells += [number(row["median_ms"]), span(row["q1_ms"], row["q3_ms"])]
        if speedup := against.get((*group, row["contender"])):
            cells += [number(speedup["median"]), span(speedup["q1"], speedup["q3"])]
        table.add_row(*cells)
        before = group
    return table


def floors(values: dict[str, Any]) -> Table:
    best = values["machine"]
    table = Table(
        box=box.SIMPLE,
        title="Floor of an update",
        caption=f"best measured here: {best['float32_tflops']:.3g} TFLOP/s in float32, "
        f"{best['bfloat16_tflops']:.3g} in bfloat16, copies {best['copy_gb_per_s']:.3g} GB/s",
    )
    columns = {
        "encoder_forwards": "forwards",
        "compute_ms": "compute ms",
        "memory_ms": "memory ms",
        "floor_ms": "floor ms",
        "time_over_floor": "time / floor",
    }
    for column in ("batch", "contender"):
        table.add_column(column, overflow="fold")
    for column in columns.values():
        table.add_column(column, justify="right", overflow="fold")
    for row in values["floor"]:
        numbers = [number(row[name]) for name in columns]
        table.add_row(str(row["batch"]), row["contender"], *numbers)
    return table


def lines(values: dict[str, Any]) -> list[str]:
    """What fits no table: runs, rendering, memory, and the ratios that are quoted."""
    out = []
    for row in values["measurements"]:
        if row["what"] == "run":
            speed = f"{row['env_steps_per_second']:.4g} env steps/s"
            out.append(f"run, batch {row['batch']}, {row['contender']}: {speed}")
    if environment := values["environment"]:
        shadows = {name: size or "its own" for name, size in environment["shadow_size"].items()}
        out.append(
            f"{environment['task']}, drawn by the {environment['drawn_by']}; shadow map: ours "
            f"{shadows['ours']}, plain {shadows['plain']} for steps and rendering, "
            f"{shadows['plain in runs']} in runs unless said"
        )
    for row in values["memory"]:
        gpu = row["peak_gpu_bytes"]
        text = f"RSS {row['peak_rss_bytes'] / 1e9:.3g} GB"
        text += f", GPU {gpu / 1e9:.3g} GB" if gpu is not None else ""
        out.append(f"peak memory, batch {row['batch']}, {row['contender']}: {text}")
    stored = [values[f"replay_bytes_100k{side}"] / 1e9 for side in ("", "_plain")]
    out.append(f"replay of 100k transitions: {stored[0]:.3f} GB, plain {stored[1]:.3f} GB")
    ratios = {name: values[f"{name}_speedup"] for name in RATIOS}
    quoted = ", ".join(f"{n} {r:.3g}" for n, r in ratios.items() if r is not None)
    out.append(f"{values['variant']}, batch {values['batch']}, times as fast as plain: {quoted}")
    return out


def span(low: float, high: float) -> str:
    return f"{number(low)}-{number(high)}"


def number(value: float) -> str:
    """Three figures, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"

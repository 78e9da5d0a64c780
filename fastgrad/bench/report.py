"""Tables of the records: one row a case and pass, geometric means per family, the cases below target; CSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from fastgrad._tables import table
from fastgrad.bench.statistics import geometric_mean

__all__ = ["below_rows", "below_table", "main_rows", "main_table", "means", "means_table", "to_json", "write_csv"]

Record = dict[str, Any]
_RATIOS = ("E", "T", "C")
_BEATEN = 1.05  # of a limit, by noise
_CAPTION = (
    "fastgrad: median of the rounds, ± half the interquartile range. E, T, C: their time / ours, of torch eager, of "
    "torch eager with huge pages, of torch.compile; * below target. limit: the machine's limit for the same bytes or "
    "multiply-adds / our time. memory beyond the arguments and error against float64: fastgrad, then torch."
)


def main_table(records: list[Record], title: str) -> Any:
    columns, rows = main_rows(records)
    return table(columns, rows, title=title, caption=_CAPTION, right=columns[4:])


def main_rows(records: list[Record]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of the main table; the first four columns say what was measured."""
    columns = ("op", "shape", "dtype", "pass", "fastgrad", "±", "E", "T", "C", "limit", "memory", "error")
    return columns, [_row(r) for r in records]


def _row(r: Record) -> tuple[str, ...]:
    ours = r["seconds"]["plain"]["fastgrad"]
    return (
        f"{r['op']} {r['variant']}".strip(),
        "x".join(map(str, r["shape"])),
        _short(r["dtype"]),
        {"forward": "f", "backward": "b", "forward+backward": "f+b"}.get(r["pass"], "step"),
        duration(ours["median"]),
        f"{(ours['high'] - ours['low']) / 2 / ours['median']:.0%}",
        *(_ratio(r, name) for name in _RATIOS),
        f"{r['ratios']['limit']['median']:.0%}{'*' * ('limit' in r['below'])}" if "limit" in r["ratios"] else "",
        " / ".join(size(r["memory"][name]) for name in ("fastgrad", "torch") if name in r["memory"])
        + "*" * ("memory" in r["below"]),
        " / ".join(f"{r['error'][name]:.0e}" for name in ("fastgrad", "torch") if name in r["error"]),
    )


def _ratio(r: Record, name: str) -> str:
    if name not in r["ratios"]:
        return ""
    mark = "*" if name in r["below"] or (name == "E" and "call" in r["below"]) else ""
    return f"{r['ratios'][name]['median']:.2f}{mark}"


def _short(dtype: str) -> str:
    return {"float32": "f32", "float64": "f64", "bfloat16": "bf16", "float16": "f16"}.get(dtype, dtype)


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9)):
        if abs(seconds) * scale >= 1 or unit == "ns":
            return f"{seconds * scale:.3g} {unit}"
    raise AssertionError


def size(count: float) -> str:
    """Bytes, in a unit that leaves few digits."""
    for unit, scale in (("M", 2**20), ("K", 2**10)):
        if count >= scale:
            return f"{count / scale:.3g}{unit}"
    return f"{count:.0f}"


def means(records: list[Record]) -> dict[str, dict[str, float]]:
    """Geometric means of the ratios, by family and of everything."""
    result = {}
    for family in [*dict.fromkeys(r["family"] for r in records), "all"]:
        of_family = [r for r in records if family in (r["family"], "all")]
        result[family] = {
            name: geometric_mean(values)
            for name in (*_RATIOS, "limit")
            if (values := [r["ratios"][name]["median"] for r in of_family if name in r["ratios"]])
        }
        result[family]["rows"] = len(of_family)
    return result


def means_table(records: list[Record]) -> Any:
    rows = [
        (family, str(mean["rows"]), *(f"{mean[n]:.2f}" if n in mean else "" for n in _RATIOS), _percent(mean))
        for family, mean in means(records).items()
    ]
    columns = ("family", "rows", *_RATIOS, "limit")
    return table(columns, rows, title="Geometric means", right=columns[1:])


def _percent(mean: dict[str, float]) -> str:
    return f"{mean['limit']:.0%}" if "limit" in mean else ""


def below_table(records: list[Record]) -> Any:
    """The cases below target, what was measured and what is wanted."""
    rows = below_rows(records)
    columns = ("op", "shape", "dtype", "pass", "measured (target)", "why")
    return table(columns, rows, title=f"Below target: {len(rows)} of {len(records)}")


def below_rows(records: list[Record]) -> list[tuple[str, ...]]:
    """What was measured, what of it misses its target, and why."""
    return [
        (*_row(r)[:4], "; ".join(f"{measured(r, n)} ({target(r, n)})" for n in r["below"]), why(r))
        for r in records
        if r["below"]
    ]


def why(r: Record) -> str:
    """What is known of the case, and which of its targets are out of reach: the limit allows ratio / share of limit."""
    share = r["ratios"].get("limit", {}).get("median", 0.0)
    limited = 0 < share <= _BEATEN  # a limit that is beaten by more was measured while something else ran
    allowed = {n: r["ratios"][n]["median"] / min(share, 1.0) for n in r["below"] if n in _RATIOS and limited}
    beyond = [f"{n} {value:.3g}" for n, value in allowed.items() if value < r["targets"][n]]
    reasons = [r["why"]] if r["why"] else []
    if beyond:
        reasons.append("this machine's limit allows no more than " + ", ".join(beyond))
    return "; ".join(reasons)


def measured(r: Record, name: str) -> str:
    if name == "call":
        return f"call {r['call']['median'] * 1e6:+.2f} µs"
    if name == "memory":
        return f"memory {size(r['memory']['fastgrad'])}"
    value = r["ratios"][name]["median"]
    return f"{name} {value:.0%}" if name == "limit" else f"{name} {value:.3g}"


def target(r: Record, name: str) -> str:
    value = r["targets"][name]
    if name == "call":
        return f"<= {value * 1e6:+.2f} µs"
    if name == "memory":
        return f"<= {size(value * r['traffic']['first'])}"
    return f">= {value:.0%}" if name == "limit" else f">= {value:.3g}"


def to_json(everything: dict[str, Any]) -> str:
    """One line a record."""
    records = ",\n".join(map(json.dumps, everything["results"]))
    head = json.dumps({key: value for key, value in everything.items() if key != "results"}, indent=1)
    return f'{head[:-2]},\n "results": [\n{records}\n]}}\n'


def write_csv(records: list[Record], path: Path) -> None:
    """One line a record, with the medians."""
    columns = ["family", "op", "variant", "shape", "dtype", "pass", "device", "threads", "rounds"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        contenders = [(kind, name) for kind in ("plain", "huge pages") for name in ("fastgrad", "torch", "compile")]
        writer.writerow(
            [*columns, *(f"{name} ({kind}), s" for kind, name in contenders), "lower quartile, s", "upper quartile, s"]
            + [*_RATIOS, "limit", "memory", "torch's memory", "error", "torch's error", "below target"]
        )
        for r in records:
            seconds = r["seconds"]
            ours = seconds["plain"]["fastgrad"]
            medians = [seconds.get(kind, {}).get(name, {}).get("median", "") for kind, name in contenders]
            writer.writerow(
                ["x".join(map(str, r[c])) if c == "shape" else r[c] for c in columns]
                + [*medians, ours["low"], ours["high"]]
                + [r["ratios"].get(name, {}).get("median", "") for name in (*_RATIOS, "limit")]
                + [r[what].get(name, "") for what in ("memory", "error") for name in ("fastgrad", "torch")]
                + [" ".join(r["below"])]
            )

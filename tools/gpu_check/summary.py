"""The short table at the end of tools/gpu_check.sh, from the files that its parts left in a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fastgrad._tables import render, table
from fastgrad.bench.report import duration
from fastgrad.bench.statistics import geometric_mean

_WORST = 15


def share(record: dict[str, Any], ceilings: dict[str, float]) -> float | None:
    """Of the ceiling: bytes against a copy, or operations against torch's library or multiply-adds, the faster."""
    seconds, traffic = record["seconds"]["fastgrad"]["median"], record["traffic"]
    if record["compute bound"]:
        names = (f"{record['dtype']} product, flop/s", f"{record['dtype']} multiply-adds, flop/s")
        peak = max((ceilings[name] for name in names if name in ceilings), default=0.0)
        return traffic["flops"] / seconds / peak if peak else None
    peak = ceilings.get("copy, B/s", 0.0)
    return (traffic["read"] + traffic["written"]) / seconds / peak if peak and record["pass"] != "step" else None


def ratio(record: dict[str, Any], contender: str) -> float | None:
    seconds = record["seconds"]
    return seconds[contender]["median"] / seconds["fastgrad"]["median"] if contender in seconds else None


def row(record: dict[str, Any], ceilings: dict[str, float]) -> tuple[str, ...]:
    parts = [ratio(record, "torch"), ratio(record, "compile"), share(record, ceilings)]
    return (
        f"{record['op']} {record['variant']}".strip(),
        "x".join(map(str, record["shape"])),
        record["dtype"],
        record["pass"],
        duration(record["seconds"]["fastgrad"]["median"]),
        *("" if p is None else f"{p:.2f}" for p in parts[:2]),
        "" if parts[2] is None else f"{parts[2]:.0%}",
        " / ".join(f"{record['error'][name]:.0e}" for name in ("fastgrad", "torch") if name in record["error"]),
    )


def means(records: list[dict[str, Any]], ceilings: dict[str, float]) -> list[tuple[str, ...]]:
    """Per family, dtype and pass: geometric means."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["family"], record["dtype"], record["pass"]), []).append(record)
    rows = []
    for key, group in groups.items():
        columns = ([ratio(r, "torch") for r in group], [ratio(r, "compile") for r in group])
        shares = [s for s in (share(r, ceilings) for r in group) if s]
        rows.append(
            (
                *key,
                str(len(group)),
                *(f"{geometric_mean(v):.2f}" if (v := [x for x in c if x]) else "" for c in columns),
                f"{geometric_mean(shares):.0%}" if shares else "",
            )
        )
    return rows


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def main() -> int:
    folder = Path(sys.argv[1])
    ceilings, bench = read(folder / "ceilings.json"), read(folder / "bench.json")
    records = bench.get("results", [])
    if records:
        right = ("cases", "eager", "compile", "ceiling", "fastgrad", "error")
        columns = ("op", "shape", "dtype", "pass", "fastgrad", "eager", "compile", "ceiling", "error")
        compared = ("family", "dtype", "pass", "cases", "eager", "compile", "ceiling")
        slow = sorted((r for r in records if (ratio(r, "torch") or 1) < 1), key=lambda r: ratio(r, "torch") or 1)
        products = [r for r in records if r["compute bound"] and "compile" not in r["seconds"]]
        print(render(table(columns, [row(r, ceilings) for r in products], title="Products", right=right)))
        print(render(table(columns, [row(r, ceilings) for r in slow[:_WORST]], title="Behind torch", right=right)))
        caption = "Their time / ours, geometric means; the share of the ceiling."
        print(render(table(compared, means(records, ceilings), title="Means", caption=caption, right=right)))
        print(f"{len(slow)} of {len(records)} behind torch; {len(bench['problems'])} failed")
        print(f"{len(bench['not reached'])} not reached")
    for name, value in ceilings.items():
        print(f"{name}: {value:.4g}")
    parts = [line.split("\t") for line in (folder / "parts.tsv").read_text().splitlines()]
    print(render(table(("part", "seconds", "outcome"), parts, right=("seconds",))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

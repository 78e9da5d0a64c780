"""PNG plots of the records: speed-up bars, roofline, scaling with size and with threads."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

__all__ = ["available", "write"]

Record = dict[str, Any]
_CONTENDERS = (
    ("plain", "fastgrad", "fastgrad", "#c0392b"),
    ("plain", "torch", "torch eager (E)", "#1f4e9c"),
    ("huge pages", "torch", "torch eager, huge pages (T)", "#7fb3d5"),
)
_RATIOS = (("E", "#1f4e9c"), ("T", "#7fb3d5"), ("C", "#27ae60"))
_PASS = {"backward": " b", "forward+backward": " f+b"}


def available() -> bool:
    """Whether there is a matplotlib that can be loaded."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def write(everything: dict[str, Any], folder: Path) -> list[Path]:
    """Write what there are records for; return the paths. Needs matplotlib."""
    records = [r for r in everything["results"] if not r["series"]]
    written = []
    for family in dict.fromkeys(r["family"] for r in records):
        rows = [r for r in records if r["family"] == family and "E" in r["ratios"]]
        written.append(_bars(rows, family, folder / f"speedup_{family}.png"))
    if any(r["device"] == "cpu" and r["traffic"]["flops"] for r in records):
        written.append(_roofline(records, everything["limits"], folder / "roofline.png"))
    for series, draw in (("size", _size), ("threads", _threads)):
        groups: dict[str, list[Record]] = {}
        for r in everything["results"]:
            if r["series"] == series:
                groups.setdefault(f"{r['op']} {r['variant']}".strip(), []).append(r)
        groups = {title: rows for title, rows in groups.items() if len(rows) > 1}
        if groups:
            written.append(_grid(groups, draw, folder / f"scaling_{series}.png"))
    return written


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> Path:
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    return path


def _bars(rows: list[Record], family: str, path: Path) -> Path:
    figure = _figure(9, 1.2 + 0.36 * len(rows))
    ax = figure.subplots()
    for k, (name, color) in enumerate(_RATIOS):
        places = [i for i, r in enumerate(rows) if name in r["ratios"]]
        values = [rows[i]["ratios"][name] for i in places]
        middle = [v["median"] for v in values]
        spread = [
            [m - v["low"] for m, v in zip(middle, values, strict=True)],
            [v["high"] - m for m, v in zip(middle, values, strict=True)],
        ]
        heights = [i + 0.27 * (k - 1) for i in places]
        # Bars begin at 1: to the right fastgrad is faster, to the left slower.
        ax.barh(heights, [m - 1 for m in middle], 0.25, left=1, color=color, label=name if places else None)
        ax.errorbar(middle, heights, xerr=spread, fmt="none", ecolor="0.3", elinewidth=0.7)
    ax.set_xscale("log")
    ax.axvline(1, color="0.3", linewidth=0.8)
    ticks = [t for t in (0.25, 0.5, 1, 2, 4, 8, 16, 32) if ax.get_xlim()[0] <= t <= ax.get_xlim()[1]]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_yticks(range(len(rows)), [_label(r) for r in rows], fontsize=8)
    ax.invert_yaxis()
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("their time / fastgrad's, quartiles")
    ax.set_title(family, fontsize=10)
    ax.legend(frameon=False, fontsize=9, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    return _save(figure, path)


def _label(r: Record) -> str:
    threads = f", {r['threads']} threads" if r["threads"] > 1 else ""
    shape = "x".join(map(str, r["shape"]))
    return f"{r['op']} {r['variant']} {shape} {r['dtype']}{_PASS.get(r['pass'], '')}{threads}".replace("  ", " ")


def _roofline(records: list[Record], limits: dict[Any, dict[str, float]], path: Path) -> Path:
    figure = _figure(8, 5.5)
    ax = figure.subplots()
    families = list(dict.fromkeys(r["family"] for r in records))
    low, high = 1e9, 0.0
    for k, family in enumerate(families):
        points = []
        for r in records:
            bytes_ = r["traffic"]["read"] + r["traffic"]["written"]
            # What fits a cache is not below this roof.
            if r["family"] == family and r["device"] == "cpu" and r["traffic"]["flops"] and bytes_ >= 1 << 20:
                flops = r["traffic"]["flops"]
                points.append((flops / bytes_, flops / r["seconds"]["plain"]["fastgrad"]["median"] / 1e9))
        if points:
            low, high = min(low, *(x for x, _ in points)), max(high, *(x for x, _ in points))
            ax.plot(*zip(*points, strict=True), "o", markersize=4, color=f"C{k}", label=family, alpha=0.8)
    low, high = min(low, 0.1) / 2, max(high, 100.0) * 2
    for threads, measured in limits.items():
        if not measured:
            continue  # unknown
        bandwidth = measured["copy into a new tensor, B/s"] / 1e9
        names = [n for n in measured if n.endswith("flop/s") and n.startswith(("float32", "float64"))]
        for name in names:
            peak = measured[name] / 1e9
            ridge = peak / bandwidth
            ax.plot([low, ridge, high], [low * bandwidth, peak, peak], color="0.4", linewidth=1)
            text = f"{name.partition(',')[0]}, {threads} thread{'s' * (int(threads) > 1)}: {peak:.0f} Gflop/s"
            ax.annotate(text, (high, peak), ha="right", va="bottom", fontsize=8, color="0.3")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("arithmetic operations for each byte that has to be moved")
    ax.set_ylabel("Gflop/s of fastgrad")
    ax.set_title("Roofline: copy bandwidth and multiply-add peak measured in the same run", fontsize=10)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8)
    return _save(figure, path)


def _grid(groups: dict[str, list[Record]], draw: Callable[[Any, list[Record]], None], path: Path) -> Path:
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = _figure(4.2 * columns, 3.2 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax, (title, records) in zip(axes, groups.items(), strict=False):
        draw(ax, records)
        ax.set_title(f"{title} {records[0]['dtype']}{_PASS.get(records[0]['pass'], '')}", fontsize=10)
    for ax in list(axes)[len(groups) :]:
        ax.remove()
    figure.axes[0].legend(frameon=False, fontsize=8)
    return _save(figure, path)


def _size(ax: Any, records: list[Record]) -> None:
    """Rates, so that a level line is a time in proportion to the work."""
    product = records[0]["family"] == "matmul"
    for kind, name, label, color in _CONTENDERS:
        points = []
        for r in records:
            if kind in r["seconds"]:
                seconds = r["seconds"][kind][name]["median"]
                work = r["traffic"]["flops"] if product else prod(r["shape"])
                points.append((r["shape"][0] if product else work, work / seconds / 1e9))
        if points:
            ax.plot(*zip(*sorted(points), strict=True), "o-", markersize=3, linewidth=1.2, color=color, label=label)
    ax.set_xscale("log", base=2)
    ax.set_xlabel("M = K = N" if product else "elements")
    ax.set_ylabel("Gflop/s" if product else "elements / ns")
    ax.set_ylim(bottom=0)


def _threads(ax: Any, records: list[Record]) -> None:
    most = max(r["threads"] for r in records)
    ax.plot([1, most], [1, most], color="0.7", linewidth=0.8)
    start = next((r for r in records if r["threads"] == 1), records[0])
    for kind, name, label, color in _CONTENDERS:
        if kind in start["seconds"]:
            one = start["seconds"][kind][name]["median"]
            points = [(r["threads"], one / r["seconds"][kind][name]["median"]) for r in records]
            ax.plot(*zip(*sorted(points), strict=True), "o-", markersize=3, linewidth=1.2, color=color, label=label)
    ax.set_xticks(sorted({r["threads"] for r in records}))
    ax.set_xlabel("threads")
    ax.set_ylabel("times as fast as with one")
    ax.set_ylim(bottom=0)

"""Writes the figures of benchmarks/results/*.json into docs/performance.md and README.md, between their two markers.

The files are what `fastgrad bench --json` writes; each becomes a section, in the order of their names. The README gets
the means of one. A folder has what tools/gpu_check.sh left of one GPU, run after run: the last figure of each row
counts, and none of a run before the kernels became what they are (first_run.json, of a family or of one dtype of it).
"""

import json
import sys
from pathlib import Path

from fastgrad.bench import report

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools" / "gpu_check"))
import summary as gpu_check  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
IN_README = RESULTS / "epyc-avx512.json"
BEGIN, END = "<!-- figures: tools/performance_tables.py -->\n", "<!-- end of figures -->\n"


def markdown(columns, rows, left=1):
    """A table; the first columns are text."""
    lines = [columns, [":--"] * left + ["--:"] * (len(columns) - left), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def read(path: Path) -> tuple:
    """The whole file, and the records that are rows of a table."""
    everything = json.loads(path.read_text())
    return everything, [r for r in everything["results"] if not r["series"]]


def section(path: Path) -> str:
    everything, records = read(path)
    machine = everything["machine"]
    counts = sorted({r["threads"] for r in records})
    threads = ", ".join(map(str, counts)) + f" thread{'s' * (counts != [1])}"
    title = f"{machine['gpu'] if records[0]['device'] == 'cuda' else machine['backend']}, {threads}"
    caches = ", ".join(f"{level} {size}" for level, size in machine["caches"].items())
    parts = [
        f"### {title}\n",
        f"{machine['cpu']}, {machine['cores']} cores, {caches}; torch {machine['torch']}, fastgrad "
        f"{machine['fastgrad']} ({machine['build']}), {machine['date'][:10]}: `{machine['command']}`, "
        f"`{path.relative_to(ROOT)}`.\n",
    ]
    for n, limits in everything["limits"].items():
        listed = ", ".join(
            f"{name.rpartition(', ')[0]} {v / 1e9:.0f} G{name[-6:].split()[-1]}" for name, v in limits.items()
        )
        parts.append(f"Limits with {n} thread{'s' * (n != '1')}: {listed}.\n")
    parts += [means(records), table(records), missed(records)]
    return "\n".join(parts)


def means(records) -> str:
    rows = [
        [family, str(mean["rows"]), *(f"{mean[n]:.2f}" if n in mean else "" for n in "ETC"), percent(mean.get("limit"))]
        for family, mean in report.means(records).items()
    ]
    return markdown(["geometric means", "rows", "E", "T", "C", "limit"], rows)


def percent(value) -> str:
    return "" if value is None else f"{value:.0%}"


def table(records) -> str:
    columns, rows = report.main_rows(records)
    return f"<details><summary>All {len(rows)} rows</summary>\n\n{markdown(columns, rows, 4)}\n</details>\n"


def missed(records) -> str:
    rows = report.below_rows(records)
    if not rows:
        return "Every case meets its targets.\n"
    columns = ["op", "shape", "dtype", "pass", "measured (target)", "why"]
    return f"Below target, {len(rows)} of {len(records)}:\n\n{markdown(columns, rows, 6)}"


def summary(path: Path) -> str:
    everything, records = read(path)
    below = len(report.below_rows(records))
    return (
        f"{means(records)}\n`{everything['machine']['command']}` on {everything['machine']['date'][:10]}; "
        f"{below} of the {len(records)} rows are below their targets: which, and why, is in\n"
        "[docs/performance.md](docs/performance.md).\n"
    )


def gpu_section(folder: Path) -> str:
    """The last record of each row, with the number of its run. One against torch.compile has all but the errors."""
    last = {}
    first = json.loads((folder / "first_run.json").read_text())
    for path in sorted(folder.glob("*-bench.json")):
        run = int(path.name.partition("-")[0])
        for r in json.loads(path.read_text())["results"]:
            since = first.get(f"{r['family']} {r['dtype']}", first.get(r["family"], 1))
            if run >= since:
                key = (r["op"], r["variant"], r["dtype"], r["pass"])
                error = r["error"] or last.get(key, r)["error"]
                last[key] = {**r, "error": error, "run": str(run)}
    ceilings = json.loads((folder / "ceilings.json").read_text())
    environment = (folder / "environment.log").read_text().splitlines()
    gpu = next(line for line in environment if line.startswith("NVIDIA"))
    torch = next(line for line in environment if line.startswith("python"))
    means = gpu_check.means(list(last.values()), ceilings)
    rows = [[*gpu_check.row(r, ceilings), r["run"]] for r in last.values()]
    listed = ", ".join(f"{name.partition(',')[0]} {v / 1e12:.4g} T{name.split()[-1]}" for name, v in ceilings.items())
    columns = ["op", "shape", "dtype", "pass", "fastgrad", "E", "C", "ceiling", "error", "run"]
    return "\n".join(
        [
            f"### cuda: {gpu.partition(',')[0]}\n",
            f"{gpu}; {torch}: `tools/gpu_check/bench.py`, `{folder.relative_to(ROOT)}`. Ceilings: {listed}.\n",
            markdown(["geometric means", "dtype", "pass", "rows", "E", "C", "ceiling"], means, 3),
            f"<details><summary>All {len(rows)} rows</summary>\n\n{markdown(columns, rows, 4)}\n</details>\n",
        ]
    )


def write(page: Path, figures: str) -> bool:
    before, found, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not found or not end:
        print(f"{page}: no markers to write between", file=sys.stderr)
        return False
    page.write_text(f"{before}{BEGIN}\n{figures}\n{END}{after}")
    return True


def main() -> int:
    files = sorted(RESULTS.glob("*.json"))
    folders = sorted(path.parent for path in RESULTS.glob("*/ceilings.json"))
    figures = "\n".join([*map(section, files), *map(gpu_section, folders)]) or "No results are recorded yet.\n"
    written = [write(ROOT / "docs" / "performance.md", figures), write(ROOT / "README.md", summary(IN_README))]
    print(f"{len(files)} result files, {len(folders)} of GPUs")
    return 0 if all(written) else 1


if __name__ == "__main__":
    sys.exit(main())

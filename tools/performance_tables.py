"""Writes the figures of benchmarks/results/*.json into docs/figures.md and README.md, between their two markers.

The files are what `fastgrad bench --json` writes; each becomes a section, in the order of their names. The README gets
the means of one. A folder has what tools/gpu_check.sh left of one GPU, run after run: the last figure of each row
counts, and none of a run before the kernels became what they are (first_run.json, of a family or of one dtype of it).
"""

import argparse
import json
import re
import sys
from functools import cache
from pathlib import Path

from fastgrad.bench import report
from fastgrad.bench.case import load

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


@cache
def reasons() -> dict:
    """Why a case is below its targets, as far as that is known today."""
    return {(c.family, c.op, c.variant, c.shape, c.dtype_name): c.why for c in load()}


def read(path: Path) -> tuple:
    """The whole file, and the records that are rows of a table."""
    everything = json.loads(path.read_text())
    records = [r for r in everything["results"] if not r["series"]]
    for r in records:
        known = reasons().get((r["family"], r["op"], r["variant"], tuple(r["shape"]), r["dtype"]), {})
        r["why"] = known.get(r["pass"], "")
    return everything, records


def model(cpu: str) -> tuple[str, set[str]]:
    """A CPU's name without what says nothing, and its instruction sets: "AMD EPYC (sse2 avx)"."""
    name, _, sets = cpu.rstrip(")").partition(" (sse")
    return re.sub(r"\(R\)|\(TM\)| Processor| CPU", "", name).strip(), set(f"sse{sets}".split())


def titles(files: list[Path]) -> list[str]:
    """Of each file: the CPU, the backend, the threads. CPUs of one name are told apart by what not all of them have."""
    everything = [(whole["machine"], records) for whole, records in map(read, files)]
    cpus = [model(machine["cpu"]) for machine, _ in everything]
    result = []
    for (machine, records), (name, sets) in zip(everything, cpus, strict=True):
        more = sorted(sets - set.intersection(*(theirs for other, theirs in cpus if other == name)))
        if "avx512f" in more:  # which the others do not have at all
            more = [*(m for m in more if not m.startswith("avx512")), "AVX-512"]
        cpu = f"{name} with {' and '.join(more)}" if more else name
        counts = sorted({r["threads"] for r in records})
        threads = ", ".join(map(str, counts)) + f" thread{'s' * (counts != [1])}"
        processor, backend = (machine["gpu"], "cuda") if records[0]["device"] == "cuda" else (cpu, machine["backend"])
        quick = ", quick" * ("--quick" in machine["command"].split())
        result.append(f"{processor}, {backend}, {threads}{quick}")
    return result


def section(path: Path, title: str) -> str:
    everything, records = read(path)
    machine = everything["machine"]
    caches = ", ".join(f"{level} {size}" for level, size in machine["caches"].items())
    parts = [
        f"## {title}\n",
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
        "[docs/figures.md](docs/figures.md).\n"
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
            f"## {gpu.partition(',')[0]}, cuda\n",
            f"{gpu}; {torch}: `tools/gpu_check/bench.py`, `{folder.relative_to(ROOT)}`. Ceilings: {listed}.\n",
            markdown(["geometric means", "dtype", "pass", "rows", "E", "C", "ceiling"], means, 3),
            f"<details><summary>All {len(rows)} rows</summary>\n\n{markdown(columns, rows, 4)}\n</details>\n",
        ]
    )


def rewrite(page: Path, figures: str) -> tuple[str, str]:
    """The text of a page as it is and with these figures."""
    text = page.read_text()
    before, found, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise SystemExit(f"{page}: no markers to write between")
    return text, f"{before}{BEGIN}\n{figures}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Writes the figures of benchmarks/results into docs/figures.md and README.md."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if one of these files would change"
    )
    check = parser.parse_args().check
    files = sorted(RESULTS.glob("*.json"))
    folders = sorted(path.parent for path in RESULTS.glob("*/ceilings.json"))
    sections = [*map(section, files, titles(files)), *map(gpu_section, folders)]
    headings = [text.partition("\n")[0] for text in sections]
    if repeated := {heading for heading in headings if headings.count(heading) > 1}:
        raise SystemExit(f"several results have the heading {', '.join(sorted(repeated))}")
    pages = {
        ROOT / "docs" / "figures.md": "\n".join(sections) or "No results are recorded yet.\n",
        ROOT / "README.md": summary(IN_README),
    }
    texts = {page: rewrite(page, figures) for page, figures in pages.items()}
    changed = [page for page, (before, after) in texts.items() if before != after]
    for page in changed:
        print(f"{page.relative_to(ROOT)}: {'is not what the results say' if check else 'written'}")
        if not check:
            page.write_text(texts[page][1])
    print(f"{len(files)} result files, {len(folders)} of GPUs")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())

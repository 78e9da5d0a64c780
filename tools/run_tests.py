"""Runs the Python suite on the installed fastgrad, once per backend of this machine, and prints each outcome.

With the emulator there is one more run, "pretended": what is about CUDA tensors where there is no GPU
(tests/pretended_gpu.py). The rest of the suite passes so too, but would show little that "emulated" does not:
pytest --device pretended.

Arguments are passed to pytest. Every backend gets the same seed, which is printed: --seed N repeats a run.
FASTGRAD_TEST_BACKENDS="avx2 emulated" restricts the backends.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
# pytest itself, not python -m pytest: that would put the checkout before the installed package.
PYTEST = Path(sys.executable).with_name("pytest")

PRETENDED = "pretended"
ABOUT_CUDA = [f"tests/test_{name}.py" for name in ("cuda", "cuda_launches", "unfit_values", "nn")]


def run(backend: str, arguments: list[str]) -> tuple[int, str]:
    """Streams pytest's output; returns its exit status and its closing line."""
    workers = len(os.sched_getaffinity(0))
    tests = ABOUT_CUDA if backend == PRETENDED else ["tests"]
    command = [str(PYTEST), *tests, "-q", "-n", str(workers), "--dist", "worksteal", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if backend == PRETENDED:
        command += ["--device", PRETENDED]
        environment.pop("FASTGRAD_BACKEND", None)
    else:
        environment["FASTGRAD_BACKEND"] = backend
    closing = ""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            closing = line.strip() or closing
    return process.returncode, closing


def main() -> int:
    import torch

    import fastgrad

    os.environ.pop("PYTHONPATH", None)
    there_are = fastgrad.backends()
    if "emulated" in there_are and not torch.version.cuda:
        there_are.append(PRETENDED)
    backends = os.environ.get("FASTGRAD_TEST_BACKENDS", "").split() or there_are
    arguments = sys.argv[1:]
    if not any(argument.startswith("--seed") for argument in arguments):
        arguments += ["--seed", str(random.randrange(2**31))]
    outcomes = []
    for backend in backends:
        print(f"\n=== {backend}: {fastgrad.__path__[0]}, pytest {' '.join(arguments)}", flush=True)
        start = time.monotonic()
        status, closing = run(backend, arguments)
        outcomes.append((backend, status, closing, time.monotonic() - start))
    print()
    for backend, status, closing, _ in outcomes:
        print(f"{backend:10} {'ok    ' if status == 0 else 'FAILED'} {closing}")
    return any(status for _, status, _, _ in outcomes)


if __name__ == "__main__":
    sys.exit(main())

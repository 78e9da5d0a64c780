"""Finds the torch that is installed where fastgrad is going, and drives CMake. CMakeLists.txt describes the build."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
OLDEST_TORCH = (2, 11)
NEEDED = f"fastgrad is built against the torch you use, {'.'.join(map(str, OLDEST_TORCH))} or newer"

# Prints the version of torch, and the ABI of the interpreter, without the seconds that importing torch takes.
ASK = """
import importlib.util, runpy, sysconfig
spec = importlib.util.find_spec("torch")
folder = spec and spec.submodule_search_locations[0]
print(sysconfig.get_config_var("SOABI"), runpy.run_path(folder + "/version.py")["__version__"] if folder else "")
"""


def interpreters():
    """Interpreters whose torch may be meant, best first.

    Build isolation hides the environment by PYTHONPATH (pip) or by a virtual environment of its own (uv, build).
    The first is undone by python -I; from the second, VIRTUAL_ENV and PATH still lead back.
    """
    candidates = [sys.executable]
    for variable in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "CONDA_PREFIX"):
        if os.environ.get(variable):
            candidates.append(os.path.join(os.environ[variable], "bin", "python"))
    for folder in os.get_exec_path():
        candidates.append(os.path.join(folder, "python3"))
    return [path for path in dict.fromkeys(candidates) if os.access(path, os.X_OK)]


@lru_cache(None)
def find_torch():
    """(interpreter, version) of the torch to build against; ends the build with one sentence where there is none."""
    for python in interpreters():
        answer = subprocess.run([python, "-I", "-c", ASK], capture_output=True, text=True)
        abi, _, version = answer.stdout.strip().partition(" ")
        if answer.returncode or not version or abi != sysconfig.get_config_var("SOABI"):
            continue
        if release(version) < OLDEST_TORCH:
            raise SystemExit(f"{NEEDED}, but {python} has torch {version}: first run  pip install --upgrade torch")
        return python, version
    raise SystemExit(f'{NEEDED}, and none is installed here: first run  pip install "torch>=2.11"')


def release(version):
    return tuple(map(int, re.match(r"(\d+)\.(\d+)", version).groups()))


def requirements():
    """An extension runs with the torch minor version it was compiled for; a source archive is for any of them."""
    if "sdist" in sys.argv:
        torch = "torch>=" + ".".join(map(str, OLDEST_TORCH))
    else:
        torch = "torch=={}.{}.*".format(*release(find_torch()[1]))
    return [torch, "numpy", "rich"]


class BuildPackage(build_py):
    """Starts from an empty folder: pip builds in the source tree, where a deleted module would live on."""

    def run(self):
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib, "fastgrad"), ignore_errors=True)
        super().run()


class BuildWithCMake(build_ext):
    """Builds _C and _build_info.py in build/, which is kept between calls, and copies them into the package."""

    def run(self):
        python, version = find_torch()
        soabi = sysconfig.get_config_var("SOABI")
        build = ROOT / "build" / f"{soabi}-torch{'.'.join(map(str, release(version)))}"
        output = build / "package"
        # What an earlier call chose is forgotten; CMake reads the FASTGRAD_* variables of this one.
        self.cmake("-S", ROOT, "-B", build, "-G", "Ninja", "-U", "FASTGRAD_*", "-U", "CMAKE_MAKE_PROGRAM",
                   f"-DPYTHON={python}", f"-DFASTGRAD_OUTPUT={output}", *os.environ.get("CMAKE_ARGS", "").split())
        jobs = os.environ.get("MAX_JOBS") or len(os.sched_getaffinity(0))
        self.cmake("--build", build, "--parallel", jobs)

        package = ROOT / "fastgrad" if self.inplace else Path(self.build_lib, "fastgrad")
        package.mkdir(parents=True, exist_ok=True)
        for name in (Path(self.get_ext_filename("_C")).name, "_build_info.py"):
            shutil.copy(output / name, package / name)

    def cmake(self, *arguments):
        command = [shutil.which("cmake") or "cmake", *map(str, arguments)]
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            raise SystemExit("fastgrad is built with CMake and Ninja: first run  pip install cmake ninja") from None
        except subprocess.CalledProcessError:
            raise SystemExit("fastgrad could not be built; CMake's message above says why.") from None


setup(
    install_requires=requirements(),
    ext_modules=[Extension("fastgrad._C", sources=[])],
    cmdclass={"build_ext": BuildWithCMake, "build_py": BuildPackage},
)

#!/usr/bin/env bash
# All that needs a GPU, in under 10 minutes: builds fastgrad in place for this GPU, runs the suite on it beside
# compute-sanitizer, then times the ops against torch, alone.
#   tools/gpu_check.sh FOLDER [--built] [--dry-run]
# FOLDER receives JSON, and the log of each part; a short table comes last. PYTHON names the interpreter whose torch is
# used (default: python3), FASTGRAD_GPU_CHECK_SECONDS the time for all (default: 590). A part that fails, or for which a
# tool or the time is missing, is reported, and the rest still runs: the exit status is 1 then, and 2 without a GPU.
# --built takes the fastgrad that is in place already.
# --dry-run goes through the parts that need no GPU on the CPU, at sizes that say nothing, with the fastgrad installed.
set -uo pipefail
folder= dry= built=
for argument in "$@"; do
  case $argument in
    --dry-run) dry=1 ;;
    --built) built=1 ;;
    -*) echo "gpu_check: no option $argument; usage: tools/gpu_check.sh FOLDER [--built] [--dry-run]" >&2; exit 2 ;;
    *) folder=$argument ;;
  esac
done
[ -n "$folder" ] || { echo "gpu_check: usage: tools/gpu_check.sh FOLDER [--built] [--dry-run]" >&2; exit 2; }
mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || exit 2
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
device=cuda
[ -z "$dry" ] || device=cpu
if [ -z "$dry" ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2> /dev/null; then
  echo "gpu_check: $python finds no torch with a GPU on this machine: nothing was run" >&2
  exit 2
fi

end=$((SECONDS + ${FASTGRAD_GPU_CHECK_SECONDS:-590}))
failed=0
: > "$folder/parts.tsv"
report() {  # name, seconds, outcome
  printf '%s\t%s\t%s\n' "$1" "$2" "$3" >> "$folder/parts.tsv"
  echo "gpu_check: $1: $3 ($2 s)"
}
skip() {
  report "$1" 0 "skipped: $2"
  failed=1
  return 1
}
part() {  # name, the most seconds, command...
  local name=$1 limit=$2 start=$SECONDS status outcome
  shift 2
  [ "$limit" -le $((end - SECONDS)) ] || limit=$((end - SECONDS))
  [ "$limit" -gt 5 ] || { skip "$name" "no time left"; return; }
  timeout -k 5 "$limit" "$@" > "$folder/$name.log" 2>&1
  status=$?
  outcome=$(grep -v '^[[:space:]]*$' "$folder/$name.log" | tail -1 | tr '\t' ' ' | cut -c1-100)
  case $status in
    0) outcome="ok: $outcome" ;;
    124 | 137) outcome="FAILED: not done after $limit s" ;;
    *) outcome="FAILED, exit status $status: $outcome" ;;
  esac
  report "$name" $((SECONDS - start)) "$outcome"
  [ "$status" = 0 ] || failed=1
  return "$status"
}

environment() {
  uname -srm
  grep -m1 'model name' /proc/cpuinfo
  nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total,clocks.max.sm,clocks.max.memory --format=csv || true
  nvcc --version | tail -2
  "$python" -c '
import platform, torch
print("python", platform.python_version(), "torch", torch.__version__, "CUDA", torch.version.cuda)
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()): print(torch.cuda.get_device_properties(i))'
}
build() {
  local capability arch
  capability=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || return
  arch=$capability
  [ "$capability" != 90 ] || arch=90a  # wgmma
  cmake -S . -B build/gpu -DPYTHON="$(command -v "$python")" -DFASTGRAD_CUDA=on -DFASTGRAD_CUDA_ARCHS="$arch" &&
    cmake --build build/gpu -j "$(nproc)" && "$python" -m fastgrad info
}
suite() {
  local options=() cores
  cores=$(nproc)
  # A process takes about half a gigabyte of the GPU's memory.
  "$python" -c 'import xdist' 2> /dev/null && options+=(-n $((cores < 14 ? cores : 12)) --dist worksteal)
  "$python" -c 'import pytest_timeout' 2> /dev/null && options+=(--timeout 60 --timeout-method thread)
  TORCHINDUCTOR_COMPILE_THREADS=1 OMP_NUM_THREADS=1 \
    "$python" -m pytest tests -q --device cuda -p no:cacheprovider --durations 10 "${options[@]}"
}
sanitize() {
  compute-sanitizer --tool "$1" --error-exitcode 9 --launch-timeout 60 "$python" tools/gpu_check/each_op.py
}
export -f environment build suite sanitize
export python

for nvcc in /usr/local/cuda/bin "${CUDA_HOME:-/usr/local/cuda}/bin"; do PATH=$PATH:$nvcc; done
part environment 30 bash -c environment
if [ -z "$dry" ]; then
  export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
  [ -n "$built" ] || part build 280 bash -c build
fi
part each_op 60 "$python" tools/gpu_check/each_op.py --device "$device"
if [ -z "$dry" ]; then
  together=()
  part suite 200 bash -c suite & together+=($!)
  for tool in memcheck racecheck; do
    if command -v compute-sanitizer > /dev/null; then
      part "$tool" 200 bash -c "sanitize $tool" & together+=($!)
    else
      skip "$tool" "no compute-sanitizer"
    fi
  done
  for process in "${together[@]}"; do wait "$process" || failed=1; done
fi
part ceilings 60 "$python" tools/gpu_check/ceilings.py "$folder/ceilings.json" --device "$device" ${dry:+--tiny}
if [ -n "$dry" ]; then
  part bench 300 "$python" tools/gpu_check/bench.py "$folder/bench.json" --device cpu --tiny --ops relu matmul sum --no-compile
else
  left=$((end - SECONDS - 10))
  part bench "$left" "$python" tools/gpu_check/bench.py "$folder/bench.json" --seconds $((left - 25))
fi
"$python" tools/gpu_check/summary.py "$folder" | tee "$folder/summary.txt" || failed=1
exit "$failed"

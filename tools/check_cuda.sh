#!/usr/bin/env bash
# Compiles every CUDA kernel, on a machine that needs no GPU, and fails on warnings, register spills and local memory.
#   tools/check_cuda.sh [architecture...]        (default: 80 90a)
# Prints per kernel template the registers used; the compiler's full account stays in build/check_cuda/.
set -euo pipefail
cd "$(dirname "$0")/.."
archs=("${@:-80}")
[ $# -gt 0 ] || archs=(80 90a)

nvcc=${CUDACXX:-}
for candidate in "${CUDA_HOME:-/nowhere}/bin/nvcc" "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
  [ -n "$nvcc" ] || { [ -x "$candidate" ] && nvcc=$candidate; }
done
[ -n "$nvcc" ] || { echo "check_cuda: no nvcc in CUDACXX, CUDA_HOME, PATH or /usr/local/cuda" >&2; exit 2; }

out=build/check_cuda
rm -rf "$out" && mkdir -p "$out"
compile() {
  local nvcc=$1 out=$2 arch=$3 source=$4 name
  name=$(basename "$source" .cu).$arch
  if ! "$nvcc" -std=c++20 -O3 -c -Werror all-warnings -Xcompiler -fPIC,-fvisibility=hidden -Xptxas -v \
      -DFASTGRAD_BACKEND_NAMESPACE=cuda '-DFASTGRAD_BACKEND_NAME="cuda"' \
      -gencode="arch=compute_$arch,code=sm_$arch" "$source" -o "$out/$name.o" > "$out/$name.log" 2>&1; then
    echo "== $source, sm_$arch: failed"
    grep -E "error|warning" "$out/$name.log" || cat "$out/$name.log"
    return 1
  fi
}
export -f compile
failed=0
for arch in "${archs[@]}"; do
  for source in csrc/kernels/cuda/*.cu; do printf '%s %s\n' "$arch" "$source"; done
done | xargs -P "$(nproc)" -L 1 bash -c 'compile "$0" "$1" "$2" "$3"' "$nvcc" "$out" || failed=1
[ "$failed" = 0 ] || { echo "check_cuda: compilation failed"; exit 1; }

# Of each kernel: registers, stack frame, spills. The template's name is what precedes the argument list.
cat "$out"/*.log | c++filt | awk '
  /Compiling entry function/ {
    arch = $NF; gsub(/\047/, "", arch)
    name = $0; sub(/^[^\047]*\047/, "", name); full = name
    sub(/^void /, "", name); sub(/<.*/, "", name); sub(/\(.*/, "", name); sub(/.*::/, "", name)
    if (full ~ /anonymous namespace/ && name == "") { name = full; gsub(/.*\(anonymous namespace\)::/, "", name); sub(/[<(].*/, "", name) }
    if (full ~ /rows_/) name = name "<" (full ~ /Group\)0/ ? "warp" : full ~ /Group\)1/ ? "block" : "across") ">"
  }
  /bytes stack frame/ { stack = $1; spills = $5 + $9 }
  /Used [0-9]+ registers/ {
    match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5) + 0
    key = name " " arch; count[key]++
    if (!(key in low) || registers < low[key]) low[key] = registers
    if (registers > high[key]) high[key] = registers
    total_stack[key] += stack; total_spills[key] += spills
    if (stack + spills > 0) { bad++; print "local memory: " full ": " stack " bytes of stack, " spills " of spills" }
  }
  END {
    printf "%-28s %-8s %9s %11s %7s %7s\n", "kernel", "arch", "instances", "registers", "stack", "spills"
    for (key in count) {
      split(key, part, " ")
      line = sprintf("%-28s %-8s %9d %5d - %3d %7d %7d", part[1], part[2], count[key], low[key], high[key], total_stack[key], total_spills[key])
      print line | "sort"
    }
    close("sort")
    if (bad) { print "check_cuda: " bad " kernels use local memory"; exit 1 }
  }'

# ptxas says so, and succeeds, where it runs wgmma one after another or ignores setmaxnreg.
if grep -h "Potential Performance Loss\|setmaxnreg ignored" "$out"/*.log | sort | uniq -c | grep .; then
  echo "check_cuda: the sm_90a matrix product lost what it is for"
  exit 1
fi

# It must have become the instructions it is for. cuobjdump comes with the toolkit or from PyPI: nvidia-cuda-cuobjdump
# and nvidia-cuda-nvdisasm, into any of these Pythons.
if [[ " ${archs[*]} " == *" 90a "* ]]; then
  dump=
  shopt -s nullglob
  candidates=("$(dirname "$nvcc")/cuobjdump" "$(command -v cuobjdump || true)")
  for python in .venv/bin/python "${VIRTUAL_ENV:-/nowhere}/bin/python" "${PYTHON:-python3}"; do
    folder=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' 2> /dev/null) || continue
    candidates+=("$folder"/nvidia/*/bin/cuobjdump)
  done
  for candidate in "${candidates[@]}"; do
    [ -n "$dump" ] || { [ -x "$candidate" ] && dump=$candidate; }
  done
  if [ -n "$dump" ]; then
    PATH=$(dirname "$dump"):$PATH "$dump" -sass "$out/matmul.90a.o" > "$out/matmul.90a.sass"
    for instruction in HGMMA UTMALDG; do
      count=$(grep -c "$instruction" "$out/matmul.90a.sass") ||
        { echo "check_cuda: no $instruction in the sm_90a matrix product"; exit 1; }
      echo "sm_90a matrix product: $count $instruction"
    done
  else
    echo "check_cuda: no cuobjdump: HGMMA and UTMALDG not looked for"
  fi
fi
echo "check_cuda: ok (${archs[*]})"

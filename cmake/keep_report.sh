#!/bin/sh
# A compiler launcher: runs the command, and keeps what it says beside the object it makes, for tools/check_cuda.py.
for argument; do
  [ "$previous" = -o ] && object=$argument
  previous=$argument
done
"$@" > "$object.txt" 2>&1
status=$?
if [ $status -ne 0 ] || grep -q 'warning' "$object.txt"; then cat "$object.txt" >&2; fi
exit $status

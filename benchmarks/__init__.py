"""Benchmark cases, one file a family; installed as fastgrad.bench.cases. See fastgrad/bench/case.py."""

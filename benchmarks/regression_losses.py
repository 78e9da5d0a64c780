from fastgrad.bench.case import Case

CASES: list[Case] = []

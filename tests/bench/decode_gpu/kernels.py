"""Sums up what ncu prints as CSV: each kernel's mean time, its calls, and its shortest."""

import collections
import csv
import sys

NAME, METRIC, GRID = "Kernel Name", "Metric Value", "Grid Size"
rows = [row for row in csv.reader(sys.stdin) if len(row) > 10]
columns = {name: at for at, name in enumerate(rows[0])} if rows else {}
times = collections.defaultdict(list)
for row in rows[1:]:
    nanoseconds = float(row[columns[METRIC]].replace(",", ""))
    times[row[columns[NAME]][:60], row[columns[GRID]]].append(nanoseconds / 1000)
for (name, grid), each in sorted(times.items(), key=lambda item: -sum(item[1])):
    mean = sum(each) / len(each)
    print(f"{mean:8.2f} us × {len(each):4d}  shortest {min(each):7.2f}  {name} {grid}")

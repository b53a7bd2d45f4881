"""How one case is measured: one process, one implementation, one line of JSON on standard output.

The fields are those of the peers' scripts, so that both can stand in one table. Importing this module
fixes the number of threads, which has to happen before TensorFlow is imported.
"""

import argparse
import json
import os
import re
import statistics
import time
from pathlib import Path

THREADS = int(os.environ.setdefault("BENCH_THREADS", "2"))
for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, str(THREADS))
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

UNDISTURBED = 0.08  # share of the machine that others may take
WAITED = 1.06  # wall time over CPU time of one thread that had to wait for a core


def memory_mb(name):
    """What the system says of this process: "VmRSS" is held now, "VmHWM" was the most so far."""
    status = Path("/proc/self/status")
    found = status.exists() and re.search(rf"{name}:\s+(\d+) kB", status.read_text())
    return int(found[1]) / 1024 if found else 0.0


def machine_cpu_seconds():
    """CPU time of all processes since the machine started; None where the system does not tell."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def is_undisturbed(row, threads=THREADS):
    """Whether nobody else took the machine, or a single thread at least never waited for a core."""
    return row["foreign"] < UNDISTURBED or (threads == 1 and row["median_s"] < WAITED * row["cpu_s"])


def measure(run, repetitions, warmup=1, budget=60.0, attempts=2):
    """Times `run()`, again if others used the machine meanwhile, and keeps the quieter attempt.

    Args:
        run: function without arguments that returns when its work is done.
        repetitions: calls of an attempt.
        warmup: calls before the first attempt.
        budget: seconds after which an attempt stops at two calls and no other one starts.
        attempts: most attempts.

    Returns:
        A dict: seconds of a call (`median_s`, `min_s`, `cpu_s` over all threads), `reps`, the share of
        the machine that others took (`foreign`), and memory before, at the peak and the difference.
    """
    before, started = memory_mb("VmRSS"), time.perf_counter()
    for _ in range(warmup):
        run()
    rows = []
    while len(rows) < attempts:
        rows.append(_attempt(run, repetitions, started + budget))
        if is_undisturbed(rows[-1]) or time.perf_counter() > started + budget:
            break
    row = min(rows, key=lambda row: row["foreign"])
    peak = memory_mb("VmHWM")
    memory = {"rss_before_mb": before, "peak_rss_mb": peak, "peak_delta_mb": peak - before}
    return row | {name: round(value, 1) for name, value in memory.items()}


def _attempt(run, repetitions, deadline):
    seconds = []
    machine, own, wall = machine_cpu_seconds(), time.process_time(), time.perf_counter()
    while len(seconds) < repetitions and (len(seconds) < 2 or time.perf_counter() < deadline):
        called = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - called)
    wall, own = time.perf_counter() - wall, time.process_time() - own
    others = 0.0 if machine is None else machine_cpu_seconds() - machine - own
    return {
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "cpu_s": own / len(seconds),
        "reps": len(seconds),
        "foreign": round(max(0.0, others / (wall * os.cpu_count())), 3),
    }


def main(make, **how):
    """The command line of a benchmark: `--case NAME --impl NAME`.

    Args:
        make: function `(case, impl)` that prepares and returns `(run, facts)`. `facts` is a dict of
            further fields; `images`, the number of images a call makes or takes, becomes `img_per_s`.
        **how: arguments of `measure`.
    """
    parser = argparse.ArgumentParser(description=make.__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--impl", default="star_keras")
    arguments = parser.parse_args()
    run, facts = make(arguments.case, arguments.impl)
    row = measure(run, **how)
    images = facts.pop("images", None)
    if images:
        facts["img_per_s"] = images / row["median_s"]
    print(json.dumps({"case": arguments.case, "impl": arguments.impl, **row, **facts}), flush=True)

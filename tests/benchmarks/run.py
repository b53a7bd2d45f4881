"""Runs the benchmarks of star_keras between those of its peers and writes one table.

    python tests/benchmarks/run.py --peers FOLDER --threads 1 --rounds 3

Every case is a process, and the implementations of a case take turns (A B C A B C ...), so that whatever
else the machine does falls on all of them. What counts is the ratio of medians within a case, not a time.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from protocol import is_undisturbed

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results" / "benchmarks.json"
PEAK = "peak of the machine"


@dataclass(frozen=True)
class Case:
    """What is compared with what; an implementation is `(script, case, name)`, its command line.

    Attributes:
        group: name for `--only`.
        name: name of the row in the table.
        target: what star_keras sets out to reach, in words.
        ours: implementations in this folder.
        peers: implementations in the peers' folder.
        reference: one of `ours` that counts as a peer: what speed is the ratio to, where nobody else's is.
        limit: the peers' script and case that measure the peak of the machine, for cases that are
            nothing but products of matrices.
    """

    group: str
    name: str
    target: str
    ours: tuple
    peers: tuple = ()
    reference: str | None = None
    limit: tuple | None = None


def _cases():
    for dtype, views, target in (
        ("fp32", (), "speed >= 1.1"),
        ("bf16", ("-joint", "-views"), "speed >= 0.97"),
    ):
        name = f"SimCLR step, batch 64, {dtype}"
        ours = tuple(("simclr_step.py", "bs64", f"star_keras-{dtype}{views}") for views in ("", *views))
        yield Case("simclr", name, target, ours, (("simclr_step.py", "bs64", f"torch-{dtype}-cl"),))
    ours = tuple(("star_step.py", "bs128", name) for name in ("16-experts", "one-head"))
    yield Case("star", "STAR step, batch 128, bf16", "speed >= 0.94", ours, reference="one-head")
    for size, target in ((32, "12.8 ms a core, 20k views/s"), (96, "85 ms a core, 3k views/s")):
        script = "augment.py", f"aug{size}"
        name = f"256 views with parameters, {size} px"
        yield Case("aug", name, target, ((*script, "star_keras"),), ((*script, "torch-batched"),))
    for pairs, target in ((1024, ""), (4096, "600 ms and 100 MB, one core")):
        case = f"ntxent-{pairs}"
        peers = ("losses.py", case, "chunked"), ("losses.py", case, "plain")
        name = f"NTXent, forward and backward, {pairs} pairs"
        yield Case("ntxent", name, target, (("ntxent.py", case, "star_keras"),), peers)
    for rows, target in ((1024, ""), (4096, "300 ms and 50 MB, one core"), (8192, "1.2 s and 100 MB")):
        case = f"snnl-{rows}"
        peers = ("losses.py", case, "matmul"), ("losses.py", case, "tuned64")
        name = f"SoftNearestNeighbor, forward and backward, {rows} rows"
        ours = tuple(("snnl.py", case, f"star_keras{kind}") for kind in ("", "-squared"))
        yield Case("snnl", name, target, ours, peers)
    for case in ("e4-b512-h512", "e8-b512-h512", "e8-b64-h512", "e32-b512-h128", "e8-b512-h2048"):
        peers = ("mmoe.py", case, "batched"), ("mmoe.py", case, "loop")
        ours = (("mmoe.py", case, "star_keras"),)
        name = f"RoutedExperts, forward and backward, {case}"
        yield Case("mmoe", name, "1.6 x limit", ours, peers, limit=("limits.py", "matmul-f32", "torch"))
    ours = tuple(("mmoe.py", f"e{count}-b256-h64", f"first-call-e{count}") for count in (4, 64))
    name = "RoutedExperts, first jitted call, b256-h64"
    yield Case("mmoe", name, "speed >= 0.5", ours, reference="first-call-e4")
    for batch, target in ((1, "3.3 x single"), (8, "4.1 x single"), (32, "4.1 x single")):
        case = f"B{batch}"
        ours = ("equitune.py", case, "star_keras"), ("equitune.py", case, "single")
        peers = ("group_average.py", case, "batched"), ("group_average.py", case, "loop")
        yield Case("equitune", f"C4 average of a ResNet-18 forward, batch {batch}", target, ours, peers)
    for application in ("images", "zero_shot", "control", "text", "commands"):
        methods = ("equitune",) if application == "text" else ("equitune", "equizero", "lambda")
        for act in ("inference", "latency", "training"):
            yield _overhead(application, act, methods)
    yield _overhead("text", "generation", ("equitune", "equizero"))
    name = "linear probe, 45 weights, 10,000 x 512, 10 classes"
    yield Case("probe", name, "180 s on 2 cores", (("probe.py", "10000x512", "star_keras"),))
    for case, name, target in (
        ("import", "import beyond keras", "150 ms"),
        ("load", "load a saved ResNet-18", "1000 ms"),
    ):
        yield Case("startup", name, target, (("startup.py", case, "star_keras"),))


def _overhead(application, act, methods):
    ours = tuple(("overhead.py", f"{application}-{act}", name) for name in ("alone", *methods))
    return Case("overhead", f"{application}, {act}", "", ours, reference="alone")


CASES = tuple(_cases())


def run_case(case, rounds, threads, peers=None, python=sys.executable):
    """The rows of one case, `{implementation: [one dict a round]}`, implementations taking turns.

    Args:
        case: a `Case`.
        rounds: processes of each implementation.
        threads: threads of each process.
        peers: folder of the peers' scripts, or None.
        python: the peers' interpreter.
    """
    plan = [(name, sys.executable, HERE, (script, argument, name)) for script, argument, name in case.ours]
    if peers:
        folder = Path(peers).resolve()
        plan += [(name, python, folder, (script, argument, name)) for script, argument, name in case.peers]
        plan += [(PEAK, python, folder, case.limit)] if case.limit else []
    rows = {name: [] for name, *_ in plan}
    for _ in range(rounds):
        for name, interpreter, folder, (script, argument, implementation) in plan:
            command = [interpreter, folder / script, "--case", argument, "--impl", implementation]
            row = _run_process(command, threads)
            if row:
                rows[name].append(row)
                print(f"{case.name}: {name}: {row['median_s'] * 1e3:.1f} ms", file=sys.stderr, flush=True)
    return rows


def _run_process(command, threads):
    threads = str(threads)
    environment = {
        **os.environ,
        **dict.fromkeys(("BENCH_THREADS", "OMP_NUM_THREADS"), threads),
        **dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), threads),
        "OMP_WAIT_POLICY": "passive",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    process = subprocess.run(
        list(map(str, command)), cwd=command[1].parent, env=environment, capture_output=True, text=True
    )
    if process.returncode:
        problem = (process.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{command[1].name} {command[-1]} failed: {problem}", file=sys.stderr, flush=True)
        return None
    return json.loads(process.stdout.strip().splitlines()[-1])


def summarise(case, rows, threads):
    """One dict for each implementation: medians over its quiet rounds, and its speed.

    A round is quiet when others took less than 8 % of the machine, or when one thread's wall time is
    within 6 % of its CPU time. Without a quiet round all count, and one thread is timed by its CPU.
    The speed is the time of the fastest peer over the implementation's own; `limits` is the time over
    that of the same arithmetic at the peak of the machine.
    """
    rows = dict(rows)
    peak = max((_flops_a_second(row, threads) for row in rows.pop(PEAK, [])), default=None)
    summaries = [_medians(name, found, threads) for name, found in rows.items() if found]
    peers = [*(name for *_, name in case.peers), case.reference]
    best = min((row["seconds"] for row in summaries if row["implementation"] in peers), default=None)
    for row in summaries:
        row["speed"] = None if best is None else best / row["seconds"]
        flops = rows[row["implementation"]][0].get("flops")
        row["limits"] = None if peak is None else row["seconds"] * peak / flops
    target = {name: case.target for *_, name in case.ours if name != case.reference}
    return [
        {"case": case.name, "threads": threads, "target": target.get(row["implementation"], ""), **row}
        for row in summaries
    ]


def _flops_a_second(row, threads):
    """The measured peak, by the CPU's clock where one thread had to wait."""
    seconds = min(row["min_s"], row["cpu_s"]) if threads == 1 else row["min_s"]
    return row["gflops"] * 1e9 * row["min_s"] / seconds


def _medians(name, found, threads):
    quiet = [row for row in found if is_undisturbed(row, threads)]
    counted = quiet or found

    def median(field):
        return statistics.median(row[field] for row in counted)

    clock = "wall" if quiet or threads != 1 else "CPU"
    return {
        "implementation": name,
        "seconds": median("median_s" if clock == "wall" else "cpu_s"),
        "clock": clock,
        "wall_seconds": median("median_s"),
        "cpu_seconds": median("cpu_s"),
        "peak_mb": median("peak_delta_mb"),
        "foreign": median("foreign"),
        "rounds": len(counted),
        "quiet": bool(quiet),
    }


def machine():
    """The machine and the versions in general terms."""
    flags = set()
    if Path("/proc/cpuinfo").exists():
        found = Path("/proc/cpuinfo").read_text().split()
        flags = {"avx2": "AVX2", "avx512f": "AVX-512", "amx_tile": "AMX"}.items()
        flags = [name for flag, name in flags if flag in found]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    versions = {}
    for package in ("keras", "tensorflow", "tensorflow-cpu", "torch", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(pages / 2**30),
        "processor": ", ".join([platform.machine(), *flags]),
        "python": platform.python_version(),
        "versions": versions,
    }


def markdown(result):
    """The table of a result as Markdown."""
    about = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        "# Benchmarks",
        "",
        f"{about['cores']} cores ({about['processor']}), {about['memory_gb']} GB; Python {about['python']},",
        f"{versions}.",
        "",
        "Speed is the time of the fastest peer of the case over the implementation's own, from medians of",
        "interleaved rounds: above 1 is faster. Times belong to this machine; `CPU` after a time says that",
        "the machine was busy and the CPU time of the single thread counts. `x limit` is the time over that",
        "of the same arithmetic at the measured peak, `+MB` the rise of the peak memory, `others` the share",
        "of the machine that others took.",
        "",
        "| case | threads | implementation | time | speed | x limit | +MB | others | rounds | target |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        time = f"{row['seconds'] * 1e3:.4g} ms" + (" CPU" if row["clock"] == "CPU" else "")
        ratios = ["" if row[name] is None else f"{row[name]:.2f}" for name in ("speed", "limits")]
        cells = (row["case"], row["threads"], row["implementation"], time, *ratios, f"{row['peak_mb']:.0f}")
        cells += (f"{row['foreign']:.0%}", row["rounds"], row["target"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", f"Command: `{result['command']}`, {result['date']}.", ""])


def write(path, result):
    """Writes `path` as JSON and its neighbour as Markdown, keeping other cases of the same machine."""
    path = Path(path)
    if path.exists():
        old = json.loads(path.read_text())
        fresh = {(row["case"], row["threads"]) for row in result["rows"]}
        if old["machine"] == result["machine"]:
            kept = [row for row in old["rows"] if (row["case"], row["threads"]) not in fresh]
            order = {case.name: index for index, case in enumerate(CASES)}
            rows = sorted(kept + result["rows"], key=lambda row: (row["threads"], order.get(row["case"], -1)))
            commands = dict.fromkeys([*old["command"].split("; "), result["command"]])
            result = {**result, "rows": rows, "command": "; ".join(commands)}
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {path: json.dumps(result, indent=1) + "\n", path.with_suffix(".md"): markdown(result)}
    for target, text in texts.items():
        temporary = target.with_name(target.name + ".part")
        temporary.write_text(text)
        os.replace(temporary, target)


def main(arguments=None):
    """Runs the chosen cases; the exit status is 1 where a process failed, 0 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", help="folder of the peers' scripts; without it star_keras runs alone")
    parser.add_argument("--peers-python", default=sys.executable, help="the peers' interpreter")
    parser.add_argument("--only", default="", help="groups or cases, such as ntxent,aug32")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each implementation")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--out", default=RESULTS, help="JSON file; the Markdown appears beside it")
    options = parser.parse_args(arguments)
    words = [word for word in options.only.split(",") if word]
    known = {word for case in CASES for word in (case.group, case.ours[0][1])}
    if set(words) - known:
        parser.error(f"--only takes {', '.join(sorted(known))}. Received: {options.only}")
    if options.peers and not Path(options.peers).is_dir():
        parser.error(f"--peers must be a folder. Received: {options.peers}")
    failed = False
    command = f"run.py --threads {options.threads} --rounds {options.rounds}"
    for case in CASES:
        if words and case.group not in words and case.ours[0][1] not in words:
            continue
        rows = run_case(case, options.rounds, options.threads, options.peers, options.peers_python)
        failed |= any(len(found) < options.rounds for found in rows.values())
        result = {
            "machine": machine(),
            "command": command + (" --peers FOLDER" if options.peers else ""),
            "date": datetime.date.today().isoformat(),
            "rows": summarise(case, rows, options.threads),
        }
        write(options.out, result)
    print(Path(options.out).with_suffix(".md").read_text())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

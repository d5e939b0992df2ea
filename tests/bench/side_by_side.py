"""Measures T1-T4, T6 and T7 (ratios to Redis over TLS and to the transport floor) in one run, and prints one table.

What is compared, always at equal in-flight, equal encryption, 100-byte values, 16-byte keys, 100,000 keys drawn evenly:

T1  `meshwork bench --in-flight 50`, one node, R=W=1, 5 % writes    redis-benchmark --tls -c 50 -P 1   operations a second
T2  the same with --in-flight 800                                   redis-benchmark --tls -c 50 -P 16  operations a second
T3  three nodes, N=3 R=W=2, 480 in flight, 5 % writes               floor tool, same load              operations a second
T4  one node, 1 in flight, reads only                               floor tool, same load              p50 latency
T6  RSS of a node's process before and after loading items with a TTL, less keys and values; Redis beside it
T7  `meshwork bench --embedded`: node and caller in one process, local hits, 256 in flight             operations a second

Redis runs GET and SET one after the other; the rate is the one a 95:5 mix would have (harmonic mean). Its server and
its client have one thread each, like ours. Redis is TLS 1.3 with mutual certificates and AES-128-GCM (proved at start).
All of it is loopback: no NIC, and servers and clients share the cores. Sides alternate run by run; the table gives
medians, with the range over the runs in brackets. Ratios are judged against the bars; absolute numbers are reported only.

Environment: MESHWORK_FLOOR, the floor tool's `run` (else ../shared/tools/floor/run beside the repository);
MESHWORK_BIN, a binary to measure instead of building one.
"""
import argparse
import json
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from sides import ROOT, Failed, Floor, Meshwork, Missing, Redis, run

WRITES = 5
EMBEDDED_IN_FLIGHT = 256
# Target: what, unit, first bar, goal, whether less is better. Bars are those of PERFORMANCE section 2.
TARGETS = {
    "T1": ("1 node, 50 in flight, vs Redis TLS -c 50 -P 1", "ops/s", 4.0, 8.0, False),
    "T2": ("1 node, 800 in flight, vs Redis TLS -c 50 -P 16", "ops/s", 1.5, 3.0, False),
    "T3": ("3 nodes R=W=2, 480 in flight, vs floor", "ops/s", 0.45, 0.80, False),
    "T4": ("1 node, 1 in flight, p50, vs floor", "µs", 1.5, 1.15, True),
    "T6": ("bytes an item beyond key and value, {items} items", "B", 80.0, 44.0, True),
    "T7": ("embedded node, 256 in flight, local hits", "ops/s", 3e6, 8e6, False),
}
# These are judged by their own value; the other side stands beside it for comparison.
ABSOLUTE = ("T6", "T7")


class Results:
    """Samples by (target, side), and why a side is missing."""

    def __init__(self):
        self.samples, self.remarks, self.raw = {}, [], []

    def add(self, target, side, value, raw=None):
        self.samples.setdefault((target, side), []).append(value)
        self.raw.append({"target": target, "side": side, "value": value, **({"raw": raw} if raw else {})})

    def remark(self, text):
        if text not in self.remarks:
            self.remarks.append(text)
            print(text, file=sys.stderr)

    def rows(self, items):
        for target, (what, unit, bar, goal, less) in TARGETS.items():
            ours, theirs = (self.samples.get((target, side), []) for side in ("ours", "theirs"))
            row = {"target": target, "what": what.format(items=f"{items:,}"), "unit": unit, "first_bar": bar, "goal": goal, "less_is_better": less}
            row["ours"], row["theirs"] = spread(ours), spread(theirs)
            if target in ABSOLUTE:
                row["judged"] = row["ours"] and row["ours"]["median"]
            else:
                row["judged"] = row["ours"]["median"] / row["theirs"]["median"] if ours and theirs else None
            row["ratio"] = row["ours"]["median"] / row["theirs"]["median"] if ours and theirs else None
            row["verdict"] = verdict(row["judged"], bar, goal, less)
            yield row


def spread(samples):
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples), "runs": len(samples)} if samples else None


def verdict(value, bar, goal, less):
    if value is None:
        return "not measured"
    reaches = (lambda mark: value <= mark) if less else (lambda mark: value >= mark)
    return "goal" if reaches(goal) else "first bar" if reaches(bar) else "below the bar"


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def shown(part):
    if part is None:
        return "–"
    if part["runs"] == 1:
        return number(part["median"])
    return f"{number(part['median'])} [{number(part['min'])}–{number(part['max'])}]"


def table(rows):
    lines = ["| | what | ours | theirs | ratio | first bar | goal | reached |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        sign = "≤" if row["less_is_better"] else "≥"
        unit = f" {row['unit']}" if row["target"] in ABSOLUTE else "×"
        bars = [f"{sign} {number(row[key]) if row[key] >= 1000 else format(row[key], 'g')}{unit}" for key in ("first_bar", "goal")]
        ratio = f"{row['ratio']:.2f}×" if row["ratio"] is not None else "–"
        cells = [row["target"], f"{row['what']} ({row['unit']})", shown(row["ours"]), shown(row["theirs"]), ratio, *bars, row["verdict"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine(redis):
    def words(command):
        return run(command, 10).strip() if shutil.which(command[0]) else "absent"

    cpu = next((line.split(":", 1)[1].strip() for line in read("/proc/cpuinfo").splitlines() if line.startswith("model name")), platform.machine())
    memory = next((int(line.split()[1]) // 2**20 for line in read("/proc/meminfo").splitlines() if line.startswith("MemTotal")), 0)
    dirty = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": memory,
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
        "rmem_max": int(read("/proc/sys/net/core/rmem_max") or 0),
        "rustc": words(["rustc", "--version"]),
        "redis": f"{redis.version}, {redis.tls}" if redis else "absent",
        "commit": (commit or "unknown") + (" with changes" if dirty else ""),
    }


def read(path):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def attempt(results, what, work):
    """A side that fails takes its own rows with it, and no others."""
    print(f"bench: {what}", file=sys.stderr, flush=True)
    try:
        return work()
    except (Failed, Missing, KeyError, TypeError, ValueError, OSError, subprocess.SubprocessError) as error:
        results.remark(f"FAILED: {what}: {type(error).__name__}: {error}")
        return None


def present(results, what, make):
    try:
        return make()
    except (Missing, Failed) as missing:
        results.remark(f"SKIPPED: {what}: {missing}")
        return None


def redis_run(results, redis, seconds):
    redis.start()
    try:
        redis.fill()
        for target, pipeline in (("T1", 1), ("T2", 16)):
            reply = redis.measure(50, pipeline, seconds, WRITES)
            results.add(target, "theirs", reply["ops_per_s"], reply)
    finally:
        redis.close()


def floor_run(results, floor):
    loads = floor.measure()
    for target, at, key in (("T3", (3, 480, WRITES), "ops_per_s"), ("T4", (1, 1, 0), "p50_us")):
        results.add(target, "theirs", loads[at][key], loads[at])


def meshwork_run(results, mesh, seconds):
    one = mesh.loads(1, 1, [(1, 0), (50, WRITES), (800, WRITES)], seconds)
    three = mesh.loads(3, 2, [(480, WRITES)], seconds)
    picked = (("T4", one[1, 0], "p50_us"), ("T1", one[50, WRITES], "ops_per_s"), ("T2", one[800, WRITES], "ops_per_s"), ("T3", three[480, WRITES], "ops_per_s"))
    for target, reply, key in picked:
        results.add(target, "ours", reply[key], reply)
        if "remark" in reply:
            results.remark(f"NOTE: {target}: {reply['remark']}")


def embedded_run(results, mesh, seconds):
    reply = mesh.embedded(EMBEDDED_IN_FLIGHT, seconds)
    results.add("T7", "ours", reply["ops_per_s"], reply)
    if reply["errors"] or reply["hit_ratio"] < 0.999:
        results.remark(f"NOTE: T7: {reply['errors']} errors, hit ratio {reply['hit_ratio']:.4f}")


def memory_run(results, mesh, redis, items):
    if mesh:
        reply = attempt(results, f"memory of {items:,} items, meshwork", lambda: mesh.item_bytes(items))
        if reply:
            results.add("T6", "ours", reply["rss"], reply)
    if redis:
        def work():
            redis.start()
            try:
                return redis.item_bytes(items)
            finally:
                redis.close()

        reply = attempt(results, f"memory of {items:,} items, Redis", work)
        if reply:
            results.add("T6", "theirs", reply["rss"], reply)
            results.remark(f"NOTE: T6: Redis's own count (used_memory) says {reply['own_count']:.1f} B an item")


def build():
    print("bench: cargo build --release", file=sys.stderr, flush=True)
    run(["cargo", "build", "--quiet", "--release", "--locked", "--bin", "meshwork"], 3600, cwd=ROOT)
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/meshwork"


def arguments():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="repetitions of each side (default 3)")
    parser.add_argument("--seconds", type=int, default=5, help="length of each load (default 5)")
    parser.add_argument("--full", action="store_true", help="T6 with 10,000,000 items instead of 1,000,000")
    parser.add_argument("--sides", default="redis,floor,meshwork", help="which sides to measure, with commas")
    parser.add_argument("--json", action="store_true", help="print JSON, all samples included, instead of the table")
    given = parser.parse_args()
    unknown = set(given.sides.split(",")) - {"redis", "floor", "meshwork"}
    if given.runs < 1 or given.seconds < 1 or unknown:
        parser.error("--runs and --seconds are at least 1, --sides are redis, floor, meshwork")
    return given


def main():
    given = arguments()
    # An ordinary exception, so that every `finally` on the way out ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results, sides = Results(), given.sides.split(",")
    items = 10_000_000 if given.full else 1_000_000
    (ROOT / "target/bench").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "target/bench") as folder:
        redis = present(results, "Redis rows", lambda: Redis(folder)) if "redis" in sides else None
        floor = present(results, "floor rows", lambda: Floor(folder)) if "floor" in sides else None
        mesh = None
        if "meshwork" in sides:
            mesh = present(results, "meshwork rows", lambda: Meshwork(os.environ.get("MESHWORK_BIN") or build()))
        if redis:
            attempt(results, "Redis starts, TLS proved", lambda: (redis.start(), redis.close()))
            if not hasattr(redis, "tls"):
                redis = None
        facts = machine(redis)
        if facts["load_before"] > facts["cores"] / 2:
            results.remark(f"NOTE: the machine was busy before the start (load {facts['load_before']:.1f} on {facts['cores']} cores): repeat when it is quiet")
        for index in range(given.runs):
            work = []
            if redis:
                work.append(("Redis", lambda: redis_run(results, redis, given.seconds)))
            if mesh:
                work.append(("meshwork", lambda: meshwork_run(results, mesh, given.seconds)))
                work.append(("embedded", lambda: embedded_run(results, mesh, given.seconds)))
            if floor:
                work.append(("floor", lambda: floor_run(results, floor)))
            for name, measure in work if index % 2 == 0 else reversed(work):
                attempt(results, f"run {index + 1} of {given.runs}, {name}", measure)
        memory_run(results, mesh, redis, items)
        facts["load_after"] = os.getloadavg()[0]
    rows = list(results.rows(items))
    if given.json:
        print(json.dumps({"schema_version": 1, "machine": facts, "rows": rows, "remarks": results.remarks, "samples": results.raw}, indent=1))
    else:
        print(table(rows) + "\n")
        print(f"{facts['date']}, {facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, Linux {facts['kernel']}, {facts['rustc']}, "
              f"Redis {facts['redis']}, meshwork {facts['commit']}, {given.runs} runs of {given.seconds} s, loopback (no NIC), "
              f"client and servers on the same cores, load {facts['load_before']:.1f} before.")
        for remark in results.remarks:
            print(f"- {remark}")
    return 1 if any(remark.startswith("FAILED") for remark in results.remarks) else 0


if __name__ == "__main__":
    sys.exit(main())

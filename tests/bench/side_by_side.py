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
import signal
import sys
import tempfile

from results import Results, attempt, build, busy, machine, on_the_machine, table
from sides import ROOT, Failed, Floor, Meshwork, Missing, Redis

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
    results, sides = Results(TARGETS, ABSOLUTE), given.sides.split(",")
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
        facts = machine()
        facts["redis"] = f"{redis.version}, {redis.tls}" if redis else "absent"
        busy(results, facts)
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
    rows = list(results.rows(items=f"{items:,}"))
    if given.json:
        print(json.dumps({"schema_version": 1, "machine": facts, "rows": rows, "remarks": results.remarks, "samples": results.raw}, indent=1))
    else:
        print(table(rows) + "\n")
        print(f"{on_the_machine(facts)}, Redis {facts['redis']}, {given.runs} runs of {given.seconds} s, loopback (no NIC), "
              "client and servers on the same cores.")
        for remark in results.remarks:
            print(f"- {remark}")
    return 1 if results.failed() else 0


if __name__ == "__main__":
    sys.exit(main())

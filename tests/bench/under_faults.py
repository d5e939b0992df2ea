"""Measures T9-T11: what a join, a death and idleness cost a mesh of `serve` processes, and prints one table.

Always three nodes of one shard each, N=3, R=W=2 where stand-ins may vote (sloppy), 16-byte keys, 100-byte values, drawn evenly.

T9   p99 of an open loop while a fourth node starts, joins and takes over its share     the same load before
T10  operations a second from 5 s after `kill -9` of one node, closed loop              the same load before
T11  bytes a second and node while three nodes in sync are idle: all that goes over     the same mesh without entries
     loopback, gossip, keep-alives and headers included, so anti-entropy is less

T9's load is one that the machine carries with room to spare (--rate; 165 % of two cores): the fourth process and the stream
must fit beside it. Its measured time begins with the process of the fourth node and ends when nothing moves any more. T10's load takes
all the machine has, before and after: the dead node's part of the cores is given to the others, so the budget is the same two cores. T11 is read from the
interface's counters at both ends of a span in which nobody asks the nodes anything, and beside it from their own metrics.

All of it is loopback: no NIC, and servers and clients share the cores. Every run is a fresh mesh; the table gives medians, with the
range over the runs in brackets. Bars are those of PERFORMANCE section 2; absolute numbers are reported only.

Environment: MESHWORK_BIN, a binary to measure instead of building one.
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from processes import Mesh
from results import Results, attempt, build, busy, machine, on_the_machine, table
from sides import ROOT, Failed

# Target: what, unit, first bar, goal, whether less is better.
TARGETS = {
    "T9": ("p99 while a fourth node joins {items} entries, {rate} a second, vs quiet", "µs", 3.0, 1.5, True),
    "T10": ("5 s after kill -9 of one of three, 480 in flight, vs before", "ops/s", 0.6, 0.95, False),
    "T11": ("idle, three nodes with {items} entries in sync, vs with none", "KiB/s a node", 20.0, 2.0, True),
}
ABSOLUTE = ("T11",)
SHAPE = ["--key-size", 16, "--value-size", 100, "--consistency", "r=2,w=2,sloppy"]
WRITES = 5
IN_FLIGHT = 480
# Set in a network namespace that is ours alone.
ALONE = "MESHWORK_BENCH_ALONE"


def loaded(mesh, items):
    report = mesh.bench("--load-only", "--keys", items, "--in-flight", 256, *SHAPE).report(120 + items // 5_000)
    if report["errors"] or report["load"]["keys"] != items:
        raise Failed(f"{report['errors']} errors while {report['load']['keys']} of {items} keys were loaded")
    mesh.settle()
    in_sync(mesh, items)


def in_sync(mesh, items):
    """Waits until every node holds every entry and has found nothing to do in a round of comparisons."""
    def stats():
        every = [mesh.status(number) for number in mesh.running()]
        return [status["stats"] for status in every] if all(every) else []

    mesh.wait("every node to hold every entry", lambda: (all_of := stats()) and all(s["entries"] == items and not s["hints"] for s in all_of))
    before = stats()

    def equal():
        now = stats()
        return now and all(n["exchanges_equal"] >= b["exchanges_equal"] + 2 for n, b in zip(now, before))

    mesh.wait("two comparisons without differences", equal)


def share(report):
    """What a load's report says that the table does not."""
    return {key: report[key] for key in ("ops_per_s", "p50_us", "p99_us", "p999_us", "max_us", "errors", "errors_by_kind", "retries", "behind", "seconds")}


def join(results, mesh, items, rate, seconds):
    loaded(mesh, items)
    load = ["--no-load", "--keys", items, "--rate", rate, "--writes", WRITES, *SHAPE]
    quiet = mesh.bench(*load, "--seconds", seconds, "--warmup", 2).report(seconds + 60)
    results.add("T9", "theirs", quiet["p99_us"], share(quiet))
    late = mesh.add()
    # It knows the late node's address from the start, as a client with DNS would; the time to open links is in its warm-up.
    bench = mesh.bench(*load, "--seconds", 600, "--warmup", 2)
    time.sleep(2)
    begun = time.monotonic()
    mesh.launch(late)
    moving, marks = None, {}

    def done():
        nonlocal moving
        status = mesh.status(late)
        if status and "layout" not in marks and mesh.status(0)["transition"]:
            marks["layout"] = time.monotonic() - begun
        if status and status["stats"]["entries_moved"] and moving is None:
            moving = time.monotonic() - begun
        return mesh.whole()

    try:
        mesh.wait("the fourth node to own its share", done, 300)
        took = time.monotonic() - begun
    finally:
        bench.stop()
    report = bench.report(60)
    after = mesh.status(late)["stats"]
    joining = {**share(report), "join_s": round(took, 1), "first_entry_s": round(moving or 0, 1), "layout_s": round(marks.get("layout", 0), 1)}
    joining |= {key: after[key] for key in ("entries", "entries_moved", "moved_bytes")}
    results.add("T9", "ours", report["p99_us"], joining)
    settled = mesh.bench(*load, "--seconds", seconds, "--warmup", 2).report(seconds + 60)
    results.add("T9", "four nodes, quiet", settled["p99_us"], share(settled))
    results.remark(
        f"T9: join took {took:.1f} s (layout after {joining['layout_s']} s, first entry after {joining['first_entry_s']} s), {after['entries_moved']:,} entries in "
        f"{after['moved_bytes'] / 2**20:.0f} MiB to a node that then held {after['entries']:,}; p50 {quiet['p50_us']:.0f} → {report['p50_us']:.0f} µs, "
        f"p99.9 {quiet['p999_us']:.0f} → {report['p999_us']:.0f} µs; four nodes at rest: p99 {settled['p99_us']:.0f} µs; {report['errors']} errors, {report['behind']} behind"
    )
    if report["errors"] or quiet["errors"]:
        results.remark(f"FAILED: T9: calls failed: quiet {quiet['errors_by_kind']}, joining {report['errors_by_kind']}")


def death(results, mesh, seconds):
    keys = 100_000
    loaded(mesh, keys)
    load = ["--no-load", "--keys", keys, "--in-flight", IN_FLIGHT, "--writes", WRITES, *SHAPE]
    before = mesh.bench(*load, "--seconds", seconds, "--warmup", 2).report(seconds + 60)
    results.add("T10", "theirs", before["ops_per_s"], share(before))
    # The load's own warm-up is the time until it is measured: two seconds of three nodes, five of two.
    bench = mesh.bench(*load, "--seconds", seconds, "--warmup", 7)
    time.sleep(2)
    mesh.kill(2)
    report = bench.report(seconds + 60)
    noticed = mesh.sees_down(2)
    results.add("T10", "ours", report["ops_per_s"], {**share(report), "noticed": noticed})
    results.remark(
        f"T10: p50 {before['p50_us']:.0f} → {report['p50_us']:.0f} µs, p99 {before['p99_us']:.0f} → {report['p99_us']:.0f} µs; {report['errors']} errors, {report['retries']} retries; "
        f"the others {'held' if noticed else 'did not hold'} it for dead at the end"
    )
    if report["errors"] or before["errors"]:
        results.remark(f"FAILED: T10: calls failed: before {before['errors_by_kind']}, after {report['errors_by_kind']}")


def sent_bytes():
    """Bytes that left on loopback, headers included."""
    line = next(line for line in pathlib.Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def idle_span(mesh, seconds):
    """KiB a second and node, and what the nodes counted meanwhile."""
    def counted():
        every = [mesh.status(number)["stats"] for number in mesh.running()]
        names = ("exchange_rounds", "exchange_messages", "exchanges_equal", "trees_compared", "repair_bytes", "moved_bytes", "hints_stored")
        return {name: sum(stats[name] for stats in every) for name in names}

    before, sent, since = counted(), sent_bytes(), time.monotonic()
    time.sleep(seconds)
    sent, took = sent_bytes() - sent, time.monotonic() - since
    after = counted()
    nodes = len(mesh.running())
    return sent / took / nodes / 1024, {name: round((after[name] - before[name]) / took / nodes, 3) for name in before}


def idle(results, folder, binary, items, seconds):
    for side, count in (("theirs", 0), ("ours", items)):
        mesh = Mesh(binary, folder / f"idle-{count}", 3)
        try:
            mesh.start()
            if count:
                loaded(mesh, count)
            rate, counted = idle_span(mesh, seconds)
            results.add("T11", side, rate, {"kib_per_s_node": rate, **counted})
            words = ", ".join(f"{name} {value}" for name, value in counted.items() if value)
            results.remark(f"T11: {count:,} entries: {rate:.2f} KiB/s a node in {seconds} s; a second and node: {words or 'nothing counted'}")
        finally:
            mesh.close()


def fresh(folder, binary, name, work):
    mesh = Mesh(binary, folder / name, 3)
    try:
        work(mesh.start())
    finally:
        mesh.close()


def arguments():
    parser = argparse.ArgumentParser(prog="tests/bench/faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="T9,T10,T11", help="targets to measure, with commas")
    parser.add_argument("--runs", type=int, default=3, help="repetitions of T9 and T10 (default 3); T11 runs once")
    parser.add_argument("--seconds", type=int, default=10, help="length of each load (default 10)")
    parser.add_argument("--idle", type=int, default=120, help="length of T11's spans (default 120; comparisons come each 10 s)")
    parser.add_argument("--items", type=int, default=1_000_000, help="entries of T9 and T11 (default 1,000,000)")
    parser.add_argument("--rate", type=int, default=20_000, help="T9's calls a second (default 20,000)")
    parser.add_argument("--json", action="store_true", help="print JSON, all samples included, instead of the table")
    given = parser.parse_args()
    given.only = given.only.split(",")
    if min(given.runs, given.seconds, given.idle, given.items, given.rate) < 1 or set(given.only) - set(TARGETS):
        parser.error("numbers are at least 1, targets are T9, T10, T11")
    return given


def alone():
    """Goes on in a network namespace of its own where that can be had; whether this process is in one."""
    if os.environ.get(ALONE) == "1":
        return True
    needed = all(shutil.which(tool) for tool in ("unshare", "ip"))
    if needed and subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode == 0:
        os.environ |= {ALONE: "1", "MESHWORK_BIN": str(os.environ.get("MESHWORK_BIN") or build())}
        inside = 'ip link set lo up && exec "$@"'
        os.execvp("unshare", ["unshare", "--net", "--", "sh", "-c", inside, "sh", sys.executable, "-B", __file__, *sys.argv[1:]])
    return False


def main():
    given = arguments()
    # An ordinary exception, so that every `finally` on the way out ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = Results({target: TARGETS[target] for target in given.only}, ABSOLUTE)
    if not alone():
        results.remark("NOTE: no network namespace of its own (root, unshare, ip): T11 counts whatever else uses loopback")
    binary = os.environ.get("MESHWORK_BIN") or build()
    (ROOT / "target/bench").mkdir(parents=True, exist_ok=True)
    facts = machine()
    busy(results, facts)
    with tempfile.TemporaryDirectory(dir=ROOT / "target/bench") as folder:
        folder = pathlib.Path(folder)
        for run in range(1, given.runs + 1):
            of = f"run {run} of {given.runs}"
            if "T9" in given.only:
                work = lambda mesh: join(results, mesh, given.items, given.rate, given.seconds)
                attempt(results, f"T9, {of}", lambda: fresh(folder, binary, f"join-{run}", work))
            if "T10" in given.only:
                attempt(results, f"T10, {of}", lambda: fresh(folder, binary, f"death-{run}", lambda mesh: death(results, mesh, given.seconds)))
        if "T11" in given.only:
            attempt(results, "T11", lambda: idle(results, folder, binary, given.items, given.idle))
    facts["load_after"] = os.getloadavg()[0]
    rows = list(results.rows(items=f"{given.items:,}", rate=f"{given.rate:,}"))
    if given.json:
        print(json.dumps({"schema_version": 1, "machine": facts, "rows": rows, "remarks": results.remarks, "samples": results.raw}, indent=1))
    else:
        print(table(rows, ("with", "without")) + "\n")
        print(f"{on_the_machine(facts)}, loopback (no NIC), client and servers on the same cores.")
        for remark in results.remarks:
            print(f"- {remark}")
    return 1 if results.failed() else 0


if __name__ == "__main__":
    sys.exit(main())

"""What every benchmark here does with its samples: medians, ratios, bars, one table, and the facts of the machine.

A target is (what, unit, first bar, goal, whether less is better). It is judged by the ratio of the two sides, or, where it is
among `absolute`, by the first side's own value; the other side then stands beside it for comparison.
"""
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import time

from sides import ROOT, Failed, Missing, run


class Results:
    """Samples by (target, side), and why a side is missing. Sides are called `ours` and `theirs` whatever they stand for."""

    def __init__(self, targets, absolute=()):
        self.targets, self.absolute = targets, absolute
        self.samples, self.remarks, self.raw = {}, [], []

    def add(self, target, side, value, raw=None):
        self.samples.setdefault((target, side), []).append(value)
        self.raw.append({"target": target, "side": side, "value": value, **({"raw": raw} if raw else {})})

    def remark(self, text):
        if text not in self.remarks:
            self.remarks.append(text)
            print(text, file=sys.stderr)

    def failed(self):
        return any(remark.startswith("FAILED") for remark in self.remarks)

    def rows(self, **words):
        for target, (what, unit, bar, goal, less) in self.targets.items():
            ours, theirs = (self.samples.get((target, side), []) for side in ("ours", "theirs"))
            row = {"target": target, "what": what.format(**words), "unit": unit, "first_bar": bar, "goal": goal, "less_is_better": less}
            row["ours"], row["theirs"] = spread(ours), spread(theirs)
            row["ratio"] = row["ours"]["median"] / row["theirs"]["median"] if ours and theirs and row["theirs"]["median"] else None
            row["absolute"] = target in self.absolute
            row["judged"] = (row["ours"] and row["ours"]["median"]) if row["absolute"] else row["ratio"]
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


def table(rows, sides=("ours", "theirs")):
    lines = [f"| | what | {sides[0]} | {sides[1]} | ratio | first bar | goal | reached |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        sign = "≤" if row["less_is_better"] else "≥"
        unit = f" {row['unit']}" if row["absolute"] else "×"
        bars = [f"{sign} {number(row[key]) if row[key] >= 1000 else format(row[key], 'g')}{unit}" for key in ("first_bar", "goal")]
        ratio = f"{row['ratio']:.2f}×" if row["ratio"] is not None else "–"
        cells = [row["target"], f"{row['what']} ({row['unit']})", shown(row["ours"]), shown(row["theirs"]), ratio, *bars, row["verdict"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine():
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
        "commit": (commit or "unknown") + (" with changes" if dirty else ""),
    }


def on_the_machine(facts):
    """The facts in words, for below a table."""
    return (f"{facts['date']}, {facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, Linux {facts['kernel']}, {facts['rustc']}, "
            f"meshwork {facts['commit']}, load {facts['load_before']:.1f} before")


def busy(results, facts):
    if facts["load_before"] > facts["cores"] / 2:
        results.remark(f"NOTE: the machine was busy before the start (load {facts['load_before']:.1f} on {facts['cores']} cores): repeat when it is quiet")


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


def build():
    print("bench: cargo build --release", file=sys.stderr, flush=True)
    run(["cargo", "build", "--quiet", "--release", "--locked", "--bin", "meshwork"], 3600, cwd=ROOT)
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/meshwork"

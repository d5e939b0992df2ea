"""The sides of the benchmark: Redis over TLS, meshwork, and the transport floor. Each gives numbers, or says why it cannot.

Every process is started here in a session of its own and ended by its process group; nothing outlives `close()`.
"""
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
VALUE_BYTES = 100
KEY_BYTES = 16  # redis-benchmark's `key:000000012345`
KEYS = 100_000
TTL_SECONDS = 3600
# The same cipher on both sides: quinn takes AES-128-GCM first, OpenSSL would take AES-256-GCM.
CIPHER = "TLS_AES_128_GCM_SHA256"


class Missing(Exception):
    """A side that cannot be measured on this machine; its text says what to do."""


class Failed(Exception):
    """A side that was there and did not work."""


def run(command, limit, **options):
    """Runs one command to its end within `limit` seconds and gives its stdout."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )
    try:
        out, err = process.communicate(timeout=limit)
    except BaseException as error:
        end(process)
        if isinstance(error, subprocess.TimeoutExpired):
            raise Failed(f"`{' '.join(map(str, command))}` took longer than {limit} s") from None
        raise
    if process.returncode != 0:
        tail = "\n".join((err or out).strip().splitlines()[-5:])
        raise Failed(f"`{' '.join(map(str, command))}` exited with {process.returncode}: {tail}")
    return out


def end(process):
    """Ends a process group that we started: politely, then not."""
    for how, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            pass
        try:
            process.wait(timeout=patience)
            return
        except subprocess.TimeoutExpired:
            continue


def rss_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise Failed(f"process {pid} has no VmRSS")


def settled_rss_bytes(pid, limit=30):
    """RSS once three readings in a row, half a second apart, agree within 0.2 %."""
    readings, until = [], time.monotonic() + limit
    while time.monotonic() < until:
        readings = [*readings[-2:], rss_bytes(pid)]
        if len(readings) == 3 and max(readings) - min(readings) <= max(readings) * 0.002:
            break
        time.sleep(0.5)
    return readings[-1]


class Redis:
    """redis-server on loopback, TLS only, no persistence, with throwaway certificates made here."""

    name = "redis"

    def __init__(self, folder):
        for tool in ("redis-server", "redis-benchmark", "redis-cli", "openssl"):
            if shutil.which(tool) is None:
                raise Missing(f"no {tool} (apt-get install redis-server redis-tools openssl)")
        self.folder = pathlib.Path(folder) / "redis"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = None
        self._certificates()
        self.version = run(["redis-server", "--version"], 10).split("v=")[1].split()[0]

    def _certificates(self):
        def openssl(*arguments):
            run(["openssl", *arguments], 30, cwd=self.folder)

        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=bench")
        openssl("req", *key, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=127.0.0.1")
        openssl("x509", "-req", "-in", "node.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-out", "node.crt")
        for file in self.folder.glob("*.key"):
            file.chmod(0o600)

    def _tls(self):
        at = self.folder
        return ["--cacert", f"{at}/ca.crt", "--cert", f"{at}/node.crt", "--key", f"{at}/node.key"]

    def _cli(self, *arguments, limit=20, **options):
        return run(["redis-cli", "-h", "127.0.0.1", "-p", str(self.port), "--tls", *self._tls(), *arguments], limit, **options)

    def start(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        at = self.folder
        # fmt: off
        command = [
            "redis-server", "--port", "0", "--tls-port", str(self.port), "--bind", "127.0.0.1", "--dir", str(at),
            "--tls-cert-file", f"{at}/node.crt", "--tls-key-file", f"{at}/node.key", "--tls-ca-cert-file", f"{at}/ca.crt",
            "--tls-auth-clients", "yes", "--tls-protocols", "TLSv1.3", "--tls-ciphersuites", CIPHER,
            "--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "warning",
        ]
        # fmt: on
        log = open(at / "server.log", "w")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + 15
        while True:
            if self.process.poll() is not None:
                raise Failed(f"redis-server stopped at once: {(at / 'server.log').read_text().strip()}")
            try:
                if self._cli("ping").strip() == "PONG":
                    break
            except Failed:
                if time.monotonic() > until:
                    raise
            time.sleep(0.1)
        self._prove_tls()

    def _prove_tls(self):
        """A comparison with a Redis that fell back to plaintext would be worth nothing."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as plain:
            plain.sendall(b"*1\r\n$4\r\nPING\r\n")
            try:
                answer = plain.recv(64)
            except (ConnectionError, TimeoutError):
                answer = b""
        if b"PONG" in answer:
            raise Failed("redis-server answers in plaintext")
        at = self.folder
        command = ["openssl", "s_client", "-brief", "-connect", f"127.0.0.1:{self.port}"]
        command += ["-CAfile", f"{at}/ca.crt", "-cert", f"{at}/node.crt", "-key", f"{at}/node.key"]
        shaken = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False)
        words = shaken.stderr + shaken.stdout
        if "TLSv1.3" not in words or CIPHER not in words:
            raise Failed(f"redis-server did not shake hands with TLS 1.3 and {CIPHER}: {words.strip()[:300]}")
        self.tls = f"TLS 1.3 {CIPHER}, mutual"

    def _benchmark(self, test, connections, pipeline, requests):
        command = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(self.port), "--tls", *self._tls(), "--csv"]
        command += ["-t", test, "-c", str(connections), "-P", str(pipeline), "-n", str(requests), "-d", str(VALUE_BYTES), "-r", str(KEYS)]
        lines = [line for line in run(command, 180).splitlines() if line.startswith('"')]
        header, row = ([cell.strip('"') for cell in line.split(",")] for line in (lines[0], lines[-1]))
        cells = dict(zip(header, row))
        if cells.get("test") != test.upper():
            raise Failed(f"redis-benchmark printed {lines}")
        return {"ops_per_s": float(cells["rps"]), "p50_us": float(cells["p50_latency_ms"]) * 1000, "p99_us": float(cells["p99_latency_ms"]) * 1000}

    def fill(self):
        # Keys are drawn at random: 12 draws a key leave fewer than one in 100,000 out.
        self._benchmark("set", 50, 16, 12 * KEYS)
        size = int(self._cli("dbsize"))
        if size < 0.999 * KEYS:
            raise Failed(f"{size} of {KEYS} keys after the fill")

    def measure(self, connections, pipeline, seconds, writes):
        """GET and SET one after the other, weighted to `writes` percent by the time each takes (harmonic mean)."""
        parts = {}
        for test, share in (("get", 1 - writes / 100), ("set", writes / 100)):
            if share == 0:
                continue
            guess = self._benchmark(test, connections, pipeline, 20_000 * pipeline)["ops_per_s"]
            parts[test] = self._benchmark(test, connections, pipeline, max(10_000, int(guess * max(1.0, seconds * share))))
        both = 1 / sum((writes / 100 if test == "set" else 1 - writes / 100) / part["ops_per_s"] for test, part in parts.items())
        return {"ops_per_s": both, "p50_us": parts["get"]["p50_us"], "p99_us": parts["get"]["p99_us"], "parts": parts}

    def item_bytes(self, items):
        """Bytes an item costs beyond key and value, by the process's RSS and by Redis's own count."""
        self._cli("flushall")

        def sizes():
            memory = dict(line.split(":", 1) for line in self._cli("info", "memory").splitlines() if ":" in line)
            return settled_rss_bytes(self.process.pid), int(memory["used_memory"])

        rss, used = sizes()
        value = b"v" * VALUE_BYTES
        load = self.folder / "load.resp"
        with open(load, "wb") as out:
            for index in range(items):
                out.write(b"*5\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$%d\r\n%b\r\n$2\r\nEX\r\n$4\r\n%d\r\n" % (index, VALUE_BYTES, value, TTL_SECONDS))
        pipe = ["redis-cli", "-h", "127.0.0.1", "-p", str(self.port), "--tls", *self._tls(), "--pipe"]
        try:
            with open(load, "rb") as source:
                subprocess.run(pipe, stdin=source, stdout=subprocess.DEVNULL, check=True, timeout=600)
        finally:
            load.unlink()
        if int(self._cli("dbsize")) != items:
            raise Failed(f"{self._cli('dbsize').strip()} of {items} items after the load")
        rss_after, used_after = sizes()
        self._cli("flushall")
        whole = VALUE_BYTES + KEY_BYTES
        return {"rss": (rss_after - rss) / items - whole, "own_count": (used_after - used) / items - whole}

    def close(self):
        if self.process is not None:
            end(self.process)
            self.process = None


class Floor:
    """The transport floor: framed streams over quinn with nothing behind them. It prints `floor key=value ..` lines."""

    def __init__(self, folder):
        place = os.environ.get("MESHWORK_FLOOR") or ROOT / "../shared/tools/floor/run"
        self.program = pathlib.Path(place)
        if not self.program.is_file():
            raise Missing("floor tool absent (MESHWORK_FLOOR=path of its `run`)")
        self.environment = {**os.environ, "FLOOR_TARGET": str(ROOT / "target/floor")}

    def measure(self):
        """All loads of the tool, by (nodes, in flight, write percent)."""
        loads = {}
        for line in run(["bash", str(self.program)], 900, env=self.environment).splitlines():
            words = line.split()
            if words[:1] != ["floor"]:
                continue
            cells = dict(word.split("=", 1) for word in words[1:])
            at = (int(cells.pop("nodes")), int(cells.pop("in_flight")), int(cells.pop("writes").rstrip("%")))
            loads[at] = {key: float(value) for key, value in cells.items()}
        if not loads:
            raise Failed("the floor tool printed no `floor` line")
        return loads


class Meshwork:
    """Our side: `meshwork dev` starts the mesh, `meshwork bench` loads it, as any user would."""

    def __init__(self, binary):
        self.binary = pathlib.Path(binary)
        if not self.binary.is_file():
            raise Missing(f"no {self.binary}")
        words = run([str(self.binary), "bench", "--help"], 10)
        if "--in-flight" not in words:
            raise Missing(f"{self.binary} has no `bench`")

    def _bench(self, *arguments):
        return [str(self.binary), "bench", *map(str, arguments), "-o", "json"]

    def _in_dev(self, nodes, commands, limit, *dev):
        """Runs commands one after the other against one fresh mesh; gives what each printed, as JSON."""
        inside = [sys.executable, "-B", str(pathlib.Path(__file__)), json.dumps(commands)]
        out = run([str(self.binary), "dev", "--nodes", str(nodes), *dev, "--", *inside], limit)
        return [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    def loads(self, nodes, quorum, loads, seconds):
        """`loads` are (in flight, write percent); all keys are written before the first one."""
        consistency = ["--consistency", f"r={quorum},w={quorum}"]
        shape = ["--keys", KEYS, "--key-size", KEY_BYTES, "--value-size", VALUE_BYTES, "--clients", 1, *consistency]
        commands = [self._bench("--load-only", *shape)]
        commands += [self._bench("--in-flight", flight, "--writes", writes, "--seconds", seconds, *shape) for flight, writes in loads]
        replies = self._in_dev(nodes, commands, 120 + len(loads) * (seconds + 30))
        if len(replies) != len(commands):
            raise Failed(f"{len(replies)} of {len(commands)} bench runs answered")
        measured = dict(zip(loads, replies[1:]))
        for (flight, _), reply in measured.items():
            if reply["errors"] or reply["hit_ratio"] < 0.999:
                reply["remark"] = f"{reply['errors']} errors, hit ratio {reply['hit_ratio']:.4f} at {flight} in flight"
        return measured

    def embedded(self, flight, seconds):
        shape = ["--keys", KEYS, "--key-size", KEY_BYTES, "--value-size", VALUE_BYTES]
        return json.loads(run(self._bench("--embedded", "--in-flight", flight, "--seconds", seconds, "--writes", 0, *shape), 120 + seconds))

    def item_bytes(self, items):
        """Bytes an item costs beyond key and value, by the RSS of the process that holds the node."""
        # The first thousand pay for connections, tables and the first segments.
        warm = 1000
        shape = ["--key-size", KEY_BYTES, "--value-size", VALUE_BYTES, "--ttl", f"{TTL_SECONDS}s", "--consistency", "r=1,w=1"]
        commands = ["rss", self._bench("--load-only", "--keys", warm, *shape), "rss", self._bench("--load-only", "--keys", items, *shape), "rss"]
        replies = self._in_dev(1, commands, 300 + items // 20_000, "--shards", "1", "--memory", "4GiB")
        idle, before, after = (reply["rss"] for reply in replies if "rss" in reply)
        loads = [reply for reply in replies if "rss" not in reply]
        if any(reply.get("errors") for reply in loads):
            raise Failed(f"the load had errors: {loads}")
        if after - before < (items - warm) * (VALUE_BYTES + KEY_BYTES):
            raise Failed(f"RSS grew by {after - before} B, less than keys and values alone: the items are not there")
        return {"rss": (after - before) / (items - warm) - VALUE_BYTES - KEY_BYTES, "idle_rss": idle}


def inside_dev(commands):
    """Runs as the command of `meshwork dev`, so the parent is the process that holds the nodes."""
    holder = os.getppid()
    for command in commands:
        if command == "rss":
            print(json.dumps({"rss": settled_rss_bytes(holder)}), flush=True)
        else:
            out = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout
            print(json.dumps(json.loads(out)), flush=True)


if __name__ == "__main__":
    inside_dev(json.loads(sys.argv[1]))

"""A mesh of `meshwork serve` processes on loopback for benchmarks that kill, add and watch nodes.

Each node is a process of its own with one shard, started in a session of its own and ended by its process group; certificates
and configurations are made here and go with the folder. Everything that is asked of a node goes over its HTTP address, as an
operator would. Nothing outlives `close()`.
"""
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

from sides import Failed, end, run


class Mesh:
    """Nodes by number; not one of them runs before `launch`."""

    def __init__(self, binary, folder, nodes, memory="1GiB"):
        self.binary, self.folder, self.memory = str(binary), pathlib.Path(folder), memory
        self.folder.mkdir(parents=True)
        self.expected, self.ports, self.processes = nodes, [], []
        self.pki = self.folder / "pki"
        for words in (["init", "--cluster", "bench"], ["node", "*"], ["client", "app"]):
            run([self.binary, "cert", *words, "--dir", str(self.pki)], 30)
        for _ in range(nodes):
            self.add()

    def add(self):
        """A node more, not started; its number."""
        sockets = [socket.socket(socket.AF_INET, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
        try:
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            self.ports.append(tuple(one.getsockname()[1] for one in sockets))
        finally:
            for one in sockets:
                one.close()
        self.processes.append(None)
        return len(self.ports) - 1

    def launch(self, number):
        udp, http = self.ports[number]
        seeds = ", ".join(f'"127.0.0.1:{port}"' for port, _ in self.ports)
        config = self.folder / f"node-{number}.toml"
        config.write_text(
            f'[cluster]\nname = "bench"\nbootstrap_expect = {self.expected}\n'
            f'[node]\nname = "node-{number}"\nzone = "z"\nshards = 1\ndata_dir = "{self.folder}/data-{number}"\n'
            f'[transport]\nlisten = "127.0.0.1:{udp}"\nseeds = [{seeds}]\n'
            f'[tls]\nca = "{self.pki}/ca.pem"\ncert = "{self.pki}/node.pem"\nkey = "{self.pki}/node.key"\n'
            f'[memory]\nlimit = "{self.memory}"\n[http]\nlisten = "127.0.0.1:{http}"\n'
        )
        with open(self.folder / f"node-{number}.log", "a") as log:
            command = [self.binary, "serve", "--config", str(config)]
            self.processes[number] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def start(self):
        for number in range(len(self.ports)):
            self.launch(number)
        self.settle()
        return self

    def running(self):
        return [number for number, process in enumerate(self.processes) if process is not None]

    def said(self, number):
        return (self.folder / f"node-{number}.log").read_text()

    def status(self, number):
        """`/v1/status`; `None`: it does not answer now."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[number][1]}/v1/status", timeout=5) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError, TimeoutError, json.JSONDecodeError):
            return None

    def wait(self, what, condition, limit=120, every=0.1):
        """Waits until `condition()` gives something; what it gave."""
        until = time.monotonic() + limit
        while True:
            found = condition()
            if found:
                return found
            for number in self.running():
                if self.processes[number].poll() is not None:
                    raise Failed(f"node-{number} ended: {self.said(number)[-500:]}")
            if time.monotonic() > until:
                raise Failed(f"{what}: not within {limit} s")
            time.sleep(every)

    def whole(self):
        """Whether all that run are ready members of one layout, and nothing moves any more."""
        names = {f"node-{number}" for number in self.running()}
        for number in self.running():
            status = self.status(number)
            if not status or not status["ready"] or not status["layout_agreed"] or status["transition"]:
                return False
            owning = {member["name"] for member in status["members"] if member["role"] == "member" and member["partitions"]}
            if status["stats"]["partitions_warming"] or status["stats"]["partitions_missing"] or not names <= owning:
                return False
        return True

    def settle(self, limit=120):
        self.wait("all nodes to be ready, in one layout that all own", self.whole, limit)

    def sees_down(self, number):
        """Whether all others that run hold a node for dead."""
        def down(status):
            return any(member["name"] == f"node-{number}" and member["health"] == "down" for member in status["members"])

        return all(status and down(status) for status in map(self.status, self.running()))

    def kill(self, number):
        """As `kill -9` does."""
        process, self.processes[number] = self.processes[number], None
        process.kill()
        process.wait()

    def bench(self, *arguments):
        """Starts `meshwork bench` against the mesh."""
        seeds = ",".join(f"127.0.0.1:{udp}" for udp, _ in self.ports)
        papers = {"MESHWORK_SEEDS": seeds, "MESHWORK_CA": f"{self.pki}/ca.pem", "MESHWORK_CERT": f"{self.pki}/app.pem", "MESHWORK_KEY": f"{self.pki}/app.key"}
        command = [self.binary, "bench", *map(str, arguments), "-o", "json"]
        return Bench(command, {**os.environ, **papers})

    def close(self):
        for process in filter(None, self.processes):
            end(process)
        self.processes = [None] * len(self.ports)


class Bench:
    """A load that runs beside what a benchmark does to the mesh."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )

    def stop(self):
        """Ends it early; it still reports."""
        os.killpg(self.process.pid, signal.SIGINT)

    def report(self, limit):
        """Its report; failed calls are in it."""
        try:
            out, err = self.process.communicate(timeout=limit)
        except BaseException as error:
            end(self.process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"the load took longer than {limit} s") from None
            raise
        if not out.strip():
            raise Failed(f"the load exited with {self.process.returncode}: {err.strip()[-500:]}")
        return json.loads(out)

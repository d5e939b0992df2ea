#!/usr/bin/env python3
"""Checks of our own over rendered manifests: what is valid by schema and still would not work.

Usage: checks.py RENDERED.yaml...   (exit 1 and one line for each fault)
       checks.py --self-test        (each check must find the fault planted for it)
"""
import copy
import pathlib
import re
import sys

import yaml

try:
    import tomllib
except ModuleNotFoundError:  # Python before 3.11
    import tomli as tomllib

HERE = pathlib.Path(__file__).resolve().parent
DRAIN_SECONDS = 30
SPARE_SECONDS = 20
PORT_COUNT_MAX = 64
# Subcommand and flags a probe may use; `meshwork check` is specified to have them.
PROBE_COMMANDS = (["meshwork", "check", "--local"], ["meshwork", "check", "--local", "--live"])


def of_kind(documents, kind):
    return [document for document in documents if document["kind"] == kind]


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def check(documents, settings, dockerfile):
    """All faults of one rendered set, as sentences."""
    faults = []
    fault = faults.append
    sets = of_kind(documents, "StatefulSet")
    services = {service["metadata"]["name"]: service for service in of_kind(documents, "Service")}
    budgets = of_kind(documents, "PodDisruptionBudget")
    configs = {config["metadata"]["name"]: config for config in of_kind(documents, "ConfigMap")}
    if not sets:
        fault("no StatefulSet")
    for statefulset in sets:
        name, spec = statefulset["metadata"]["name"], statefulset["spec"]
        pod = spec["template"]["spec"]
        labels = spec["template"]["metadata"]["labels"]
        if not selects(spec["selector"]["matchLabels"], labels):
            fault(f"{name}: its selector does not match its pods")
        for constraint in pod.get("topologySpreadConstraints", []):
            if not selects(constraint["labelSelector"]["matchLabels"], labels):
                fault(f"{name}: spread over {constraint['topologyKey']} does not match its pods")

        service = services.get(spec["serviceName"])
        if service is None:
            fault(f"{name}: its service {spec['serviceName']} is not there")
        else:
            if service["spec"].get("clusterIP") != "None":
                fault(f"{name}: service {spec['serviceName']} is not headless")
            if not service["spec"].get("publishNotReadyAddresses"):
                fault(f"{name}: pods cannot find each other before they are ready (publishNotReadyAddresses)")
            if not selects(service["spec"]["selector"], labels):
                fault(f"{name}: service {spec['serviceName']} does not match its pods")

        matching = [budget for budget in budgets if selects(budget["spec"]["selector"]["matchLabels"], labels)]
        if len(matching) != 1:
            fault(f"{name}: {len(matching)} PodDisruptionBudgets match its pods")
        for budget in matching:
            if not isinstance(budget["spec"].get("maxUnavailable"), int) or budget["spec"]["maxUnavailable"] >= spec["replicas"]:
                fault(f"{name}: the PodDisruptionBudget must let fewer pods go than there are")

        if pod.get("terminationGracePeriodSeconds", 30) < DRAIN_SECONDS + SPARE_SECONDS:
            fault(f"{name}: grace is shorter than drain {DRAIN_SECONDS} s + {SPARE_SECONDS} s")
        if pod.get("automountServiceAccountToken", True) or pod.get("enableServiceLinks", True):
            fault(f"{name}: account token or service links reach the pod")

        for container in pod["containers"]:
            check_container(name, container, pod, configs, services.get(spec["serviceName"]), settings, fault)

        seeds = settings["transport"]["seeds"]
        base = int(settings["transport"]["listen"].rsplit(":", 1)[1])
        first = [f"{name}-{index}.{spec['serviceName']}:{base}" for index in range(min(3, spec["replicas"]))]
        if seeds != first:
            fault(f"{name}: seeds are {seeds}, the first pods are {first}")
        if settings["cluster"]["bootstrap_expect"] > spec["replicas"]:
            fault(f"{name}: bootstrap_expect is more than the replicas: no layout would ever be made")

    for service in services.values():
        for port in service["spec"]["ports"]:
            if "protocol" not in port:
                fault(f"service {service['metadata']['name']}: port {port['port']} names no protocol")
    for image in re.findall(r"^FROM\s+(\S+)", dockerfile, re.M):
        stage = re.search(rf"\sAS\s+{re.escape(image)}$", dockerfile, re.M)
        if not stage and (":" not in image or image.endswith(":latest")):
            fault(f"Dockerfile: {image} names no version")
    return faults


def check_container(name, container, pod, configs, service, settings, fault):
    image = container["image"]
    if ":" not in image.rsplit("/", 1)[-1] and "@" not in image or image.endswith(":latest"):
        fault(f"{name}: image {image} names no version")
    security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    wanted = {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for key, value in wanted.items():
        if security.get(key) != value:
            fault(f"{name}: {key} must be {value}")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        command = container.get(probe, {}).get("exec", {}).get("command")
        if command not in PROBE_COMMANDS:
            fault(f"{name}: {probe} runs {command}")

    resources = container["resources"]
    if resources["requests"].get("memory") != resources["limits"].get("memory"):
        fault(f"{name}: memory request and limit differ")
    if "cpu" in resources["limits"]:
        fault(f"{name}: a CPU limit would throttle a shard in the middle of a batch")

    for port in container["ports"]:
        if "protocol" not in port:
            fault(f"{name}: port {port['containerPort']} names no protocol")
    base = int(settings["transport"]["listen"].rsplit(":", 1)[1])
    shards = int(resources["requests"]["cpu"])
    ports = [(port["containerPort"], port.get("protocol")) for port in container["ports"]]
    if ports != [(base + shard, "UDP") for shard in range(shards)] or shards > PORT_COUNT_MAX:
        fault(f"{name}: ports {ports} are not {base} + shard for {shards} shards (the CPU request)")
    if service is not None:
        named = {port["name"]: port for port in container["ports"]}
        for port in service["spec"]["ports"]:
            target = named.get(port["targetPort"], {})
            if (target.get("containerPort"), target.get("protocol")) != (port["port"], port.get("protocol")):
                fault(f"{name}: service port {port['port']} leads to no such port of the pod")

    environment = {entry["name"]: entry for entry in container["env"]}
    if environment.get("MESHWORK_TRANSPORT__ADVERTISE", {}).get("value") != f"$(POD_IP):{base}":
        fault(f"{name}: MESHWORK_TRANSPORT__ADVERTISE must be the pod's address and port {base}")
    if list(environment).index("POD_IP") > list(environment).index("MESHWORK_TRANSPORT__ADVERTISE"):
        fault(f"{name}: POD_IP must stand before its use, or it is not expanded")

    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    if set(mounts) != set(volumes):
        fault(f"{name}: mounts {sorted(mounts)} are not the volumes {sorted(volumes)}")
    if any("subPath" in mount for mount in mounts.values()):
        fault(f"{name}: a subPath mount never sees a renewed certificate")
    path = container["args"][container["args"].index("--config") + 1]
    folder, file = path.rsplit("/", 1)
    mounted = [volumes[mount["name"]] for mount in mounts.values() if mount["mountPath"] == folder]
    config_name = mounted[0].get("configMap", {}).get("name") if mounted else None
    if configs and file not in configs.get(config_name, {}).get("data", {}):
        fault(f"{name}: --config {path} is no file of a mounted ConfigMap")
    secrets = [mount["mountPath"] for mount in mounts.values() if "secret" in volumes.get(mount["name"], {})]
    for key in ("ca", "cert", "key"):
        if settings["tls"][key].rsplit("/", 1)[0] not in secrets:
            fault(f"{name}: tls.{key} is not below the mounted secret")


def load(path):
    return [document for document in yaml.safe_load_all(pathlib.Path(path).read_text()) if document]


def settings_of(documents):
    """The settings as rendered; the file itself where nothing was rendered."""
    for config in of_kind(documents, "ConfigMap"):
        if "meshwork.toml" in config.get("data", {}):
            return tomllib.loads(config["data"]["meshwork.toml"])
    return tomllib.loads((HERE / "base/meshwork.toml").read_text())


def self_test():
    """Breaks a good set in every way the checks claim to see."""
    names = ("service", "statefulset", "poddisruptionbudget")
    good = [document for name in names for document in load(HERE / f"base/{name}.yaml")]
    settings, dockerfile = settings_of(good), (HERE / "Dockerfile").read_text()
    assert check(good, settings, dockerfile) == [], check(good, settings, dockerfile)

    def plant(documents, path, value):
        *folders, last = path
        place = documents
        for folder in folders:
            place = place[folder]
        if value is None:
            del place[last]
        else:
            place[last] = value

    pod = (1, "spec", "template", "spec")
    inside = (*pod, "containers", 0)
    planted = [
        ((1, "spec", "selector", "matchLabels", "app.kubernetes.io/name"), "other"),
        ((1, "spec", "serviceName"), "other"),
        ((1, "spec", "replicas"), 1),
        ((0, "spec", "clusterIP"), "10.0.0.1"),
        ((0, "spec", "publishNotReadyAddresses"), False),
        ((0, "spec", "selector", "app.kubernetes.io/name"), "other"),
        ((0, "spec", "ports", 0, "protocol"), None),
        ((0, "spec", "ports", 0, "port"), 7480),
        ((2, "spec", "maxUnavailable"), 3),
        ((2, "spec", "selector", "matchLabels", "app.kubernetes.io/name"), "other"),
        ((*pod, "terminationGracePeriodSeconds"), 49),
        ((*pod, "automountServiceAccountToken"), None),
        ((*pod, "enableServiceLinks"), None),
        ((*pod, "securityContext", "runAsNonRoot"), None),
        ((*pod, "topologySpreadConstraints", 0, "labelSelector", "matchLabels", "app.kubernetes.io/name"), "other"),
        ((*pod, "volumes", 1, "name"), "other"),
        ((*inside, "image"), "meshwork:latest"),
        ((*inside, "image"), "registry.example:5000/meshwork"),
        ((*inside, "securityContext", "readOnlyRootFilesystem"), False),
        ((*inside, "securityContext", "capabilities", "drop"), ["NET_RAW"]),
        ((*inside, "livenessProbe", "exec", "command"), ["sh", "-c", "true"]),
        ((*inside, "readinessProbe"), None),
        ((*inside, "ports", 0, "protocol"), None),
        ((*inside, "ports", 1, "containerPort"), 7480),
        ((*inside, "resources", "requests", "cpu"), "4"),
        ((*inside, "resources", "requests", "memory"), "2Gi"),
        ((*inside, "resources", "limits", "cpu"), "1"),
        ((*inside, "env", 3, "value"), "0.0.0.0:7400"),
        ((*inside, "volumeMounts", 1, "subPath"), "ca.pem"),
        ((*inside, "volumeMounts", 1, "mountPath"), "/elsewhere"),
    ]
    for path, value in planted:
        broken = copy.deepcopy(good)
        plant(broken, path, value)
        assert check(broken, settings, dockerfile), f"nothing found wrong with {path} = {value}"
    planted_settings = [
        ("transport", "seeds", ["a:7400"]),
        ("cluster", "bootstrap_expect", 5),
        ("transport", "listen", "0.0.0.0:7500"),
    ]
    for section, key, value in planted_settings:
        broken = copy.deepcopy(settings)
        broken[section][key] = value
        assert check(good, broken, dockerfile), f"nothing found wrong with {section}.{key} = {value}"
    assert check(good, settings, "FROM debian:latest\n"), "nothing found wrong with an image without version"
    print(f"k8s: checks.py: each of {len(planted) + len(planted_settings) + 1} planted faults is found")


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    status = 0
    for path in sys.argv[1:]:
        documents = load(path)
        faults = check(documents, settings_of(documents), (HERE / "Dockerfile").read_text())
        for fault in faults:
            print(f"k8s: {path}: {fault}", file=sys.stderr)
        status = status or bool(faults)
        if not faults:
            print(f"k8s: checks.py {pathlib.Path(path).name}: {len(documents)} objects fit each other")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())

"""Makes docs/benchmarks.md and its charts of what scripts/bench measured: page.py <results> <folder>."""

import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "figure.constrained_layout.use": True})
import matplotlib.pyplot as plot  # noqa: E402

results, folder = sys.argv[1:]
R = {name[:-5]: json.load(open(f"{results}/{name}")) for name in os.listdir(results) if name.endswith(".json")}
OURS = ["fetch-keys", "save-keys", "generate-content", "open-keys", "onboarding", "rotate-keys", "check-keys"]
MB = 1_000_000
os.makedirs(f"{folder}/benchmarks", exist_ok=True)


def median(spread):
    return spread["median"]


def noisy(spread, digits=2):
    return f"{spread['median']:.{digits}f} ({spread['min']:.{digits}f}–{spread['max']:.{digits}f})"


def chart(name, title, draw, height=2.6):
    figure, axes = plot.subplots(figsize=(7, height))
    draw(axes)
    axes.set_title(title, loc="left")
    figure.savefig(f"{folder}/benchmarks/{name}.svg", metadata={"Date": None})
    plot.close(figure)
    return f"![{title}](benchmarks/{name}.svg)"


def bars(rows, unit, log=False):
    def draw(axes):
        rows.reverse()
        names, spreads = zip(*rows)
        values = [median(s) for s in spreads]
        noise = [[v - s["min"] for v, s in zip(values, spreads)], [s["max"] - v for v, s in zip(values, spreads)]]
        axes.barh(names, values, xerr=noise, color="#4477aa", ecolor="#555555", capsize=2)
        axes.set_xlabel(unit)
        if log:
            axes.set_xscale("log")
    return draw


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


cold, warm, exact, path = R["cold"], R["warm"], R["exact"], R["path"]
floor, python, node = cold["floor"], cold["python"], cold["node"]
goals = []


def goal(what, limit, value, most=True, digits=2):
    met = value <= limit if most else value >= limit
    goals.append((what, f"{'at most' if most else 'at least'} {limit:g}", f"{value:.{digits}f}", "met" if met else "**not met**"))


worst = max(OURS, key=lambda name: median(cold[name]["start_ms"]))
goal(f"start without a connection, × the floor ({worst})", 2, median(cold[worst]["start_ms"]) / median(floor["start_ms"]))
goal(f"start, × faster than Python ({worst})", 100, median(python["start_ms"]) / median(cold[worst]["start_ms"]), most=False, digits=0)
first = median(cold["fetch-keys"]["first_ms"])
goal("start and first answer over TLS, × faster than Python", 25, median(python["first_ms"]) / first, most=False, digits=1)
goal("start and first answer over TLS, × faster than Node", 12, median(node["first_ms"]) / first, most=False, digits=1)
heavy = max(OURS, key=lambda name: cold[name]["peak_kib"])
goal(f"peak memory, of Python's ({heavy})", 0.2, cold[heavy]["peak_kib"] / python["peak_kib"])
big = max((name for name in OURS if name != "generate-content"), key=lambda name: cold[name]["binary_bytes"])
goal(f"size, MB ({big})", 6, cold[big]["binary_bytes"] / MB)
goal("size, MB (generate-content)", 8, cold["generate-content"]["binary_bytes"] / MB)
for name in warm:
    ours, bare, slow = warm[name]["ours"], warm[name]["bare"], warm[name]["python"]
    goal(f"{name}: instructions, × the same calls by hand", 1.25, exact[name]["ours"]["instructions"] / exact[name]["bare"]["instructions"])
    goal(f"{name}: time on a processor, of Python's", 0.25, median(ours["warm_cpu_ms"]) / median(slow["warm_cpu_ms"]))
    goal(f"{name}: first request, × a warm one", 3, median(ours["first_ms"]) / median(ours["warm_ms"]))
    goal(f"{name}: first request's time on a processor, × a warm one's", 10, median(ours["first_cpu_ms"]) / median(ours["warm_cpu_ms"]))
for name, of in path.items():
    goal(f"{name}: wall time with 10 ms a call, × the path", 1.1, median(of["ms"]) / of["theory_ms"], digits=3)

cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
rust = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split()[1]
nodejs = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
when = datetime.now(timezone.utc).strftime("%Y-%m-%d")
out = [f"""# Benchmarks

Made by `scripts/bench` on {when}; do not edit. {os.cpu_count()} processors ({cpu}), Linux {platform.release()}, Rust {rust}, Python {platform.python_version()}, Node {nodejs}. Everything ran on this one machine: functions as `sam build` makes them, embedded DynamoDB and KMS, a stand-in for Lambda's Runtime API. **Ratios of one run are what to look at**; milliseconds belong to this machine. Medians, with minimum and maximum in brackets. Instructions and calls are exact, and `./check` fails where they grow beyond what they may; no time decides anything.

What stands beside the functions is in `bench/`: `floor` (Lambda's runtime and nothing else), `clients` (the SDK's two clients as its documentation makes them), `bare` (the same SDK calls as a request makes, by hand, without identity, limits or log), a Python handler with boto3, a bundled Node handler.

## Goals
""", table(["goal", "limit", "measured", ""], goals)]
if os.path.exists("bench/notes.md"):
    out.append(open("bench/notes.md").read().strip())
everyone = ["floor", "clients", *OURS, "node", "python"]
out += ["## Cold start", "exec → first request to the Runtime API, with nobody to connect to; then with DynamoDB and KMS behind TLS, connections opened; then exec → first answer (a list) over TLS.",
    table(["", "start, ms", "with connections, ms", "first answer, ms", "peak memory, MB", "size, MB"], [(name, noisy(cold[name]["start_ms"]),
        noisy(cold[name]["connected_ms"]), noisy(cold[name]["first_ms"]) if cold[name]["first_ms"] else "", f"{cold[name]['peak_kib'] / 1000:.1f}",
        f"{cold[name]['binary_bytes'] / MB:.2f}" if cold[name]["binary_bytes"] else "") for name in everyone]),
    chart("cold", "exec → first request to the Runtime API", bars([(name, cold[name]["start_ms"]) for name in everyone], "ms, logarithmic", log=True), 3.4)]
out += ["## Requests", "First and later requests of a running function, plain HTTP to DynamoDB and KMS on loopback.",
    table(["", "first, ms", "warm, ms", "first, CPU ms", "warm, CPU ms", "instructions", "calls"], [
        (f"{name}, {who}", noisy(w["first_ms"]), noisy(w["warm_ms"]), noisy(w["first_cpu_ms"]), noisy(w["warm_cpu_ms"], 3),
         f"{exact[name][who]['instructions']:,}" if who in exact[name] else "",
         ", ".join(f"{n} {call}" for call, n in exact[name][who]["calls"].items()) if who == "ours" else "")
        for name in warm for who, w in warm[name].items()])]


def requests(axes):
    names = list(warm)
    for shift, (who, color) in enumerate([("bare", "#999999"), ("ours", "#4477aa"), ("python", "#ee6677")]):
        axes.bar([x + shift * 0.27 for x in range(len(names))], [median(warm[name][who]["warm_cpu_ms"]) for name in names], 0.25, label=who, color=color)
    axes.set_xticks([x + 0.27 for x in range(len(names))], names)
    axes.set_ylabel("CPU ms a request")
    axes.legend(frameon=False)


out += [chart("requests", "Time on a processor of a warm request", requests),
    "## Critical path", "Every call of DynamoDB and KMS takes 10 ms; generate until its provider is asked.",
    table(["", "path, ms", "measured, ms"], [(name, of["theory_ms"], noisy(of["ms"])) for name, of in path.items()])]
load = [("serve", R["load"]), ("FastAPI", R["fastapi"])]
out += ["## Load", "Clients on the same two processors as the server. `serve` (all functions on one port, embedded DynamoDB and KMS in the same process, every key encrypted and every use on the record) beside `bench/peers/app.py` (FastAPI, SQLAlchemy and PostgreSQL, one uvicorn worker, keys in clear, no record).",
    table(["", "clients", "requests/s", "ms", "peak memory, MB"], [(f"{who}: {one['operation']}", one["clients"], f"{one['per_second']:.0f}", noisy(one["ms"]),
        f"{one['rss_kib'] / 1000:.0f}" if who == "serve" else "") for who, all_of in load for one in all_of])]


def throughput(axes):
    for who, all_of in load:
        for operation in dict.fromkeys(one["operation"] for one in all_of):
            of = [one for one in all_of if one["operation"] == operation]
            axes.plot([one["clients"] for one in of], [one["per_second"] for one in of], marker="o", label=f"{who}: {operation}", linestyle="-" if who == "serve" else "--")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("clients")
    axes.set_ylabel("requests/s")
    axes.legend(frameon=False)


out += [chart("load", "Requests a second", throughput, 3.2), "## Growth", "What a request costs with more people in the table and more keys of one person.",
    table(["", "people", "keys", "warm, ms", "warm, CPU ms"], [(one["sequence"], f"{one['people']:,}", one["keys"], noisy(one["warm"]["warm_ms"]),
        noisy(one["warm"]["warm_cpu_ms"], 3)) for one in R["scale"]])]


def growth(axes):
    for sequence in ["list", "open"]:
        for keys in [1, 10]:
            of = [one for one in R["scale"] if one["sequence"] == sequence and one["keys"] == keys]
            axes.plot([one["people"] for one in of], [median(one["warm"]["warm_cpu_ms"]) for one in of], marker="o", label=f"{sequence}, {keys} keys")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("people in the table")
    axes.set_ylabel("CPU ms a request")
    axes.legend(frameon=False)


stash = R["credstash"]
opened, listed = warm["open"]["ours"]["warm_ms"], warm["list"]["ours"]["warm_ms"]
out += [chart("growth", "Time on a processor of a warm request", growth, 2.8), "## Rotation",
    "Keys moved under a new KMS key in a second, against `Scan`, `ReEncrypt` and `UpdateItem` in a plain loop, 16 at once both. Memory is that of the whole process, DynamoDB's rows included.",
    table(["keys", "job, keys/s", "loop, keys/s", "job ÷ loop", "peak memory, MB: job", "loop"], [(f"{one['keys']:,}", f"{one['ours_per_second']:.0f}", f"{one['bare_per_second']:.0f}",
        f"{one['ours_per_second'] / one['bare_per_second']:.2f}", f"{one['peak_kib'][0] / 1000:.0f}", f"{one['peak_kib'][1] / 1000:.0f}") for one in R["rotation"]]),
    "## credstash", "PyPI's credstash 1.17.1 on the embedded DynamoDB and KMS, as a library in a Python process that runs. It shares one secret store among all who may use its KMS key; its `getall` opens every secret, our list opens none.",
    table(["", "ms"], [("credstash get, one secret", noisy(stash["get"])), ("ours: open, one key, with its audit record", noisy(opened)),
        ("credstash getall, 20 secrets", noisy(stash["getall_of_20"], 1)), ("ours: list", noisy(listed))]),
    f"Open is {median(stash['get']) / median(opened):.1f} times as fast as get, list {median(stash['getall_of_20']) / median(listed):.0f} times as fast as getall."]
open(f"{folder}/benchmarks.md", "w").write("\n\n".join(out) + "\n")
print("\n".join(f"{met.strip('*'):8} {what}: {value} ({limit})" for what, limit, value, met in goals))

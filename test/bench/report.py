"""What came out: as lines while it runs, as JSON, as a table in Markdown, as a picture."""
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess

import contestants as c
from rows import AT_LEAST, AT_MOST

PERCENTILES = ("p50_us", "p99_us", "p999_us")


def split_more(value):
    return value if isinstance(value, tuple) else (value, {})


def pick_ways(figures):
    """{name: figures of each round}, with those of whoever has several ways (`who: way`) made into the one whose median is best.

    Also {name: way}."""
    picked, ways = {}, {}
    for name, values in figures.items():
        who, _, way = name.partition(": ")
        if who not in picked or statistics.median(values) > statistics.median(picked[who]):
            picked[who] = values
            if way:
                ways[who] = way
    return picked, ways


def results_of(row, measured):
    """measured: {contestant: [(figure, more) of each round]}, kvd among them."""
    figures, ways = pick_ways({name: [figure for figure, _ in rounds] for name, rounds in measured.items()})
    mores = {name: middle_of([more for _, more in rounds]) for name, rounds in measured.items()}
    unit, divisor = row.unit
    for name, theirs in figures.items():
        if name == "kvd":
            continue
        ratio = statistics.median(ours / other for ours, other in zip(figures["kvd"], theirs))
        goal = row.goals.get(name)
        yield {"row": row.name, "kvd": statistics.median(figures["kvd"]) / divisor, "against": name, "ratio": ratio, "goal": goal,
               "met": None if goal is None else (ratio >= goal if row.goal_is == AT_LEAST else ratio <= goal), "goal_is": row.goal_is,
               "theirs": statistics.median(theirs) / divisor, "unit": unit, "rounds": len(theirs), "way": ways.get(name),
               "kvd_latencies": mores["kvd"], "their_latencies": mores.get(name if name not in ways else f"{name}: {ways[name]}", {})}


def middle_of(mores):
    return {name: statistics.median(more[name] for more in mores) for name in mores[0]} if mores else {}


def nothing(row, against, why, failed):
    return {"row": row.name, "kvd": None, "against": against, "ratio": None, "goal": row.goals.get(against), "met": None, "why": why,
            "failed": failed}


# ---- as a table ----

COLUMNS = ("row", "kvd", "against", "theirs", "ratio", "goal", "p50 / p99 / p99.9, ms", "theirs, ms")


def number(value):
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def goal_text(result):
    if result["goal"] is None:
        return ""
    text = f"{'≥' if result.get('goal_is', AT_LEAST) == AT_LEAST else '≤'} {result['goal']:.2f}"
    return text if result["met"] is None else f"{text} {'met' if result['met'] else 'NOT met'}"


def latency_text(more):
    return " / ".join(f"{more[name] / 1e3:.2f}" for name in PERCENTILES) if PERCENTILES[0] in more else ""


def cells(result):
    if result["kvd"] is None:
        return (result["row"], "", result["against"], ("failed: " if result["failed"] else "not there: ") + result["why"], "", goal_text(result), "", "")
    against = result["against"] + (f" ({result['way']})" if result.get("way") else "")
    return (result["row"], f"{number(result['kvd'])} {result['unit']}", against, number(result["theirs"]), f"{result['ratio']:.2f}",
            goal_text(result), latency_text(result["kvd_latencies"]), latency_text(result["their_latencies"]))


def line(result):
    row, ours, against, theirs, ratio, goal, _, _ = cells(result)
    if result["kvd"] is None:
        return f"{row:46} {against:26} {theirs}"
    return f"{row:46} {ours:>20}  {against:26} {theirs:>7}  ratio {ratio:>5}  {goal}"


def markdown(results):
    out = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    before = None
    for result in results:
        row, *rest = cells(result)
        out.append("| " + " | ".join(["" if row == before else row, *rest]) + " |")
        before = row
    return "\n".join(out)


def machine(folder):
    """In words, without a name."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    memory = int(re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1)) * c.KIB
    mount = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", str(folder)], capture_output=True, text=True, check=False).stdout.strip()
    virtual = ", a virtual machine" if "hypervisor" in cpuinfo else ""
    huge = re.search(r"\[(\w+)\]", pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text())
    return (f"{os.cpu_count()} cores ({model.group(1) if model else platform.machine()}){virtual}, {memory / c.GIB:.0f} GiB of memory, Linux "
            f"{'.'.join(platform.release().split('.')[:2])}, transparent huge pages: {huge.group(1) if huge else '?'}; the directory on "
            f"{mount or 'an unknown file system'}")


MARKS = ("<!-- bench: by scripts/bench --write-page -->", "<!-- /bench -->")


def page_part(results, folder):
    least = min((result["rounds"] for result in results if result["kvd"] is not None), default=0)
    return f"On {machine(folder)}. Medians of {least} rounds or more.\n\n{markdown(results)}"


def write_page(path, part):
    before, mark, rest = path.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (mark and end):
        raise SystemExit(f"bench: {path} has no marks: {' ... '.join(MARKS)}")
    path.write_text(f"{before}{mark}\n\n{part}\n\n{end}{after}")


# ---- as a picture ----

AT_MOST_MARK = {AT_LEAST: "", AT_MOST: ": at most"}
PLOT = """set terminal svg size 1200,1000 dynamic font 'sans,11' background 'white'
set output '{svg}'
set multiplot title '{title}'
set style data linespoints
set grid
set key bottom center outside horizontal
set logscale x 2
set xtics ('64 KiB' 64, '256 KiB' 256, '1 MiB' 1024, '4 MiB' 4096, '16 MiB' 16384, '64 MiB' 65536)
set xrange [48:90000]
set size 0.33,0.44
set ylabel 'GB/s'
set yrange [0:*]
set origin 0,0.51
set title 'get from memory, by size (one connection, depth 8)'
plot {get}
set origin 0.33,0.51
set title 'put to memory'
plot {put}
set origin 0.66,0.51
set title 'p99 of a get'
set ylabel 'ms'
set logscale y
set autoscale y
plot {p99}
unset logscale
unset ylabel
set origin 0,0
set size 1,0.51
set title 'ratios that have a goal: kvd to theirs (bar), the goal (line)'
set lmargin 70
set key off
set xtics auto
set xrange [0:{most}]
set yrange [{count}:-1]
set ytics font ',9'
set style fill solid 0.6
plot {ratios}
unset multiplot
"""
BY_SIZE = re.compile(r"(get|put) (\d+) ([KM])iB, memory, 1 conn, depth 8$")


def series(results, op):
    """{name: [(KiB, GB/s, p99 in ms or None)]} of everybody who was measured at each size."""
    out = {}
    for result in results:
        found = BY_SIZE.match(result["row"])
        if not found or found.group(1) != op or result["kvd"] is None:
            continue
        size = int(found.group(2)) * (1024 if found.group(3) == "M" else 1)
        for name, figure, more in (("kvd", result["kvd"], result["kvd_latencies"]),
                                   (result["against"], result["theirs"], result["their_latencies"])):
            if ", by " not in name:
                out.setdefault(name, {})[size] = (figure, more["p99_us"] / 1e3 if more else None)
    return {name: [(size, *values) for size, values in sorted(points.items())] for name, points in out.items()}


def block(name, lines):
    return f"${name} << EOD\n" + "\n".join(lines) + "\nEOD\n"


def picture(results, svg, title):
    """Draw it. Returns None, or why there is none."""
    if not shutil.which("gnuplot"):
        return "gnuplot is not installed"
    judged = [result for result in results if result["goal"] is not None and result["ratio"] is not None]
    if not (judged and series(results, "get") and series(results, "put")):
        return "it takes rows of get and put by size, and one that has a goal"
    data, plots = "", {"get": [], "put": [], "p99": []}
    for op in ("get", "put"):
        for i, (name, points) in enumerate(series(results, op).items()):
            data += block(f"{op}{i}", [f"{size} {figure} {p99 if p99 is not None else 'NaN'}" for size, figure, p99 in points])
            line = f"title '{name}' lw {3 if name == 'kvd' else 1}"
            plots[op].append(f"${op}{i} using 1:2 {line}")
            if op == "get" and points[0][2] is not None:
                plots["p99"].append(f"$get{i} using 1:3 {line}")
    data += block("ratios", [f"{i} {result['ratio']} {result['goal']} \"{result['row']} / {result['against']}{AT_MOST_MARK[result['goal_is']]}\"" for i, result in enumerate(judged)])
    ratios = ("$ratios using ($2/2):1:($2/2):(0.35):ytic(4) with boxxyerrorbars lc rgb '#9400d3', "
              "$ratios using 3:1:(0):(0.45) with xyerrorbars pt 0 lw 3 lc rgb '#009e73'")
    most = 1.1 * max(max(result["ratio"], result["goal"]) for result in judged)
    script = data + PLOT.format(svg=svg, title=title, ratios=ratios, most=most, count=len(judged), **{name: ", ".join(parts) for name, parts in plots.items()})
    done = subprocess.run(["gnuplot"], input=script, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise c.Failed(f"gnuplot: {done.stderr.strip()[-300:]}")
    return None


def write_json(results, path):
    pathlib.Path(path).write_text(json.dumps(results, indent=1) + "\n")

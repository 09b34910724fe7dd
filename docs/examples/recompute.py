#!/usr/bin/env python3
"""Recompute every figure of an exported post-mortem from its events alone.

    docs/examples/recompute.py docs/examples/PM-1

reads PM-1.events.jsonl, follows its chain of hashes, makes the record in PM-1.json again, computes again what it derives and every point of
every chart, and checks that each chart in PM-1.*.svg shows these points, that each sentence and each row of a table with figures stands in
PM-1.md as computed, and that no other number in it is unknown. It shares no code with specproxy and needs
nothing but Python. It ends with 0 if all is as computed, else it says what is not.
"""

import hashlib
import itertools
import json
import math
import os
import re
import sys
from datetime import datetime, timezone

FULL = 10_000
ALPHA = 0.05
BUDGET = 10
MOST = 100_000
FAILURES = 200
RUNS = 2_000
UNIT = 1 << 32
PLANNED = [100, 200, 500, 1000, 2000, 5000]
MASK = (1 << 64) - 1
# TOOK is Go's way to write a time: 1m30s, 2.8s, 12.7ms.
TOOK = r"\b(?:\d+(?:\.\d+)?(?:h|ms|µs|m|s))+\b"


LIMITS = set()  # for how many executions plans were looked at


class Wrong(Exception):
    """What was computed is not what is written."""


def nanos(text):
    """Nanoseconds since 1970 of an RFC 3339 time; None if there is none."""
    if not text or text.startswith("0001-01-01"):
        return None
    m = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z", text)
    if not m:
        raise Wrong(f"not a time in UTC: {text}")
    whole = datetime.strptime(m[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    return int(whole.timestamp()) * 10**9 + int((m[2] or "0").ljust(9, "0"))


# --- the chain -------------------------------------------------------------------------------------------------------------------------------

def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def read_chain(name):
    """The record's events, and the head that the chain ends at. Each hash is over the event's bytes as they stand in its line."""
    events = []
    with open(name, encoding="utf-8") as lines:
        start = json.loads(next(lines))["after"]
        seq, link = start["seq"], start["link"]
        for text in lines:
            text = text.rstrip("\n")
            entry = json.loads(text)
            seq += 1
            if text.startswith('{"event":'):
                raw = text[len('{"event":'):text.rindex(',"hash":"')]
                if sha(raw) != entry["hash"]:
                    raise Wrong(f"event {seq} was altered: it does not have its hash")
                if entry["event"]["seq"] != seq:
                    raise Wrong(f"event {entry['event']['seq']} stands where event {seq} belongs")
                events.append(entry["event"])
            link = sha(link + entry["hash"])
            if link != entry["link"]:
                raise Wrong(f"event {seq} does not follow what is before it")
    return events, {"seq": seq, "link": link}


# --- the record -----------------------------------------------------------------------------------------------------------------------------

ASKED = ["explanation", "canary", "conformance", "fixed-in", "no-action"]


def replay(events):
    """The record that its events make, each in its turn."""
    record = {}

    def of(fact):
        return next(r for r in record["rollbacks"] if r["spec"] == fact["spec"])

    def abandoned(fact):
        return next(a for a in of(fact)["abandoned"] if a["version"] == fact["version"])

    def add(key, value):
        record.setdefault(key, []).append(value)

    for e in events:
        fact, kind, said = json.loads(json.dumps(e["fact"])), e["kind"], {"at": e["at"], "actor": e["actor"]}
        if kind == "opened":
            record.update(fact, id=e["record"], openedAt=e["at"], actor=e["actor"])
        elif kind == "proven":
            of(fact)["effect"] = fact["effect"]
        elif kind == "drained":
            abandoned(fact)["settled"] = fact["settled"]
        elif kind == "gathered":
            of(fact)["evidence"] = dict(fact["evidence"], at=e["at"])
        elif kind == "refusal":
            next(i for i in record["interventions"] if i["id"] == fact["intervention"])["refusal"] = fact["why"]
        elif kind in ("intervention", "override", "unfrozen"):
            add({"intervention": "interventions", "override": "overrides", "unfrozen": "unfrozen"}[kind], fact)
        elif kind == "undone":
            record["undone"] = fact
        elif kind == "alert":
            add("alerts", fact["alert"])
        elif kind == "answered":
            record["approvals"] = []
            before = [a for a in record.get("answers", []) if a["question"] != fact["question"]]
            record["answers"] = sorted(before + [dict(fact, by=e["actor"], at=e["at"])], key=lambda a: ASKED.index(a["question"]))
        elif kind == "assigned":
            record["owner"] = {"name": fact["owner"], "due": fact.get("due"), "note": fact.get("note"), "by": e["actor"], "at": e["at"]}
        elif kind == "action":
            action = fact["action"]
            there = [i for i, a in enumerate(record.get("actions", [])) if a["id"] == action["id"]]
            if there:
                record["actions"][there[0]] = action
            else:
                add("actions", action)
        elif kind == "approved":
            add("approvals", {"by": e["actor"], "at": e["at"], "note": fact.get("note")})
        elif kind == "named":
            if all(f["digest"] != fact["digest"] for f in record.get("namedBy", [])):
                add("namedBy", dict(fact, by=e["actor"], at=e["at"]))
        elif kind == "erased":
            add("erasures", dict(fact, **said))
        elif kind == "closed":
            record["closing"] = {"cause": fact["cause"], "note": fact["note"], **said}
            for last in fact.get("final") or []:
                a = abandoned(last)
                a["touched"], a["touchedOmitted"] = last.get("touched"), last.get("touchedOmitted", 0)
                if a.get("settled"):
                    a["settled"]["failed"] = last["failed"]
        elif kind == "reopened":
            add("reopenings", {"reason": fact["reason"], "was": record.pop("closing"), **said})
            record["approvals"] = []
        else:
            raise Wrong(f"event {e['seq']} is of a kind that is not known here: {kind}")
    return record


def check_record(record, written):
    """Both say the same. What an open record counts of executions to redo and of acts is of the moment in which it was read, and in no event yet."""
    if "closing" not in record:
        for mine, theirs in zip(record["rollbacks"], written["rollbacks"]):
            for a, b in zip(mine["abandoned"], theirs["abandoned"]):
                a["touched"], a["touchedOmitted"] = b.get("touched"), b.get("touchedOmitted", 0)
                if a.get("settled") and b.get("settled"):
                    a["settled"]["failed"] = b["settled"]["failed"]
    same(record, written, "record")
    same(written, record, "record")


# --- the tests -------------------------------------------------------------------------------------------------------------------------------

def mix(z):
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class Ratio:
    """A bet on each of 40 ratios from 1 to 50 that the canary fails so many times as often, in whole 2^-32 nats."""

    stakes = {}

    def __init__(self):
        self.wealth = [0] * 40

    @classmethod
    def at(cls, weight):
        if weight not in cls.stakes:
            w = weight / FULL
            canary, stable = [], []
            for i in range(40):
                r = math.pow(50, i / 39)
                canary.append(math.floor(math.log(r / (w * r + 1 - w)) * UNIT))
                stable.append(math.floor(-math.log(w * r + 1 - w) * UNIT))
            cls.stakes[weight] = (stable, canary)
        return cls.stakes[weight]

    def fail(self, canary, weight):
        if 0 < weight < FULL:
            self.wealth = [a + b for a, b in zip(self.wealth, self.at(weight)[1 if canary else 0])]

    def log(self):
        most = max(self.wealth)
        total = sum(math.exp((x - most) / UNIT) for x in self.wealth if x - most > -40 * UNIT)
        return most / UNIT + math.log(total / len(self.wealth))

    def reached(self, threshold):
        return max(self.wealth) / UNIT >= threshold and self.log() >= threshold


def run(base, ratio, exposures, state):
    bad = min(1.0, base * ratio)
    threshold = -math.log(ALPHA)
    test, executions, canary, failed = Ratio(), 0, 0.0, 0
    stopped = False
    for weight, count in exposures:
        w = weight / FULL
        on_canary, on_stable = w * bad, (1 - w) * base
        rate, at = on_canary + on_stable, 0
        while rate > 0 and not stopped:
            state = (state + 1) & MASK
            u = ((mix(state) >> 11) + 0.5) / (1 << 53)
            gap = int(math.log(u) / math.log1p(-min(rate, 1 - 1e-12))) + 1
            if gap > count - at:
                canary += w * (count - at)
                executions += count - at
                break
            at += gap
            canary += w * gap
            executions += gap
            state = (state + 1) & MASK
            u = ((mix(state) >> 11) + 0.5) / (1 << 53)
            hit = u < on_canary / rate
            failed += hit
            test.fail(hit, weight)
            stopped = test.reached(threshold)
        if stopped:
            break
    return stopped, executions, round_half_away(canary), max(0.0, failed - base * canary)


def round_half_away(x):
    return math.floor(x + 0.5)


def foresee(base, ratio, exposures):
    stops = [run(base, ratio, exposures, mix(i + 1)) for i in range(RUNS)]
    return sorted(stops, key=lambda s: (not s[0], s[1]))


def log_above(every, failed, ceiling):
    if every == 0 or ceiling <= 0 or ceiling >= 0.99:
        return 0.0

    def likelihood(q):
        return (every - min(every, failed)) * math.log1p(-q) + (failed * math.log(q) if failed else 0)

    most = min(50, 0.99 / ceiling)
    logs = [likelihood(ceiling * math.pow(most, i / 39)) - likelihood(ceiling) for i in range(40)]
    top = max(logs)
    return top + math.log(sum(math.exp(x - top) for x in logs) / 40)


# --- what follows from the evidence -----------------------------------------------------------------------------------------------------------

def find(outcomes, version):
    for o in outcomes or []:
        if o["version"] == version:
            return o
    return {"started": 0, "succeeded": 0, "failed": 0, "unknown": 0, "inFlight": 0}


def rate_of(totals, version):
    o = find(totals, version)
    failed, ended = o["failed"], o["failed"] + o["succeeded"]
    return {"failed": failed, "ended": ended, "rate": failed / ended if failed else (failed + 0.5) / (ended + 1)}


def weight_of(step, version):
    return sum(s["basisPoints"] for s in step["splits"] if s["version"] == version)


def seen(step, version):
    known = bool(step["end"]) and bool(step["begin"])
    executions = every = failed = 0
    for end in step["end"]:
        begin = find(step["begin"], end["version"])
        if end["started"] < begin["started"] or end["failed"] < begin["failed"]:
            known = False
            continue
        every += end["started"] - begin["started"]
        if end["version"] == version:
            executions, failed = end["started"] - begin["started"], end["failed"] - begin["failed"]
    if not known:
        executions = every = failed = 0
    return {"generation": step["generation"], "weight": weight_of(step, version), "from": step["at"], "until": step["until"], "known": known,
            "executions": executions, "all": every, "failed": failed}


def when(f):
    return f.get("ended") or f["started"]


def analyse(rollback, evidence, version):
    target, totals = rollback["target"], evidence["totals"]
    bad, base = rate_of(totals, version), rate_of(totals, target)
    a = {"version": version, "target": target, "bad": bad, "base": base, "harmed": max(0, bad["failed"] - base["rate"] * bad["ended"]),
         "ceiling": min(2 * base["rate"], 0.5), "threshold": -math.log(ALPHA), "steps": [], "plans": [], "curve": [], "alone": [], "rates": [],
         "running": [], "segments": []}
    canary = {"steps": 0, "seconds": 0.0, "executions": 0, "all": 0, "failed": 0, "chance": 0.0}
    exposures, every, seconds, own = [], 0, 0.0, None
    for step in evidence["steps"]:
        if weight_of(step, version) == 0:
            continue
        s = seen(step, version)
        a["steps"].append(s)
        took = (nanos(s["until"]) - nanos(s["from"])) / 1e9
        every += s["all"]
        seconds += took
        if s["weight"] < FULL:
            own = own or s["weight"]
            exposures.append((s["weight"], s["all"]))
            canary["steps"] += 1
            canary["seconds"] += took
            for key in ("executions", "all", "failed"):
                canary[key] += s[key]
    ratio = bad["rate"] / base["rate"]
    if exposures:
        canary["chance"] = sum(s[0] for s in foresee(base["rate"], ratio, exposures)) / RUNS
    a["canary"] = canary
    speed = every / seconds if seconds > 0 else 0

    def most(weight):
        w = weight / FULL
        return min(MOST, math.ceil(FAILURES / (w * bad["rate"] + (1 - w) * base["rate"])))

    def plan(weight):
        none = {"weight": weight, "caught": False, "executions": 0, "canary": 0, "seconds": 0, "harmed": 0, "within": 0}
        if bad["rate"] <= base["rate"]:
            return none
        stops = foresee(base["rate"], ratio, [(weight, most(weight))])
        stop = stops[math.ceil(0.8 * RUNS) - 1]
        if not stop[0]:
            return none
        return {"weight": weight, "caught": True, "executions": stop[1], "canary": stop[2], "seconds": stop[1] / speed if speed else 0,
                "harmed": sum(s[3] for s in stops) / RUNS, "within": 1 - sum(s[3] >= BUDGET for s in stops) / RUNS}

    plans = {w: plan(w) for w in PLANNED}
    a["plans"] = [plans[w] for w in PLANNED]
    LIMITS.update(str(most(w)) for w in PLANNED)
    a["same"] = plans.get(own or 500) or plan(own)
    good = [p for p in a["plans"] if p["caught"] and p["within"] >= 0.8]
    if good:
        a["best"] = min(good, key=lambda p: p["executions"])
    test, spoke = Ratio(), []
    for f in evidence["failing"]:
        step = next((s for s in evidence["steps"] if s["generation"] == f.get("generation", 0)), None)
        if step is None or f["version"] not in (version, target) or not 0 < weight_of(step, version) < FULL:
            continue
        test.fail(f["version"] == version, weight_of(step, version))
        a["curve"].append({"at": when(f), "log": test.log()})
    for s in evidence["series"]:
        before = None
        for p in s["points"] or []:
            if s["version"] == version:
                a["alone"].append({"at": p["at"], "log": log_above(p["succeeded"] + p["failed"], p["failed"], a["ceiling"])})
                a["running"].append({"at": p["at"], "inFlight": p["inFlight"]})
            if before and s["version"] in (version, target):
                good, wrong = p["succeeded"] - before["succeeded"], p["failed"] - before["failed"]
                if good >= 0 and wrong >= 0 and good + wrong > 0:
                    a["rates"].append({"at": p["at"], "version": s["version"], "ended": good + wrong, "rate": good / (good + wrong)})
            before = p
    spoke = [p["at"] for p in a["curve"] + a["alone"] if p["log"] >= a["threshold"]]
    if spoke:
        a["spoke"] = min(spoke, key=nanos)
    mine = [f for f in evidence["failing"] if f["version"] == version]
    a["keyless"] = sum(1 for f in mine if not f.get("key"))
    a["keys"] = len({f["key"] for f in mine if f.get("key")})
    places = {}
    for f in mine:
        p = places.setdefault((f.get("method", ""), f.get("path", "")), [0, 0])
        p[0] += 1
        p[1] += any(s["generation"] == f.get("generation", 0) and s["weight"] < FULL for s in a["steps"])
    a["segments"] = [{"method": m, "path": q, "failed": n, "canary": c} for (m, q), (n, c) in sorted(places.items(), key=lambda x: (-x[1][0], x[0]))]
    totals = find(evidence["totals"], version)
    a["attributes"], most = [], 0.1
    for name in sorted({s["attribute"] for s in totals.get("segments") or []}):
        x = attribute(evidence, name, version)
        a["attributes"].append(x)
        for v in x["values"]:
            if x["counted"] and v["failedShare"] - v["share"] > most:
                most, a["where"] = v["failedShare"] - v["share"], {"attribute": name, "value": v["value"]}
    return a


def rows(outcome, name):
    return {s["value"]: s for s in outcome.get("segments") or [] if s["attribute"] == name}


def begun(step, version, name):
    """How many executions of a version began in a step, by value; None where they were not counted by this attribute."""
    end, begin = find(step["end"], version), find(step["begin"], version)
    now, before = rows(end, name), rows(begin, name)
    if not now and end["started"] > begin["started"] or not before and begin["started"]:
        return None
    out = {v: s["started"] - before.get(v, {"started": 0})["started"] for v, s in now.items()}
    return None if any(n < 0 for n in out.values()) else out


def attribute(evidence, name, version):
    x = {"name": name, "counted": 0, "executions": 0, "steps": []}
    values = {}

    def at(value):
        return values.setdefault(value, {"value": value, "executions": 0, "failed": 0, "unknown": 0, "canary": {}})

    for step in evidence["steps"]:
        s = seen(step, version)
        if not s["weight"] or not s["known"]:
            continue
        x["executions"] += s["all"]
        for end in step["end"]:
            began = begun(step, end["version"], name)
            if began is None:
                continue
            canary = end["version"] == version and s["weight"] < FULL
            if canary:
                x["steps"].append(step["generation"])
            for value, n in began.items():
                if n:
                    at(value)["executions"] += n
                    x["counted"] += n
                    if canary:
                        at(value)["canary"][step["generation"]] = n
    for value, s in rows(find(evidence["totals"], version), name).items():
        at(value).update(failed=s.get("failed", 0), unknown=s.get("unknown", 0))
    failed = sum(v["failed"] for v in values.values())
    for v in values.values():
        v["share"] = v["executions"] / x["counted"] if x["counted"] else 0
        v["failedShare"] = v["failed"] / failed if failed else 0
        v["steps"] = [v["canary"].get(g, 0) for g in x["steps"]]
        v["canary"] = sum(v["canary"].values())
    x["values"] = sorted(values.values(), key=lambda v: (-v["failed"], -v["executions"], v["value"]))
    return x


def charts(rollback, evidence, a):
    commit = nanos(rollback["committedAt"])

    def since(text):
        return (nanos(text) - commit) / 1e9

    both = [a["target"], a["version"]]
    rates = {"name": "rates", "lines": [{"label": v, "xy": [[since(p["at"]), 100 * p["rate"]] for p in a["rates"] if p["version"] == v]} for v in both]}
    weights = {"name": "weights", "lines": []}
    for v in both:
        xy = [[since(s["at"]), weight_of(s, v) * 100 / FULL] for s in evidence["steps"]]
        if evidence["steps"]:
            xy.append([since(evidence["steps"][-1]["until"]), weight_of(evidence["steps"][-1], v) * 100 / FULL])
        weights["lines"].append({"label": v, "step": True, "xy": xy})
    curve = {"name": "evidence", "lines": [
        {"label": "beside " + a["target"], "step": True, "xy": [[since(p["at"]), p["log"]] for p in a["curve"]]},
        {"label": "alone", "step": True, "xy": [[since(p["at"]), p["log"]] for p in a["alone"]]}]}
    first, last = span(curve)
    if last > first:
        curve["lines"].append({"label": "threshold", "xy": [[first, a["threshold"]], [last, a["threshold"]]]})
    drain = {"name": "drain", "lines": [{"label": a["version"], "xy": [[since(p["at"]), p["inFlight"]] for p in a["running"]]}]}
    return [c for c in (rates, weights, curve, drain) if span(c)[1] > span(c)[0]]


def span(chart):
    xs = [x for line in chart["lines"] for x, _ in line["xy"]] or [0]
    return min(xs), max(xs)


# --- comparing -------------------------------------------------------------------------------------------------------------------------------

def empty(value):
    """What may be left out: nothing at all, and an object of nothing else."""
    if isinstance(value, dict):
        return all(empty(v) for v in value.values())
    return value in (None, 0, "", False, []) or isinstance(value, str) and value.startswith("0001-01-01")


def same(want, got, where, words=()):
    """All of want is in got, but for what these words name; got may have more."""
    if empty(want) and empty(got):
        return
    if isinstance(want, dict) and isinstance(got, dict):
        for key, value in want.items():
            if key not in words:
                same(value, got.get(key), f"{where}.{key}", words)
    elif isinstance(want, list) and isinstance(got, list):
        if len(want) != len(got):
            raise Wrong(f"{where} has {len(got)} entries, computed: {len(want)}")
        for i, value in enumerate(want):
            same(value, got[i], f"{where}[{i}]", words)
    elif isinstance(want, str) and isinstance(got, str) and want != got and re.match(r"\d{4}-\d\d-\d\dT", want):
        if nanos(want) != nanos(got):
            raise Wrong(f"{where} is {got}, computed: {want}")
    elif isinstance(want, (int, float)) and isinstance(got or 0, (int, float)):
        if not math.isclose(want, got or 0, rel_tol=1e-7, abs_tol=1e-7):
            raise Wrong(f"{where} is {got or 0}, computed: {want}")
    elif want != got:
        raise Wrong(f"{where} is {got!r}, computed: {want!r}")


def drawn(svg):
    """The corners of every line that is drawn in an SVG file."""
    out = []
    for path in re.findall(r'<path d="([^"]*)"', svg):
        corners = [(float(x), float(y)) for x, y in re.findall(r"[ML]\s*(-?[\d.]+)[ ,](-?[\d.]+)", path)]
        if len(corners) > 1:
            out.append(corners)
    return out


def shows(chart, svg, where):
    """Each line of the chart is drawn: there are paths whose corners are the lines' points, under one scale for the whole chart."""
    paths = drawn(svg)
    lines = [stairs(line) for line in chart["lines"] if len(line["xy"]) > 1]
    chosen = itertools.product(*([p for p in paths if len(p) == len(line)] for line in lines))
    points = [p for line in lines for p in line]
    if chart["name"] == "evidence" and max((y for _, y in points), default=0) > 30:
        # Evidence of a long failure is drawn on a scale that is linear around 0 and logarithmic far from it.
        points = [(x, math.copysign(math.log1p(abs(y)), y)) for x, y in points]
    if not any(fit(points, [corner for path in paths for corner in path]) for paths in chosen):
        raise Wrong(f"{where} does not show its {len(lines)} lines of {', '.join(str(len(line)) for line in lines)} points")


def stairs(line):
    if not line.get("step"):
        return line["xy"]
    out = [line["xy"][0]]
    for x, y in line["xy"][1:]:
        out += [[x, out[-1][1]], [x, y]]
    return out


def fit(points, corners):
    """There is a scale of each axis under which the corners are the points, to a fiftieth of a point; later is to the right, more is higher up."""
    for axis in (0, 1):
        known, at = [p[axis] for p in points], [p[axis] for p in corners]
        a, b = slope(known, at)
        if a < 0 or any(abs(a * v + b - p) >= 0.02 for v, p in zip(known, at)):
            return False
    return True


def slope(known, at):
    """The straight line (a, b) through the outermost values, or the level one."""
    low, high = known.index(min(known)), known.index(max(known))
    a = (at[high] - at[low]) / (known[high] - known[low]) if known[high] > known[low] else 0
    return a, at[low] - a * known[low]


def numbers(value, out):
    """All figures and all figures within texts of a value, as they may be written."""
    if isinstance(value, dict):
        good, bad = value.get("succeeded"), value.get("failed")
        if isinstance(good, int) and isinstance(bad, int) and good + bad > 0:
            out.add(f"{100 * good / (good + bad):.1f}")
        for v in value.values():
            numbers(v, out)
    elif isinstance(value, list):
        out.add(str(len(value)))
        for v in value:
            numbers(v, out)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, (int, float)):
        for x in (abs(value), abs(100 * value), abs(value / 100)):
            out.update({f"{x:.0f}", f"{x:.1f}", f"{x:.2f}", f"{x:g}", f"{x:.3g}"})
    else:
        out.update(re.findall(r"\d+(?:\.\d+)?", value))


def durations(text):
    """Go's way to write a time, in seconds."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "µs": 1e-6}
    return sum(float(n) * units[u] for n, u in re.findall(r"([\d.]+)(ms|µs|h|m|s)", text))


def check_text(name, known, times):
    with open(name, encoding="utf-8") as f:
        text = f.read()
    text = re.sub(r"^(`{3,})(?:diff|text)\n.*?\n\1$", "", text, flags=re.S | re.M)  # the versions' own text, and what was captured
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)                   # the charts
    text = re.sub(r"`[^`\n]*`", "", text)                              # commands, ids, digests
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z", lambda m: check_time(m[0], times), text)
    for took in re.findall(TOOK, text):
        if not any(abs(durations(took) - t) <= 0.0501 * max(1, t / 10) for t in known["seconds"]):
            raise Wrong(f"{name} says {took}, which is no time that was computed")
    text = re.sub(TOOK, "", text)
    for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]\d+)?(?![\w])", text):
        if number not in known["numbers"]:
            raise Wrong(f"{name} says {number}, which is no figure that was computed or recorded")


# --- the sentences ---------------------------------------------------------------------------------------------------------------------------

def percent(x):
    return f"{100 * x:.1f} %"


def weight(bp):
    return f"{bp / 100:.2f}".rstrip("0").rstrip(".") + " %"


def cell(text):
    return text.replace("|", "\\|").replace("\n", " ").replace("\r", " ")


def clock(text):
    n = nanos(text)
    return datetime.fromtimestamp(n // 10**9, timezone.utc).strftime("%Y-%m-%d %H:%M:%S") + f".{n % 10**9 // 10**6:03d}Z"


def took(ns, unit):
    """A time as Go writes it, rounded to a unit: 1m30s, 2.8s, 12.7ms."""
    ns = int(ns)
    ns = (ns + unit // 2) // unit * unit

    def short(n, of):
        return f"{n // of}" + (f".{n % of:0{len(str(of)) - 1}d}".rstrip("0") if n % of else "")

    if ns == 0:
        return "0s"
    if ns < 10**9:
        return short(ns, 10**6) + "ms" if ns >= 10**6 else short(ns, 10**3) + "µs"
    minutes, rest = divmod(ns, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + short(rest, 10**9) + "s"


def seconds_took(s):
    return took(s * 1e9, 10**8 if s >= 1 else 10**6)


def span_of(ns):
    """A time as manifests write it: 30s, 2m, 1h."""
    if ns % 10**9 == 0 and ns < 120 * 10**9 and ns % (60 * 10**9):
        return f"{ns // 10**9}s"
    text = took(ns, 1)
    text = text.removesuffix("0s") if text.endswith("m0s") else text
    return text.removesuffix("0m") if text.endswith("h0m") else text


def traffic(plan):
    return f", or {seconds_took(plan['seconds'])} of that traffic" if plan["seconds"] else ""


def sentences(a):
    """Each sentence and each row of a table that says what follows from the evidence about one abandoned version."""
    v, t, canary, same_plan = a["version"], a["target"], a["canary"], a["same"]
    bad, base = a["bad"], a["base"]
    yield (f"{bad['failed']} of the {bad['ended']} executions under {v} that stated an outcome failed: {percent(bad['rate'])}. Under {t} it was {base['failed']} of "
           f"{base['ended']}: {percent(base['rate'])}. So about {a['harmed']:.0f} executions failed that {t} would have carried out.")
    yield f"Clients gave the failing ones {a['keys']} different keys" + (f"; {a['keyless']} had none" if a["keyless"] else "") + "."
    for s in a["segments"][:8]:
        yield f"| {s['failed']} | `{s['method']} {cell(s['path'])}` | {s['canary']} |"
    for s in a["steps"]:
        held = seconds_took((nanos(s["until"]) - nanos(s["from"])) / 1e9)
        counted = f"{s['executions']} | {s['all']} | {s['failed']} |" if s["known"] else "not counted | | |"
        yield f"| {s['generation']} | {weight(s['weight'])} | {held} | {counted}"
    for x in a["attributes"]:
        yield f"By `{x['name']}`, as spec.yaml declares it, {x['counted']} of the {x['executions']} executions were counted that began while {v} held weight."
        for s in x["values"]:
            steps = ", ".join(str(n) for n in s["steps"]) or "no step was counted"
            yield f"| `{s['value']}` | {percent(s['share'])} | {s['failed']} | {percent(s['failedShare'])} | {s['unknown']} | {s['canary']} | {steps} |"
            if a.get("where") == {"attribute": x["name"], "value": s["value"]}:
                yield f"**Segment `{x['name']}={s['value']}` was {percent(s['share'])} of all executions and {percent(s['failedShare'])} of the failures; {saw(canary, x, s)}.**"
    ends = {name: f"ended at {c[-1]['log']:.2f} after {len(c)} points" if c else "has no point" for name, c in (("curve", a["curve"]), ("alone", a["alone"]))}
    yield f"speaks at {a['threshold']:.2f} nats. Beside {t} the evidence {ends['curve']}"
    yield f"against \"fails at most {percent(a['ceiling'])}\" (twice the rate of {t}) it {ends['alone']}"
    yield f"**One of them would have spoken at {clock(a['spoke'])}.**" if a.get("spoke") else "Neither test would have spoken on what was seen."
    if bad["rate"] <= base["rate"]:
        yield f"By its outcomes {v} was not worse than {t}"
        return
    if canary["steps"]:
        yield (f"In {seconds_took(canary['seconds'])} the canary saw {canary['executions']} executions of {v} and {canary['all']} in all. At the true failure rates that had a "
               f"**{percent(canary['chance'])} chance** of stopping it")
    if same_plan["caught"]:
        yield (f"At {weight(same_plan['weight'])}, {same_plan['executions']} executions in all ({same_plan['canary']} of them on the canary) would have given 80 %"
               f"{traffic(same_plan)}.")
    for p in a["plans"]:
        if p["caught"]:
            yield (f"| {weight(p['weight'])} | {p['executions']} | {p['canary']} | {traffic(p).removeprefix(', or ') or 'unknown'} | {p['harmed']:.1f} | "
                   f"{percent(p['within'])} |")
    if a.get("best"):
        p = a["best"]
        yield (f"one step at {weight(p['weight'])} until the evidence decides: with a chance of 80 % within {p['executions']} executions{traffic(p)}, harming "
               f"{p['harmed']:.1f} in the mean and fewer than {BUDGET} in {percent(p['within'])} of all runs.")


def saw(canary, x, s):
    if not canary["steps"]:
        return "there was no canary to see it"
    if not x["steps"]:
        return "how much the canary saw of it was not counted"
    if len(x["steps"]) < canary["steps"]:
        return f"at {len(x['steps'])} of its {canary['steps']} steps the canary saw {s['canary']}, at the others it was not counted"
    return f"the canary saw {s['canary']}" if s["canary"] else "the canary saw none of it"


def observed(rollback):
    """Each sentence and each row that says what was seen of one rollback."""
    commit = nanos(rollback["committedAt"])
    effect = rollback.get("effect")
    if effect:
        yield (f"* **Effective:** {took(nanos(effect['at']) - commit, 10**5)} after the commit, by {effect['by']}; proxies {effect['proxiesAcked']} of {effect['proxies']}, "
               f"fences {effect['fencesAcked']} of {effect['fences']}")
    for m in ((rollback.get("canary") or {}).get("verdict") or {}).get("metrics") or []:
        failed, ended = m["failed"], m["counts"]["ended"]
        yield f"| {m['name']} | {failed[1]} of {ended[1]} | {failed[0]} of {ended[0]} | {m['stake']:.3g} | below {100 * m['bound']:.3g} % |"
    for o in rollback["outcomes"] or []:
        ended = o["succeeded"] + o["failed"]
        good = percent(o["succeeded"] / ended) if ended else "unknown"
        yield f"| {o['version']} | {o['succeeded']} | {o['failed']} | {o['unknown']} | {good} | {o['inFlight']} |"
    for a in rollback["abandoned"]:
        s = a.get("settled")
        if s:
            c = s["counts"]
            yield (f"{a['version']} was {s['state']} at {clock(s['at'])}: {c.get('completed', 0)} completed under it, {c.get('handedOver', 0)} handed over to "
                   f"{rollback['target']} ({s['arrived']} arrived there), {c.get('cancelled', 0)} cancelled with the retry signal, {c.get('held', 0)} held. "
                   f"{s['failed']} executions failed or were cancelled under it in all.")
        for x in a.get("touched") or []:
            yield f"| {a['version']} | {x['class']} | {x['acts']} | {x['executions']} |"
    for p in rollback["plans"] or []:
        words = p["disposition"] + (f" within {span_of(p['within'])}" if p.get("within") else "") + (f", then {p['then']}" if p.get("then") else "")
        yield f"| {p['version']} | {p['rule']} | {words} | {p['executions']} |"
    for s in rollback["timeline"] or []:
        splits = " ".join(f"{x['version']}={x['basisPoints'] / 100:.2f}".rstrip("0").rstrip(".") for x in s["splits"] or []) or "nothing"
        yield f"| {s['generation']} | {clock(s['at'])} | {s['by']} | {s['kind']} | {splits}"
    evidence = rollback.get("evidence") or {}
    for x in (evidence.get("first") or []) + (evidence.get("last") or []):
        ended = clock(x["ended"]) if nanos(x.get("ended")) else "still ran"
        yield (f"| `{x['id']}` | {x['version']} | {clock(x['started'])} | {ended} | {cell(x.get('reason') or 'none was given')} | {x.get('status', 0)} | "
               f"{x.get('effects') or 'unknown'} |")
    for x in evidence.get("reasons") or []:
        yield f"| {x['version']} | {cell(x['reason'] or 'no reason')} | {x['count']} |"
    for x in evidence.get("reports") or []:
        yield f"| {x['version']} | {cell(x['suite'])} | {clock(x['at'])} | {x['tests']} | {x['failed']} | {x['skipped']} |"
    for x in evidence.get("proxies") or []:
        if nanos(x.get("at")):
            yield f"| {cell(x['node'])} | {clock(x['at'])} | {took(nanos(x['at']) - commit, 10**5)} |"


def check_sentences(name, expected):
    with open(name, encoding="utf-8") as f:
        text = f.read()
    for sentence in expected:
        if sentence not in text:
            raise Wrong(f"{name} does not say what was computed: {sentence}")


def check_time(text, times):
    if text[:23] not in times:
        raise Wrong(f"the text says {text}, which is no time of the record")
    return ""


def collect_times(value, out):
    if isinstance(value, dict):
        for v in value.values():
            collect_times(v, out)
    elif isinstance(value, list):
        for v in value:
            collect_times(v, out)
    elif isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT", value):
        n = nanos(value)
        if n is not None:
            out[n] = None


def main(prefix):
    folder, record_id = os.path.split(prefix)
    events, head = read_chain(prefix + ".events.jsonl")
    with open(prefix + ".json", encoding="utf-8") as f:
        document = json.load(f)
    same(head, document["head"], "head")
    opened = events[0]["fact"]
    evidence = {e["fact"]["spec"]: e["fact"]["evidence"] for e in events if e["kind"] == "gathered"}
    figures, seconds, points = set(), [], 0
    found = []
    for rollback in opened["rollbacks"]:
        gathered = evidence.get(rollback["spec"])
        if not gathered:
            continue
        for abandoned in rollback["abandoned"]:
            a = analyse(rollback, gathered, abandoned["version"])
            pictures = charts(rollback, gathered, a)
            found.append({"spec": rollback["spec"], "analysis": a, "charts": pictures})
            for c in pictures:
                name = f"{record_id}.{rollback['spec']}-{abandoned['version']}.{c['name']}.svg"
                with open(os.path.join(folder, name), encoding="utf-8") as f:
                    shows(c, f.read(), name)
                points += sum(len(line["xy"]) for line in c["lines"])
            seconds += [a["canary"]["seconds"]] + [p["seconds"] for p in a["plans"] + [a["same"]]]
            seconds += [(nanos(s["until"]) - nanos(s["from"])) / 1e9 for s in a["steps"]]
    same(found, document["derived"], "derived")
    same(document["derived"], found, "derived", words={"title", "unit"})
    record = replay(events)
    check_record(record, document["record"])
    expected = [s for f in found for s in sentences(f["analysis"])] + [s for r in record["rollbacks"] for s in observed(r)]
    check_sentences(prefix + ".md", expected)
    times = {}
    for value in (events, document["record"], found):
        collect_times(value, times)
    for rollback in opened["rollbacks"]:
        seconds += [(t - nanos(rollback["committedAt"])) / 1e9 for t in times]
    seconds += [p.get("within", 0) / 1e9 for r in opened["rollbacks"] for p in r["plans"] or []]
    seconds += [durations(took) for took in re.findall(TOOK, json.dumps(events))]
    written = {datetime.fromtimestamp(n // 10**9, timezone.utc).strftime("%Y-%m-%d %H:%M:%S") + f".{n % 10**9 // 10**6:03d}" for n in times}
    for value in (events, found, [80, 100 * ALPHA, BUDGET, MOST, 0]):
        numbers(value, figures)
    figures.update(LIMITS)
    figures.update(day for n in times for day in datetime.fromtimestamp(n // 10**9, timezone.utc).strftime("%Y %m %d").split())
    check_text(prefix + ".md", {"numbers": figures, "seconds": seconds}, written)
    print(f"{record_id}: {len(events)} events are whole up to {head['seq']}:{head['link'][:12]}…, "
          f"{len(expected)} sentences and rows and {points} points of charts are as computed")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("say which record: recompute.py FOLDER/PM-1")
    try:
        main(sys.argv[1])
    except Wrong as wrong:
        sys.exit(f"{sys.argv[1]}: {wrong}")

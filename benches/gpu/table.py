"""One table of a folder of results, and one record of them: what was measured, what failed, what was
skipped and why.

usage: table.py RESULTS
"""

import datetime
import json
import pathlib
import subprocess
import sys

PARTS = ["kernels", "cuda", "nccl", "faults", "peers", "sanitizer", "soak"]
SAID_ELSEWHERE = {"part", "case", "what", "ok", "skipped", "kernel"}


def lines(path):
    """The JSON objects of a file; what a killed program left half is left out."""
    found = []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                pass
    return found


def machine():
    fields = ["name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "temperature.gpu",
              "compute_mode", "memory.total"]
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(zip(fields, (value.strip() for value in said.splitlines()[0].split(",")))) if said else {}


def number(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) < 160 else f"{text[:157]}..."


def words_last(item):
    return not isinstance(item[1], (int, float)), item[0]


def kernels(own, others):
    if not own:
        return
    print(f"\n== kernels\n{'case':<44} {'us':>10} {'TFLOP/s':>9} {'GB/s':>8}   beside it (time of the peer / own time)")
    for row in own:
        if "case" not in row or row.get("what") == "program":
            continue
        if "skipped" in row:
            print(f"{row['case']:<44} skipped: {row['skipped']}")
        elif "regret" in row:
            print(f"{row['case']:<44} {row['us']:>10.1f}   bound {row['bound_us']:.1f} us, regret {100 * row['regret']:.1f} %")
        elif "tflops" in row:
            beside = []
            for peer in others:
                if peer.get("case") == row["case"] and "library" in peer:
                    beside.append(f"{peer['library']} skipped" if "skipped" in peer else f"{peer['library']} {peer['us'] / row['us']:.2f}x")
            print(f"{row['case']:<44} {row['us']:>10.1f} {row['tflops']:>9.1f} {row['gbps']:>8.0f}   {', '.join(beside)}")


def main(folder):
    folder = pathlib.Path(folder)
    results = {path.stem: lines(path) for path in sorted(folder.glob("*.jsonl"))}
    kernels(results.get("gpu", []), results.get("peers", []))
    skipped, failed, passed = [], [], 0
    for part in PARTS:
        rows = [row for name in results for row in results[name] if row.get("part") == part]
        said = [row for row in rows if row.get("what") != "program"]
        if said:
            print(f"\n== {part}")
        for row in said:
            said_here = ((key, value) for key, value in sorted(row.items(), key=words_last) if key not in SAID_ELSEWHERE)
            figures = ", ".join(f"{key} {number(value)}" for key, value in said_here if value is not None and value != "")
            if "skipped" in row:
                continue
            passed += bool(row.get("ok"))
            print(f"{'ok    ' if row.get('ok') else 'FAILED'}  {row['case']:<12} {row['what']:<56} {figures}")
        for row in rows:
            what = f"{part}, {row['case']}" + ("" if row["what"] == "program" else f", {row['what']}")
            if "skipped" in row:
                skipped.append(f"{what}: {row['skipped']}")
            elif row.get("ok") is False:
                failed.append(what)
            elif row.get("status") in (124, 137):
                failed.append(f"{what}: did not end within {row['limit_s']} s")
            elif row.get("status", 0) != 0:
                failed.append(f"{what}: status {row['status']}, see {row['case']}.*")
            elif "status" in row:
                passed += 1
    for title, list_ in (("skipped", skipped), ("failed", failed)):
        if list_:
            print(f"\n== {title}")
            print("\n".join(list_))
    print(f"\n{passed} ok, {len(failed)} failed, {len(skipped)} skipped")
    commit = pathlib.Path(__file__).with_name("commit")
    record = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit.read_text().strip() if commit.exists() else "",
        "machine": machine(),
        "failed": failed,
        "skipped": skipped,
        "results": results,
    }
    (folder / "record.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])

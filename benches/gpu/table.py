"""Prints one table from the JSON lines of the kernels and of their peers, and writes a record.

usage: table.py OURS PEERS [RECORD]
"""

import datetime
import json
import subprocess
import sys


def lines(path):
    with open(path) as f:
        return [json.loads(line) for line in f if line.startswith("{")]


def clocks():
    query = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except OSError:
        return ""


def main(ours, peers, record=None):
    own, others = lines(ours), lines(peers)
    print(f"{'case':<44} {'us':>10} {'TFLOP/s':>9} {'GB/s':>8}   beside it (time of the peer / own time)")
    for row in own:
        if "case" not in row:
            continue
        if "skipped" in row:
            print(f"{row['case']:<44} skipped: {row['skipped']}")
            continue
        if "regret" in row:
            print(f"{row['case']:<44} {row['us']:>10.1f}   bound {row['bound_us']:.1f} us, regret {100 * row['regret']:.1f} %")
            continue
        beside = []
        for peer in others:
            if peer.get("case") == row["case"]:
                beside.append(f"{peer['library']} skipped" if "skipped" in peer else f"{peer['library']} {peer['us'] / row['us']:.2f}x")
        print(f"{row['case']:<44} {row['us']:>10.1f} {row['tflops']:>9.1f} {row['gbps']:>8.0f}   {', '.join(beside)}")
    if record:
        about = {"date": datetime.date.today().isoformat(), "driver_and_clocks": clocks()}
        with open(record, "w") as f:
            json.dump({**about, "kernels": own, "peers": others}, f, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:])

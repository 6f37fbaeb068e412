#!/usr/bin/env python3
"""Puts together what scripts/gpu_check.sh left: gpu_results.json and, for people, gpu_results.md.

    gpu_report.py LOGS COMMIT FOLDER

Needs nothing but Python. What was not measured stays empty.
"""
import datetime
import json
import pathlib
import sys


def read_json(path):
    try:
        text = path.read_text()
        return json.loads(text) if text.strip() else None
    except (OSError, ValueError):
        return None


def figure(value, form="{:.1f}"):
    return "" if value is None else form.format(value)


def share(part, whole):
    return part / whole if part and whole else None


def collect(logs, commit):
    status = dict(line.split() for line in (logs / "status").read_text().splitlines())
    out = {"date": datetime.date.today().isoformat(), "commit": commit,
           "status": {name: int(value) for name, value in status.items()},
           "devices": read_json(logs / "devices.out"), "limits": read_json(logs / "limits.out"), "models": {}}
    for name in sorted(status):
        kind, _, model = name.partition("-")
        if kind in ("bench", "batch", "streamed"):
            out["models"].setdefault(model, {})[kind] = read_json(logs / f"{name}.out")
    out["failures"] = {name: (logs / f"{name}.err").read_text()[-2000:] + (logs / f"{name}.out").read_text()[-2000:]
                       for name, value in status.items() if int(value) != 0}
    return out


def rate(tests, name):
    """Tokens per second of one of the tests of `tropilla bench -o json`."""
    for t in tests or []:
        if t.get("test") == name:
            return t.get("tok_s")
    return None


def table(results):
    limits = results["limits"] or {}
    read, up, peak = (limits.get(k) for k in ("read_bytes_s", "host_to_device_bytes_s", "bf16_operations_s"))
    lines = [f"{limits.get('device', 'no GPU')}, commit {results['commit']}, {results['date']}. Limits of this run: "
             f"{figure(share(read, 1e9), '{:.0f}')} GB/s read, {figure(share(up, 1e9))} GB/s from pinned memory, "
             f"{figure(share(peak, 1e12), '{:.0f}')} TFLOP/s of cuBLAS in bf16.", "",
             "| llama-3.2-1b | pp512, tok/s | tg64, tok/s | 32 together, tok/s | streamed tg8, tok/s |",
             "| --- | ---: | ---: | ---: | ---: |"]
    for model, parts in results["models"].items():
        together = next((r["tok_s"] for r in (parts.get("batch") or {}).get("rows", []) if r["sequences"] == 32), None)
        lines.append("| {} | {} | {} | {} | {} |".format(
            model, figure(rate(parts.get("bench"), "pp512")), figure(rate(parts.get("bench"), "tg64")),
            figure(together), figure(rate(parts.get("streamed"), "tg8"))))
    lines += ["", "| step | status |", "| --- | ---: |"]
    lines += [f"| {name} | {value} |" for name, value in sorted(results["status"].items())]
    return "\n".join(lines) + "\n"


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    logs, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[3])
    results = collect(logs, sys.argv[2])
    (folder / "gpu_results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "gpu_results.md").write_text(table(results))


if __name__ == "__main__":
    main()

"""python -m tools.fuzz_graphs --count 200 --seed 0: builds random graphs and prints what differs from the original."""

from __future__ import annotations

import argparse
import collections
import random
import sys
import time
from pathlib import Path

import onnx

from tools.fuzz_graphs.builds import TARGETS, Finding, findings, reference_outputs
from tools.fuzz_graphs.generate import case_from_choices
from tools.fuzz_graphs.known import reason_to_skip


def main(arguments: list[str] | None = None) -> int:
    """Runs the fuzzer; returns 1 if anything differs that is not known."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz_graphs", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="number of graphs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first graph; the next has the next number")
    parser.add_argument("--targets", default=",".join(TARGETS), help="targets, separated by commas")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after this time; 0: no limit")
    parser.add_argument("--save", type=Path, help="folder for the graphs that fail")
    options = parser.parse_args(arguments)
    targets = [target for target in options.targets.split(",") if target]
    started, ran, invalid, failed = time.monotonic(), 0, 0, 0
    known: collections.Counter[str] = collections.Counter()
    for seed in range(options.seed, options.seed + options.count):
        if options.seconds and time.monotonic() - started > options.seconds:
            break
        case = case_from_choices(random.Random(seed))
        expected = reference_outputs(case)
        if expected is None:
            invalid += 1
            continue
        ran += 1
        new = []
        for finding in findings(case, targets, expected):
            reason = reason_to_skip(case.model, finding)
            if reason:
                known[reason] += 1
            else:
                new.append(finding)
        if new:
            failed += 1
            _report(seed, case.model, new, options.save)
    elapsed = time.monotonic() - started
    print(f"{ran} graphs in {elapsed:.0f} s, {invalid} not run by ONNX Runtime, {failed} with differences")
    for reason, count in known.most_common():
        print(f"  known: {count} x {reason}")
    return 1 if failed else 0


def _report(seed: int, model: onnx.ModelProto, found: list[Finding], folder: Path | None) -> None:
    operators = " ".join(node.op_type for node in model.graph.node if node.op_type != "Constant")
    print(f"seed {seed}, opset {model.opset_import[0].version}: {operators}", flush=True)
    for finding in found:
        print(f"  {finding.target}: {finding.kind}: {finding.text.splitlines()[0][:300]}", flush=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(model, folder / f"{seed}.onnx")


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Does `gigagpt sample` say what reference.py computed from the same checkpoint?

Its greedy tokens must be the reference's as long as the best token leads by more than twice the error
of the logits, and those may differ by rounding alone: values flow through some 50 sums of up to 400
terms, so 50 sqrt(400) 2^-24 = 6e-5 of logits of some 10. A wrong formula makes an error of 0.01 and
more.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

BOUND = 1e-3


def sampled(gigagpt: str, checkpoint: str, prompt: str, length: int) -> list:
    """Each new token with the logits it was chosen by."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "logits.jsonl"
        subprocess.run([gigagpt, "sample", "--checkpoint_path", checkpoint, "--prompt", prompt,
                        "--temperature", "0", "--no_repeat_ngram_size", "0", "--precision", "fp32",
                        "--max_length", str(length), "--logits", str(rows)],
                       check=True, stdout=subprocess.DEVNULL)
        return [json.loads(row) for row in rows.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gigagpt")
    parser.add_argument("checkpoint")
    parser.add_argument("reference", type=Path)
    args = parser.parse_args()
    error, compared = 0.0, 0
    for line in args.reference.read_text().splitlines():
        wanted = json.loads(line)
        length = len(wanted["prompt_tokens"]) + len(wanted["tokens"])
        for step, ours in zip(wanted["steps"],
                              sampled(args.gigagpt, args.checkpoint, wanted["prompt"], length)):
            theirs = dict(map(tuple, step))
            error = max([error] + [abs(logit - theirs[i])
                                   for i, logit in enumerate(ours["logits"])])
            if step[0][1] - step[1][1] <= 2 * BOUND:
                break
            if ours["token"] != step[0][0]:
                sys.exit(f"after '{wanted['prompt']}': {ours['token']}, not {step[0][0]}")
            compared += 1
    print(f"{args.checkpoint}: {compared} tokens of `sample` equal PyTorch's, logits differ by "
          f"{error:.2g} at most")
    if error > BOUND or compared < 100:
        sys.exit(f"more than {BOUND}, or too few tokens to show anything")


if __name__ == "__main__":
    main()

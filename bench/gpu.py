"""The official networks on a GPU, with random weights of the real sizes: times, frame rates, peak memory.

    python bench/gpu.py                      # under 8 minutes on a data centre's GPU; no weights are needed
    python bench/gpu.py --no-compile

Prints the table of `nbhelpers doctor --gpu` in Markdown. Our SAM 2.1 large tracker and upstream's predictor run one
after the other on the same weights. Random weights cost what trained ones do.
"""

import argparse

import torch

from nbhelpers.models.measure import LIMIT, measure_networks

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="cuda where there is one")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which nothing further is begun")
    given = parser.parse_args()
    if given.device is None and not torch.cuda.is_available():
        print("No CUDA device: the networks of these sizes take minutes each on a CPU (--device cpu runs them)")
    else:
        print(measure_networks(given.device, compiled=not given.no_compile, limit=given.limit))

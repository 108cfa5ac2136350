"""The official networks on a GPU, with random weights of the real sizes: times, frame rates, peak memory.

    python bench/gpu.py                      # under 8 minutes on a data centre's GPU; no weights are needed
    python bench/gpu.py --no-compile

Prints the table of `nbhelpers doctor --gpu` in Markdown. Our SAM 2.1 large tracker and upstream's predictor run one
after the other on the same weights. Random weights cost what trained ones do.
"""

import argparse

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.measure import LIMIT, measure_networks

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cpu takes minutes a network")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which nothing further is begun")
    given = parser.parse_args()
    try:
        print(measure_networks(given.device, compiled=not given.no_compile, limit=given.limit))
    except NbHelpersError as error:  # without a GPU it says what it would do
        print(error)

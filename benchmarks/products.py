"""Matrix products in single precision on a CPU: torch's, and by oneDNN as compiled steps make them.

    OMP_NUM_THREADS=1 python benchmarks/products.py

Forward and down, a times b; and for updates, where a is transposed. The last product of each kind
is about as large as `lra.torch.products.LEAST` asks for. The first product of each shape is what
oneDNN takes to set up.
"""

import functools
import timeit

import torch

from lra.torch import products

SIZES = (
    *((256, 1024, 1024), (50, 1024, 1024), (256, 784, 256), (50, 784, 256), (50, 256, 256)),
    *((50, 128, 128), (64, 128, 128)),
)


def main() -> None:
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"steps take oneDNN here: {products.available()}"
    )
    for m, k, n in SIZES:
        b, flops = torch.randn(k, n), 2 * m * k * n
        for what, a in (("a b", torch.randn(m, k)), ("a^T b", torch.randn(k, m).t())):
            number = max(10, int(2e9 / flops))
            first = timeit.timeit(functools.partial(torch.ops.lra.mm.default, a, b, None), number=1)
            rates = [
                flops * number / min(timeit.repeat(product, number=number, repeat=7)) / 1e9
                for product in (
                    functools.partial(torch.mm, a, b),
                    functools.partial(torch.ops.lra.mm.default, a, b, None),
                )
            ]
            print(
                f"{m:>5} x {k:>4} x {n:>4}, {what:<5}: {rates[0]:4.0f} GFLOP/s by torch, "
                f"{rates[1]:4.0f} by oneDNN; the first took {first * 1e3:.1f} ms"
            )


if __name__ == "__main__":
    main()

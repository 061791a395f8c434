"""On a CUDA device: the share of the card's own rate, and steps that are replayed as graphs."""

import contextlib
from argparse import Namespace
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import lra
from lra.lab.networks.build import build_network
from lra.lab.settings.config import TrainConfig
from speed.steps import RULES, Row, Step, perceptron, prepare, samples, step_of
from turns import captured, synchronised, take_turns

SHOWN = ("backprop", "LRA-E", "MirroredLRA")
SIDE = 8192


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Multiply in TF32, or in float32 as it is."""
    kept = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = kept


class InBf16(nn.Module):
    """A network whose way forward runs under autocast, as it should, and the way back outside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        with torch.autocast("cuda", torch.bfloat16):
            out: Tensor = self.network(x)
        return out.float()


def gpt(width: int, depth: int) -> nn.Module:
    """The workbench's GPT of a larger size, for texts of 512."""
    return build_network(
        TrainConfig("digits", model=f"gpt:width={width},depth={depth},context=512"), (512,), 96
    )


def card(options: Namespace) -> str:
    """Steps whose time is arithmetic, in shares of the rate of a large product."""
    lines = [
        "| | products, TFLOP/s | backprop | its share of that | LRA-E | MirroredLRA |",
        "|---|---|---|---|---|---|",
    ]
    x, t = samples(4096, options)
    text = tuple(torch.randint(96, (2, 16, 512), device="cuda"))
    contestants: dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor]] = {
        "8 layers of 4096, batch 4096": (lambda: perceptron(4096, 8), x, t),
        "GPT, 8 blocks of 768, 16 texts of 512": (lambda: gpt(768, 8), *text),
    }
    for name, (build, *batch) in contestants.items():
        for kind in ("float32", "TF32", "bf16"):
            print(f"\n{name}, {kind}", flush=True)
            bf16 = kind == "bf16"
            steps = {}
            for rule in SHOWN:
                network = InBf16(build()) if bf16 else build()
                steps[rule] = step_of(network, *batch, "fused AdamW", *RULES[rule])
            with tf32(kind == "TF32"):
                rate = _rate(torch.bfloat16 if bf16 else torch.float32)
                with FlopCounterMode(display=False) as counter:
                    steps["backprop"]()
                timed = take_turns(steps, options.rounds, 5, options.clock)
            base = timed["backprop"].ms
            share = counter.get_total_flops() / base / 1e9 / rate
            lines.append(
                f"| {name}, {kind} | {rate:.0f} | {base:.2f} ms | {share:.2f} "
                f"| {timed['LRA-E']} | {timed['MirroredLRA']} |"
            )
    return "\n".join(lines)


def _rate(dtype: torch.dtype) -> float:
    """Measure the rate of a product of two matrices of random numbers, in TFLOP/s."""
    a, b = (torch.randn(SIDE, SIDE, dtype=dtype, device="cuda") for _ in range(2))
    times = []
    for _ in range(7):
        start = synchronised()
        for _ in range(3):
            a @ b
        times.append((synchronised() - start) / 3)
    return 2 * SIDE**3 / sorted(times)[3] / 1e12


def replayed(options: Namespace) -> list[Row]:
    """Eager steps, the same captured in a CUDA graph, and compiled ones without and with one."""
    found = []
    images = torch.rand(64, 3, 32, 32, device="cuda"), torch.randint(10, (64,), device="cuda")
    text = tuple(torch.randint(96, (2, 16, 128), device="cuda"))
    digits = {n: samples(n, options) for n in (50, 256)}
    for name, build, (x, t), compiles in (
        ("784-256x4-10, batch 50", lambda: perceptron(256, 5), digits[50], True),
        ("784-256x4-10, batch 256", lambda: perceptron(256, 5), digits[256], True),
        ("ResNet-20, 64 images of 32 x 32", lambda: _resnet(images[0]), images, False),
        ("GPT, 16 texts of 128", lambda: _gpt(text[0]), text, True),
    ):
        print(f"\n{name}", flush=True)
        steps: dict[str, Step] = {}
        for rule in SHOWN:
            steps[rule] = step_of(build(), x, t, "fused AdamW", *RULES[rule])
            steps[f"{rule}, replayed"] = captured(
                step_of(build(), x, t, "fused AdamW", *RULES[rule])
            )
        for rule in SHOWN[:2] if compiles else ():
            for mode in (None, "reduce-overhead"):
                steps[f"{rule}, compiled" + ", replayed" * bool(mode)] = _compiled(
                    build(), x, t, rule, mode
                )
        found.append((name, take_turns(steps, options.rounds, 30, options.clock)))
    return found


def _resnet(x: Tensor) -> nn.Module:
    return build_network(TrainConfig("digits", model="resnet:depth=20"), x.shape[1:], 10)


def _gpt(x: Tensor) -> nn.Module:
    return build_network(TrainConfig("digits", model="gpt"), x.shape[1:], 96)


def _compiled(model: nn.Module, x: Tensor, t: Tensor, rule: str, mode: str | None) -> Step:
    """Compile a step, and say how long that took."""
    terms = "tokens" if t.dim() > 1 else "batch"
    optimizer = prepare(
        model.to(x.device), "fused AdamW", *RULES[rule], example=x[:2], loss_terms=terms
    )

    def loss(out: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(out.flatten(0, -2), t.flatten())

    step = lra.compile_step(model, loss, optimizer, mode=mode)
    step(x, t)
    print(f"  {rule}, {mode}: compiled in {step.seconds:.1f} s", flush=True)
    return lambda: step(x, t)

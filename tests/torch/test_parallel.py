"""Training in several processes, each on its part of the batch.

The oracle is the same network in one process, on the whole batch.
"""

import copy
import tempfile
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import lra

pytestmark = pytest.mark.skipif(
    not distributed.is_available() or not distributed.is_gloo_available(), reason="needs gloo"
)
RULES = {
    "lra-e": lra.LRAE(0.3),
    "feedback alignment": lra.FeedbackAlignment(),
    "direct": lra.LRAE(0.3, wiring=lra.wiring.Direct()),
}


class Tokens(nn.Module):
    """A small transformer, which is converted by intercepting its functions."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True)

    def forward(self, x):
        return self.head(self.layer(self.stem(x)).mean(1))


class Images(nn.Module):
    """A small convolutional network, without batch norm, whose statistics depend on the part."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.Tanh(),
            nn.Flatten(), nn.Linear(16, 4),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x[:, None])


MODELS = {"transformer": Tokens, "convolutional": Images}


def data():
    torch.manual_seed(1)
    return torch.randn(8, 6, 6).double(), torch.arange(8) % 4


def build(kind, rule, seed=0):
    torch.manual_seed(seed)
    return lra.convert(MODELS[kind]().double(), RULES[rule], example=data()[0][:2])


def train(model, x, t):
    """Take two steps, so that the second uses the weights of the first."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), t).backward()
        optimizer.step()
    return model


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-12, msg=name)


def run(job, rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=Path(folder, "rendezvous").as_uri(), rank=rank, world_size=2
    )
    job(rank)
    Path(folder, f"passed by {rank}").touch()
    distributed.barrier()
    distributed.destroy_process_group()


def spawn(job):
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=run, args=(job, r, folder)) for r in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(100)
            process.kill()
        # Exit codes do not count: gloo's threads may abort after all is done.
        assert all(Path(folder, f"passed by {r}").exists() for r in range(2))


def job_ddp(rank):
    x, t = data()
    half = slice(4 * rank, 4 * rank + 4)
    for kind in MODELS:
        for rule in RULES:
            whole = train(build(kind, rule), x, t)
            # Each process draws other weights; DDP takes those of the first, with its feedback.
            shared = DistributedDataParallel(build(kind, rule, seed=rank))
            assert_same(train(shared, x[half], t[half]).module.state_dict(), whole.state_dict())
            with pytest.raises(lra.errors.ConversionError, match="convert first, then wrap"):
                lra.convert(DistributedDataParallel(MODELS[kind]()), RULES[rule])


def job_sharing(rank):
    x, t = data()
    half = slice(4 * rank, 4 * rank + 4)

    def steps(model, optimizer, x, t):
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(x), t).backward()
            optimizer.step()

    for kind in MODELS:
        whole, part = build(kind, "lra-e"), build(kind, "lra-e", seed=rank)
        decay = {"momentum": 0.9, "weight_decay": 0.3}
        optimizers = [torch.optim.SGD(m.parameters(), 0.1, **decay) for m in (whole, part)]
        for model, optimizer in zip((whole, part), optimizers, strict=True):
            assert lra.share_feedback(model, optimizer)
        wrapped = DistributedDataParallel(part)
        steps(whole, optimizers[0], x, t)
        steps(wrapped, optimizers[1], x[half], t[half])
        assert_same(part.state_dict(), whole.state_dict())
        with pytest.raises(lra.errors.ConversionError, match="share first, then wrap"):
            lra.share_feedback(wrapped, optimizers[1])


METHODS = {
    "pc": lra.methods.PredictiveCoding(5),
    "ep": lra.methods.EquilibriumPropagation(0.3, 10, 5),
    "error-predictive-coding": lra.methods.ErrorPredictiveCoding(),
    "dtp": lra.methods.DTP(sigma=0.0),  # each process would draw other noise
    "pepita": lra.methods.PEPITA(),
    "drtp": lra.methods.DRTP(),
}


def job_methods(rank):
    x, t = data()
    half = slice(4 * rank, 4 * rank + 4)
    for name, method in METHODS.items():

        def build(seed, name=name, method=method):
            torch.manual_seed(seed)
            layers = [nn.Conv1d(6, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 8), nn.Tanh()]
            if name in ("pepita", "drtp"):
                layers = [nn.Flatten(), nn.Linear(36, 8), nn.Tanh()]
            return method.attach(nn.Sequential(*layers, nn.Linear(8, 4)).double(), x)

        def train(model, x, t, method=method):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            for _ in range(2):
                optimizer.zero_grad()
                method(model, lambda output: F.cross_entropy(output, t), x)
                optimizer.step()
            return model

        whole = train(build(0), x, t)
        shared = train(DistributedDataParallel(build(rank)), x[half], t[half])
        assert_same(shared.module.state_dict(), whole.state_dict())


def job_mirrors(rank):
    for kind in MODELS:
        torch.manual_seed(rank)
        shared = DistributedDataParallel(MODELS[kind]().double()).module  # the same weights
        torch.manual_seed(rank)
        model = lra.convert(shared, lra.MirroredLRA(samples=50), example=data()[0][:2])
        both = DistributedDataParallel(model)
        # The oracle: the mirror by each process's noise alone, and the mean of the two.
        alone = {}
        for seed in range(2):
            torch.manual_seed(seed)
            alone[seed] = lra.mirror(
                copy.deepcopy(model), 50, generator=torch.Generator().manual_seed(seed)
            )
        lra.mirror(both, 50, generator=torch.Generator().manual_seed(rank))
        feedback = {n for n, p in model.named_parameters() if "feedback" in n}
        assert feedback
        for name, E in model.named_parameters():
            one, other = (dict(alone[seed].named_parameters())[name] for seed in range(2))
            if name in feedback:
                assert not torch.equal(one, other)
                torch.testing.assert_close(E, (one + other) / 2, rtol=1e-12, atol=1e-14)
        with pytest.warns(lra.LraWarning, match="the same seed"):
            lra.mirror(model, 50)


def job_sharding(rank):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    x, t = data()
    half = slice(4 * rank, 4 * rank + 4)
    mesh = distributed.device_mesh.init_device_mesh("cpu", (2,))
    for kind in MODELS:
        for rule in RULES:
            whole = train(build(kind, rule), x, t)
            model = build(kind, rule)
            for child in model.children():
                fully_shard(child, mesh=mesh)
            fully_shard(model, mesh=mesh)
            if rule == "direct":
                with pytest.raises(lra.errors.RuleError, match="when FSDP no longer holds them"):
                    model(x[half])
                continue
            train(model, x[half], t[half])
            found = {
                name: v.full_tensor() if isinstance(v, DTensor) else v
                for name, v in model.state_dict().items()
            }
            assert_same(found, whole.state_dict())
            with pytest.raises(lra.errors.ConversionError, match="mirror it first, then shard"):
                lra.mirror(model)
            with pytest.raises(lra.errors.ConversionError, match="a sharding"):
                lra.restore(model)
            with pytest.raises(lra.errors.ConversionError, match="convert first, then shard"):
                lra.convert(fully_shard(MODELS[kind](), mesh=mesh), RULES[rule])


def job_sharing_and_sharding(rank):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    x, t = data()
    half = slice(4 * rank, 4 * rank + 4)
    mesh = distributed.device_mesh.init_device_mesh("cpu", (2,))

    def steps(model, x, t):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(x), t).backward()
            optimizer.step()
        return {
            name: value.full_tensor() if isinstance(value, DTensor) else value
            for name, value in model.state_dict().items()
        }

    for kind in MODELS:
        whole, sharded = build(kind, "lra-e"), build(kind, "lra-e")
        for model in (whole, sharded):
            assert lra.share_feedback(model, torch.optim.SGD(model.parameters(), lr=0.1))
        before = copy.deepcopy(whole.state_dict())
        for child in sharded.children():
            fully_shard(child, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        expected = steps(whole, x, t)
        assert_same(steps(sharded, x[half], t[half]), expected)
        offsets = [name for name in expected if name.endswith("_offset")]
        assert offsets
        for name in offsets:
            torch.testing.assert_close(expected[name], before[name] * (1 - 0.1 * 0.5) ** 3)


def test_data_parallel():
    spawn(job_ddp)


def test_shared_feedback_under_data_parallel():
    spawn(job_sharing)


def test_methods_under_data_parallel():
    spawn(job_methods)


def test_mirrors_average_over_processes():
    spawn(job_mirrors)


def test_fully_sharded():
    spawn(job_sharding)


def test_shared_feedback_of_a_sharded_model():
    spawn(job_sharing_and_sharding)

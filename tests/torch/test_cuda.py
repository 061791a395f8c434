"""On a CUDA device: the CPU's numbers, no synchronization, captured graphs, autocast.

Run on a machine with one: pytest tests/torch/test_cuda.py
"""

import copy
import functools

import pytest
import torch
from nets import (
    ALL_RULES,
    MODELS,
    alone,
    assert_same,
    by_method,
    convert,
    images,
    mlp,
    taken,
    updates,
)
from torch import nn
from torch.nn import functional as F

import lra

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # from torch's compiler
]

NEAR = {"rtol": 1e-8, "atol": 1e-10}
adamw = functools.partial(torch.optim.AdamW, lr=1e-3, eps=1e-3)


@pytest.fixture(autouse=True)
def _exact_products():
    """Compute in float32, not in TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def on_cpu(found):
    return {key: value.cpu() for key, value in found.items()}


def on_cuda(*tensors):
    return [t.cuda() for t in tensors]


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("rule", [n for n in ALL_RULES if "per batch" not in n])
def test_updates_equal_the_cpus(rule, family):
    model = convert(MODELS[family]().double(), ALL_RULES[rule])
    other = copy.deepcopy(model).cuda()
    x, t = images()
    expected = updates(model, x, t)
    assert expected
    assert_same(on_cpu(updates(other, *on_cuda(x, t))), expected, **NEAR)


def test_feedback_drawn_per_batch_uses_the_devices_generator():
    """Equal seeds of CUDA's generator give equal updates, and other seeds other ones."""
    model = convert(mlp().double(), ALL_RULES["sign symmetry, drawn per batch"]).cuda()
    x, t = on_cuda(*images())

    def found(seed):
        torch.cuda.manual_seed(seed)
        return updates(model, x, t)

    first = found(1)
    assert_same(found(1), first)
    assert any(
        not torch.equal(a, b) for a, b in zip(found(2).values(), first.values(), strict=True)
    )


@pytest.mark.parametrize(
    "method",
    [lra.methods.PredictiveCoding(), lra.methods.ErrorPredictiveCoding(), lra.methods.DTP()],
    ids=lambda rule: rule.name,
)
def test_updates_of_methods_equal_the_cpus(method):
    model = nn.Sequential(*list(mlp())).double()
    x, t = images()
    if isinstance(method, lra.methods.DTP):
        method.attach(model, x)
    other = copy.deepcopy(model).cuda()
    expected = by_method(method, model, x, t)
    value, found = by_method(method, other, *on_cuda(x, t))
    torch.testing.assert_close(value.cpu(), expected[0], **NEAR)
    assert found.keys() == expected[1].keys()
    if not isinstance(method, lra.methods.DTP):  # DTP draws noise
        assert_same(on_cpu(found), expected[1], **NEAR)


@pytest.mark.parametrize("rule", ALL_RULES)
def test_steps_do_not_synchronize(rule):
    """After the first passes, which check the scale of the loss."""
    model = convert(mlp(), ALL_RULES[rule]).cuda()
    optimizer = adamw(model.parameters(), fused=True)
    x, t = on_cuda(*images(dtype=torch.float32))
    step = eager(model, optimizer)
    for _ in range(12):
        step(x, t)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(x, t)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def eager(model, optimizer, loss=F.cross_entropy):
    def step(x, t):
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(x), t)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def shared(model, optimizer):
    if any(isinstance(getattr(m, "feedback", None), nn.Parameter) for m in model.modules()):
        lra.share_feedback(model, optimizer)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("rule", ["backprop", "lra-e", "mirrored-lra", "direct-lra"])
def test_captured_steps_equal_eager_ones(rule, family):
    """torch.cuda.graph captures the eager step with its optimizer, and replays it on new data."""
    a = convert(MODELS[family]().cuda(), ALL_RULES[rule], **example(ALL_RULES[rule]))
    b = copy.deepcopy(a)
    oa, ob = (adamw(m.parameters(), fused=True, capturable=True) for m in (a, b))
    if rule in ("lra-e", "mirrored-lra"):
        shared(a, oa)
        shared(b, ob)
    one, other = eager(a, oa), eager(b, ob)
    data = [on_cuda(*images(dtype=torch.float32)) for _ in range(10)]
    x, t = (v.clone() for v in data[0])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for k in range(5):
            one(*data[k])
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    oa.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        value = one(x, t)
    for k in range(5):
        other(*data[k])
    for k in range(5, 10):
        x.copy_(data[k][0])
        t.copy_(data[k][1])
        graph.replay()
        expected = other(*data[k])
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    near = {"rtol": 1e-3, "atol": 1e-5}
    assert_same(dict(a.state_dict()), dict(b.state_dict()), **near)


def example(rule):
    return {} if rule.wiring == lra.wiring.Chain() else {"example": torch.zeros(2, 3, 8, 8).cuda()}


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("rule", ["backprop", "lra-e", "mirrored-lra"])
def test_compiled_steps_equal_eager_ones(rule, family, mode):
    torch._dynamo.reset()
    a = convert(MODELS[family]().cuda(), ALL_RULES[rule])
    b = copy.deepcopy(a)
    oa, ob = (adamw(m.parameters(), fused=True) for m in (a, b))
    if rule != "backprop":
        shared(a, oa)
        shared(b, ob)
    step, other = lra.compile_step(a, F.cross_entropy, oa, mode=mode), eager(b, ob)
    values, expected = [], []
    for _ in range(8):
        x, t = on_cuda(*images(dtype=torch.float32))
        values.append(step(x, t))
        expected.append(other(x, t))
    assert step.compilations == 1
    near = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.stack(values), torch.stack(expected), **near)
    assert_same(dict(a.state_dict()), dict(b.state_dict()), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("rule", ["lra-e", "mirrored-lra", "feedback-alignment", "direct-lra"])
def test_updates_under_autocast_point_the_same_way(rule, family):
    """The angle between the updates in bf16 and in float64 is small."""
    model = convert(MODELS[family]().cuda(), ALL_RULES[rule], **example(ALL_RULES[rule]))
    exact = copy.deepcopy(model).double()
    x, t = on_cuda(*images(32))
    expected = updates(exact, x, t)
    with torch.autocast("cuda", torch.bfloat16):
        loss = F.cross_entropy(model(x.float()), t)
    model.zero_grad()
    loss.backward()
    found = taken(model)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.dtype == torch.float32
        flat, exactly = value.double().flatten(), expected[key].flatten()
        if exactly.norm() > 1e-6 * sum(v.norm() for v in expected.values()):
            assert F.cosine_similarity(flat, exactly, 0) > 0.95, key


@pytest.mark.parametrize("rule", ["lra-e", "feedback-alignment"])
def test_gradient_scalers_work_with_scaled_loss_terms(rule):
    """float16 with GradScaler, with N divided by the scale, as the warning advises."""
    model = convert(mlp().cuda(), ALL_RULES[rule])
    exact = copy.deepcopy(model).double()
    x, t = on_cuda(*images(32))
    expected = updates(exact, x, t)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    optimizer = adamw(model.parameters())
    lra.set_loss_terms(model, 32 / 2**10)
    with torch.autocast("cuda", torch.float16):
        loss = F.cross_entropy(model(x.float()), t)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    for key, value in taken(model).items():
        cosine = F.cosine_similarity(value.double().flatten(), expected[key].flatten(), 0)
        assert cosine > 0.98, key
        torch.testing.assert_close(value.norm().double(), expected[key].norm(), rtol=0.1, atol=0)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**10  # nothing overflowed


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-5])
@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid, nn.ReLU, nn.GELU, nn.SiLU, nn.Mish, nn.ELU])
def test_errors_in_float32_are_exact_to_rounding(act, size, two_sided):
    """Subtraction would be off by 1e-7 / size, relative to the error."""
    h, d = (t.cuda() for t in (torch.randn(500, 60), size * torch.randn(500, 60) / 500))
    found = []
    for dtype in (torch.float32, torch.float64):
        layer = alone(act(), lra.LRAE(1.0, two_sided=two_sided))
        at = h.to(dtype, copy=True).requires_grad_()
        layer(at).backward(d.to(dtype))
        found.append(at.grad)
    e, exact = found
    assert exact.any()
    assert (e - exact).norm() <= 3e-6 * exact.norm()


@pytest.mark.parametrize("rule", ["lra-e", "mirrored-lra"])
def test_ensembles_give_each_networks_updates(rule):
    models = [convert(mlp().double(), ALL_RULES[rule]).cuda() for _ in range(3)]
    copies = copy.deepcopy(models)
    x, t = zip(*(on_cuda(*images()) for _ in models), strict=True)
    ensemble = lra.ensemble.Ensemble(copies)
    torch.vmap(F.cross_entropy)(ensemble(torch.stack(x)), torch.stack(t)).sum().backward()
    for model, twin, rows, labels in zip(models, copies, x, t, strict=True):
        assert_same(taken(twin), updates(model, rows, labels), **NEAR)


def test_a_diagnosis_preserves_the_generators():
    model = convert(nn.Sequential(mlp()[:2], nn.Dropout(0.5), mlp()[2:]), lra.LRAE()).cuda()
    x, t = on_cuda(*images(dtype=torch.float32))
    before = torch.cuda.get_rng_state()
    found = lra.diagnose(model, x, t)
    assert torch.equal(before, torch.cuda.get_rng_state())
    assert found


def test_steps_on_separate_streams_are_independent():
    models = [convert(mlp().double(), lra.LRAE()).cuda() for _ in range(2)]
    data = [on_cuda(*images()) for _ in models]
    expected = [updates(copy.deepcopy(m), *d) for m, d in zip(models, data, strict=True)]
    streams = [torch.cuda.Stream() for _ in models]
    torch.cuda.synchronize()
    found = []
    for model, batch, stream in zip(models, data, streams, strict=True):
        with torch.cuda.stream(stream):
            found.append(updates(model, *batch))
    torch.cuda.synchronize()
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs, **NEAR)

"""Machinery: a compiled model and loss give the eager updates."""

import pytest
import torch
from nets import MODELS, assert_same, images, taken, updates
from torch.nn import functional as F

import lra

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch by its compiler

RULES = {
    "lra-e": lra.LRAE(),
    "fa": lra.FeedbackAlignment(),
    "usf": lra.SignSymmetry(),
    "combined": lra.LRAE(local_loss=lra.Cauchy(), through=lra.TanhSurrogate(), gamma=0.5),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def check(build, rule, backend, n=4):
    torch._dynamo.reset()
    model = lra.convert(build(), rule)
    model.eval()  # the statistics of batch norm would move with every pass
    x, y = images(n, torch.float32)
    expected = updates(model, x, y)
    step = torch.compile(lambda x, y: F.cross_entropy(model(x), y), backend=backend, fullgraph=True)
    model.zero_grad()
    step(x, y).backward()
    assert_same(taken(model), expected, rtol=1e-5, atol=1e-6)
    return step


@every_rule
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_compiled_graph(build, rule):
    check(build, rule, "aot_eager")


@pytest.mark.slow
def test_compiled_kernels():
    check(MODELS["residual"], lra.LRAE(), "inductor")


def test_compiled_model_meets_another_batch_size():
    torch._dynamo.reset()
    model = lra.convert(MODELS["mlp"](), lra.LRAE())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for n in (4, 6, 7):
        x, y = images(n, torch.float32)
        expected = updates(model, x, y)
        model.zero_grad()
        F.cross_entropy(compiled(x), y).backward()
        assert_same(taken(model), expected, rtol=1e-5, atol=1e-6)

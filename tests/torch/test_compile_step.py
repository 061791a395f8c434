"""Machinery: a compiled step gives the numbers of the eager loop."""

import copy
import functools
import itertools

import pytest
import torch
from nets import MODELS, assert_same, convert, images, taken
from torch import nn
from torch._inductor import config as inductor
from torch.nn import functional as F

import lra
from lra.torch import compiled

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch's compiler

RULES = {
    "plain": None,
    "lra-e": lra.LRAE(gamma=0.5),
    "mirrored": lra.MirroredLRA(samples=100),
    "fa": lra.FeedbackAlignment(),
    "drawn per batch": lra.SignSymmetry(lra.feedback.Magnitude.BATCH),
    "direct": lra.LRAE(wiring=lra.wiring.Direct()),
    "stride": lra.RecLRA(),
}
OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.1),
    "momentum": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": functools.partial(torch.optim.Adam, lr=1e-3, eps=1e-3),
    "adamw": functools.partial(torch.optim.AdamW, lr=1e-3, eps=1e-3),
    "fused adamw": functools.partial(torch.optim.AdamW, lr=1e-3, eps=1e-3, fused=True),
    "rmsprop": functools.partial(torch.optim.RMSprop, lr=1e-3, eps=1e-3),
}
"""Optimizers, with an eps that keeps rounding errors from becoming steps."""
TIGHT = {"rtol": 1e-12, "atol": 1e-14}


def mlp():
    """Build a perceptron with running statistics and random numbers."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(192, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(0.3)),
        *(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4)),
    ).double()


def pair(rule=lra.LRAE(), build=mlp, optimizer=OPTIMIZERS["momentum"]):  # noqa: B008
    """Build the same model twice, each with its optimizer."""
    torch._dynamo.reset()
    model = build()
    if rule is not None:
        convert(model, rule)
    other = copy.deepcopy(model)
    return model, optimizer(model.parameters()), other, optimizer(other.parameters())


def eager(model, optimizer):
    def step(x, t):
        optimizer.zero_grad()
        value = F.cross_entropy(model(x), t)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def compile_step(model, optimizer, loss=F.cross_entropy, **options):
    return lra.compile_step(model, loss, optimizer, **({"backend": "aot_eager"} | options))


def batches(sizes=(6,), dtype=torch.float64):
    return itertools.cycle([images(n, dtype) for n in sizes])


def run(step, data, steps, before=lambda i: None):
    """Take steps from a fixed random state, and return the losses."""
    torch.manual_seed(5)
    values = []
    for i, (x, t) in enumerate(itertools.islice(data, steps)):
        before(i)
        values.append(step(x, t))
    return torch.stack(values)


def assert_equal_steps(ours, theirs, steps, sizes=(6,), before=lambda i, group: None, tight=TIGHT):
    """Take the same steps compiled and eagerly, and compare all results."""
    (model, optimizer, step), (other, its, plain) = ours, theirs
    state, dtype = torch.get_rng_state(), next(model.parameters()).dtype
    data = [pair for pair, _ in zip(batches(sizes, dtype), range(steps), strict=False)]
    values = run(step, data, steps, lambda i: before(i, optimizer.param_groups[0]))
    drawn = torch.get_rng_state()
    expected = run(plain, data, steps, lambda i: before(i, its.param_groups[0]))
    assert torch.equal(drawn, torch.get_rng_state())
    torch.set_rng_state(state)
    torch.testing.assert_close(values, expected, **tight)
    assert_same(dict(model.state_dict()), dict(other.state_dict()), **tight)
    assert_same(taken(model), taken(other), **tight)
    torch.testing.assert_close(optimizer.state_dict(), its.state_dict(), **tight)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_steps_under_any_rule_equal_eager_ones(rule):
    a, oa, b, ob = pair(rule)
    step = compile_step(a, oa)
    assert_equal_steps((a, oa, step), (b, ob, eager(b, ob)), 3)
    assert step.compilations == 1


@pytest.mark.parametrize("build", [MODELS["residual"], MODELS["vit"]], ids=("residual", "vit"))
def test_steps_of_any_model_equal_eager_ones(build):
    a, oa, b, ob = pair(build=lambda: build().double())
    tight = {"rtol": 1e-9, "atol": 1e-12}  # batch norm divides by small numbers
    assert_equal_steps((a, oa, compile_step(a, oa)), (b, ob, eager(b, ob)), 3, tight=tight)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_hundred_scheduled_steps_use_one_graph(optimizer):
    a, oa, b, ob = pair(optimizer=optimizer)

    def slow_down(i, group):
        group["lr"] = 0.1 / (i + 1)

    step = compile_step(a, oa)
    tight = {"rtol": 1e-9, "atol": 1e-11}
    assert_equal_steps((a, oa, step), (b, ob, eager(b, ob)), 100, before=slow_down, tight=tight)
    assert step.compilations == 1


def test_another_batch_size_compiles_another_graph():
    a, oa, b, ob = pair()
    step = compile_step(a, oa)
    assert_equal_steps((a, oa, step), (b, ob, eager(b, ob)), 8, sizes=(6, 6, 3))
    assert step.compilations == 2
    assert step.seconds > 0


def test_evaluation_between_steps():
    a, oa, b, ob = pair()
    step, plain = compile_step(a, oa), eager(b, ob)
    x, _ = images(6)
    assert_equal_steps((a, oa, step), (b, ob, plain), 2)
    for model in (a.eval(), b.eval()):
        with torch.no_grad():
            model(x)
    assert torch.equal(a(x).detach(), a(x).detach())
    assert_equal_steps((a, oa, step), (b, ob, plain), 2)  # with batch norm and dropout in eval mode
    a.train(), b.train()
    assert_equal_steps((a, oa, step), (b, ob, plain), 2)
    assert step.compilations == 2


def test_training_resumes_bit_for_bit():
    a, oa, b, ob = pair(optimizer=OPTIMIZERS["fused adamw"])
    data = list(itertools.islice(batches(), 6))
    step = compile_step(a, oa)
    run(step, data[:3], 3)
    other = compile_step(b, ob)
    run(other, data[3:4], 1)  # another state, to be overwritten
    b.load_state_dict(a.state_dict())
    ob.load_state_dict(copy.deepcopy(oa.state_dict()))
    assert torch.equal(run(step, data[3:], 3), run(other, data[3:], 3))
    assert_same(dict(a.state_dict()), dict(b.state_dict()))


def test_the_optimizers_hooks_run():
    a, oa, b, ob = pair()
    order = []
    for model, optimizer in ((a, oa), (b, ob)):

        def before(*_, model=model):
            order.append("before")
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)

        def after(*_, model=model):
            order.append("after")
            with torch.no_grad():
                for E in lra.feedback_parameters(model):
                    E *= 0.9

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)
    assert_equal_steps((a, oa, compile_step(a, oa)), (b, ob, eager(b, ob)), 3)
    assert order == ["before", "after"] * 6


def test_updates_can_be_computed_without_a_step():
    a, oa, b, _ = pair()
    before = copy.deepcopy(a.state_dict())
    x, t = images(6)
    a.eval(), b.eval()
    value = compile_step(a, oa).updates(x, t)
    expected = F.cross_entropy(b(x), t)
    expected.backward()
    torch.testing.assert_close(value, expected.detach())
    assert_same(taken(a), taken(b), **TIGHT)
    assert_same(dict(a.state_dict()), before)


def test_auxiliary_results_of_the_loss_are_returned():
    a, oa, b, _ = pair()
    x, t = images(6)
    a.eval(), b.eval()
    step = compile_step(a, oa, lambda o, t: (F.cross_entropy(o, t), {"output": o}), has_aux=True)
    value, aux = step(x, t)
    torch.testing.assert_close(value, F.cross_entropy(b(x), t).detach())
    torch.testing.assert_close(aux["output"], b(x).detach())
    assert not aux["output"].requires_grad


def test_updates_replace_grad_and_unreached_parameters_have_none():
    a, oa, _, _ = pair()
    a.eval()
    spare = nn.Parameter(torch.ones(3))
    oa.add_param_group({"params": [spare], "lr": 0.0})
    spare.grad = torch.ones(3)
    x, t = images(6)
    step = compile_step(a, oa)
    step.updates(x, t)
    first = taken(a)
    step.updates(x, t)
    assert_same(taken(a), first)
    assert spare.grad is None


def test_parameters_of_the_loss_get_updates():
    a, oa, b, ob = pair()
    scales = [nn.Parameter(torch.tensor(0.7, dtype=torch.float64)) for _ in range(2)]
    for optimizer, scale in zip((oa, ob), scales, strict=True):
        optimizer.add_param_group({"params": [scale]})
    x, t = images(6)
    a.eval(), b.eval()
    compile_step(a, oa, lambda o, t: F.cross_entropy(scales[0] * o, t))(x, t)
    F.cross_entropy(scales[1] * b(x), t).backward()
    torch.testing.assert_close(scales[0].grad, scales[1].grad, **TIGHT)


def test_weights_can_be_frozen_between_steps():
    a, oa, b, ob = pair()
    step, plain = compile_step(a, oa), eager(b, ob)
    assert_equal_steps((a, oa, step), (b, ob, plain), 1)
    for model in (a, b):
        model[1].requires_grad_(False)
    assert_equal_steps((a, oa, step), (b, ob, plain), 2)
    assert a[1].weight.grad is None
    assert step.compilations == 2


@pytest.mark.parametrize("frozen", [("5.weight",), ("5.weight", "7.weight"), ("5.feedback",)])
def test_single_weights_can_be_frozen_and_trained_again(frozen):
    a, oa, b, ob = pair()
    step, plain = compile_step(a, oa), eager(b, ob)
    for trains in (True, False, True):
        for model in (a, b):
            for name in frozen:
                model.get_parameter(name).requires_grad_(trains)
        assert_equal_steps((a, oa, step), (b, ob, plain), 2)
        for name in frozen:
            W = a.get_parameter(name.replace("feedback", "weight"))
            E = a.get_parameter(name.replace("weight", "feedback"))
            assert W.requires_grad == E.requires_grad


HOOKS = {
    "forward": lambda m: m[3].register_forward_hook(lambda m, x, y: y * 0.5),
    "forward pre": lambda m: m[5].register_forward_pre_hook(lambda m, x: (x[0] * 0.5,)),
    "of the model": lambda m: m.register_forward_hook(lambda m, x, y: y * 0.5),
}


@pytest.mark.parametrize("register", HOOKS.values(), ids=HOOKS)
def test_hooks_can_be_registered_and_removed_between_steps(register):
    a, oa, b, ob = pair()
    step, plain = compile_step(a, oa), eager(b, ob)
    assert_equal_steps((a, oa, step), (b, ob, plain), 2)
    handles = [register(model) for model in (a, b)]
    assert_equal_steps((a, oa, step), (b, ob, plain), 2)
    handles += [register(model) for model in (a, b)]
    assert_equal_steps((a, oa, step), (b, ob, plain), 2)
    for handle in handles:
        handle.remove()
    assert_equal_steps((a, oa, step), (b, ob, plain), 2)


def test_backward_hooks_that_come_later_are_refused():
    a, oa, _, _ = pair()
    step = compile_step(a, oa)
    step(*images(6))
    for register in (a[3].register_full_backward_hook, a.register_full_backward_hook):
        handle = register(lambda m, inner, outer: None)
        refused("backwards hooks", step, *images(6))
        handle.remove()
    handle = a[3].register_full_backward_pre_hook(lambda m, outer: None)
    refused("backwards hooks", step, *images(6))
    handle.remove()
    step(*images(6))


@pytest.mark.parametrize(
    "register",
    [
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
    ],
)
def test_hooks_on_all_modules_are_refused(register):
    a, oa, _, _ = pair()
    step = compile_step(a, oa)
    step(*images(6))
    handle = register(lambda *_: None)
    try:
        refused("a hook on all modules", step, *images(6))
    finally:
        handle.remove()
    step(*images(6))


def test_a_diagnosis_causes_no_compilation():
    a, oa, _, _ = pair()
    x, t = images(6)
    step = compile_step(a, oa)
    for _ in range(3):
        step(x, t)
        lra.diagnose(a, x, t)
        F.cross_entropy(a(x), t).backward()
    assert step.compilations == 1


def test_many_steps_do_not_share_a_limit_of_graphs():
    torch._dynamo.reset()
    for i in range(compiled.GRAPHS + 4):
        model = lra.convert(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)), lra.LRAE())
        step = compile_step(model, torch.optim.SGD(model.parameters(), lr=0.1 * (i + 1)))
        step(torch.randn(4, 3), torch.arange(4) % 2)
        assert step.compilations == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "dtype", "tight"),
    [
        (None, torch.float64, TIGHT),
        (lra.MirroredLRA(samples=100), torch.float64, TIGHT),
        (lra.LRAE(), torch.float32, {"rtol": 1e-5, "atol": 1e-6}),
    ],
)
def test_compiled_kernels_give_the_eager_numbers(rule, dtype, tight):
    a, oa, b, ob = pair(rule, build=lambda: mlp().to(dtype))
    step = compile_step(a, oa, backend="inductor")
    assert_equal_steps((a, oa, step), (b, ob, eager(b, ob)), 2, tight=tight)


def refused(message, step, *batch):
    with pytest.raises(lra.LraError, match=message):
        step(*batch)


def test_invalid_arguments_are_refused():
    model, optimizer, _, _ = pair()
    loss = F.cross_entropy
    for message, arguments, options in (
        ("model must be a torch.nn", (loss, loss, optimizer), {}),
        ("loss must be a function", (model, 1, optimizer), {}),
        ("optimizer must be a torch.optim.Optimizer", (model, loss, model), {}),
        ("unknown mode 'fast'", (model, loss, optimizer), {"mode": "fast"}),
        ("is for the backend", (model, loss, optimizer), {"mode": "default", "backend": "eager"}),
        ("by a closure", (model, loss, torch.optim.LBFGS(model.parameters())), {}),
        ("over devices by hooks", (nn.DataParallel(model), loss, optimizer), {}),
    ):
        refused(message, lambda a=arguments, o=options: lra.compile_step(*a, **o))


def test_steps_that_would_be_wrong_are_refused():
    model, optimizer, _, _ = pair()
    step, batch = compile_step(model, optimizer), images(6)
    with torch.no_grad():
        refused("outside torch.no_grad", step, *batch)
    with torch.autocast("cpu"):
        refused("autocast", step, *batch)
    handle = model[1].weight.register_hook(lambda g: 2 * g)
    refused("has a hook on its gradient", step, *batch)
    handle.remove()
    handle = model[1].weight.register_post_accumulate_grad_hook(lambda p: None)
    refused("has a hook on its gradient", step, *batch)
    handle.remove()
    for loss in (lambda o, t: o, lambda o, t: (o.sum(), o), lambda o, t: o.detach().sum()):
        refused("loss must return a scalar", compile_step(model, optimizer, loss), *batch)
    model.requires_grad_(False)
    refused("no parameter", step, *batch)


def test_models_that_break_the_graph_are_refused():
    class Breaks(nn.Linear):
        def forward(self, x):
            return super().forward(x) * float(x.sum().item() > 0 and print("") is None)

    torch._dynamo.reset()
    model = Breaks(3, 2)
    step = compile_step(model, torch.optim.SGD(model.parameters()))
    refused("cannot compile this step as one graph", step, torch.ones(4, 3), torch.arange(4) % 2)


def test_too_many_shapes_are_refused(monkeypatch):
    monkeypatch.setattr(compiled, "GRAPHS", 2)
    model, optimizer, _, _ = pair()
    step = compile_step(model, optimizer)
    for n in (4, 5):
        step(*images(n))
    refused("for 2 kinds of arguments", step, *images(6))


def test_a_missing_compiler_is_reported():
    torch._dynamo.reset()
    model = nn.Linear(37, 2)
    step = compile_step(model, torch.optim.SGD(model.parameters()), backend="inductor")
    with inductor.patch({"cpp.cxx": (None, "no-such-compiler")}):
        refused("needs a working C.. compiler.*CXX", step, torch.ones(4, 37), torch.arange(4) % 2)

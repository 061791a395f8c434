"""Around a conversion: freezing, the meta device, optimizers, compilation, the scale of the loss.

The oracle is the update of the same model without these, or the message that the user needs.
"""

import copy
import importlib.util
import warnings
from pathlib import Path

import pytest
import torch
from nets import ViT
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import lra


def net(rule=None, **options):
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)
    return lra.convert(nn.Sequential(*layers).double(), rule or lra.LRAE(0.3), **options)


def data(n=5):
    torch.manual_seed(1)
    return torch.randn(n, 6).double(), torch.randint(4, (n,))


def updates(model, x, t, **loss):
    model.zero_grad()
    F.cross_entropy(model(x), t, **loss).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("by", [torch.func.jacrev, torch.func.jacfwd, torch.func.grad])
def test_second_derivatives_are_refused_under_torch_func(by):
    model, (x, _) = net(loss_terms=1), data()

    def f(v):
        return model(v[None]).sum() if by is torch.func.grad else model(v[None])[0]

    lra.restore(model)
    lra.convert(model, lra.LRAE(), input_layers=(), loss_terms=1)
    if by is torch.func.grad:
        once = torch.func.grad(f)
        assert once(x[0]).shape == (6,)
        twice = torch.func.jacrev(once)
    else:
        twice = torch.func.jacrev(torch.func.jacrev(f))
    with pytest.raises(lra.errors.RuleError, match="a derivative of a derivative"):
        twice(x[0])


def test_feedback_is_frozen_and_unfrozen_with_its_weights():
    model, batch = net(), data()
    E = model[2].feedback
    model[2].weight.requires_grad_(False)
    assert "2.feedback" not in updates(model, *batch)
    assert not E.requires_grad
    model[2].weight.requires_grad_(True)
    got = updates(model, *batch)
    torch.testing.assert_close(got["2.feedback"], got["2.weight"])


@pytest.mark.parametrize("by", ["reset", "load", "forward", "state"])
@pytest.mark.parametrize("rule", [lra.LRAE(), lra.FeedbackAlignment()], ids=lambda rule: rule.name)
def test_feedback_of_a_meta_model_is_drawn_when_weights_are_known(by, rule):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 400), nn.Tanh(), nn.Linear(400, 300), nn.LSTM(300, 8))
    lra.convert(model, rule)
    assert model[2].feedback.is_meta
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(1e9)  # stands for uninitialised memory
    if by == "reset":
        for module in model:
            getattr(module, "reset_parameters", lambda: None)()
    else:
        for module in model:
            plain = getattr(module, "plain", type(module))
            getattr(plain, "reset_parameters", lambda m: None)(module)
        if by == "load":
            plain = {k: v for k, v in model.state_dict().items() if "feedback" not in k}
            model.load_state_dict(plain)
    if by == "state":
        state = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(state)
        assert (model[2].feedback == 1e9).all()  # as in the state
        return
    model(torch.randn(3, 6))
    E, W = model[2].feedback, model[2].weight
    assert 0.95 < E.std() / W.std() < 1.05
    assert model[3].feedback_ih_l0.abs().max() < 2


def test_convert_in_inference_mode():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    with torch.inference_mode():
        lra.convert(model, lra.LRAE(), input_layers=())
    assert not model[2].feedback.is_inference()
    updates(model, torch.randn(3, 6), torch.zeros(3, dtype=torch.long))


def test_a_sample_without_a_batch_dimension_needs_loss_terms():
    (x, t), rule = data(1), lra.LRAE(0.3)
    expected = updates(net(rule), x, t)
    model = net(rule)
    with pytest.raises(
        lra.errors.RuleError, match=r"one sample without a batch.*set_loss_terms\(model, 1"
    ):
        model(x[0])
    with pytest.raises(lra.errors.RuleError, match="one sample without a batch"):
        torch.func.vmap(model)(x)
    lra.set_loss_terms(model, 1)
    got = updates(model, x[0], t[0])
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)
    conv = nn.Sequential(nn.Conv1d(2, 3, 1), nn.ReLU(), nn.Conv1d(3, 2, 1))
    lra.convert(conv, rule)
    conv(torch.randn(4, 2, 5))
    with pytest.raises(lra.errors.RuleError, match="one sample without a batch"):
        conv(torch.randn(2, 5))
    lra.convert(lra.restore(conv), lra.FeedbackAlignment())(torch.randn(2, 5))  # needs no N
    with torch.no_grad():
        net(rule)(x[0])


def test_an_optimizer_without_the_learned_feedback_causes_a_warning():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    early = torch.optim.SGD(model.parameters(), lr=0.1)
    lra.convert(model, lra.LRAE())
    updates(model, *data())
    with pytest.warns(lra.LraWarning, match=r"updates the weights of 1 layers.*add_param_group"):
        early.step()
    early.step()  # warns only once
    late = torch.optim.SGD(model.parameters(), lr=0.1)
    late.step()
    extended = torch.optim.SGD([model[0].weight, model[2].weight], lr=0.1)
    extended.add_param_group({"params": lra.feedback_parameters(model)})
    extended.step()


def labels(h, t):
    return F.one_hot(t, h.shape[-1]).to(h.dtype)


LOSSES = {
    "cross-entropy": F.cross_entropy,
    "class weights": lambda h, t, **by: F.cross_entropy(h, t, CLASS_WEIGHTS, **by),
    "smoothing 0.1": lambda h, t, **by: F.cross_entropy(h, t, label_smoothing=0.1, **by),
    "smoothing 0.3": lambda h, t, **by: F.cross_entropy(h, t, label_smoothing=0.3, **by),
    "binary": lambda h, t, **by: F.binary_cross_entropy_with_logits(h, labels(h, t), **by),
    "squared": lambda h, t, **by: F.mse_loss(h, labels(h, t), **by),
    "half squared": lambda h, t, **by: F.mse_loss(h, labels(h, t), **by) / 2,
}
CLASS_WEIGHTS = torch.tensor([1.0, 1.2, 0.8, 1.0]).double()


@pytest.mark.parametrize("spread", [0.05, 1.0, 8.0])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_wrong_scale_is_recognised_by_the_errors_of_usual_losses(loss, spread):
    x, t = data(12)

    def run(scale, terms="batch", **by):
        model = net(loss_terms=terms)
        with torch.no_grad():
            model[4].weight.mul_(spread)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            (scale * loss(model(x), t, **by)).backward()
        return [str(warning.message) for warning in seen]

    for scale, by in ((1, "sum"), (64, "mean"), (1 / 20, "mean")):
        (message,) = run(scale, reduction=by)
        assert "the loss divides by" in message
    assert not run(1)
    assert not run(1, 1, reduction="sum")
    assert not run(64, 12 / 64)


SCALES = {
    "sum": (lambda m, x, t: F.cross_entropy(m(x), t, reduction="sum"), r"divides by 1,"),
    "scaled": (lambda m, x, t: 2.0**16 * F.cross_entropy(m(x), t), "divides by 7.6"),
    "accumulated": (lambda m, x, t: F.cross_entropy(m(x), t) / 4, r"divides by 20,"),
    "smoothed sum": (
        lambda m, x, t: F.cross_entropy(m(x), t, reduction="sum", label_smoothing=0.2),
        r"divides by 1,",
    ),
    "mean of tokens": (
        lambda m, x, t: F.cross_entropy(
            m(x.expand(3, -1, -1)).transpose(1, 2), t.expand(3, -1), label_smoothing=0.1
        ),
        r"divides by 15, .* but 3 terms",
    ),
    "binary sum": (
        lambda m, x, t: F.binary_cross_entropy_with_logits(m(x), labels(m(x), t), reduction="sum"),
        r"divides by 1,",
    ),
    "squared sum": (
        lambda m, x, t: F.mse_loss(m(x), labels(m(x), t), reduction="sum"),
        r"divides by 1,",
    ),
    "other": (lambda m, x, t: 1e5 * F.mse_loss(m(x)[:, 0], t.double()), "as if the loss were no"),
}


@pytest.mark.parametrize(("loss", "message"), SCALES.values(), ids=SCALES)
def test_a_loss_of_another_scale_causes_a_warning(loss, message):
    model, (x, t) = net(), data()
    with pytest.warns(lra.LraWarning, match=message):
        loss(model, x, t).backward()
    loss(model, x, t).backward()  # warns only once
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(net(lra.KolenPollack()), x, t).backward()  # works at any scale


def test_usual_losses_cause_no_warning():
    x, t = data(7)
    weight = torch.tensor([1.0, 1.1, 0.9, 1.0]).double()
    for loss in (
        lambda h: F.cross_entropy(h, t),
        lambda h: F.cross_entropy(h, t, weight=weight),
        lambda h: F.cross_entropy(h, t, label_smoothing=0.1),
        lambda h: F.cross_entropy(h, torch.rand(7, 4).double().softmax(-1)),
        lambda h: F.mse_loss(h[:, 0], t.double()),
        lambda h: F.mse_loss(h, torch.rand_like(h)),
        lambda h: F.l1_loss(h, torch.rand_like(h)),
        lambda h: F.smooth_l1_loss(h, 2 * torch.rand_like(h)),
        lambda h: F.binary_cross_entropy_with_logits(h[:, 0], (t > 1).double()),
    ):
        loss(net()(x)).backward()
    two = lra.convert(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2)).double(), lra.LRAE())
    F.cross_entropy(two(x), torch.rand(7, 2).double().softmax(-1)).backward()
    F.cross_entropy(net(loss_terms=1)(x), t, reduction="sum").backward()
    F.cross_entropy(net(loss_terms=7 / 8)(x), t).mul(8).backward()


def test_the_scale_of_the_loss_is_checked_in_the_first_passes_only():
    x, t = data()
    fused, unfused = net(), net()
    handle = unfused[2].register_forward_hook(lambda *_: None)  # so that layers run one by one
    for model in (fused, unfused):
        for _ in range(5):
            F.cross_entropy(model(x), t).backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            F.cross_entropy(model(x), t, reduction="sum").backward()
    handle.remove()


def test_restore_refuses_a_parametrization_added_after_convert():
    model = net()
    parametrizations.weight_norm(model[2])
    with pytest.raises(
        lra.errors.ConversionError, match=r"'2' got a parametrization .* after convert; remove"
    ):
        lra.restore(model)
    assert lra.is_converted(model)
    torch.nn.utils.parametrize.remove_parametrizations(model[2], "weight")
    lra.restore(model)
    assert [type(m) for m in model] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert not any("lra" in name or "feedback" in name for m in model for name in vars(m))


def test_learned_tokens_and_positions_are_not_weights():
    model = ViT().double()
    lra.convert(model, lra.LRAE(), example=torch.randn(2, 3, 8, 8).double())
    assert lra.coverage(model).full
    assert type(model) is ViT


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch.compile
@pytest.mark.parametrize("kind", ["convolutions", "transformer"])
def test_a_compiled_model_takes_any_batch_size(kind):
    torch.manual_seed(0)
    if kind == "convolutions":
        layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.LazyLinear(4)
        model = nn.Sequential(*layers)
        model(torch.randn(2, 3, 8, 8))
    else:
        model = ViT()
    lra.convert(model, lra.LRAE(), example=torch.randn(2, 3, 8, 8))
    torch._dynamo.reset()
    twin = copy.deepcopy(model)
    with torch._dynamo.config.patch(specialize_float=True):  # beta and gamma are constants
        compiled = torch.compile(twin, backend="aot_eager", dynamic=True)
        for n in (3, 5):
            x, t = torch.randn(n, 3, 8, 8), torch.randint(4, (n,))
            expected, got = updates(model, x, t), updates(compiled, x, t)
            for name, value in expected.items():
                torch.testing.assert_close(got[f"_orig_mod.{name}"], value, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # from Lightning, about workers and logs
def test_lightning_loads_a_checkpoint():
    pytest.importorskip("lightning")
    path = Path(__file__).parents[2] / "examples" / "lightning_module.py"
    spec = importlib.util.spec_from_file_location("lightning_module", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert example.main(epochs=1) > 0.3  # the accuracy of the model in the checkpoint

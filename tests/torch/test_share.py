"""Shared feedback: E = W + D moves as learned E does, with every supported optimizer."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from lra.torch.optimizer_hooks import ELEMENTWISE

SETTINGS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.1}),
    "SGD, decay": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.05}),
    "SGD, momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "SGD, momentum and decay": (
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.05, "dampening": 0.2},
    ),
    "SGD, Nesterov and decay": (
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.05, "nesterov": True},
    ),
    "Adam": (torch.optim.Adam, {"lr": 1e-2}),
    "Adam, AMSGrad": (torch.optim.Adam, {"lr": 1e-2, "amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
    "AdamW, fused": (torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1, "fused": True}),
    "NAdam": (
        torch.optim.NAdam,
        {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    "RAdam": (
        torch.optim.RAdam,
        {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    "Adamax": (torch.optim.Adamax, {"lr": 1e-2}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 1e-3, "momentum": 0.5}),
    "Rprop": (torch.optim.Rprop, {"lr": 1e-3}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 1e-2}),
    "Adadelta": (torch.optim.Adadelta, {}),
}


def perceptron() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 8), nn.ELU(),
        nn.Linear(8, 4),
    )  # fmt: skip


class Attention(nn.Module):
    """Attention and a GRU, which are intercepted, with linear layers around them."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.mix = nn.Linear(6, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.gru, self.head = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.read(x.unsqueeze(1).expand(-1, 3, -1) * torch.arange(1.0, 4)[:, None]))
        z = self.gru(z + self.mix(z, z, z)[0])[0]
        h: Tensor = self.head(z[:, -1])
        return h


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2, padding=1), nn.ReLU(),
        nn.Conv2d(4, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": perceptron,
    "attention": Attention,
    "convolutional": convolutional,
}


def converted(name: str = "perceptron", rule: lra.Rule | None = None) -> nn.Module:
    torch.manual_seed(3)
    rule = rule or lra.LRAE(init=lra.inits.LikeWeights(0.7))
    model = NETWORKS[name]().double()
    return lra.convert(model, rule, example=torch.randn(5, 6, dtype=torch.float64))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        draw = torch.Generator().manual_seed(step)
        x = torch.randn(9, 6, generator=draw, dtype=torch.float64)
        optimizer.zero_grad()
        F.cross_entropy(model(x), (x[:, :4] + x[:, 2:]).argmax(1)).backward()
        optimizer.step()


def feedback(model: nn.Module) -> dict[str, Tensor]:
    """Return every E, learned or shared, by the name of learned feedback."""
    state = model.state_dict()
    found = {}
    for name, value in state.items():
        if "feedback" in name:
            plain = name.removesuffix("_offset")
            if plain == name:
                found[plain] = value
            else:
                W = next(w for w in weight_names(plain) if w in state)
                found[plain] = value + state[W]
    return found


def weight_names(name: str) -> list[str]:
    """List the names that the weight of some feedback may have."""
    head, _, leaf = name.rpartition(".")
    dot = "." if head else ""
    return [
        f"{head}{dot}{leaf.replace('feedback', 'weight')}",
        f"{head}{dot}{leaf.removesuffix('_feedback')}.weight",
    ]


@pytest.mark.parametrize("steps", [50, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", SETTINGS)
def test_shared_feedback_moves_as_learned_feedback(kind: str, steps: int) -> None:
    cls, settings = SETTINGS[kind]
    learned, shared = converted(), converted()
    optimizers = [cls(m.parameters(), **settings) for m in (learned, shared)]
    assert lra.share_feedback(shared, optimizers[1]) == ["2", "4", "6"]
    assert lra.feedback_parameters(shared) == []
    held = {id(p) for group in optimizers[1].param_groups for p in group["params"]}
    assert held == {id(p) for p in shared.parameters() if p.requires_grad}
    before = feedback(shared)
    for model, optimizer in zip((learned, shared), optimizers, strict=True):
        train(model, optimizer, steps)
    expected, found = feedback(learned), feedback(shared)
    assert expected.keys() == found.keys() == {"2.feedback", "4.feedback", "6.feedback"}
    assert all(not torch.allclose(found[name], before[name]) for name in found)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    for name, W in lra.restore(learned).state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], W, rtol=1e-6, atol=1e-9)


def test_every_supported_optimizer_is_tested() -> None:
    assert {cls for cls, _ in SETTINGS.values()} == set(ELEMENTWISE)


@pytest.mark.parametrize(
    "rule", [lra.LRAE(), lra.MirroredLRA(), lra.KolenPollack()], ids=lambda r: r.name
)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_all_kinds_share(name: str, rule: lra.Rule) -> None:
    models = [converted(name, rule), converted(name, rule)]
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-3, weight_decay=0.3) for m in models]
    E = feedback(models[1])
    lra.share_feedback(models[1], optimizers[1])
    assert lra.feedback_parameters(models[1]) == []
    torch.testing.assert_close(feedback(models[1]), E)
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 40)
    torch.testing.assert_close(feedback(models[1]), feedback(models[0]), rtol=1e-7, atol=1e-10)
    plain = lra.restore(models[0]).state_dict()
    shared = lra.restore(models[1]).state_dict()
    torch.testing.assert_close(shared, plain, rtol=1e-7, atol=1e-10)


def test_states_load_into_the_other_form() -> None:
    learned, shared = converted("attention"), converted("attention")
    train(learned, torch.optim.SGD(learned.parameters(), lr=0.1), 3)
    lra.share_feedback(shared, torch.optim.SGD(shared.parameters(), lr=0.1))
    shared.load_state_dict(learned.state_dict())
    torch.testing.assert_close(feedback(shared), feedback(learned))
    back = converted("attention")
    back.load_state_dict(shared.state_dict())
    torch.testing.assert_close(feedback(back), feedback(learned))
    assert back.state_dict().keys() == learned.state_dict().keys()


def test_loading_plain_weights_leaves_offsets_unchanged() -> None:
    shared = converted(rule=lra.MirroredLRA())
    lra.share_feedback(shared, torch.optim.SGD(shared.parameters(), lr=0.1))
    D = {n: t.clone() for n, t in shared.state_dict().items() if "offset" in n}
    torch.manual_seed(9)
    shared.load_state_dict(perceptron().double().state_dict(), strict=False)
    assert all(torch.equal(shared.state_dict()[name], d) for name, d in D.items())


@pytest.mark.parametrize("kind", ["SGD, momentum and decay", "AdamW"])
def test_a_resumed_training_has_the_same_bits(kind: str) -> None:
    cls, settings = SETTINGS[kind]

    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = converted()
        optimizer = cls(model.parameters(), **settings)
        lra.share_feedback(model, optimizer)
        return model, optimizer

    model, optimizer = start()
    train(model, optimizer, 20)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, 20, first=20)
    resumed, other = start()
    resumed.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    train(resumed, other, 20, first=20)
    for name, value in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
    "torch.save": lambda pair: _saved(pair),
    "the model alone": lambda pair: _with_new_optimizer(copy.deepcopy(pair[0]), pair[1]),
}


def _saved(pair: Any) -> Any:
    file = io.BytesIO()
    torch.save(pair, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def _with_new_optimizer(model: nn.Module, like: torch.optim.Optimizer) -> Any:
    optimizer = type(like)([p for p in model.parameters() if p.requires_grad], lr=1.0)  # type: ignore[call-arg]
    optimizer.load_state_dict(like.state_dict())
    return model, optimizer


@pytest.mark.parametrize("kind", ["SGD, momentum and decay", "AdamW"])
@pytest.mark.parametrize("how", COPIES)
def test_copies_share_without_a_call(how: str, kind: str) -> None:
    cls, settings = SETTINGS[kind]
    learned, shared = converted("attention"), converted("attention")
    optimizers = [cls(m.parameters(), **settings) for m in (learned, shared)]
    lra.share_feedback(shared, optimizers[1])
    for model, optimizer in zip((learned, shared), optimizers, strict=True):
        train(model, optimizer, 5)
    other, optimizer = COPIES[how]((shared, optimizers[1]))
    train(other, optimizer, 20, first=5)
    train(learned, optimizers[0], 20, first=5)
    torch.testing.assert_close(feedback(other), feedback(learned), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["deepcopy", "pickle"])
def test_a_copied_optimizer_is_one_without_its_feedback(name: str) -> None:
    model = converted()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)  # type: ignore[index]
    optimizer.add_param_group({"params": [model[2].weight]})  # type: ignore[index]
    model, optimizer = COPIES[name]((model, optimizer))
    with pytest.warns(lra.LraWarning, match="add_param_group"):
        train(model, optimizer, 1)


def changed(setting: str, *values: Any) -> Callable[[int, dict[str, Any]], None]:
    """Set an optimizer's setting to each of some values, for five steps each."""

    def change(step: int, group: dict[str, Any]) -> None:
        group[setting] = values[step // 5 % len(values)]

    return change


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        changed("weight_decay", 0.2, 0.0),
        changed("weight_decay", 0.0, 0.2),
        changed("momentum", 0.9, 0.0, 0.5),
        changed("momentum", 0.0, 0.9),
        changed("dampening", 0.5, 0.0),
        changed("lr", 0.05, 0.2),
    ],
    ids=["decay off", "decay on", "momentum", "momentum on", "dampening", "lr"],
)
def test_settings_of_sgd_may_change_between_steps(
    change: Callable[[int, dict[str, Any]], None], nesterov: bool
) -> None:
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.2}
    settings |= {"nesterov": True} if nesterov else {"dampening": 0.5}
    models = [converted(), converted()]
    optimizers = [torch.optim.SGD(m.parameters(), **settings) for m in models]  # type: ignore[arg-type]
    lra.share_feedback(models[1], optimizers[1])
    for model, optimizer in zip(models, optimizers, strict=True):
        for step in range(20):
            change(step, optimizer.param_groups[0])
            optimizer.param_groups[0]["nesterov"] &= optimizer.param_groups[0]["momentum"] > 0
            train(model, optimizer, 1, first=step)
    torch.testing.assert_close(feedback(models[1]), feedback(models[0]), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["SGD, momentum and decay", "SGD, Nesterov and decay", "AdamW"])
@pytest.mark.parametrize("loaded", ["model", "optimizer"])
def test_one_of_two_states_may_be_loaded(loaded: str, kind: str) -> None:
    cls, settings = SETTINGS[kind]
    models = [converted(), converted()]
    optimizers = [cls(m.parameters(), **settings) for m in models]
    lra.share_feedback(models[1], optimizers[1])
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 10)
        what = model if loaded == "model" else optimizer
        saved = copy.deepcopy(what.state_dict())
        train(model, optimizer, 10, first=10)
        what.load_state_dict(saved)
        train(model, optimizer, 10, first=20)
    torch.testing.assert_close(feedback(models[1]), feedback(models[0]), rtol=1e-6, atol=1e-9)


def test_decay_may_shrink_the_offset_to_nothing() -> None:
    settings = {"lr": 1.0, "momentum": 0.5, "weight_decay": 1.0}
    models = [converted(), converted()]
    optimizers = [torch.optim.SGD(m.parameters(), **settings) for m in models]  # type: ignore[arg-type]
    lra.share_feedback(models[1], optimizers[1])
    train(models[1], optimizers[1], 1)
    assert not models[1][2].feedback_offset.any()  # type: ignore[index]
    train(models[0], optimizers[0], 6)
    train(models[1], optimizers[1], 5, first=1)
    torch.testing.assert_close(feedback(models[1]), feedback(models[0]), rtol=1e-6, atol=1e-9)


def test_the_order_of_hooks_makes_no_difference() -> None:
    def clear(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
            for p in group["params"]:
                p.grad = None

    def slow_down(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["weight_decay"] += 0.1

    def run(share: bool, earlier: bool) -> dict[str, Tensor]:
        model = converted()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
        for now in (earlier, not earlier):
            if now:
                optimizer.register_step_pre_hook(slow_down)
                optimizer.register_step_post_hook(clear)
            elif share:
                lra.share_feedback(model, optimizer)
        train(model, optimizer, 10)
        return feedback(model)

    expected = run(share=False, earlier=True)
    for earlier in (True, False):
        found = run(share=True, earlier=earlier)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_layers_of_another_optimizer_stay_learned() -> None:
    models = [converted(), converted()]
    found = []
    for model in models:
        one = torch.optim.AdamW(model[:4].parameters(), lr=0.01, weight_decay=0.3)  # type: ignore[index]
        E = {id(p) for p in lra.feedback_parameters(model)}
        rest = list(model[4:].parameters())  # type: ignore[index]
        other = torch.optim.SGD(
            [
                {"params": [p for p in rest if id(p) not in E]},
                {"params": [p for p in rest if id(p) in E], "lr": 0.01},
            ],
            lr=0.1,
        )
        if model is models[1]:
            assert lra.share_feedback(model, one) == ["2"]
            with pytest.raises(lra.errors.ConversionError, match="other optimizer settings"):
                lra.share_feedback(model, other)
        for step in range(10):
            train(model, one, 1, first=step)
            other.step()
        found.append(feedback(model))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-9)


def test_each_of_two_optimizers_shares_its_own_layers() -> None:
    model, learned = converted(), converted()
    parts = [[m[:4].parameters(), m[4:].parameters()] for m in (model, learned)]  # type: ignore[index]
    (a, b), others = (
        [
            torch.optim.AdamW(one, lr=0.01, weight_decay=0.3),
            torch.optim.SGD(two, lr=0.1, momentum=0.5, weight_decay=0.1),
        ]
        for one, two in parts
    )
    assert lra.share_feedback(model, a) == ["2"]
    assert lra.share_feedback(model, b) == ["4", "6"]
    with pytest.raises(lra.errors.ConversionError, match="the optimizer does not hold"):
        lra.share_feedback(model, torch.optim.SGD(model[0].parameters()))  # type: ignore[index]
    for step in range(10):
        train(model, a, 1, first=step)
        b.step()
        train(learned, others[0], 1, first=step)
        others[1].step()
    torch.testing.assert_close(feedback(model), feedback(learned), rtol=1e-6, atol=1e-9)


def test_a_new_weight_shares_as_the_old_one_did() -> None:
    model = converted()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    lra.share_feedback(model, optimizer)
    train(model, optimizer, 1)
    model[2].weight = nn.Parameter(torch.ones(7, 8, dtype=torch.float64))  # type: ignore[index]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    before = model[2].feedback_offset.clone()  # type: ignore[index]
    train(model, optimizer, 1)
    torch.testing.assert_close(model[2].feedback_offset, before * (1 - 0.1 * 0.5))  # type: ignore[index]


class Sgd(torch.optim.SGD):
    """A user's subclass."""


class Signs(torch.optim.Optimizer):
    """A user's optimizer."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(
                        group["lr"] * p.grad.sign()
                    )


@pytest.mark.parametrize("cls", [Sgd, Signs, torch.optim.Adafactor])
def test_an_unknown_optimizer_that_decays_shared_weights_is_reported(cls: Any) -> None:
    model = converted()
    lra.share_feedback(model, torch.optim.AdamW(model.parameters(), lr=0.1))
    weights = [p for p in model.parameters() if p.requires_grad]
    train(model, cls(weights, lr=0.1), 1)
    optimizer = cls(weights, lr=0.1, weight_decay=0.5)
    with pytest.warns(lra.LraWarning, match="not the feedback that is shared"):
        train(model, optimizer, 1)
    train(model, optimizer, 1)


def test_an_optimizer_goes_on_after_restore() -> None:
    for share in (False, True):
        model = converted()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
        if share:
            lra.share_feedback(model, optimizer)
        train(model, optimizer, 1)
        lra.restore(model)
        plain = perceptron().double()
        plain.load_state_dict(model.state_dict())
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
        train(plain, torch.optim.SGD(plain.parameters(), lr=0.1), 1)
        torch.testing.assert_close(model.state_dict(), plain.state_dict())
        train(model, optimizer, 1)


def test_sharing_twice_decays_once() -> None:
    model = converted()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    assert lra.share_feedback(model, optimizer) == lra.share_feedback(model, optimizer)
    before = model[2].feedback_offset.clone()  # type: ignore[index]
    train(model, optimizer, 1)
    torch.testing.assert_close(model[2].feedback_offset, before * (1 - 0.1 * 0.5))  # type: ignore[index]


def test_two_models_can_share_with_one_optimizer() -> None:
    models = [converted(), converted()]
    optimizer = torch.optim.AdamW(nn.ModuleList(models).parameters(), lr=0.1, weight_decay=0.5)
    before = []
    for model in models:
        lra.share_feedback(model, optimizer)
        before.append(model[2].feedback_offset.clone())  # type: ignore[index]
        F.cross_entropy(model(torch.randn(5, 6).double()), torch.arange(5) % 4).backward()
    optimizer.step()
    for model, D in zip(models, before, strict=True):
        torch.testing.assert_close(model[2].feedback_offset, D * (1 - 0.1 * 0.5))  # type: ignore[index]


def test_mirror_sets_shared_feedback_like_learned_feedback() -> None:
    models = [converted("attention"), converted("attention")]
    lra.share_feedback(models[1], torch.optim.SGD(models[1].parameters(), lr=0.1))
    for model in models:
        lra.mirror(model, 50, step=0.3, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(feedback(models[1]), feedback(models[0]))


def test_reset_parameters_draws_shared_feedback() -> None:
    models = [converted(), converted()]
    lra.share_feedback(models[1], torch.optim.SGD(models[1].parameters(), lr=0.1))
    for model in models:
        torch.manual_seed(11)
        model[4].reset_parameters()  # type: ignore[index, operator]
    torch.testing.assert_close(feedback(models[1]), feedback(models[0]))


def test_restore_returns_the_plain_model() -> None:
    for name in NETWORKS:
        model = converted(name)
        lra.share_feedback(model, torch.optim.SGD(model.parameters(), lr=0.1))
        plain = NETWORKS[name]().double()
        assert lra.restore(model).state_dict().keys() == plain.state_dict().keys()
        assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]


def test_diagnosis_and_coverage_include_shared_feedback() -> None:
    models = [converted("attention"), converted("attention")]
    lra.share_feedback(models[1], torch.optim.SGD(models[1].parameters(), lr=0.1))
    x = torch.randn(5, 6, dtype=torch.float64)
    angles = [
        {r.name: r.feedback_angle for r in lra.diagnose(m, x, torch.arange(5) % 4).layers}
        for m in models
    ]
    assert any(angle for angle in angles[0].values())
    assert angles[0] == pytest.approx(angles[1])
    assert lra.coverage(models[0]).weights == lra.coverage(models[1]).weights


def test_a_step_that_a_grad_scaler_skips_decays_nothing() -> None:
    model = converted()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5, fused=True)
    lra.share_feedback(model, optimizer)
    before = model[2].feedback_offset.clone()  # type: ignore[index]
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.grad_scale = torch.ones(())  # type: ignore[attr-defined]
    train(model, optimizer, 1)
    assert torch.equal(model[2].feedback_offset, before)  # type: ignore[index]


def test_layers_that_cannot_share_stay_learned() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            h: Tensor = self.c(torch.tanh(self.b(torch.tanh(self.a(torch.tanh(x))))))
            return h

    model = lra.convert(Tied(), lra.LRAE(), example=torch.randn(2, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert lra.share_feedback(model, optimizer) == ["c"]
    assert model.b.feedback in set(lra.feedback_parameters(model))


REFUSED: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], str]] = {
    "plain": (lambda: _with(perceptron(), torch.optim.SGD), "no layer .* is converted"),
    "no optimizer": (lambda: (converted(), "sgd"), "expected a torch.optim.Optimizer"),
    "an unknown one": (
        lambda: _with(converted(), Sgd),
        "a Sgd is not known to move E as it moves W",
    ),
    "Adam with decay": (
        lambda: _with(converted(), torch.optim.Adam, weight_decay=0.1),
        "use AdamW",
    ),
    "another gamma": (
        lambda: _with(converted(rule=lra.LRAE(gamma=0.5)), torch.optim.SGD),
        r"E moves as W does only with Learned\(\) and gamma 1",
    ),
    "none": (
        lambda: _with(converted(rule=lra.FeedbackAlignment()), torch.optim.SGD),
        "no layer has feedback weights that it could share",
    ),
    "wired": (
        lambda: _with(converted(rule=lra.LRAE(wiring=lra.wiring.Direct())), torch.optim.SGD),
        "its E belongs to another layer's error",
    ),
    "another step size": (
        lambda: _grouped(),
        r"other optimizer settings than their weights \(lr\)",
    ),
    "weights alone": (lambda: _weights_alone(), "has some weights without their feedback weights"),
    "another past": (lambda: _moved(), "moved weights and feedback weights differently"),
}


def _with(model: nn.Module, cls: Any, **settings: Any) -> tuple[nn.Module, Any]:
    return model, cls(model.parameters(), lr=0.1, **settings)


def _grouped() -> tuple[nn.Module, Any]:
    model = converted()
    own = lra.feedback_parameters(model)
    others = [p for p in model.parameters() if all(p is not E for E in own)]
    return model, torch.optim.AdamW([{"params": others}, {"params": own, "lr": 0.5}], lr=0.1)


def _weights_alone() -> tuple[nn.Module, Any]:
    model = converted()
    own = {id(E) for E in lra.feedback_parameters(model)}
    return model, torch.optim.SGD([p for p in model.parameters() if id(p) not in own], lr=0.1)


def _moved() -> tuple[nn.Module, Any]:
    model = converted()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    train(model, optimizer, 1)
    optimizer.zero_grad()
    for E in lra.feedback_parameters(model):
        E.grad = torch.ones_like(E)
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("case", REFUSED)
def test_models_and_optimizers_that_cannot_share_are_refused(case: str) -> None:
    build, match = REFUSED[case]
    model, optimizer = build()
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(lra.errors.ConversionError, match=match):
        lra.share_feedback(model, optimizer)
    assert [name for name, _ in model.named_parameters()] == names


def test_adaptive_decay_that_is_set_later_is_refused() -> None:
    model = converted()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    lra.share_feedback(model, optimizer)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(lra.errors.ConversionError, match="use AdamW"):
        train(model, optimizer, 1)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_ensemble_trains_networks_with_shared_feedback() -> None:
    def start(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        model = lra.convert(perceptron().double(), lra.LRAE(0.1 * (seed + 1)))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        lra.share_feedback(model, optimizer)
        return model, optimizer

    single, joint = [start(seed) for seed in range(3)], [start(seed) for seed in range(3)]
    ensemble = lra.ensemble.Ensemble([model for model, _ in joint])
    for step in range(5):
        x = torch.randn(3, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        t = torch.arange(9).expand(3, 9) % 4
        for _, optimizer in joint:
            optimizer.zero_grad()
        torch.vmap(F.cross_entropy)(ensemble(x), t).sum().backward()
        for _, optimizer in joint:
            optimizer.step()
        for (model, optimizer), own, target in zip(single, x, t, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(own), target).backward()
            optimizer.step()
    ensemble.separate()
    for (model, _), (other, _) in zip(single, joint, strict=True):
        for name, value in model.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch.compile
@pytest.mark.parametrize("rule", [lra.LRAE(), lra.MirroredLRA()], ids=lambda r: r.name)
def test_a_compiled_step_with_shared_feedback(rule: lra.Rule) -> None:
    models = [converted(rule=rule), converted(rule=rule)]
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.1) for m in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        lra.share_feedback(model, optimizer)
    step = lra.compile_step(models[1], F.cross_entropy, optimizers[1], backend="aot_eager")
    for i in range(5):
        x = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        t = (x[:, :4] + x[:, 2:]).argmax(1)
        optimizers[0].zero_grad()
        F.cross_entropy(models[0](x), t).backward()
        optimizers[0].step()
        step(x, t)
    for name, value in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[name], value, rtol=1e-9, atol=1e-12)

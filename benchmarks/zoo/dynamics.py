"""Models of dynamics and physics: spikes, flows, differential equations, operators, symmetries."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from zoo.measure import Example, Remedy, entry, load

Built = tuple[nn.Module, Example]

BATCH, TIME, INPUTS, WIDTH, OUTPUTS = 4, 6, 5, 12, 3


def model(path: str, *shape: int, **options: Any) -> Built:
    """Build a class by its qualified name, and one random input."""
    return load(path, **options), (torch.randn(shape),)


class Spiking(nn.Module):
    """Two layers of snntorch, each a linear layer with leaky neurons, over a few steps."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        import snntorch

        self.below, self.above = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, OUTPUTS)
        self.first = snntorch.Leaky(beta=0.9, learn_beta=True, threshold=0.3, **options)
        self.second = snntorch.Leaky(beta=0.9, threshold=0.3, **options)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.first.init_leaky(), self.second.init_leaky()
        outputs = []
        for step in x.unbind(1):
            spikes, first = self.first(self.below(step), first)
            _, second = self.second(self.above(spikes), second)
            outputs.append(second)
        return torch.stack(outputs, 1)


class Steps(nn.Module):
    """Runs a stateful spiking network of spikingjelly over a few steps, from its resting state."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        from spikingjelly.activation_based import functional

        functional.reset_net(self.network)
        return torch.stack([self.network(step) for step in x.unbind(1)], 1)


class Stateful(nn.Module):
    """Runs a network of norse over a few steps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for step in x.unbind(1):
            y, state = self.network(step, state)
            outputs.append(y)
        return torch.stack(outputs, 1)


class Likelihood(nn.Module):
    """Returns the log likelihood of data under a flow."""

    def __init__(self, flow: nn.Module, by: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.flow, self.by = flow, by

    def forward(self, x: Tensor) -> Tensor:
        return self.by(self.flow, x)


class Solved(nn.Module):
    """Solves an ODE whose right-hand side is a network, between linear layers."""

    def __init__(self, solver: str) -> None:
        super().__init__()
        self.solver = solver
        self.below, self.above = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, OUTPUTS)
        self.field = nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, WIDTH))
        self.velocity = Field(self.field)

    def forward(self, x: Tensor) -> Tensor:
        times = torch.linspace(0.0, 1.0, 3)
        solve = getattr(import_module("torchdiffeq"), self.solver)
        options = {"method": "rk4"}
        return self.above(solve(self.velocity, self.below(x), times, **options)[-1])


class Field(nn.Module):
    """A right-hand side that does not depend on time."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, time: Tensor, x: Tensor) -> Tensor:
        return self.network(x)


def spikingjelly(spiking: bool = True, neuron: str = "LIFNode", **options: Any) -> Built:
    """Build a spiking network with surrogate gradients, or its smooth counterpart."""
    from spikingjelly.activation_based import surrogate

    path = f"spikingjelly.activation_based.neuron.{neuron}"
    nodes = [
        load(path, surrogate_function=surrogate.ATan(spiking=spiking), v_threshold=0.5, **options)
        for _ in range(2)
    ]
    network = nn.Sequential(
        nn.Linear(INPUTS, WIDTH), nodes[0], nn.Linear(WIDTH, WIDTH), nodes[1],
        nn.Linear(WIDTH, OUTPUTS),
    )  # fmt: skip
    return Steps(network), (torch.randn(BATCH, TIME, INPUTS),)


def snntorch(**options: Any) -> Built:
    """Build two spiking layers of snntorch."""
    return Spiking(**options), (torch.randn(BATCH, TIME, INPUTS),)


def norse(cell: str) -> Built:
    """Build two spiking layers of norse, with a leaky integrator at the top."""
    import norse.torch as norse

    network = norse.SequentialState(
        nn.Linear(INPUTS, WIDTH), getattr(norse, cell)(), nn.Linear(WIDTH, OUTPUTS), norse.LICell()
    )
    return Stateful(network), (50 * torch.randn(BATCH, TIME, INPUTS),)


def density(flow: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = flow().log_prob(x)
    return found


def zuko(name: str, **options: Any) -> Built:
    """Build a flow of zuko."""
    built = load(f"zuko.flows.{name}", features=3, transforms=2, hidden_features=(8, 8), **options)
    return Likelihood(built, density), (torch.randn(BATCH, 3),)


def nflows() -> Built:
    """Build a coupling flow of rational quadratic splines of nflows."""
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.nn.nets import ResidualNet
    from nflows.transforms import (
        CompositeTransform,
        LULinear,
        PiecewiseRationalQuadraticCouplingTransform,
    )

    def net(inputs: int, outputs: int) -> nn.Module:
        return ResidualNet(inputs, outputs, hidden_features=8, num_blocks=1)

    steps = [
        PiecewiseRationalQuadraticCouplingTransform(
            mask, net, num_bins=4, tails="linear", tail_bound=3.0
        )
        for mask in (torch.tensor([1, 0, 1, 0]), torch.tensor([0, 1, 0, 1]))
    ]
    flow = Flow(CompositeTransform([steps[0], LULinear(4), steps[1]]), StandardNormal([4]))
    return Likelihood(flow, lambda f, x: f.log_prob(x)), (torch.randn(BATCH, 4),)


def normflows() -> Built:
    """Build an affine coupling flow of normflows."""
    import normflows as nf

    flows: list[nn.Module] = []
    for _ in range(2):
        flows += [
            nf.flows.AffineCouplingBlock(nf.nets.MLP([2, 8, 8, 4], init_zeros=False)),
            nf.flows.LULinearPermute(4),
            nf.flows.ActNorm(4),
        ]
    built = nf.NormalizingFlow(nf.distributions.DiagGaussian(4), flows)
    x = torch.randn(BATCH, 4)
    with torch.no_grad():
        built.double().log_prob(x)  # ActNorm reads its first batch
    return Likelihood(built, lambda f, x: f.log_prob(x)), (x,)


def freia() -> Built:
    """Build an invertible network of FrEIA."""
    from FrEIA.framework import SequenceINN
    from FrEIA.modules import AllInOneBlock

    def net(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))

    built = SequenceINN(4)
    for _ in range(2):
        built.append(AllInOneBlock, subnet_constructor=net)
    return built, (torch.randn(BATCH, 4),)


def neural_ode(solver: str) -> Built:
    """Build a neural ODE of torchdiffeq."""
    return Solved(solver), (torch.randn(BATCH, INPUTS),)


def controlled() -> Built:
    """Build a neural controlled differential equation of torchcde."""
    import torchcde

    class Controlled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.read = nn.Linear(3, 6), nn.Linear(6, OUTPUTS)
            self.matrix = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 18), nn.Tanh())

        def forward(self, coefficients: Tensor) -> Tensor:
            path = torchcde.LinearInterpolation(coefficients)
            z = torchcde.cdeint(
                X=path, func=lambda t, z: self.matrix(z).view(*z.shape, 3),
                z0=self.start(path.evaluate(path.interval[0])), t=path.interval, adjoint=False,
                method="rk4", options={"step_size": 1.0},
            )  # fmt: skip
            return self.read(z[:, -1])

    x = torch.randn(BATCH, 5, 3).cumsum(1)
    return Controlled(), (torchcde.linear_interpolation_coeffs(x),)


def fourier(name: str, **options: Any) -> Built:
    """Build a Fourier neural operator of two dimensions."""
    common = {"in_channels": 2, "out_channels": 1, "hidden_channels": 6, "n_layers": 2}
    built = load(f"neuralop.models.{name}", **common, **options)
    return built, (torch.randn(2, 2, 12, 12),)


def equivariant() -> Built:
    """Build an equivariant convolution of e3nn over a few points."""
    from e3nn import o3
    from e3nn.nn import FullyConnectedNet, Gate

    class Points(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = Gate("4x0e", [torch.relu], "2x0e", [torch.sigmoid], "2x1o")
            self.harmonics = o3.Irreps.spherical_harmonics(1)
            self.first = o3.FullyConnectedTensorProduct(
                "3x0e", self.harmonics, self.gate.irreps_in, shared_weights=False
            )
            self.radial = FullyConnectedNet([1, 8, self.first.weight_numel], torch.relu)
            self.second = o3.Linear(self.gate.irreps_out, "2x0e + 1x1o")

        def forward(self, x: Tensor, places: Tensor) -> Tensor:
            away = places[:, None] - places[None]
            angles = o3.spherical_harmonics(self.harmonics, away, True, "component")
            weights = self.radial(away.norm(dim=-1, keepdim=True))
            return self.second(
                self.gate(self.first(x[None].expand(5, -1, -1), angles, weights).mean(1))
            )

    return Points(), (torch.randn(5, 3), torch.randn(5, 3))


def egnn() -> Built:
    from egnn_pytorch import EGNN_Network

    built = EGNN_Network(
        num_tokens=7, dim=8, depth=2, m_dim=6, num_nearest_neighbors=3, init_eps=0.1
    )
    return built, (torch.randint(7, (2, 6)), torch.randn(2, 6, 3))


def deep_kernel() -> Built:
    """Build a Gaussian process of gpytorch on the features of a network."""
    import gpytorch
    from gpytorch.variational import CholeskyVariationalDistribution, VariationalStrategy

    class Process(gpytorch.models.ApproximateGP):
        def __init__(self) -> None:
            points = torch.randn(4, 2)
            strategy = VariationalStrategy(
                self, points, CholeskyVariationalDistribution(4), learn_inducing_locations=True
            )
            super().__init__(strategy)
            self.mean = gpytorch.means.ConstantMean()
            self.kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2))
            self.process = Process()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            self.process.train()
            found = self.process(self.features(x))
            return found.mean, found.variance

    built = Deep()
    with torch.no_grad():
        built.double()(torch.randn(2, INPUTS))  # the strategy starts from its first batch
    return built, (torch.randn(BATCH, INPUTS),)


def kan() -> Built:
    """Build a Kolmogorov-Arnold network of pykan."""
    built = load(
        "kan.KAN", [3, 4, 2], grid=3, k=3, auto_save=False, save_act=False, symbolic_enabled=False
    )
    return built, (torch.rand(BATCH, 3) - 0.5,)


def policy() -> Built:
    """Build the actor of torchrl for continuous actions."""
    from torchrl.modules import MLP, NormalParamExtractor

    built = nn.Sequential(
        MLP(in_features=INPUTS, out_features=4, num_cells=[WIDTH, WIDTH]), NormalParamExtractor()
    )
    return built, (torch.randn(BATCH, INPUTS),)


def noisy() -> Built:
    """Build a value network of torchrl with noisy layers."""
    from torchrl.modules import MLP, NoisyLinear

    built = MLP(
        in_features=INPUTS, out_features=3, num_cells=[WIDTH, WIDTH], layer_class=NoisyLinear
    )
    return built, (torch.randn(BATCH, INPUTS),)


def duelling() -> Built:
    """Build a duelling value network of torchrl on images."""
    from torchrl.modules import DuelingCnnDQNet

    convolutions = {"in_features": 2, "num_cells": [4, 4], "kernel_sizes": 3, "strides": 2}
    built = DuelingCnnDQNet(
        out_features=3, cnn_kwargs=convolutions, mlp_kwargs={"num_cells": [8], "depth": 1}
    )
    x = torch.randn(2, 2, 15, 15)
    with torch.no_grad():
        built(x)  # the width of the heads is that of the first batch
    return built, (x,)


class Agents(nn.Module):
    """One network per agent; each sees the observations of all."""

    def __init__(self) -> None:
        super().__init__()
        from torchrl.modules import MLP

        self.each = nn.ModuleList(
            MLP(in_features=3 * INPUTS, out_features=2, depth=1, num_cells=8) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x.flatten(1)) for net in self.each], 1)


def agents() -> Built:
    """Build the networks of three agents of torchrl, batched."""
    from torchrl.modules import MultiAgentMLP

    built = MultiAgentMLP(
        n_agent_inputs=INPUTS, n_agent_outputs=2, n_agents=3, centralized=True,
        share_params=False, depth=1, num_cells=8,
    )  # fmt: skip
    return built, (torch.randn(BATCH, 3, INPUTS),)


def decisions() -> Built:
    """Build a decision transformer of torchrl."""
    from torchrl.modules import DecisionTransformer

    config = DecisionTransformer.default_config()
    config.n_embd, config.n_layer, config.n_head, config.n_inner = 16, 2, 2, 24
    config.n_positions = 32
    built = DecisionTransformer(state_dim=4, action_dim=2, config=config)
    return built, (torch.randn(2, 3, 4), torch.randn(2, 3, 2), torch.randn(2, 3, 1))


def arctangent(h: Tensor) -> Tensor:
    """Compute the smooth step whose slope snntorch and spikingjelly use."""
    return torch.arctan(torch.pi * h) / torch.pi


def softsign(h: Tensor) -> Tensor:
    """Compute the smooth step whose slope SuperSpike uses, in norse without its alpha."""
    return h / (1 + h.abs())


MODES = {"n_modes": (4, 4)}

SNNTORCH = Remedy(
    "lra.register_activation(ATan, surrogate=its smooth step)",
    register="snntorch.surrogate.ATan",
    surrogate=arctangent,
)
SPIKINGJELLY = Remedy(
    "lra.register_activation(ATan, surrogate=its smooth step)",
    register="spikingjelly.activation_based.surrogate.ATan",
    surrogate=arctangent,
    refused=False,
)
NORSE = Remedy(
    "lra.register_activation(SuperSpike, surrogate=its smooth step)",
    register="norse.torch.functional.superspike.SuperSpike",
    surrogate=softsign,
)
ADJOINT = Remedy("odeint in place of odeint_adjoint", make=partial(neural_ode, "odeint"))
AGENTS = Remedy(
    "one MLP for each agent in place of a vmapped one",
    make=lambda: (Agents(), (torch.randn(BATCH, 3, INPUTS),)),
)
TUCKER = Remedy(
    'skip=["fno_blocks.convs.0", ...]',
    arguments={"skip": ("fno_blocks.convs.0", "fno_blocks.convs.1")},
)
KERNEL = Remedy("skip=(Matmul,)", keep="linear_operator.functions._matmul.Matmul")

ENTRIES = [
    entry("snntorch", snntorch, remedy=SNNTORCH),
    entry("spikingjelly", spikingjelly, remedy=SPIKINGJELLY),
    entry("spikingjelly-plif", spikingjelly, neuron="ParametricLIFNode", remedy=SPIKINGJELLY),
    entry("norse-lif", norse, "LIFCell", remedy=NORSE),
    entry("norse-refractory", norse, "LIFRefracCell", remedy=NORSE),
    entry("zuko-maf", zuko, "MAF"),
    entry("zuko-nsf", zuko, "NSF"),
    entry("nflows-splines", nflows),
    entry("normflows-coupling", normflows),
    entry("freia-all-in-one", freia),
    entry("torchdiffeq", neural_ode, "odeint"),
    entry("torchdiffeq-adjoint", neural_ode, "odeint_adjoint", remedy=ADJOINT),
    entry("torchcde", controlled),
    entry("fno", fourier, "FNO", **MODES),
    entry(
        "tfno",
        fourier,
        "TFNO",
        factorization="tucker",
        implementation="factorized",
        rank=0.5,
        remedy=TUCKER,
        **MODES,
    ),
    entry(
        "uno",
        fourier,
        "UNO",
        uno_out_channels=[6, 6],
        uno_n_modes=[[4, 4], [4, 4]],
        uno_scalings=[[0.5, 0.5], [2, 2]],
        lifting_channels=8,
        projection_channels=8,
        channel_mlp_skip="linear",
    ),
    entry(
        "siren",
        model,
        "siren_pytorch.SirenNet",
        6,
        2,
        dim_in=2,
        dim_hidden=8,
        dim_out=1,
        num_layers=3,
    ),
    entry("e3nn", equivariant),
    entry("egnn", egnn),
    entry("gpytorch-deep-kernel", deep_kernel, remedy=KERNEL),
    entry("pykan", kan),
    entry("ncps-cfc", model, "ncps.torch.CfC", BATCH, TIME, INPUTS, input_size=INPUTS, units=8),
    entry(
        "ncps-ltc",
        model,
        "ncps.torch.LTC",
        BATCH,
        TIME,
        INPUTS,
        input_size=INPUTS,
        units=8,
        ode_unfolds=2,
    ),
    entry("torchrl-policy", policy),
    entry("torchrl-noisy", noisy),
    entry("torchrl-duelling", duelling),
    entry("torchrl-agents", agents, remedy=AGENTS),
    entry("torchrl-decision-transformer", decisions),
]

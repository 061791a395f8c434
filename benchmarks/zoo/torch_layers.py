"""torch.nn: its layers with weights, each in a small network between other layers."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, rnn

from zoo.measure import Entry, Example

BATCH, TIME, WIDTH, OUTPUTS = 3, 5, 8, 4


class Between(nn.Module):
    """A layer between linear layers with tanh."""

    def __init__(self, middle: nn.Module, inputs: int = 6, below: int = WIDTH, above: int = WIDTH):
        super().__init__()
        self.below = nn.Linear(inputs, below)
        self.middle = middle
        self.above = nn.Linear(above, OUTPUTS)

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        y = self.middle(torch.tanh(self.below(x)), *more)
        return self.above(torch.tanh(y[0] if isinstance(y, tuple) else y))


class Twice(nn.Module):
    """Passes the input to a layer as several arguments."""

    def __init__(self, layer: nn.Module, times: int = 2, **options: Any) -> None:
        super().__init__()
        self.layer, self.times, self.options = layer, times, options

    def forward(self, x: Tensor) -> Any:
        return self.layer(*[x] * self.times, **self.options)


class Steps(nn.Module):
    """Runs a recurrent cell over a sequence, from the zero state."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1)


class Packed(nn.Module):
    """Runs a recurrent layer on packed sequences of different lengths."""

    def __init__(self, layer: nn.Module, lengths: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.lengths = layer, lengths

    def forward(self, x: Tensor) -> Tensor:
        packed = rnn.pack_padded_sequence(x, list(self.lengths), True, enforce_sorted=False)
        return rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0]


class State(nn.Module):
    """Returns only a recurrent layer's last state, with layers and directions concatenated."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        state = self.layer(x)[1]
        state = torch.cat(state, -1) if isinstance(state, tuple) else state
        return state.movedim(0, 1).flatten(1)


class LearnedState(nn.Module):
    """Runs an LSTM from a learned initial state."""

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__()
        self.layer = layer
        self.h = nn.Parameter(torch.randn(layer.num_layers, 1, layer.hidden_size))
        self.c = nn.Parameter(torch.randn(layer.num_layers, 1, layer.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        h, c = (s.expand(-1, len(x), -1).contiguous() for s in (self.h, self.c))
        return self.layer(x, (h, c))[0]


class Translator(nn.Module):
    """A full transformer between embeddings and a head."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(11, WIDTH), nn.Embedding(11, WIDTH)
        self.transformer = nn.Transformer(WIDTH, 2, 2, 2, 16, batch_first=True, **options)
        self.head = nn.Linear(WIDTH, 11)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1]).to(
            self.head.weight.dtype
        )
        y = self.transformer(self.source(source), self.target(target), tgt_mask=mask)
        return self.head(y)


class Attention(nn.Module):
    """Attention over a memory, between linear layers."""

    def __init__(self, mask: bool = False, **options: Any) -> None:
        super().__init__()
        self.below, self.mask = nn.Linear(6, WIDTH), mask
        self.keys = nn.Linear(6, options.get("kdim") or WIDTH)
        self.values = nn.Linear(6, options.get("vdim") or WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True, **options)
        self.above = nn.Linear(WIDTH, OUTPUTS)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.below(x).tanh(), self.keys(memory).tanh(), self.values(memory).tanh()
        hidden = torch.zeros(memory.shape[:2], dtype=torch.bool)
        hidden[0, -2:] = True
        y, weights = self.attention(q, k, v, key_padding_mask=hidden if self.mask else None)
        return self.above(y), weights


class Bag(nn.Module):
    """An embedding bag below two linear layers."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(11, WIDTH, **options)
        self.hidden, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, OUTPUTS)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(torch.relu(self.bag(words)))))


class Tagger(nn.Module):
    """An LSTM between an embedding and a head with tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, WIDTH)
        self.layer = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(words))[0])


class Symmetric(nn.Module):
    """A parametrization that mirrors the upper triangle."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


class Functional(nn.Module):
    """Parameters used by torch.nn.functional and by tensor products."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(WIDTH, 6) / 3)
        self.b = nn.Parameter(torch.randn(WIDTH, WIDTH) / 3)
        self.c = nn.Parameter(torch.randn(2, WIDTH // 2, WIDTH // 2) / 2)
        self.d = nn.Parameter(torch.randn(OUTPUTS, WIDTH) / 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(F.linear(x, self.a))
        x = torch.relu(x @ self.b)
        x = torch.einsum("bgi,gio->bgo", x.unflatten(-1, (2, -1)), self.c).flatten(1)
        return torch.sigmoid(x) @ self.d.T


def flat(inputs: int = 6) -> Example:
    """Return a batch of feature vectors."""
    return (torch.randn(BATCH, inputs),)


def sequence() -> Example:
    """Return a batch of sequences of features."""
    return (torch.randn(BATCH, TIME, 6),)


def words() -> Example:
    """Return a batch of sequences of words."""
    return (torch.randint(11, (BATCH, TIME)),)


def space(dimensions: int, channels: int = 2, size: int = 6) -> Callable[[], Example]:
    """Return a function that draws a batch of signals, images or volumes."""
    return lambda: (torch.randn(BATCH, channels, *[size] * dimensions),)


def memory() -> Example:
    """Return a batch of sequences of features, and another one to attend to."""
    return torch.randn(BATCH, TIME, 6), torch.randn(BATCH, TIME + 1, 6)


def sentences() -> Example:
    """Return two batches of sequences of words."""
    return torch.randint(11, (BATCH, TIME)), torch.randint(11, (BATCH, TIME - 1))


def convolutions(middle: nn.Module, dimensions: int, below: int = 4, above: int = 4) -> nn.Module:
    """Return a layer between convolutions."""
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    return nn.Sequential(
        kind(2, below, 3, padding=1), nn.Tanh(), middle, nn.ReLU(), kind(above, 2, 1)
    )


def recurrent(kind: type[nn.RNNBase], **options: Any) -> nn.Module:
    """Return a recurrent layer with inputs and outputs of WIDTH."""
    return kind(WIDTH, WIDTH, batch_first=True, **options)


def encoder(**options: Any) -> nn.Module:
    """Return a transformer encoder layer."""
    return nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True, **options)


def decoder(**options: Any) -> nn.Module:
    """Return a transformer decoder layer that attends to its own input."""
    return Twice(nn.TransformerDecoderLayer(WIDTH, 2, 16, batch_first=True, **options))


def parametrized(layer: nn.Module, *by: nn.Module) -> nn.Module:
    """Register parametrizations on a layer's weight."""
    for each in by:
        parametrize.register_parametrization(layer, "weight", each)
    return layer


def normed(layer: nn.Module) -> nn.Module:
    """Return a layer with the old weight norm, which computes the weight in a forward pre-hook."""
    return nn.utils.weight_norm(layer)


def linear() -> nn.Linear:
    """Return a linear layer of WIDTH by WIDTH."""
    return nn.Linear(WIDTH, WIDTH)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Example]]] = {
    # attention and transformers
    "MultiheadAttention": (lambda: Attention(), memory),
    "MultiheadAttention, no bias": (lambda: Attention(bias=False), memory),
    "MultiheadAttention, own widths": (lambda: Attention(kdim=5, vdim=7), memory),
    "MultiheadAttention, added bias and zeros": (
        lambda: Attention(add_bias_kv=True, add_zero_attn=True), memory),
    "MultiheadAttention, padding mask": (lambda: Attention(mask=True), memory),
    "MultiheadAttention, self-attention": (
        lambda: Between(Twice(nn.MultiheadAttention(WIDTH, 2, batch_first=True), 3,
                              need_weights=False)), sequence),
    "MultiheadAttention, time first": (
        lambda: Between(Twice(nn.MultiheadAttention(WIDTH, 2), 3)), sequence),
    "TransformerEncoderLayer": (lambda: Between(encoder()), sequence),
    "TransformerEncoderLayer, norm first, gelu": (
        lambda: Between(encoder(norm_first=True, activation="gelu")), sequence),
    "TransformerEncoder": (lambda: Between(nn.TransformerEncoder(encoder(), 2)), sequence),
    "TransformerDecoderLayer": (lambda: Between(decoder()), sequence),
    "TransformerDecoderLayer, norm first, gelu": (
        lambda: Between(decoder(norm_first=True, activation=F.gelu)), sequence),
    "TransformerDecoder": (
        lambda: Between(Twice(nn.TransformerDecoder(decoder().layer, 2))), sequence),
    "Transformer": (lambda: Translator(), sentences),
    "Transformer, norm first, no bias": (lambda: Translator(norm_first=True, bias=False),
                                         sentences),
    # recurrent
    "RNN": (lambda: Between(recurrent(nn.RNN)), sequence),
    "RNN, relu": (lambda: Between(recurrent(nn.RNN, nonlinearity="relu")), sequence),
    "RNN, 2 layers, both directions": (
        lambda: Between(recurrent(nn.RNN, num_layers=2, bidirectional=True), above=2 * WIDTH),
        sequence),
    "LSTM": (lambda: Between(recurrent(nn.LSTM)), sequence),
    "LSTM, no bias": (lambda: Between(recurrent(nn.LSTM, bias=False)), sequence),
    "LSTM, time first": (lambda: Between(nn.LSTM(WIDTH, WIDTH)), sequence),
    "LSTM, 2 layers, both directions": (
        lambda: Between(recurrent(nn.LSTM, num_layers=2, bidirectional=True), above=2 * WIDTH),
        sequence),
    "LSTM, projection": (lambda: Between(recurrent(nn.LSTM, proj_size=4), above=4), sequence),
    "LSTM, projection, 2 layers, both directions": (
        lambda: Between(recurrent(nn.LSTM, proj_size=4, num_layers=2, bidirectional=True)),
        sequence),
    "LSTM, packed": (lambda: Between(Packed(recurrent(nn.LSTM), (3, 5, 2))), sequence),
    "LSTM, packed, 2 layers, both directions": (
        lambda: Between(Packed(recurrent(nn.LSTM, num_layers=2, bidirectional=True), (3, 5, 2)),
                        above=2 * WIDTH), sequence),
    "LSTM, last state": (
        lambda: Between(State(recurrent(nn.LSTM, num_layers=2)), above=4 * WIDTH), sequence),
    "LSTM, learned start": (lambda: Between(LearnedState(recurrent(nn.LSTM))), sequence),
    "LSTM, tied embedding": (lambda: Tagger(), words),
    "GRU": (lambda: Between(recurrent(nn.GRU)), sequence),
    "GRU, 2 layers, both directions": (
        lambda: Between(recurrent(nn.GRU, num_layers=2, bidirectional=True), above=2 * WIDTH),
        sequence),
    "GRU, packed": (lambda: Between(Packed(recurrent(nn.GRU), (5, 3, 2))), sequence),
    "GRU, last state": (lambda: Between(State(recurrent(nn.GRU))), sequence),
    "RNNCell": (lambda: Between(Steps(nn.RNNCell(WIDTH, WIDTH))), sequence),
    "RNNCell, relu": (
        lambda: Between(Steps(nn.RNNCell(WIDTH, WIDTH, nonlinearity="relu"))), sequence),
    "LSTMCell": (lambda: Between(Steps(nn.LSTMCell(WIDTH, WIDTH))), sequence),
    "LSTMCell, no bias": (lambda: Between(Steps(nn.LSTMCell(WIDTH, WIDTH, bias=False))), sequence),
    "GRUCell": (lambda: Between(Steps(nn.GRUCell(WIDTH, WIDTH))), sequence),
    # convolutions
    "ConvTranspose1d": (lambda: convolutions(nn.ConvTranspose1d(4, 4, 3), 1), space(1)),
    "ConvTranspose2d": (lambda: convolutions(nn.ConvTranspose2d(4, 4, 3), 2), space(2)),
    "ConvTranspose3d": (lambda: convolutions(nn.ConvTranspose3d(4, 4, 3), 3), space(3, size=4)),
    "ConvTranspose2d, strides, groups, dilation": (
        lambda: convolutions(nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1,
                                                groups=2, dilation=2), 2), space(2)),
    "Conv1d, grouped": (lambda: convolutions(nn.Conv1d(4, 4, 3, groups=2), 1), space(1)),
    "Conv2d, depthwise, reflect": (
        lambda: convolutions(nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"), 2),
        space(2)),
    "Conv3d, strides": (lambda: convolutions(nn.Conv3d(4, 4, 3, stride=2), 3), space(3)),
    "Fold and Unfold": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Unfold(2),
                              nn.Conv1d(16, 16, 1), nn.Tanh(), nn.Fold((4, 4), 2),
                              nn.Conv2d(4, 2, 1)), space(2)),
    # bilinear, and activations with weights
    "Bilinear": (lambda: Between(Twice(nn.Bilinear(WIDTH, WIDTH, WIDTH))), flat),
    "PReLU": (lambda: Between(nn.Sequential(nn.PReLU(), linear(), nn.PReLU(WIDTH))), flat),
    "RReLU": (lambda: Between(nn.Sequential(nn.RReLU(), linear())), flat),
    "GLU": (lambda: Between(nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GLU())), flat),
    "Softmax, LogSoftmax": (
        lambda: Between(nn.Sequential(linear(), nn.Softmax(-1), linear(), nn.LogSoftmax(-1))),
        flat),
    # normalizations
    "LayerNorm, RMSNorm": (
        lambda: Between(nn.Sequential(nn.LayerNorm(WIDTH), linear(), nn.RMSNorm(WIDTH))), flat),
    "BatchNorm1d": (
        lambda: Between(nn.Sequential(nn.BatchNorm1d(WIDTH), nn.ReLU(), linear())), flat),
    "GroupNorm, InstanceNorm2d": (
        lambda: convolutions(nn.Sequential(nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3),
                                           nn.InstanceNorm2d(4, affine=True)), 2), space(2)),
    "LocalResponseNorm": (
        lambda: convolutions(nn.Sequential(nn.LocalResponseNorm(2), nn.Conv2d(4, 4, 3)), 2),
        space(2)),
    # weights computed from other parameters
    "weight_norm Linear": (lambda: Between(parametrizations.weight_norm(linear())), flat),
    "weight_norm Conv2d": (
        lambda: convolutions(parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), 2), space(2)),
    "weight_norm ConvTranspose1d": (
        lambda: convolutions(parametrizations.weight_norm(nn.ConvTranspose1d(4, 4, 3)), 1),
        space(1)),
    "old weight_norm Linear": (lambda: Between(normed(linear())), flat),
    "old weight_norm Conv1d": (
        lambda: convolutions(normed(nn.Conv1d(4, 4, 3)), 1), space(1)),
    "spectral_norm Linear": (lambda: Between(parametrizations.spectral_norm(linear())), flat),
    "orthogonal Linear": (lambda: Between(parametrizations.orthogonal(linear())), flat),
    "symmetric Linear": (lambda: Between(parametrized(linear(), Symmetric())), flat),
    "weight_norm, symmetric Linear": (
        lambda: Between(parametrized(parametrizations.weight_norm(linear()), Symmetric())), flat),
    "weight_norm LSTM": (
        lambda: Between(parametrizations.weight_norm(recurrent(nn.LSTM), "weight_hh_l0")),
        sequence),
    "Linear twice": (lambda: Between(nn.Sequential(*[linear(), nn.Tanh()] * 2)), flat),
    "functional with parameters": (lambda: Functional(), flat),
    # embeddings
    "Embedding": (
        lambda: nn.Sequential(nn.Embedding(11, WIDTH), nn.Flatten(), nn.Linear(TIME * WIDTH, 8),
                              nn.ReLU(), nn.Linear(8, OUTPUTS)), words),
    "EmbeddingBag, mean": (lambda: Bag(), words),
    "EmbeddingBag, sum": (lambda: Bag(mode="sum"), words),
    "EmbeddingBag, max": (lambda: Bag(mode="max"), words),
}  # fmt: skip


def maker(
    build: Callable[[], nn.Module], example: Callable[[], Example]
) -> Callable[[], tuple[nn.Module, Example]]:
    """Return a function that builds a model and draws its example."""
    return lambda: (build(), example())


ENTRIES = [Entry(name, maker(build, example)) for name, (build, example) in MODELS.items()]

"""Nodes of the autograd graph: what their names show of the operation that they belong to.

A name is read without "Backward0". The name of an autograd Function shows nothing.
"""

import functools
import re
from typing import Any

from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from lra.torch.ops.autograd import NODES, TransformFunction
from lra.torch.ops.ops import ActivationOp
from lra.torch.registry import TORCH_ACTIVATIONS

# After "|": kernels that do more than multiply.
PRODUCT = re.compile(r".*([mM][mv]|[dD]ot|Matmul|Conv.*|[lL]inear)|Addr|.*(Rnn.*|Lstm.*|Gru.*)")
ADDS = re.compile(r"(Sparse)?B?[aA]dd")  # products whose first input is only added
NONLINEAR = re.compile(
    "|".join(cls.__name__ for cls in TORCH_ACTIVATIONS)
    + r"|A?(Cos|Sin|Tan)h?|Sinc|Erf.*|Glu|Logit|PreluKernel|RreluWithNoise.*|Sgn|Sign|Round|Floor"
    r"|Ceil|Trunc|Frac|RunOnly|StraightThrough|.*(Rnn.*|Lstm.*|Gru.*)",
    re.IGNORECASE,
)
# These are nonlinear too, but beside a statistic they are part of a normalization.
POWER = re.compile(r"Abs|Exp2?|Expm1|Log(2|10|1P)?|Pow|Reciprocal|R?[sS]qrt")
BOUND = re.compile(r"Clamp(Min|Max)?|Maximum|Minimum")
STATISTIC = re.compile(r"Mean|Sum|Logsumexp|Var.*|Std.*|.*Norm|A?[mM](ax|in)|.*Pool.*")
SCALE = re.compile(r"Add|R?[sS]ub|Mul|Div|Neg")
FACTORS = re.compile(r"Mul|Div|Addc(mul|div)")  # elementwise products
VIEW = re.compile(
    r"Alias|AsStrided|Chunk|Clone|Diagonal|Expand|Flip|Permute|Repeat|ReshapeAlias|Select|Slice"
    r"|BackwardHookFunction|Split.*|Squeeze|T|ToCopy|Transpose|Unbind|UnsafeSplit.*|(Unsafe)?View|Unsqueeze"
)
# Operations in which weights may meet data without a product of the two, besides scales.
_MIXES = re.compile(
    r"Addc(mul|div)|Lerp|Where|Cat|Stack|Copy.*|Index.*|Gather|Scatter.*|S(elect|lice)Scatter|Masked.*"
    r"|Reshape.*|Unsafe.*|ViewAs.*|ConstantPadNd|.*Dropout|.*Norm.*|Embedding.*|Cumsum"
)
_PASSES = re.compile(
    r".*Softmax|.*Loss.*|ScaledDotProduct.*|.*Attention|Upsample.*|Fft.*|GridSampler.*|Sort|Topk"
    r"|Unfold|Im2Col|Col2Im|Roll|Tri[lu]|Re(flec|plica)tionPad.*|Pixel(Uns|S)huffle"
)


_VMAPPED = f"Vmapped{TransformFunction.__name__}"  # what torch.vmap makes of the node of an op


@functools.cache
def mixes(name: str) -> bool:
    """Return whether weights may meet data in an operation without a product of the two."""
    return any(kind.fullmatch(name) for kind in (_MIXES, SCALE, VIEW, STATISTIC, NONLINEAR, BOUND))


@functools.cache
def _is_pure(name: str) -> bool:
    kinds = (VIEW, SCALE, NONLINEAR, POWER, BOUND, STATISTIC, PRODUCT)
    return any(kind.fullmatch(name) for kind in kinds) or name == "DifferentiableGraph"


def is_pure(node: Node) -> bool:
    """Return whether a node's result depends on nothing but the nodes below it.

    A lookup depends on indices too, and a choice on a condition.
    """
    return function_of(node) is not None or _is_pure(node_name(node))


@functools.cache
def _is_known(name: str) -> bool:
    return mixes(name) or any(kind.fullmatch(name) for kind in (PRODUCT, POWER, _PASSES))


def is_known(node: Node) -> bool:
    """Return whether a node's name shows what its operation does to the data."""
    return by_rule(node) or (function_of(node) is None and _is_known(node_name(node)))


def node_name(node: Node) -> str:
    """Return a node's name without namespace and "Backward0"."""
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])


def function_of(node: Node) -> Any:
    """Return the class of an autograd Function outside this package; None for other nodes."""
    cls = getattr(node, "_forward_cls", None) if isinstance(node, BackwardCFunction) else None
    if by_rule(node):
        return None
    own = ("lra.", "torch.nn.modules.")  # and that of full backward hooks
    return None if getattr(cls, "__module__", "lra.").startswith(own) else cls


def by_rule(node: Node) -> bool:
    """Return whether errors cross a node by a rule."""
    cls = getattr(node, "_forward_cls", None)
    return cls in NODES or getattr(cls, "__name__", "").endswith(_VMAPPED)


def is_activation(node: Node) -> bool:
    """Return whether a node is an activation of the rule."""
    ops = getattr(node, "ops", ()) if by_rule(node) else ()
    return bool(ops) and all(isinstance(op, ActivationOp) for op in ops)


def nodes_below(node: Node) -> list[Node | None]:
    """Return the nodes that a node sends errors to."""
    return [below for below, _ in node.next_functions]

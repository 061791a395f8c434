"""Compiled steps: forward and backward pass in one graph, then the optimizer's own step.

The optimizer is not traced. Its fused kernels are as fast as compiled ones or faster, and its
hooks, state and step sizes work as in an eager loop.
"""

import inspect
import itertools
import time
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
import torch._dynamo
import torch._inductor
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._dynamo.utils import counters
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from lra.axis import unknown
from lra.errors import CompileError, OptionError, one_line
from lra.torch.distributed import is_sharded
from lra.torch.layers.sequential import GLOBAL_HOOKS
from lra.torch.layers.slots import feedback_slots

GRAPHS = 16
"""The number of shapes and modes that a step is compiled for before it raises an error."""

_SETTINGS = {
    "trace_autograd_ops": True,  # the backward pass is part of the graph
    "specialize_float": True,  # a rule's numbers are constants of the graph
    "skip_nnmodule_hook_guards": False,  # hooks may come and go
}
"""The settings of torch's tracer while a step is compiled."""

_numbers = itertools.count()


def compile_step(
    model: nn.Module,
    loss: Callable[[Any, Any], Any],
    optimizer: torch.optim.Optimizer,
    *,
    has_aux: bool = False,
    mode: str | None = None,
    backend: str | Callable[..., Any] = "inductor",
) -> "CompiledStep":
    """Compile a training step: `value = step(x, t)` computes the updates and takes the step.

    It replaces these lines, with the same numbers to rounding, for plain models and for models
    converted to any rule::

        optimizer.zero_grad()
        value = loss(model(x), t)
        value.backward()
        optimizer.step()

    The first three are one compiled graph. The optimizer's own step, with its hooks, runs outside
    it. The optimizer's state and `state_dict()` are as in an eager loop, and a schedule may change
    its groups between steps at no cost. Use `fused=True` if the optimizer has it.

    The graph is compiled when it is first needed, which takes seconds. It is compiled again for
    every shape of x and t, for `model.train()` and `model.eval()`, after `requires_grad_`, and
    after a setting or a forward hook of the model changes. A smaller last batch of an epoch thus
    costs one more compilation. Torch takes graphs that it compiled before, in any process, from its
    cache on disk.

    Random numbers, such as dropout's, are those of the eager loop.

    Args:
        model: the model, converted or plain.
        loss: a function that returns a scalar for `model(x)` and t.
        optimizer: the optimizer of the parameters; any that needs no closure.
        has_aux: whether `loss` returns a pair of the scalar and auxiliary tensors, as in
            `torch.func.grad`. The step then returns such a pair.
        mode: the mode of torch.compile. "reduce-overhead" replays the graph on CUDA, which saves
            kernel launches. x, t and the parameters should then keep their addresses in memory.
        backend: the backend of torch.compile.

    Returns:
        A function of x and t, which returns the loss before the step, detached. After it each
        parameter's ``.grad`` is the update of this step, or None if the loss does not depend on the
        parameter. Earlier values of ``.grad`` are lost, for all parameters of the model and the
        optimizer.

    Raises:
        OptionError: for arguments of the wrong type.
        CompileError: if torch has no such compiler, for optimizers that need a closure, and for
            models that gather updates by hooks (data-parallel and sharded ones). A step raises it
            where backward hooks, or hooks on all modules, are registered.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> net = lra.convert(net, lra.LRAE())
    >>> optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    >>> step = lra.compile_step(net, F.cross_entropy, optimizer, backend="eager")
    >>> value = step(torch.randn(16, 4), torch.randint(3, (16,)))
    >>> step.compilations
    1

    The default backend, "inductor", is the one that saves time. It needs a C++ compiler.
    """
    return CompiledStep(model, loss, optimizer, has_aux, mode, backend)


def available() -> bool:
    """Return whether this version of torch can compile the backward pass."""
    return hasattr(torch._dynamo.config, "trace_autograd_ops")


class CompiledStep:
    """Compute and take training steps of one model with one optimizer.

    `lra.compile_step` returns it.

    Attributes:
        compilations: the number of graphs compiled so far.
        seconds: the time of compiling, including each graph's first run.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Any],
        optimizer: torch.optim.Optimizer,
        has_aux: bool,
        mode: str | None,
        backend: str | Callable[..., Any],
    ) -> None:
        _check_arguments(model, loss, optimizer)
        self._model, self._optimizer, self._has_aux = model, optimizer, has_aux
        options = _options(mode, backend)
        self._replayed = bool(options and options.get("triton.cudagraphs"))
        self.compilations, self.seconds = 0, 0.0
        self._trained: list[int] = []

        def updates(parameters: list[Tensor], x: Any, t: Any) -> tuple[Any, ...]:
            found = loss(model(x), t)
            value, aux = found if has_aux else (found, None)
            if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
                return value, aux, None
            gradients = torch.autograd.grad(value, parameters, allow_unused=True)
            return value.detach(), tree_map_only(Tensor, torch.detach, aux), gradients

        settings = _SETTINGS | {"recompile_limit": GRAPHS}
        self._settings = torch._dynamo.config.patch(settings)  # building this takes time
        self._graph: Callable[..., tuple[Any, ...]] = torch.compile(
            _with_own_code(updates), fullgraph=True, dynamic=False, backend=backend, options=options
        )

    def __call__(self, x: Any, t: Any) -> Any:
        """Take a step on a batch.

        Args:
            x: the input, (batch, ...).
            t: the targets.

        Returns:
            The loss before the step, with `has_aux` also the auxiliary tensors.
        """
        found = self.updates(x, t)
        self._optimizer.step()
        return found

    def updates(self, x: Any, t: Any) -> Any:
        """Compute a batch's updates into each parameter's ``.grad``, without taking the step.

        Call it to change updates, such as by clipping, before you call `optimizer.step()`.

        Args:
            x: the input, (batch, ...).
            t: the targets.

        Returns:
            The loss, with `has_aux` also the auxiliary tensors.
        """
        if not torch.is_grad_enabled():
            raise CompileError(
                "compile_step: gradients are disabled here; call the step outside torch.no_grad()"
            )
        if torch._C._is_any_autocast_enabled():
            raise CompileError(
                "compile_step: autocast is on here and would include the backward pass; enter "
                "torch.autocast inside the model's forward, and call the step outside"
            )
        if any(GLOBAL_HOOKS):
            raise CompileError(
                "compile_step: a hook on all modules is registered, which would also run on the "
                "graph; register it on each module instead, such as model.register_forward_hook"
            )
        parameters = self._clear_grads()
        if self._replayed:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        value, aux, gradients = self._run(parameters, x, t)
        if gradients is None:
            raise OptionError(
                "compile_step: loss must return a scalar that depends on the parameters, and with "
                f"has_aux a pair of it and auxiliary tensors; got {_describe(value)}"
            )
        if self._replayed:  # the next replay overwrites these tensors
            value, aux = tree_map_only(Tensor, torch.clone, (value, aux))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return (value, aux) if self._has_aux else value

    def _clear_grads(self) -> list[Tensor]:
        """Set all parameters' `.grad` to None, and return those that require gradients."""
        held = [p for group in self._optimizer.param_groups for p in group["params"]]
        every = dict.fromkeys((*self._model.parameters(), *held))
        found = [parameter for parameter in every if parameter.requires_grad]
        if [id(p) for p in found] != self._trained:
            self._freeze_feedback()
            found = [parameter for parameter in every if parameter.requires_grad]
            self._trained = [id(p) for p in found]
        if not found:
            raise CompileError(
                "compile_step: no parameter requires a gradient; call requires_grad_()"
            )
        for parameter in found:
            if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
                raise CompileError(
                    f"compile_step: a parameter of shape {tuple(parameter.shape)} has a hook on "
                    "its gradient, which a compiled step does not call. Use the optimizer's "
                    "register_step_pre_hook instead"
                )
        for parameter in every:
            parameter.grad = None
        return found

    def _freeze_feedback(self) -> None:
        """Let feedback weights require gradients where their weights do; a graph cannot."""
        for _, module, slot in feedback_slots(self._model):
            if (W := slot.leaf(module)) is not None:
                slot.current(module, W)

    def _run(self, parameters: list[Tensor], x: Any, t: Any) -> tuple[Any, ...]:
        """Run the graph. Compile it first if there is none for such arguments."""
        before, start = counters["stats"]["unique_graphs"], time.perf_counter()
        try:
            with self._settings:
                found = self._graph(parameters, x, t)
        except FailOnRecompileLimitHit as error:
            raise CompileError(
                f"compile_step: the step was compiled for {GRAPHS} kinds of arguments, and these "
                "are of another kind. Give all batches one shape (drop the last, or pad) and keep "
                "the model's settings fixed, or train without compile_step"
            ) from error
        except TorchDynamoException as error:
            raise CompileError(_compilation_message(error)) from error
        if counters["stats"]["unique_graphs"] != before:
            self.compilations += 1
            self.seconds += time.perf_counter() - start
        return found


def _with_own_code(function: Any) -> Any:
    """Copy a function with a new code object: torch limits the number of graphs of each one."""
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_numbers)}")
    return FunctionType(
        code, function.__globals__, code.co_name, function.__defaults__, function.__closure__
    )


def _check_arguments(model: Any, loss: Any, optimizer: Any) -> None:
    """Check the arguments' types, and that a compiled step is right for them."""
    if not available():
        raise CompileError(
            f"compile_step: torch {torch.__version__} cannot compile the backward pass; use torch "
            "2.11"
        )
    for name, value, kind in (
        ("model", model, nn.Module),
        ("optimizer", optimizer, torch.optim.Optimizer),
    ):
        if not isinstance(value, kind):
            raise OptionError(
                f"compile_step: {name} must be a {kind.__module__.removesuffix('.optimizer')}."
                f"{kind.__name__}; got {type(value).__name__}"
            )
    if not callable(loss):
        raise OptionError(
            "compile_step: loss must be a function of the model's output and t, such as "
            f"torch.nn.functional.cross_entropy; got {type(loss).__name__}"
        )
    for name, module in model.named_modules():
        if isinstance(module, (DistributedDataParallel, nn.DataParallel)) or is_sharded(module):
            raise CompileError(
                f"compile_step: {name or 'the model'} ({type(module).__name__}) gathers updates "
                "over devices by hooks, which a compiled step does not call; train it in a loop"
            )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise CompileError(
            f"compile_step: {type(optimizer).__name__} evaluates the loss several times a step, "
            "by a closure; use another optimizer, such as torch.optim.AdamW, or train in a loop"
        )


def _options(mode: str | None, backend: Any) -> dict[str, Any] | None:
    """Return torch.compile's options for a mode, with the random numbers of eager mode."""
    if backend != "inductor":
        if mode is not None:
            raise OptionError(f"compile_step: mode {mode!r} is for the backend 'inductor'")
        return None
    modes = {"default": {}, **torch._inductor.list_mode_options()}
    if mode is not None and mode not in modes:
        raise unknown("mode", mode, modes)
    return {
        "fallback_random": True,
        **modes[mode or "default"],
    }


def _compilation_message(error: BaseException) -> str:
    """Return a message with the reason why torch did not compile, and the remedy."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, (InvalidCxxCompiler, CppCompileError)):
            return (
                "compile_step: torch needs a working C++ compiler and found none; install one "
                "(apt-get install g++, or Xcode's command line tools), set the environment "
                f"variable CXX, or train without compile_step ({one_line(chain)})"
            )
        chain = getattr(chain, "inner_exception", None) or chain.__cause__ or chain.__context__
    first, *others = str(error).splitlines()
    details = [line for line in others if "debug context:" in line or "File" in line][:4]
    return (
        "compile_step: torch cannot compile this step as one graph; train without compile_step, "
        "or change what prevents it: " + "\n".join((first, *details))
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return type(value).__name__

"""The classes of converted modules: one for each plain class, made when first needed."""

import copy
import warnings
from typing import Any

from torch import nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize

from lra.errors import LraWarning
from lra.torch.layers.slots import RuleState, add_tensor
from lra.torch.layers.tracing import leaf_if_traced


def class_name(module: nn.Module) -> str:
    """Return the name of a module's class, that before conversion for a converted one."""
    cls: Any = type(module)
    converted = "_lra" in vars(module) or cls.__module__.startswith("lra.torch.layers.")
    return (cls.plain if converted else cls).__name__  # type: ignore[no-any-return]


_made: dict[tuple[Any, ...], type[Any]] = {}


def local_class(mixin: type[Any], plain: type[nn.Module], *methods: str) -> type[Any]:
    """Return the class that a module of a plain class becomes; the same one every time.

    Args:
        mixin: the kind of converted module.
        plain: the plain class.
        *methods: methods beside `forward` whose code follows the rule.
    """
    key = mixin, plain, *methods
    if key in _made:
        return _made[key]
    body: dict[str, Any] = {"plain": plain, "_mixin": mixin, "__doc__": plain.__doc__}
    body |= {"__module__": mixin.__module__} | ({"methods": methods} if methods else {})
    body |= _wrap(mixin, plain, *methods)
    if issubclass(plain, GraphModule):
        body |= {name: _on_plain(name) for name in ("recompile", "__deepcopy__", "__copy__")}
    name = f"Local{plain.__name__}"
    if plain.__module__ == parametrize.__name__:
        # remove_parametrizations turns a module into the first base of its class.
        bases = local_class(mixin, plain.__bases__[0], *methods), plain
        body["register_parameter"] = _register_parameter
        _made[key] = _Parametrized(name, bases, body)
    else:
        _made[key] = type(name, (mixin, plain), body)
    return _made[key]


def _wrap(mixin: type[Any], plain: type[nn.Module], *names: str) -> dict[str, Any]:
    """Return the methods that a local class has in place of the plain ones."""
    methods: dict[str, Any] = mixin.wrap(plain, *names)
    if "forward" in methods:
        methods["forward"] = leaf_if_traced(methods["forward"])
    return methods


class _Parametrized(type):
    """The type of a local class whose plain class torch made for a parametrization."""

    plain: type[nn.Module]

    def __delattr__(cls, name: str) -> None:
        delattr(cls.plain, name)  # the property that computes a weight


def _register_parameter(self: Any, name: str, value: Any) -> None:
    """Register a parameter. One that was parametrized takes over the feedback of its parts."""
    self._mixin.register_parameter(self, name, value)
    if name in self.parametrizations or "_lra" not in vars(self) or value is None:
        return
    slots = self._lra.slots
    old = [slots.pop(key) for key in list(slots) if key.startswith(f"parametrizations.{name}.")]
    for slot in old:
        E = slot.stored(self)
        if E is None or E.shape == value.shape:
            slot.key = name
            slots[name] = slot
    if old and name not in slots:
        self._add_slot(name, value)
        warnings.warn(
            f"{self._lra.path!r} ({class_name(self)}) lost a parametrization, and its feedback "
            f"weights do not fit {name!r}; new ones were drawn",
            LraWarning,
            stacklevel=2,
        )


def _on_plain(name: str) -> Any:
    """Return a method of GraphModule, which edits its class, as one of a converted GraphModule."""

    def method(self: Any, *args: Any) -> Any:
        cls = type(self)
        self.__class__ = cls.plain
        try:
            result = getattr(self, name)(*args)
        finally:
            self.__class__ = cls
        for key, value in _wrap(cls._mixin, cls.plain, *cls.methods).items():
            setattr(cls, key, value)  # of the code that it has now
        if isinstance(result, GraphModule):

            def copied(value: Any) -> Any:
                return copy.deepcopy(value, *args) if name == "__deepcopy__" else value

            added = {key: copied(getattr(self, key)) for key in self._lra.added}
            return adopt(cls._mixin, lambda: result, (), copied(self._lra), added)
        return result

    return method


def adopt(mixin: type[Any], make: Any, args: Any, state: RuleState, added: dict[str, Any]) -> Any:
    """Create a plain module, and convert it by the state and the feedback of another."""
    module = make(*args)
    module._lra = state
    for name, value in added.items():
        add_tensor(module, name, value)
    module.__class__ = local_class(mixin, type(module))
    return module


def blank(mixin: type[Any], plain: type[nn.Module], *methods: str) -> Any:
    """Create an empty module of a local class, for pickle to fill."""
    cls: Any = local_class(mixin, plain, *methods)
    return cls.__new__(cls)

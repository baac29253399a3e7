"""The doors: PEFT's own methods on an attached model lead to its state.

The class of the model, of its tuner and of each layer is exchanged for a subclass of the same name with doors in front of the methods that
would change the state or tell it. Computing stays PEFT's: a layer whose state PEFT can express keeps PEFT's forward. A door finds the
state through the `Link` that all of them share. While PEFT builds on behalf of the state, doors let it through, but keep it from switching
anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from peft import PeftMixedModel, PeftModel
from peft.tuners import AdaptionPromptModel, LoraModel, XLoraModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from adapterstate.errors import AttachError
from adapterstate.peft.mixtures import computing, is_computing
from adapterstate.peft.stand_ins import PLAIN, SWITCHED

DOOR = "_adapterstate_door"
"""Key in the ``__dict__`` of everything with doors: the `Link` of the model."""
STAND_IN = "_adapterstate_stand_in"
"""Key in the ``__dict__`` of a layer: what computes in its place."""
ORPHAN = (
    "{!r} was copied out of an attached model, without the model, while something computed in its place; nothing has changed. Copy the "
    "whole model, or unmerge and leave weights and policies before."
)
"""What is said of a part that PEFT's own methods would take for merged."""


def _driver(self: nn.Module) -> Any:
    """The state that drives what `self` belongs to; None for a part that was copied away from its model."""
    link = self.__dict__.get(DOOR)
    return None if link is None else link.driver()


def _building(self: nn.Module) -> bool:
    """Whether PEFT is at work on behalf of the state, in this thread."""
    link = self.__dict__.get(DOOR)
    return link is not None and link.is_building()


def _switch(event: Callable[..., Any]) -> Callable[..., Any]:
    """A door that PEFT must not pass while it builds: what it would switch is decided by the state."""

    @functools.wraps(event)
    def door(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _building(self):
            return None
        state = _driver(self)
        return _past(self, event.__name__)(*args, **kwargs) if state is None else event(self, state, *args, **kwargs)

    return door


def _through(event: Callable[..., Any]) -> Callable[..., Any]:
    """A door that PEFT may pass while it builds."""

    @functools.wraps(event)
    def door(self: Any, *args: Any, **kwargs: Any) -> Any:
        state = None if _building(self) else _driver(self)
        return _past(self, event.__name__)(*args, **kwargs) if state is None else event(self, state, *args, **kwargs)

    return door


def _past(self: Any, name: str) -> Any:
    """PEFT's own method, behind the door of this name.

    Raises:
        AttachError: `self` is a part that was copied without its model, and PEFT's methods would go by flags that say less than there is.
    """
    if not _building(self):
        orphans = (path for path, module in self.named_modules() if STAND_IN in module.__dict__)
        for path in orphans:
            raise AttachError(f"{name} of {type(self).__name__} is refused: {ORPHAN.format(path)}")
    doors = next(cls for cls in type(self).__mro__ if cls in ALL and name in cls.__dict__)
    return getattr(super(doors, self), name)


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


class Doors(nn.Module):
    """What every class with doors can do beside its doors."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain = getattr(type(self), PLAIN)
        reduced: Any = super().__reduce_ex__(protocol)
        make, args, *rest = reduced
        return (_remake, (make, tuple(plain if arg is type(self) else arg for arg in args), plain, stands_in(self)), *rest)


def _remake(make: Callable[..., Any], args: tuple[Any, ...], plain: type[nn.Module], standing_in: bool) -> Any:
    """Make the empty copy of an object with doors."""
    made = make(*args)
    object.__setattr__(made, "__class__", class_with_doors(plain, standing_in=standing_in))
    return made


class ModelDoors(Doors):
    """Doors of a `PeftModel` or `PeftMixedModel`."""

    @_switch
    def set_adapter(self, state: Any, adapter_name: Any, inference_mode: bool = False) -> None:
        state.peft_set_adapter(adapter_name, inference_mode)

    @_through
    def add_adapter(self, state: Any, adapter_name: str, peft_config: Any, *args: Any, **kwargs: Any) -> None:
        build = functools.partial(super().add_adapter, adapter_name, peft_config, *args, **kwargs)
        state.peft_build("add_adapter", adapter_name, build, peft_config)

    @_through
    def load_adapter(self, state: Any, model_id: Any, adapter_name: str, is_trainable: bool = False, *args: Any, **kwargs: Any) -> Any:
        build = functools.partial(super().load_adapter, model_id, adapter_name, is_trainable, *args, **kwargs)
        return state.peft_build("load_adapter", adapter_name, build, is_trainable=is_trainable)

    @_through
    def delete_adapter(self, state: Any, adapter_name: Any) -> None:
        state.peft_delete_adapter(adapter_name)

    @_through
    def disable_adapter(self, state: Any) -> Any:
        return state.disable_adapter()

    @_switch
    def set_requires_grad(self, state: Any, adapter_names: Any, requires_grad: bool = True) -> None:
        state.set_requires_grad(adapter_names, requires_grad)

    @property
    def active_adapters(self) -> list[str]:
        """The active adapters."""
        state = None if _building(self) else _driver(self)
        return list(super().active_adapters if state is None else state.active_adapters)

    @property
    def active_peft_config(self) -> Any:
        """The config of the first active adapter; of the first there is, where none is active."""
        state = _driver(self)
        return super().active_peft_config if state is None else state.peft_active_config()

    @property
    def has_active_enabled_adapter(self) -> bool:
        """Whether any adapter takes part in the forward pass."""
        state = _driver(self)
        return bool(super().has_active_enabled_adapter) if state is None else bool(state.active_adapters) and state.enabled

    @_through
    def get_model_status(self, state: Any) -> Any:
        status = super().get_model_status()
        if state.check():  # what PEFT finds in fields that were written past the doors is not to be hidden
            return status
        return dataclasses.replace(
            status, enabled=state.enabled, active_adapters=list(state.active_adapters), merged_adapters=sorted(state.merged_adapters)
        )

    @_through
    def get_layer_status(self, state: Any) -> Any:
        status = super().get_layer_status()
        if state.check():
            return status
        return [dataclasses.replace(layer, enabled=state.enabled) for layer in status]  # which PEFT does not tell the layers of a mixture

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As PEFT's; a prompt that is disabled is left out."""
        link = self.__dict__.get(DOOR)
        if link is not None and link.state is not None and link.state.skips_prompt:
            return self.base_model(*args, **{key: value for key, value in kwargs.items() if key != "task_ids"})
        return super().forward(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As PEFT's; a prompt that is disabled is left out."""
        link = self.__dict__.get(DOOR)
        if link is not None and link.state is not None and link.state.skips_prompt:
            return self.base_model.generate(*args, **kwargs)  # type: ignore[union-attr]
        return super().generate(*args, **kwargs)


class InjectedDoors(Doors):
    """Doors of a model that carries PEFT's layers without a `PeftModel` around it."""

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's. PEFT's injecting begins with it, and goes past every other door."""
        if (state := _driver(self)) is not None:
            state.peft_refuse_injecting()
        return super().named_modules(*args, **kwargs)


class TransformersDoors(InjectedDoors):
    """Doors of a transformers model that carries PEFT's layers without a `PeftModel` around it."""

    @_through
    def add_adapter(self, state: Any, adapter_config: Any, adapter_name: str | None = None) -> None:
        name = adapter_name or "default"
        state.peft_build("add_adapter", name, functools.partial(super().add_adapter, adapter_config, adapter_name), adapter_config)

    @_through
    def load_adapter(self, state: Any, peft_model_id: Any = None, adapter_name: str | None = None, *args: Any, **kwargs: Any) -> Any:
        name = adapter_name or "default"
        build = functools.partial(super().load_adapter, peft_model_id, adapter_name, *args, **kwargs)
        return state.peft_build("load_adapter", name, build, is_trainable=bool(kwargs.get("is_trainable", False)))

    @_switch
    def set_adapter(self, state: Any, adapter_name: Any) -> None:
        state.peft_set_adapter(adapter_name)

    @_switch
    def enable_adapters(self, state: Any) -> None:
        state.enable_adapters()

    @_switch
    def disable_adapters(self, state: Any) -> None:
        state.disable_adapters()

    @_through
    def active_adapters(self, state: Any) -> list[str]:
        return list(state.active_adapters)

    @_through
    def delete_adapter(self, state: Any, adapter_names: Any) -> None:
        state.peft_delete_adapter(adapter_names)


class TunerDoors(Doors):
    """Doors of PEFT's tuner, such as `LoraModel`."""

    @_switch
    def set_adapter(self, state: Any, adapter_name: Any, inference_mode: bool = False) -> None:
        state.peft_set_adapter(adapter_name, inference_mode)

    @_through
    def delete_adapter(self, state: Any, adapter_name: Any) -> None:
        state.peft_delete_adapter(adapter_name)

    @_through
    def merge_adapter(self, state: Any, adapter_names: Any = None, safe_merge: bool = False) -> None:
        state.peft_merge_adapter(adapter_names, safe_merge)

    @_through
    def unmerge_adapter(self, state: Any) -> None:
        state.peft_unmerge_adapter()

    @_through
    def merge_and_unload(self, state: Any, progressbar: bool = False, safe_merge: bool = False, adapter_names: Any = None) -> Any:
        return state.merge_and_unload(progressbar, safe_merge, adapter_names)

    @_through
    def unload(self, state: Any) -> Any:
        return state.unload()

    @_switch
    def enable_adapter_layers(self, state: Any) -> None:
        state.enable_adapters()

    @_switch
    def disable_adapter_layers(self, state: Any) -> None:
        state.peft_disable_adapters()

    @_switch
    def set_requires_grad(self, state: Any, adapter_names: Any, requires_grad: bool = True) -> None:
        state.set_requires_grad(adapter_names, requires_grad)

    @_through
    def inject_adapter(self, state: Any, model: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        state.peft_build("inject_adapter", adapter_name, functools.partial(super().inject_adapter, model, adapter_name, *args, **kwargs))


class LoraTunerDoors(TunerDoors):
    """Doors of a `LoraModel`, which may be the one that a mixture has to hold its LoRAs: what it switches for computing is no event."""

    def enable_adapter_layers(self) -> None:
        """As on any tuner."""
        if not is_computing(self.__dict__.get(DOOR)):
            super().enable_adapter_layers()

    def disable_adapter_layers(self) -> None:
        """As on any tuner."""
        if not is_computing(self.__dict__.get(DOOR)):
            super().disable_adapter_layers()


class MixtureDoors(TunerDoors):
    """Doors of a mixture of LoRAs."""

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """As PEFT's."""
        with computing(self.__dict__.get(DOOR)), super()._enable_peft_forward_hooks(*args, **kwargs):
            yield

    @_through
    def _maybe_freeze_all_adapters(self, state: Any) -> None:
        """Which parameters accept gradients is the state's; before 0.21, PEFT froze the classifier here too."""


class SwappingDoors(Doors):
    """Doors of what swaps adaption prompts. What PEFT swaps while it builds is put where the state says."""

    @_through
    def add_adapter(self, state: Any, adapter_name: str, config: Any) -> None:
        state.peft_build("add_adapter", adapter_name, functools.partial(super().add_adapter, adapter_name, config), config)

    @_through
    def set_adapter(self, state: Any, adapter_name: Any, inference_mode: bool = False) -> None:
        if inference_mode:
            raise ValueError("inference_mode is not supported for AdaptionPromptModel.")
        state.peft_set_adapter(adapter_name)

    @_through
    def delete_adapter(self, state: Any, adapter_name: Any) -> None:
        state.peft_delete_adapter(adapter_name)

    @_through
    def enable_adapter_layers(self, state: Any) -> None:
        state.enable_adapters()

    @_through
    def disable_adapter_layers(self, state: Any) -> None:
        state.peft_disable_adapters()

    def _temporarily_active(self, adapter_name: str) -> Any:
        """As PEFT's, which can only come from another adapter."""
        state = _driver(self)
        return super()._temporarily_active(adapter_name) if state is None else state.peft_showing(self, adapter_name)

    @property
    def _active_adapter(self) -> str | None:
        """The adapter whose modules stand in the model: only that one is saved as it stands."""
        active: str | None = self.__dict__["_active_adapter"]
        return None if active in self.__dict__["_cached_adapters"] else active

    @_active_adapter.setter
    def _active_adapter(self, name: str | None) -> None:
        self.__dict__["_active_adapter"] = name

    @property
    def active_adapters(self) -> list[str]:
        """The active adapters."""
        state = None if _building(self) else _driver(self)
        return list(super().active_adapters if state is None else state.active_adapters)


class WeighingDoors(Doors):
    """The door of tuners that make an adapter of others."""

    @_through
    def add_weighted_adapter(self, state: Any, adapters: Any, weights: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        build = functools.partial(super().add_weighted_adapter, adapters, weights, adapter_name, *args, **kwargs)
        state.peft_build("add_weighted_adapter", adapter_name, build)


class HookingDoors(Doors):
    """The door of tuners that hook their layers for one forward, to say which adapter is for which sample."""

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """As PEFT's, which leaves its hooks in the layers where the forward raises."""
        hooks = super()._enable_peft_forward_hooks(*args, **kwargs)
        hooks.__enter__()
        try:
            yield
        finally:
            hooks.__exit__(None, None, None)


class AllocatingDoors(Doors):
    """The door of the rank allocation of AdaLoRA and AdaMSS."""

    @_through
    def update_and_allocate(self, state: Any, global_step: int) -> None:
        name = vars(self).get("trainable_adapter_name")  # AdaMSS goes by what is active
        if name is None or (name in state.adapters and state.trainable(name)):  # nothing else has gradients to allocate by
            super().update_and_allocate(global_step)


class RestoringDoors(Doors):
    """The door of layers that put base weights back, as new parameters, after a forward that has taken them out."""

    def _restore_weights(self) -> None:
        """As PEFT's; what computes in place of such a layer has taken out nothing."""
        if not stands_in(self):
            super()._restore_weights()


class LayerDoors(Doors):
    """Doors of a tuner layer: what a user asks of one layer is asked of the model."""

    @_switch
    def set_adapter(self, state: Any, adapter_names: Any, inference_mode: bool = False) -> None:
        state.peft_set_adapter(adapter_names, inference_mode)

    @_switch
    def enable_adapters(self, state: Any, enabled: bool) -> None:
        state.enable_adapters() if enabled else state.disable_adapters()

    @_switch
    def set_requires_grad(self, state: Any, adapter_names: Any, requires_grad: bool = True) -> None:
        state.set_requires_grad(adapter_names, requires_grad)

    @_through
    def delete_adapter(self, state: Any, adapter_name: Any, *_: Any, **__: Any) -> None:
        gone = [name for name in _listed(adapter_name) if name in state.adapters]
        if gone:  # a loop over all layers asks for it again on the next one, and PEFT's layers allow that
            state.peft_delete_adapter(gone)

    @_through
    def merge(self, state: Any, safe_merge: bool = False, adapter_names: Any = None) -> None:
        state.peft_merge_adapter(adapter_names, safe_merge)

    @_through
    def unmerge(self, state: Any) -> None:
        state.peft_unmerge_adapter()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if STAND_IN in self.__dict__ and (state := _driver(self)) is not None:
            state.peft_rebuild(self)
        return self


class WrapperDoors(LayerDoors):
    """Doors of a `ModulesToSaveWrapper` or `TrainableTokensWrapper`."""


class _StandingIn:
    """A layer that something else computes for."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Let the stand-in compute; batches that name an adapter for each sample are PEFT's."""
        if STAND_IN not in self.__dict__:  # kept by a hook since something stood in
            return type(self).forward(self, *args, **kwargs)
        if kwargs.get("adapter_names") is not None:
            return super().forward(*args, **kwargs)
        return self.__dict__[STAND_IN](self, args, kwargs)


class StandingLayer(_StandingIn, LayerDoors):
    """A tuner layer that a twin computes for."""

    def __setattr__(self, name: str, value: Any) -> None:
        """What is set on the layer, such as ``cast_input_dtype_enabled``, holds for its twin."""
        super().__setattr__(name, value)
        twin = self.__dict__[STAND_IN].module
        if name in self.__dict__ and name in twin.__dict__ and name not in SWITCHED:
            twin.__dict__[name] = value

    @property
    def weight(self) -> Any:
        """What the layer computes with."""
        return self.__dict__[STAND_IN].module.weight

    @property
    def bias(self) -> Any:
        """What the layer computes with."""
        return self.__dict__[STAND_IN].module.bias


class StandingWrapper(_StandingIn, WrapperDoors):
    """A wrapper that a combination of its copies computes for."""

    def _hasattr_wrapped(self, name: str, modules: Any) -> bool:
        return hasattr(self.__dict__[STAND_IN].module, name)

    def _getattr_wrapped(self, name: str, modules: Any) -> Any:
        return getattr(self.__dict__[STAND_IN].module, name)


ALL = (
    ModelDoors,
    InjectedDoors,
    TransformersDoors,
    TunerDoors,
    MixtureDoors,
    SwappingDoors,
    WeighingDoors,
    AllocatingDoors,
    RestoringDoors,
    LayerDoors,
    WrapperDoors,
)


def stands_in(module: nn.Module) -> bool:
    """Whether something else computes for `module`."""
    return isinstance(module, _StandingIn)


def has_doors(module: nn.Module) -> bool:
    """Whether the class of `module` has doors."""
    return isinstance(module, Doors)


def class_with_doors(plain: type[nn.Module], *, standing_in: bool = False) -> type[nn.Module]:
    """Return the subclass of one of PEFT's classes with doors; it has the same name."""
    return _generate(plain, standing_in)  # type: ignore[arg-type]  # classes are hashable


@functools.lru_cache(maxsize=4096)
def _generate(plain: type[nn.Module], standing_in: bool) -> type[nn.Module]:
    """Generate the subclass."""
    if issubclass(plain, PeftModel | PeftMixedModel):
        doors: tuple[type, ...] = (ModelDoors,)
    elif issubclass(plain, BaseTuner):
        weighs = (WeighingDoors,) if hasattr(plain, "add_weighted_adapter") else ()
        own = MixtureDoors if issubclass(plain, XLoraModel) else LoraTunerDoors if issubclass(plain, LoraModel) else TunerDoors
        hooks = (HookingDoors,) if hasattr(plain, "_enable_peft_forward_hooks") and own is not MixtureDoors else ()
        doors = (own, *weighs, *hooks, *((AllocatingDoors,) if hasattr(plain, "update_and_allocate") else ()))
    elif issubclass(plain, AdaptionPromptModel):
        doors = (SwappingDoors,)
    elif issubclass(plain, AuxiliaryTrainingWrapper):
        doors = (StandingWrapper if standing_in else WrapperDoors,)
    elif issubclass(plain, BaseTunerLayer):
        restores = (RestoringDoors,) if hasattr(plain, "_restore_weights") else ()
        doors = (*restores, StandingLayer if standing_in else LayerDoors)
    else:
        doors = (TransformersDoors if hasattr(plain, "_hf_peft_config_loaded") else InjectedDoors,)
    body: dict[str, Any] = {PLAIN: plain, "__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    return type(plain.__name__, (*doors, plain), body)

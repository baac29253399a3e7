"""One system beside the reference: every event goes to both, and all that can be seen is compared after each."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import attrs
import torch

from adapterstate.testing.blame import rule_of_output, rule_of_refusal, rule_of_state
from adapterstate.testing.looks import (
    Look,
    look_differences,
    observed_differences,
    output_difference,
    print_differences,
    same_bits,
)
from adapterstate.testing.oracle import normal_form
from adapterstate.testing.reference import No, Reference
from adapterstate.testing.report import Difference, Report, failure_text, skipped_rules
from adapterstate.testing.rules import RULES, Broken, Call, is_tolerated, refuse_unknown
from adapterstate.testing.system import AdapterSystem, Options, ShowsFingerprint, ShowsTensors, lacks

T = TypeVar("T")
P = ParamSpec("P")


def _generators() -> list[torch.Tensor]:
    """The states of torch's global generators; CUDA's only where CUDA has been used, since reading them would start it."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return [torch.get_rng_state(), *cuda]


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Run with random numbers of one's own, and with one thread: small models gain nothing from more, and may wait for them for long."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


class Tolerated(Exception):
    """A known deviation was met: the system and the reference have parted, so this trial is over."""


@attrs.define(eq=False)
class Context:
    """A context that is open: how the code calls it, the object, and for ``"use"`` what it will restore."""

    label: str
    kind: str
    opened: Any
    before: Reference


def _noted(method: Callable[Concatenate[Trial, P], None]) -> Callable[Concatenate[Trial, P], None]:
    """Note the call of an event, so that a failure can be tried with fewer of them. What the call calls in turn is not noted."""

    @functools.wraps(method)
    def noted(self: Trial, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if not self.over:
            self._calls.append((method.__name__, args, kwargs))
            method(self, *args, **kwargs)

    return noted


class Trial:
    """Drive a system and the reference through the same events.

    Use it as it is for a scenario of your own: call the events, each checks everything after itself.

    Args:
        system: a fresh one.
        deviations: findings that are tolerated: names of rules, or finer ones as failures print them.
        output_rate: how often the output is checked, between 0 and 1; it is always checked where an event was refused.
        report: where to count; a fresh one by default.

    Raises:
        Broken: by every method, when a rule is broken.

    Attributes:
        system: the system.
        lacking: the events and features that it does not have.
        reference: what its state must be.
        contexts: those that are open.
        over: a deviation was met and tolerated; further events do nothing.
        broken: a rule was found broken.
        lines: the events so far, as runnable code.
    """

    def __init__(
        self, system: AdapterSystem, *, deviations: Collection[str] = (), output_rate: float = 1.0, report: Report | None = None
    ) -> None:
        refuse_unknown(deviations)
        self.system = system
        self.lacking = lacks(system)
        self.options: Options = getattr(system, "options", Options())
        self.reference = Reference(system.recipes, self.options)
        self.contexts: list[Context] = []
        self.over = False
        self.broken = False
        self.report = report if report is not None else Report()
        self.report.examples += 1
        self._dense = system if isinstance(system, ShowsTensors) else None
        self._prints = system if isinstance(system, ShowsFingerprint) else None
        self.report.skipped = skipped_rules(self.lacking, tensors=self._dense is not None, fingerprint=self._prints is not None)
        self.lines = ["system = make_system()"]
        self._calls: list[Call] = []
        self._deviations = deviations
        self._rate = output_rate
        self._counter = itertools.count(1)  # a model made with seed 0 must not get the same values again
        self._versions: dict[str, int] = {}
        self._outputs: dict[object, tuple[torch.Tensor, bool]] = {}
        with self._tolerant():
            self._start()

    def _start(self) -> None:
        """Keep what the base model is before the first event."""
        self._event, self._last = "start", Look(self.reference.expected())
        self._base = self._forward()
        again = output_difference(self._base, self._forward())
        if again:
            self._fail("deterministic", [again])
        tensors = self._ask(self._dense.tensors, "tensors()") if self._dense else None
        self._originals = {
            path: {name: value.detach().clone() for name, value in values.items()}
            for path, values in (tensors.base if tensors else {}).items()
        }
        self._first_print = self._ask(self._prints.fingerprint, "fingerprint()") if self._prints else None
        self._last = self._look(output=True)
        self._check_observation(())

    def has(self, feature: str) -> bool:
        """Whether the system has an event or a feature."""
        return feature not in self.lacking

    # --------------------------------------------------------------------------------------------------------------- events

    @_noted
    def add_adapter(self, name: str, recipe: str, on_overlap: str = "error") -> None:
        """Add the adapter of a recipe, and give its weights values that change the output."""
        options = {} if on_overlap == "error" else {"on_overlap": on_overlap}
        config = self.system.recipes[recipe].config
        self._do(
            "add_adapter",
            lambda: self.system.add_adapter(name, config, **options),
            (name, recipe),
            options,
            f"system.add_adapter({_arguments(name, _Code(f'system.recipes[{recipe!r}].config'), **options)})",
        )
        if not self.over and name in self.reference.adapters and name not in self._versions:
            self._perturb(name)

    @_noted
    def set_adapter(self, names: Sequence[str] | str, /, *, scribble: bool = False, **options: Any) -> None:
        """Activate these. With `scribble`, the lists that were given are changed afterwards, as their owner may."""
        self._named("set_adapter", self.system.set_adapter, names, scribble=scribble, **options)

    @_noted
    def delete_adapter(self, name: str) -> None:
        """Delete one."""
        self._do("delete_adapter", lambda: self.system.delete_adapter(name), (name,), {}, f"system.delete_adapter({name!r})")
        if name not in self.reference.adapters:
            self._versions.pop(name, None)

    @_noted
    def merge_adapter(self, names: Sequence[str], *, scribble: bool = False) -> None:
        """Merge these."""
        self._named("merge_adapter", self.system.merge_adapter, names, scribble=scribble)

    @_noted
    def unmerge_adapter(self) -> None:
        """Unmerge all."""
        self._do("unmerge_adapter", self.system.unmerge_adapter, (), {}, "system.unmerge_adapter()")

    @_noted
    def enable_adapters(self) -> None:
        """Release `disable_adapters`."""
        self._do("enable_adapters", self.system.enable_adapters, (), {}, "system.enable_adapters()")

    @_noted
    def disable_adapters(self) -> None:
        """Disable until `enable_adapters`."""
        self._do("disable_adapters", self.system.disable_adapters, (), {}, "system.disable_adapters()")

    @_noted
    def set_requires_grad(self, names: Sequence[str], requires_grad: Any, *, scribble: bool = False) -> None:
        """Make these trainable or frozen."""
        self._named("set_requires_grad", self.system.set_requires_grad, names, requires_grad, scribble=scribble)

    @_noted
    def enter_disable(self) -> None:
        """Enter a context in which adapters are disabled."""
        self._enter("disable", self.system.disable_adapter, Given((), {}), "disable_adapter()")

    @_noted
    def enter_use(self, names: Sequence[str], /, *, scribble: bool = False, **options: Any) -> None:
        """Enter a context in which these are active."""
        given = Given(names, options, scribble=scribble)
        self._enter("use", lambda: self.system.use_adapter(given.names, **given.options), given, f"use_adapter({given.shown()})")

    @_noted
    def leave(self, number: int = -1) -> None:
        """Leave an open context, by default the one entered last."""
        context = self.contexts.pop(number)
        self._do(
            f"leave_{context.kind}",
            lambda: context.opened.__exit__(None, None, None),
            (context.before,) if context.kind == "use" else (),
            {},
            f"{context.label}.__exit__(None, None, None)",
        )

    @_noted
    def perturb(self, name: str) -> None:
        """Give an adapter's weights other values; the output must change exactly if it is active."""
        self._perturb(name)

    def _perturb(self, name: str) -> None:
        seed = next(self._counter)
        self._event = "perturb"
        self.lines.append(f"system.perturb({name!r}, {seed})")
        with self._tolerant():
            before = self._last.output
            self._ask(lambda: self.system.perturb(name, seed), "perturb()")
            self._versions[name] = seed
            self._last = self._look(output=before is not None)
            self._check_observation((name,))
            if before is not None and self._last.output is not None:
                self._check_perturbed(name, before, self._last.output)
                self._check_output()

    def finish(self) -> None:
        """Leave all contexts, delete all adapters, look for what is left, and start again."""
        while self.contexts and not self.over:
            self.leave()
        if self.reference.merged:
            self.unmerge_adapter()
        if self.reference.disabled:
            self.enable_adapters()
        had = [(name, adapter.recipe) for name, adapter in self.reference.adapters.items()]
        for name, _ in had:
            self.delete_adapter(name)
        recipes = [name for name, recipe in self.system.recipes.items() if had and recipe is had[-1][1]]
        if recipes:
            self.add_adapter(had[-1][0], recipes[0])

    # ------------------------------------------------------------------------------------------------- the one path of events

    def _named(
        self, event: str, method: Callable[..., object], names: Sequence[str] | str, *more: Any, scribble: bool, **options: Any
    ) -> None:
        """An event that is given lists, which stay their owner's."""
        given = Given(names, options, scribble=scribble)

        def call() -> None:
            with self._keeping(given):
                method(given.names, *more, **given.options)

        code = given.around(f"system.{event}({given.shown(*more)})")
        self._do(event, call, (given.plain, *more), {key: _frozen(value) for key, value in options.items()}, code)

    @contextlib.contextmanager
    def _keeping(self, given: Given) -> Iterator[None]:
        """Fail if an event changes the lists that it is given; then change them, as their owner may."""
        said = given.said()
        try:
            yield
        finally:
            if given.said() != said:
                self._fail("arguments_are_copied", [Difference("given", "", said, given.said())])
            given.clear()

    def _enter(self, kind: str, make: Callable[[], Any], given: Given, code: str) -> None:
        label = f"context{next(self._counter)}"
        made: list[Any] = []

        def call() -> None:
            with self._keeping(given):
                made.append(make())
                made[0].__enter__()

        before = self.reference
        args, options = ((given.plain,), given.options) if kind == "use" else ((), {})
        code = given.around(f"{label} = system.{code}; {label}.__enter__()")
        if self._do(f"enter_{kind}", call, args, {key: _frozen(value) for key, value in options.items()}, code):
            self.contexts.append(Context(label, kind, made[0], before))

    def _do(self, event: str, call: Callable[[], object], args: tuple[Any, ...], options: dict[str, Any], code: str) -> bool:
        """Let the system and the reference do one event, and compare. Return whether it was accepted."""
        if self.over:
            return False
        with self._tolerant():
            return self._both(event, call, args, options, code)
        return False

    def _both(self, event: str, call: Callable[[], object], args: tuple[Any, ...], options: dict[str, Any], code: str) -> bool:
        self._event = event
        verdict = self.reference.after(event, *args, **options)
        if isinstance(verdict, No) and self._last.output is None:
            self._last = attrs.evolve(self._last, output=self._forward())
        self.lines.append(code)
        random = _generators()
        raised: Exception | None = None
        try:
            call()
        except (Broken, Tolerated):
            raise
        except Exception as error:
            raised = error
        self.report.events[f"{event} {'refused' if raised else 'accepted'}"] += 1
        if isinstance(verdict, No):
            if raised is None:
                self._fail(verdict.rule, [Difference(event, "", "refused", "accepted")], f"it must be refused: {verdict.why}", "accepted")
            self._check_unchanged(random)
            return False
        if raised is not None:
            rule = rule_of_refusal(event, self.reference, verdict)
            text = f"{type(raised).__name__}: {raised}".splitlines()[0]
            self._fail(rule, [Difference(event, "", "accepted", text[:100])], "no rule refuses it", "refused", raised)
        self.reference = verdict
        self._last = self._look(output=self._wants_output())
        self._check_observation(args)
        self._check_fingerprint()
        if self._last.output is not None:
            self._check_output()
        return True

    # --------------------------------------------------------------------------------------------------------------- looking

    def _ask(self, question: Callable[[], T], what: str) -> T:
        """Ask the system for something that may not fail."""
        try:
            return question()
        except Exception as error:
            rule = rule_of_output(self._event, self.reference) if what == "forward(x)" else "accepted"
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            self._fail(rule, [Difference(what, "", "works", text[:100])], f"{what} raised", what.split("(")[0], error)

    def _forward(self) -> torch.Tensor:
        with torch.no_grad():
            return self._ask(lambda: self.system.forward(self.system.x), "forward(x)").detach().clone()

    def _look(self, *, output: bool) -> Look:
        seen = self._ask(self.system.observe, "observe()")
        here = self._forward() if output else None
        mark = self._ask(self._prints.fingerprint, "fingerprint()") if self._prints else None
        return Look(seen, here, mark)

    def _wants_output(self) -> bool:
        """Whether this event is one of those after which the output is checked: evenly spread, and the same ones each time."""
        number = len(self.lines)
        return int(number * self._rate) > int((number - 1) * self._rate)

    # -------------------------------------------------------------------------------------------------------------- checking

    def _check_unchanged(self, random: list[torch.Tensor]) -> None:
        if not all(map(torch.equal, random, _generators())):
            self._fail("atomic", [Difference("random", "", "no number drawn", "numbers were drawn")], "it was refused")
        before, self._last = self._last, self._look(output=True)
        differences = list(look_differences(before, self._last))
        if differences:
            self._fail("atomic", differences, "it was refused, so nothing may have changed")

    def _check_observation(self, args: Sequence[object]) -> None:
        differences = list(observed_differences(self.reference.expected(), self._last.observation))
        if differences:
            self._fail(rule_of_state(self._event, args, self.reference, differences), differences)

    def _check_fingerprint(self) -> None:
        first, now = self._first_print, self._last.fingerprint
        if first is None or now is None:
            return
        if not self.reference.adapters and self.reference.enabled and self.has("no_trace"):
            differences = list(print_differences(first, now))
            if differences:
                self._fail("leave_no_trace", differences)
        elif not self.reference.merged:
            at = {id(tensor): name for name, tensor in now.tensors.items()}
            moved = [
                Difference("values", name, "those of the base", "others")
                for name, tensor in first.tensors.items()
                if id(tensor) in at and not same_bits(first.values[name], now.values[at[id(tensor)]])
            ]
            if moved:
                self._fail("merge_is_exact", moved, "nothing is merged, but base values are not what they were", "base")

    def _check_output(self) -> None:
        output, reference = self._last.output, self.reference
        assert output is not None
        if not reference.enabled or not reference.activation.names:
            self._compare(self._base, output, 0.0, "computed by the untouched base model")
            return
        tolerance = self.options.tolerance
        shows = self._dense
        if shows is not None:
            weights = normal_form(reference, self._originals, self._ask(shows.tensors, "tensors()"))
            with torch.no_grad():
                dense = self._ask(lambda: shows.dense_forward(weights, self.system.x), "dense_forward()")
            self._compare(dense, output, tolerance, "computed from dense weights")
        if all(name in self._versions for name in reference.activation.names):  # else its values are those that it was made with
            self._compare_with_earlier(output)

    def _compare_with_earlier(self, output: torch.Tensor) -> None:
        """The same activation gives the same output, however it came about; the order counts only where adapters override."""
        reference = self.reference
        active = reference.activation
        shares = [(name, self._versions[name], active.weight(name), reference.policy(name)) for name in active.names]
        ordered = any(reference.policy(one) == "override" for one, _, _ in reference.overlaps(active.names))
        plain = not reference.merged
        for key, exact in ((("in order", *shares), plain), (("in any order", *sorted(shares, key=str)), False)):
            if key[0] == "in any order" and ordered:
                continue
            earlier, was_plain = self._outputs.setdefault(key, (output, plain))
            rule = None if reference.merged or self._event == "unmerge_adapter" else "path_independent"
            bits = exact and was_plain
            said = "computed when the same adapters were active before"
            self._compare(earlier, output, 0.0 if bits else self.options.tolerance, said, rule)

    def _check_perturbed(self, name: str, before: torch.Tensor, now: torch.Tensor) -> None:
        reference = self.reference
        active = reference.activation.names
        if name not in active or not reference.enabled:
            self._compare(before, now, 0.0, f"computed before {name!r}, which has no part in it, was changed", "inactive_has_no_part")
        shadowed = any(name in pair[:2] for pair in reference.overlaps(active))
        live = name in active and reference.enabled and not shadowed and reference.activation.weight(name) != 0
        if live and output_difference(before, now, self.options.tolerance) is None:
            seen = Difference("output", "", "another than before", "the same as before")
            self._fail("normal_form", [seen], f"{name!r} is active and its weights were changed")

    def _compare(self, expected: torch.Tensor, output: torch.Tensor, tolerance: float, said: str, rule: str | None = None) -> None:
        difference = output_difference(expected, output, tolerance)
        if difference:
            self._fail(rule or rule_of_output(self._event, self.reference), [difference], f"the output is expected to be as {said}")

    # --------------------------------------------------------------------------------------------------------------- failing

    def _fail(
        self, rule: str, differences: Sequence[Difference], why: str = "", aspect: str = "", cause: Exception | None = None
    ) -> NoReturn:
        """Say that a rule is broken, unless that is a known deviation."""
        assert rule in RULES
        finding = f"{rule}/{self._event}/{aspect or differences[0].aspect}"
        if is_tolerated(finding, self._deviations):
            self.report.tolerated[finding] += 1
            raise Tolerated(finding)
        self.broken = True
        raise Broken(failure_text(finding, self.lines, differences, why), finding, self._calls) from cause

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        """End the trial quietly at a deviation that is tolerated."""
        try:
            yield
        except Tolerated:
            self.over = True


class Given:
    """What an event is given: lists of the caller's, which are looked at afterwards and, with `scribble`, emptied."""

    def __init__(self, names: Sequence[str] | str, options: Mapping[str, Any], *, scribble: bool = False) -> None:
        self.names: Any = names if isinstance(names, str) else list(names)
        self.plain = (names,) if isinstance(names, str) else tuple(names)
        self.options = {key: list(value) if isinstance(value, list | tuple) else value for key, value in options.items()}
        everything = {"names": self.names, **self.options}
        self._lists = {key: value for key, value in everything.items() if isinstance(value, list)} if scribble else {}

    def said(self) -> str:
        """All of it as text."""
        return _arguments(self.names, **self.options)

    def clear(self) -> None:
        """Empty the lists, if that is wanted."""
        for value in self._lists.values():
            value.clear()

    def shown(self, *more: Any) -> str:
        """Code of the arguments; lists that will be emptied are called by their names."""
        shown = {"names": self.names, **self.options, **{key: _Code(key) for key in self._lists}}
        return _arguments(shown.pop("names"), *more, **shown)

    def around(self, call: str) -> str:
        """Code that makes the lists that will be emptied, calls, and empties them."""
        made = (f"{key} = {_text(value)}" for key, value in self._lists.items())
        return "; ".join([*made, call, *(f"{key}.clear()" for key in self._lists)])


def _frozen(value: Any) -> Any:
    """A list as a tuple, which stays as it is when the list is emptied."""
    return tuple(value) if isinstance(value, list) else value


class _Code(str):
    """Text that stands for itself in code."""


def _arguments(*args: Any, **options: Any) -> str:
    return ", ".join([*(_text(arg) for arg in args), *(f"{key}={_text(value)}" for key, value in options.items())])


def _text(value: Any) -> str:
    """Code for a value; numbers that have no literal are written as calls."""
    if isinstance(value, _Code):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(item) for item in value)}]"
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f"float('{value}')"
    return repr(value)

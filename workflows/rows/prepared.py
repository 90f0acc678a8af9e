"""A graph and its rows, checked before any work starts: which values each row changes, and in which order rows run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..checks.validation import Validation, output_nodes, validate
from ..document.conversion import to_api
from ..document.graph import Problem, Prompt, WorkflowError, ancestors, origins_among, topological_order
from ..document.reading import Workflow
from ..document.schema import InputSpec, NodeClasses
from ..settings.naming import find, parse
from ..settings.reading import Setting, settings
from ..settings.writing import Assigned, apply
from .jobs import Jobs, Row

_MAX_PROBLEMS = 20  # lines; a table of a thousand wrong cells has one cause
_MAX_CHECKED = 2_000  # rows that are checked before the start; the others when their turn comes
_MAX_KEPT = 100_000  # nodes of checked prompts that wait for their row's turn
_ABSENT = object()  # an input that a row's value removes: another choice of a dynamic combo has other inputs

Changes = dict[tuple[str, str], Any]  # (node id, input) -> value


@dataclass
class Prepared:
    """What a run needs to know. Made by `prepare`; loads no torch."""

    workflow: Workflow  # with the values that all rows share
    classes: NodeClasses
    jobs: Jobs
    prompt: Prompt  # of `workflow`
    assigned: list[Assigned]
    outputs: list[str] | None = None  # the output nodes that can be made; None: all of them
    skipped: list[Problem] = field(default_factory=list)  # why the other outputs cannot
    specs: dict[str, InputSpec] = field(default_factory=dict)  # by column: what its values are
    table_changes: list[Changes] = field(default_factory=list)  # by table row
    axis_changes: list[list[Changes]] = field(default_factory=list)  # by axis and value
    # Sound rows that `prepare` checked, by number. Not passed on by dataclasses.replace: another machine checks anew.
    _checked: dict[int, Validation] = field(default_factory=dict, init=False)

    @property
    def job(self) -> str:
        """The fingerprint that the results of this work carry."""
        return self.jobs.fingerprint(self.prompt)

    def changes(self, number: int) -> Changes:
        """The inputs that row `number` changes."""
        table_index, indices = self.jobs.places(number)
        found: Changes = dict(self.table_changes[table_index]) if self.table_changes else {}
        for variants, index in zip(self.axis_changes, indices, strict=True):
            found |= variants[index]
        return found

    def row_prompt(self, number: int) -> Prompt:
        """The API prompt of a row; unchanged nodes are shared with the other rows."""
        return changed(self.prompt, self.changes(number))

    def take_checked(self, number: int) -> Validation | None:
        """What the check before the start found about a row, for the one time that the row runs; None: check it now."""
        return self._checked.pop(number, None)

    def row_inputs(self, row: Row) -> dict[str, Any]:
        """What a row was given, under the names that the user gave, each value at its input's type."""
        return {name: parse(value, self.specs[name]) for name, value in row.values.items()}

    def row_workflow(self, row: Row) -> dict[str, Any] | None:
        """The saved graph with the row's values in it, for the pictures' metadata; None for a graph in API form."""
        if not self.workflow.is_ui:
            return None
        if not self.jobs.many:
            return self.workflow.data  # a copy already, and of no other row
        workflow = self.workflow.copy()
        apply(workflow, row.values.items(), self.classes)
        return workflow.data

    def order(self, skip: Iterable[int] = ()) -> list[int]:
        """The numbers of the rows that run, those that share results of early nodes one after another."""
        done = set(skip)
        numbers = [number for number in range(1, len(self.jobs) + 1) if number not in done]
        if not self.jobs.many:
            return numbers
        place = {node_id: index for index, node_id in enumerate(self.run_order())}
        changing = {column for number in self.samples() for column in self.changes(number)}
        columns = sorted(changing, key=lambda column: (place.get(column[0], len(place)), column))
        ranks: list[dict[Any, int]] = [{} for _ in columns]

        def key(number: int) -> tuple[int, ...]:
            changes = self.changes(number)
            values = [_hashable(changes.get(column, _ABSENT)) for column in columns]
            return tuple(rank.setdefault(value, len(rank)) for rank, value in zip(ranks, values, strict=True))

        return [number for _, number in sorted((key(number), number) for number in numbers)]

    def run_order(self) -> list[str]:
        """The nodes that the outputs need, origins first."""
        wanted = ancestors(
            self.prompt, self.outputs if self.outputs is not None else output_nodes(self.prompt, self.classes)
        )
        return topological_order(origins_among(self.prompt, wanted))[0]

    def samples(self) -> Iterator[int]:
        """Row numbers in which every table row and every value of an axis occurs: all others only combine these."""
        stride = 1
        for axis in reversed(self.jobs.axes):
            yield from (1 + index * stride for index in range(len(axis.values)))
            stride *= len(axis.values)
        yield from (1 + index * stride for index in range(len(self.jobs.table)))


def prepare(workflow: Workflow, jobs: Jobs, classes: dict[str, type], partial: bool = False) -> Prepared:
    """Set, convert and check everything that the rows are made of. Raises WorkflowError with every problem at once.

    `partial`: run the outputs that are sound although others are not, as the editor does; their problems are kept in
    `skipped`.
    """
    workflow, classes = workflow.copy(), NodeClasses(classes)
    assigned, problems = apply(workflow, jobs.fixed, classes)
    prompt, found = to_api(workflow, classes)
    problems += found
    prepared = Prepared(workflow, classes, jobs, prompt, assigned)
    problems += _read_columns(prepared)
    good, faults = _check_rows(prepared)
    if faults and good is not None and partial and not problems:
        prepared.outputs, prepared.skipped = good, faults
        prepared._checked.clear()  # for fewer outputs
    elif problems or faults:
        raise WorkflowError(_shortened(problems + faults))
    return prepared


def changed(prompt: Prompt, changes: Mapping[tuple[str, str], Any]) -> Prompt:
    """The prompt with some inputs changed. The given one is left alone."""
    prompt = dict(prompt)
    for node_id in dict.fromkeys(node_id for node_id, _ in changes):
        inputs = dict(prompt[node_id]["inputs"])
        own = {name: value for (owner, name), value in changes.items() if owner == node_id}
        inputs = {name: own.get(name, value) for name, value in (inputs | own).items()}
        kept = {name: value for name, value in inputs.items() if value is not _ABSENT}
        prompt[node_id] = {**prompt[node_id], "inputs": kept}
    return prompt


class _Column:
    """How the values of one name, a table's column or an axis, change the prompt."""

    def __init__(self, prepared: Prepared, name: str, available: list[Setting]):
        self._prepared = prepared
        self._name = name
        self._settings = find(name, available)  # raises ValueError
        # Where the prompt holds the very value that the widget shows, another value takes its place and that is all.
        self._direct = all(map(self._is_direct, self._settings))

    def _is_direct(self, setting: Setting) -> bool:
        inputs = self._prepared.prompt.get(setting.node_id, {}).get("inputs", {})
        plain = setting.spec.type in ("INT", "FLOAT", "STRING", "BOOLEAN")
        return (
            plain and not setting.shared and setting.spec.name in inputs and inputs[setting.spec.name] == setting.value
        )

    @property
    def spec(self) -> InputSpec:
        """The input that the name means, the first of them when it means several."""
        return self._settings[0].spec

    def changes(self, value: Any) -> Changes:
        """What the value changes. Raises ValueError when the input does not take it."""
        found: Changes = {(s.node_id, s.spec.name): parse(value, s.spec) for s in self._settings}
        if self._direct:
            return found
        base, workflow = self._prepared.prompt, self._prepared.workflow.copy()
        apply(workflow, [(self._name, value)], self._prepared.classes)
        prompt, _ = to_api(workflow, self._prepared.classes)
        found = {
            target: new for target, new in found.items() if target[1] in prompt.get(target[0], {}).get("inputs", {})
        }
        for node_id, node in prompt.items():
            before, after = base.get(node_id, {}).get("inputs", {}), node.get("inputs", {})
            for name in {**before, **after}:
                if before.get(name, _ABSENT) != after.get(name, _ABSENT):
                    found[node_id, name] = after.get(name, _ABSENT)
        return found


def _read_columns(prepared: Prepared) -> list[Problem]:
    """Fill in what each table row, and each value of each axis, changes. Returns every problem."""
    jobs, problems = prepared.jobs, []
    available = settings(prepared.workflow, prepared.classes)
    columns: dict[str, _Column] = {}
    in_table = {name for row in jobs.table for name in row}
    for name in jobs.columns():
        try:
            columns[name] = _Column(prepared, name, available)
            prepared.specs[name] = columns[name].spec
        except ValueError as error:
            where = "--table, column " if name in in_table else "--sweep "
            problems.append(Problem("invalid_override", f"{where}{name}: {error}"))

    def read(name: str, value: Any, where: str) -> Changes:
        try:
            return columns[name].changes(value) if name in columns else {}
        except ValueError as error:
            problems.append(Problem("invalid_override", f"{where}: {error}"))
            return {}

    for number, values in enumerate(jobs.table, 1):
        cells = [read(name, value, f"--table, row {number}, {name}") for name, value in values.items()]
        prepared.table_changes.append({key: value for cell in cells for key, value in cell.items()})
    for axis in jobs.axes:
        prepared.axis_changes.append([read(axis.name, value, f"--sweep {axis.name}") for value in axis.values])
    return problems


def _check_rows(prepared: Prepared) -> tuple[list[str] | None, list[Problem]]:
    """The output nodes that every row can make (None when none), and every problem, each listed once."""
    where: dict[str, list[int]] = {}
    listed: dict[str, Problem] = {}
    good: list[str] | None = None
    numbers = (sorted(set(prepared.samples())) or [1])[:_MAX_CHECKED]
    for number in numbers:
        validation = validate(prepared.row_prompt(number), prepared.classes)
        good = [node_id for node_id in validation.good_outputs if good is None or node_id in good]
        if not validation.faults and (len(prepared._checked) + 1) * len(prepared.prompt) <= _MAX_KEPT:
            prepared._checked[number] = validation
        for problem in validation.problems(prepared.classes):
            listed.setdefault(str(problem), problem)
            where.setdefault(str(problem), []).append(number)
    faults = []
    for text, problem in listed.items():
        rows = where[text]
        named = "" if len(rows) == len(numbers) else f"row{'s' * (len(rows) > 1)} {_few(rows)}: "
        if named and problem.node:
            problem = Problem(problem.kind, problem.message, named + problem.node, problem.input)
        faults.append(problem)
    return good or None, faults


def _shortened(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= _MAX_PROBLEMS:
        return problems
    more = Problem("invalid_prompt", f"and {len(problems) - _MAX_PROBLEMS} more problems")
    return [*problems[:_MAX_PROBLEMS], more]


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def _hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, list | dict) else (type(value).__name__, value)

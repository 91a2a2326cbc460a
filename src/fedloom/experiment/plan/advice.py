"""Advice on a plan: sentences about what will not fit and what would help, with the effect where it can be computed."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from fedloom.experiment.plan.result import Plan
from fedloom.experiment.settings import Experiment

TIGHT = 0.9
"""Share of the memory beyond which a run is said not to fit."""
LARGE = 0.2
"""Share of the time that evaluation may take before it is spoken of; samples cut likewise."""


def advice(plan: Plan, experiment: Experiment) -> list[str]:
    """Sentences on memory, time and cut samples; none where all is well."""
    return [*_memory(plan, experiment), *_time(plan, experiment), *_cut(plan, experiment)]


def read(name: str, experiment: Experiment) -> bool:
    """Whether the run's task or method reads a setting of this name."""
    task, method = experiment.task, experiment.method
    ignored = any(fnmatchcase(name, pattern) for pattern in (*task.ignores, *method.ignores))
    return not ignored and any(fnmatchcase(name, pattern) for pattern in (*task.reads, *method.reads))


def gigabytes(size: float) -> str:
    """Bytes in GB, in two significant digits."""
    return f"{size / 1e9:.2g} GB" if size < 1e11 else f"{size / 1e9:.0f} GB"


def _memory(plan: Plan, experiment: Experiment) -> Iterator[str]:
    memory = plan.memory
    if memory is None or not memory.there or memory.peak <= TIGHT * memory.there:
        return
    what = "the GPU" if memory.device == "cuda" else "this machine"
    yield f"{gigabytes(memory.peak)} of memory are expected, and {what} has {gigabytes(memory.there)}."
    frozen = sum(p.bytes for p in plan.parts if p.dtype.startswith("float32"))
    if frozen and read("engine.dtype", experiment):
        yield f"engine.dtype: bfloat16 halves the frozen weights, which saves {gigabytes(frozen / 2)}."
    weights = sum(p.parameters for p in plan.parts if not p.name.startswith("server"))
    loaded = sum(p.bytes for p in plan.parts if not p.name.startswith("server"))
    if read("model.quantize", experiment) and loaded > 2 * weights:
        yield f"model.quantize: 4bit saves up to {gigabytes(loaded - 0.55 * weights)} of the frozen weights."
    training = memory.training - memory.start
    if memory.training >= memory.evaluation:
        if plan.cohort > 1:
            saved = training * (1 - 1 / plan.cohort)
            yield f"engine.cohort: off trains one client at a time, which saves about {gigabytes(saved)}."
        if experiment.training.batch_size > 1:
            rest = training / max(plan.cohort, 1) / 2
            with_rest = (
                " with training.accumulate: 2, which keeps the step,"
                if read("training.accumulate", experiment)
                else ""
            )
            yield f"training.batch_size: {experiment.training.batch_size // 2}{with_rest} saves about {gigabytes(rest)} more."
        if read("engine.checkpointing", experiment):
            yield "engine.checkpointing: true keeps one block's activations at a time and costs about a third more time."
    elif experiment.evaluation.batch_size > 1 and read("evaluation.batch_size", experiment):
        size, gain = experiment.evaluation.batch_size, memory.evaluation - memory.start
        yield f"evaluation.batch_size: {size // 2} saves about {gigabytes(gain / 2)} and changes no figure."
    longest = max((d.train.longest for d in plan.data), default=0)
    mean = max((d.train.mean for d in plan.data), default=0)
    if longest > 2 * mean > 0 and read("model.max_text_tokens", experiment):
        yield (
            f"The longest sample has {longest} positions and the mean one {mean:.0f}; a lower model.max_text_tokens cuts the "
            "few that decide the peak."
        )


def _time(plan: Plan, experiment: Experiment) -> Iterator[str]:
    seconds = plan.seconds
    if seconds is None or seconds.whole.clock < 60:
        return
    share = seconds.evaluations.clock / seconds.whole.clock
    every = experiment.evaluation.every
    between = seconds.evaluation.clock * ((plan.rounds - 1) // every)
    if share > LARGE and between > 0.1 * seconds.whole.clock:
        yield (
            f"Evaluation takes {share:.0%} of the time; evaluation.every: {2 * every} saves about {between / 2:.0f} s, "
            "evaluation.clients measures fewer clients."
        )


def _cut(plan: Plan, experiment: Experiment) -> Iterator[str]:
    cut = sum(d.train.cut for d in plan.data)
    seen = sum(d.train.looked_at for d in plan.data)
    if seen and (cut > LARGE * seen or plan.tests.cut > LARGE * max(plan.tests.looked_at, 1)):
        remedy = (
            "; a higher model.max_text_tokens keeps more of them"
            if read("model.max_text_tokens", experiment)
            else ""
        )
        yield f"{cut / seen:.0%} of the training samples are cut to fit{remedy}."

"""What a reader of a report must know is missing, or unlike."""

from collections.abc import Sequence

from spdf_keras.report.content.labels import Labels, run_numbers
from spdf_keras.report.page.document import Block, Bullets, code, plain
from spdf_keras.report.runs.groups import Group, unlike_recipes
from spdf_keras.report.runs.records import RunRecord
from spdf_keras.report.runs.resampling import Resamples


def missing_blocks(
    runs: Sequence[RunRecord],
    pretraining: Sequence[Group],
    labels: Labels,
    resamples: Resamples,
) -> tuple[Block, ...]:
    """A list of what runs lack, and of settings in which they differ."""
    kinds: dict[str, list[RunRecord]] = {}

    def note(text: str, run: RunRecord) -> None:
        kinds.setdefault(text, []).append(run)

    for run in runs:
        for condition in ("command", "versions", "hardware"):
            if not getattr(run.conditions, condition):
                note(f"{condition} not recorded", run)
        if not run.steps:
            note("it has not done a step", run)
        elif not run.training.steps:
            note("there is no training loss: metrics.jsonl is missing or empty", run)
        if run.steps and not run.validation.steps:
            note("the validation loss was not measured", run)
        # A study removes the weights of trials that its search did not choose.
        if run.checkpoint is None and not run.evaluations:
            note("there is no checkpoint", run)
        total = run.steps_in_all
        if run.kind == "pretrain" and total and 0 < run.steps < total:
            note(f"pre-training is at step {run.steps} of {total}", run)
        if run.kind != "pretrain" and run.started and not run.finished:
            where = f": it is at step {run.steps} of {total}" if total else ""
            note(f"fine-tuning is not finished{where}", run)
        if run.origin.sparsity is None:
            note("the sparsity of its pre-training is not recorded", run)
        if run.kind != "pretrain" and not run.evaluations:
            note("it has not been evaluated: use `spdf-keras evaluate`", run)
        for evaluation in run.evaluations:
            if not evaluation.finished:
                note(
                    f"{evaluation.task}, {evaluation.split}, was scored after step "
                    f"{evaluation.step}, before the run was finished",
                    run,
                )
            for score, reason in evaluation.errors.items():
                where = f"{evaluation.task}, {evaluation.split}"
                note(f"no {plain(score)} on {where}: {plain(reason)}", run)
    items = [
        f"{'Run' if len(members) == 1 else 'Runs'} {run_numbers(members)}: {text}"
        for text, members in kinds.items()
    ]
    singles = [run for group in pretraining for run in group.runs]
    if pretraining and all(
        len({run.seed for run in group.runs}) == 1 for group in pretraining
    ):
        numbers = run_numbers(singles)
        items.append(f"Runs {numbers}: one seed each, so there is no deviation")
    for model, label in labels.items():
        unlike = unlike_recipes([run for run in runs if run.config.model == model])
        if unlike:
            settings = ", ".join(map(code, unlike))
            items.append(f"{label}: pre-trainings differ in {settings} too")
    for text, concerned in resamples.problems.items():
        where = plain(text)
        runs_text = f"Runs {run_numbers(concerned)}: " if concerned else ""
        items.append(runs_text + where[:1].upper() + where[1:])
    return (Bullets(tuple(items)),) if items else ()

"""The fine-tuning tasks by name."""

from spdf_keras.data.tasks.curation import CURATION
from spdf_keras.data.tasks.dart import DART
from spdf_keras.data.tasks.e2e import E2E
from spdf_keras.data.tasks.task import Task
from spdf_keras.data.tasks.webnlg import WEBNLG
from spdf_keras.errors import InputError

TASKS: dict[str, Task] = {task.name: task for task in (E2E, WEBNLG, DART, CURATION)}


def get_task(name: str) -> Task:
    """Looks a task up.

    Raises:
        InputError: If there is none of that name.
    """
    if name not in TASKS:
        known = ", ".join(TASKS)
        raise InputError(f"Unknown task '{name}'. Known here: {known}.")
    return TASKS[name]

"""Tasks of EleutherAI's lm-evaluation-harness, from files on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tinygpt.errors import UserError, check_path, check_range
from tinygpt.interfaces import EvaluationConfig, Findings
from tinygpt.registry import register

if TYPE_CHECKING:
    from tinygpt.evaluation.subject import Subject


@register("evaluation")
@dataclass
class TasksConfig(EvaluationConfig):
    """Tasks of lm-evaluation-harness; tasks.folder holds their YAML files."""

    version: ClassVar[int] = 1
    in_all: ClassVar[bool] = False
    name: str = "tasks"
    folder: str | None = None  # of task files in the format of lm-evaluation-harness
    names: list[str] = field(default_factory=list)  # such as [my_pairs]; all of the folder if empty
    limit: int | None = None  # documents of each task, from the beginning
    num_fewshot: int | None = None  # null is what each task says

    def __post_init__(self) -> None:
        check_path("tasks.folder", self.folder)
        check_range("tasks.limit", self.limit, low=1)
        check_range("tasks.num_fewshot", self.num_fewshot, low=0)

    def check(self) -> None:
        """See EvaluationConfig."""
        if find_spec("lm_eval") is None:
            raise UserError(
                "suite=tasks needs lm-evaluation-harness; type pip install 'tinygpt[eval]'"
            )
        if self.folder is None:
            raise UserError("suite=tasks needs task files; type tasks.folder=FOLDER")
        if not Path(self.folder).expanduser().is_dir():
            raise UserError(f"tasks.folder={self.folder} is not a folder")

    def files(self) -> Sequence[Path]:
        """See EvaluationConfig."""
        folder = Path(self.folder or "").expanduser()
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def texts(self, subject: Subject) -> Mapping[str, str]:
        """See EvaluationConfig; task files hold all the text."""
        return {}

    def run(self, subject: Subject) -> Findings:
        from tinygpt.evaluation.harness import measure

        return measure(self, subject)

"""Use cases over several rooms, each of which can be stopped and resumed."""

from __future__ import annotations

from isogloss.evaluation import AblationResult
from isogloss.workflows.ablation.run import ablate
from isogloss.workflows.ablation.settings import Ablation
from isogloss.workflows.adapting import adapt
from isogloss.workflows.analysis import require_analysis_folder, write_analysis
from isogloss.workflows.capture import capture_corpus
from isogloss.workflows.corpora import open_corpus, open_corpus_to_capture
from isogloss.workflows.doctor import Diagnosis, examine
from isogloss.workflows.evaluate import evaluate_plan
from isogloss.workflows.learning import learn, learn_with_progress
from isogloss.workflows.organism import train_organism, word_problem_accuracies, write_card
from isogloss.workflows.served_adapter import examine_server
from isogloss.workflows.show import show_texts
from isogloss.workflows.study.preview import Preview, preview_study
from isogloss.workflows.study.recipes import find_study, recipe_names
from isogloss.workflows.study.run import StudyResult, run_study
from isogloss.workflows.study.settings import DEMO, Study
from isogloss.workflows.sweep.results import MeasuredCandidate, SweepResult, SweepTest, WinnersCurse
from isogloss.workflows.sweep.run import run_sweep
from isogloss.workflows.sweep.settings import Sweep
from isogloss.workflows.versions import VersionSource, compare_models

__all__ = [
    "DEMO",
    "Ablation",
    "AblationResult",
    "Diagnosis",
    "MeasuredCandidate",
    "Preview",
    "Study",
    "StudyResult",
    "Sweep",
    "SweepResult",
    "SweepTest",
    "VersionSource",
    "WinnersCurse",
    "ablate",
    "adapt",
    "capture_corpus",
    "compare_models",
    "evaluate_plan",
    "examine",
    "examine_server",
    "find_study",
    "learn",
    "learn_with_progress",
    "open_corpus",
    "open_corpus_to_capture",
    "preview_study",
    "recipe_names",
    "require_analysis_folder",
    "run_study",
    "run_sweep",
    "show_texts",
    "train_organism",
    "word_problem_accuracies",
    "write_analysis",
    "write_card",
]

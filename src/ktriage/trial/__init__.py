"""A reproducer's specification, and one run of it on one kernel with all that it leaves behind."""

from ktriage.trial.bench import Bench, named_kernel, set_up
from ktriage.trial.outcome import Outcome
from ktriage.trial.spec import Spec, load_spec

__all__ = ["Bench", "Outcome", "Spec", "load_spec", "named_kernel", "set_up"]

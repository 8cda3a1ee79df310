"""The safeguards that Oubli's promises rest on, and for each how it is removed and which tests must notice.

Read by `tests/mutants.py`. A text that its file no longer holds exactly once fails `tests/unit/test_mutants.py`: who
changes a safeguard changes its row here. Tests are named on SQLite where that shows the fault, on PostgreSQL where
only concurrent writers do.
"""

from tests.safeguards.asking import ASKING
from tests.safeguards.erasing import ERASING, RESTORING, SUBTRACTING
from tests.safeguards.holding_out import HOLDING_OUT
from tests.safeguards.keeping import KEEPING
from tests.safeguards.learning import LEARNING, LOADING
from tests.safeguards.measuring import CHOOSING, MEASURING
from tests.safeguards.mutant import ROOT, Mutant
from tests.safeguards.naming import NAMING
from tests.safeguards.pacing import PACING
from tests.safeguards.running import DECODING, STOPPING, TELLING, WORKING
from tests.safeguards.sharing import DIVIDING, PUBLISHING, WRITING

MUTANTS = [
    *LEARNING,
    *LOADING,
    *PUBLISHING,
    *ERASING,
    *WRITING,
    *DIVIDING,
    *SUBTRACTING,
    *MEASURING,
    *CHOOSING,
    *HOLDING_OUT,
    *RESTORING,
    *TELLING,
    *STOPPING,
    *DECODING,
    *WORKING,
    *NAMING,
    *ASKING,
    *KEEPING,
    *PACING,
]

__all__ = ["MUTANTS", "ROOT", "Mutant"]
